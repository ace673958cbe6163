// One thread with a bounded queue, for what must not run on the reactor: copying and hashing at
// ingest, RocksDB calls. Jobs run in order; what `run` leaves behind is picked up by `done` on the
// reactor.
#ifndef QUIRE_SERVER_STORE_WORKER_H_
#define QUIRE_SERVER_STORE_WORKER_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace quire::server {

inline constexpr size_t kWorkerQueueMax = 65'536;

class Worker {
 public:
  using Task = std::function<void()>;
  // Carries `done` to the reactor thread (EventLoop::post). Must stay callable until stop()
  // returned.
  using Post = std::function<void(Task)>;

  Worker(std::string name, Post post);
  // As stop().
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Any thread. False (nothing queued) where the queue is full or the worker stops. done may be
  // null.
  [[nodiscard]] bool submit(Task run, Task done);
  // Runs what is queued, then ends the thread. Idempotent.
  void stop();
  // Any thread, without a lock: jobs that wait (not the one that runs).
  size_t queued() const { return queued_.load(std::memory_order_relaxed); }

 private:
  struct Job {
    Task run;
    Task done;
  };
  void loop();

  const std::string name_;
  const Post post_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  std::atomic<size_t> queued_{0};  // jobs_.size()
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_WORKER_H_
