#include "tiers/io/loop_core.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>

#include "base/clock.h"

namespace quire {

LoopCore::~LoopCore() {
  if (wake_fd_ >= 0) ::close(wake_fd_);
}

Status LoopCore::open_wake_fd() {
  wake_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd_ < 0) {
    return Status(StatusCode::kResourceExhausted, std::string("eventfd: ") + std::strerror(errno));
  }
  return Status::ok();
}

void LoopCore::wake() {
  if (woken_.exchange(true)) return;
  // The counter is never read: each write is a new edge for the poll, and 2^64 wake-ups never come.
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_fd_, &one, sizeof(one));
}

uint64_t LoopCore::now_ns() const {
  return system_clock().now_ns();
}

TimerId LoopCore::add_timer(uint64_t deadline_ns, std::function<void()> on_due) {
  const TimerId id = next_timer_++;
  timers_.emplace(TimerKey(deadline_ns, id), std::move(on_due));
  timer_deadlines_.emplace(id, deadline_ns);
  return id;
}

bool LoopCore::cancel_timer(TimerId id) {
  const auto found = timer_deadlines_.find(id);
  if (found == timer_deadlines_.end()) return false;
  timers_.erase(TimerKey(found->second, id));
  timer_deadlines_.erase(found);
  return true;
}

void LoopCore::post(std::function<void()> task) {
  {
    const std::lock_guard lock(posted_mutex_);
    posted_.push_back(std::move(task));
    posted_any_.store(true);
  }
  // The loop thread looks at the queue before it waits.
  if (loop_thread_.load(std::memory_order_relaxed) != std::this_thread::get_id()) wake();
}

uint64_t LoopCore::wait_limit_ns(uint64_t max_wait_ns) const {
  if (max_wait_ns == 0 || posted_any_.load() || stopped_.load()) return 0;
  if (timers_.empty()) return max_wait_ns;
  const uint64_t deadline_ns = timers_.begin()->first.first;
  const uint64_t now = now_ns();
  return deadline_ns <= now ? 0 : std::min(max_wait_ns, deadline_ns - now);
}

void LoopCore::run_due_timers() {
  if (timers_.empty()) return;
  const uint64_t now = now_ns();
  const TimerId end = next_timer_;  // timers added by the callbacks wait for the next round
  auto next = timers_.begin();
  while (next != timers_.end() && next->first.first <= now) {
    if (next->first.second >= end) {
      ++next;
      continue;
    }
    const auto on_due = std::move(next->second);
    timer_deadlines_.erase(next->first.second);
    timers_.erase(next);
    on_due();
    next = timers_.begin();  // the callback may have cancelled any other
  }
}

void LoopCore::run_posted() {
  woken_.store(false);
  if (!posted_any_.load()) return;
  assert(running_.empty());
  {
    const std::lock_guard lock(posted_mutex_);
    running_.swap(posted_);
    posted_any_.store(false);
  }
  for (auto& task : running_) task();
  running_.clear();
}

void LoopCore::run_once(uint64_t max_wait_ns) {
  if (loop_thread_.load(std::memory_order_relaxed) == std::thread::id()) {
    loop_thread_.store(std::this_thread::get_id());
    on_loop_thread();
  }
  assert(loop_thread_.load() == std::this_thread::get_id());
  wait_and_dispatch(wait_limit_ns(max_wait_ns));
  run_due_timers();
  run_posted();
}

void LoopCore::run() {
  while (!stopped_.load()) run_once(kForever);
}

void LoopCore::stop() {
  stopped_.store(true);
  wake();
}

}  // namespace quire
