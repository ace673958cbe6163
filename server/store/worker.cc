#include "server/store/worker.h"

#include <pthread.h>

#include <utility>

namespace quire::server {

Worker::Worker(std::string name, Post post)
    : name_(std::move(name)), post_(std::move(post)), thread_([this] { loop(); }) {}

Worker::~Worker() {
  stop();
}

bool Worker::submit(Task run, Task done) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_ || jobs_.size() >= kWorkerQueueMax) return false;
    jobs_.push_back({std::move(run), std::move(done)});
    queued_.store(jobs_.size(), std::memory_order_relaxed);
  }
  wake_.notify_one();
  return true;
}

void Worker::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Worker::loop() {
  ::pthread_setname_np(::pthread_self(), name_.substr(0, 15).c_str());
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    queued_.store(jobs_.size(), std::memory_order_relaxed);
    lock.unlock();
    job.run();
    if (job.done) post_(std::move(job.done));
    job = {};
    lock.lock();
  }
}

}  // namespace quire::server
