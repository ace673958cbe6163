// What both event loops share: timers, posted tasks, the wake-up descriptor and the running flag. A
// backend implements wait_and_dispatch() and watches wake_fd().
#ifndef QUIRE_TIERS_IO_LOOP_CORE_H_
#define QUIRE_TIERS_IO_LOOP_CORE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "tiers/io/event_loop.h"

namespace quire {

class LoopCore : public EventLoop {
 public:
  ~LoopCore() override;

  TimerId add_timer(uint64_t deadline_ns, std::function<void()> on_due) final;
  bool cancel_timer(TimerId id) final;
  uint64_t now_ns() const final;
  void post(std::function<void()> task) final;
  void run_once(uint64_t max_wait_ns) final;
  void run() final;
  void stop() final;

 protected:
  LoopCore() = default;
  // Opens the wake-up descriptor; the backend calls it before anything else.
  Status open_wake_fd();
  int wake_fd() const { return wake_fd_; }
  // Makes a waiting loop return, once until the loop has seen it. Any thread.
  void wake();

  // Submits what is queued, waits up to wait_ns (0: does not wait; kForever) for one event at
  // least, and runs the callbacks of all that are there.
  virtual void wait_and_dispatch(uint64_t wait_ns) = 0;
  // Called once on the loop thread before the first wait.
  virtual void on_loop_thread() {}

 private:
  uint64_t wait_limit_ns(uint64_t max_wait_ns) const;
  void run_due_timers();
  void run_posted();

  using TimerKey = std::pair<uint64_t, TimerId>;  // (deadline, id)
  std::map<TimerKey, std::function<void()>> timers_;
  std::unordered_map<TimerId, uint64_t> timer_deadlines_;
  TimerId next_timer_ = 1;

  std::mutex posted_mutex_;
  std::vector<std::function<void()>> posted_;
  std::vector<std::function<void()>> running_;
  std::atomic<bool> posted_any_{false};

  std::atomic<bool> stopped_{false};
  std::atomic<bool> woken_{false};
  std::atomic<std::thread::id> loop_thread_{};
  int wake_fd_ = -1;
};

}  // namespace quire

#endif  // QUIRE_TIERS_IO_LOOP_CORE_H_
