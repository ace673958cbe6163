// Threads for an HTTP server whose queue cannot grow: a full queue holds the accepting thread back.
#ifndef QUIRE_SERVER_HTTP_BOUNDED_TASK_QUEUE_H_
#define QUIRE_SERVER_HTTP_BOUNDED_TASK_QUEUE_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace quire::server {

class BoundedTaskQueue {
 public:
  BoundedTaskQueue(size_t threads, size_t queued_max);
  ~BoundedTaskQueue();  // shuts down
  BoundedTaskQueue(const BoundedTaskQueue&) = delete;
  BoundedTaskQueue& operator=(const BoundedTaskQueue&) = delete;

  // Waits while the queue is full. Tasks given after shutdown() run in the caller's thread: each
  // owns a connection that must be closed.
  void enqueue(std::function<void()> task);
  // Runs what is queued, then joins the threads.
  void shutdown();

 private:
  void work();

  const size_t queued_max_;
  std::mutex mutex_;
  std::condition_variable has_task_;
  std::condition_variable has_room_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_HTTP_BOUNDED_TASK_QUEUE_H_
