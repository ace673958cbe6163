#include "server/http/bounded_task_queue.h"

#include <utility>

namespace quire::server {

BoundedTaskQueue::BoundedTaskQueue(size_t threads, size_t queued_max) : queued_max_(queued_max) {
  for (size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

BoundedTaskQueue::~BoundedTaskQueue() {
  shutdown();
}

void BoundedTaskQueue::enqueue(std::function<void()> task) {
  {
    std::unique_lock lock(mutex_);
    has_room_.wait(lock, [this] { return stopping_ || tasks_.size() < queued_max_; });
    if (!stopping_) {
      tasks_.push_back(std::move(task));
      has_task_.notify_one();
      return;
    }
  }
  task();
}

void BoundedTaskQueue::shutdown() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  has_task_.notify_all();
  has_room_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void BoundedTaskQueue::work() {
  for (;;) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      has_task_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    has_room_.notify_one();
    task();
  }
}

}  // namespace quire::server
