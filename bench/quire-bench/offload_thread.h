// One thread that runs tasks in order: what quired's worker is to the NVMe tier.
#ifndef QUIRE_BENCH_QUIRE_BENCH_OFFLOAD_THREAD_H_
#define QUIRE_BENCH_QUIRE_BENCH_OFFLOAD_THREAD_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace quire::bench {

class OffloadThread {
 public:
  OffloadThread() : thread_([this] { work(); }) {}
  ~OffloadThread() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }
  OffloadThread(const OffloadThread&) = delete;
  OffloadThread& operator=(const OffloadThread&) = delete;

  void run(std::function<void()> task) {
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    wake_.notify_one();
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stop_ || !tasks_.empty(); });
      if (stop_) return;
      const auto task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace quire::bench

#endif  // QUIRE_BENCH_QUIRE_BENCH_OFFLOAD_THREAD_H_
