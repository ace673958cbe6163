// Time behind an interface, so that leases, TTLs and the storage simulation run on a virtual clock.
#ifndef QUIRE_BASE_CLOCK_H_
#define QUIRE_BASE_CLOCK_H_

#include <atomic>
#include <cstdint>

namespace quire {

class Clock {
 public:
  virtual ~Clock() = default;
  // Monotonic; only differences mean anything. Callable from any thread.
  virtual uint64_t now_ns() const = 0;
  // Milliseconds since the Unix epoch, for stored times (pins, creation).
  virtual uint64_t wall_ms() const = 0;
};

// CLOCK_MONOTONIC and CLOCK_REALTIME. Never destroyed.
Clock& system_clock();

// Moves only when told to.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(uint64_t start_ns = 1'000'000'000) : now_ns_(start_ns) {}
  uint64_t now_ns() const override { return now_ns_.load(std::memory_order_relaxed); }
  uint64_t wall_ms() const override { return now_ns() / 1'000'000; }
  void advance_ns(uint64_t delta_ns) { now_ns_.fetch_add(delta_ns, std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> now_ns_;
};

}  // namespace quire

#endif  // QUIRE_BASE_CLOCK_H_
