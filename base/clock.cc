#include "base/clock.h"

#include <ctime>

namespace quire {
namespace {

uint64_t read_clock_ns(clockid_t id) {
  timespec now{};
  clock_gettime(id, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000ULL + static_cast<uint64_t>(now.tv_nsec);
}

class SystemClock final : public Clock {
 public:
  uint64_t now_ns() const override { return read_clock_ns(CLOCK_MONOTONIC); }
  uint64_t wall_ms() const override { return read_clock_ns(CLOCK_REALTIME) / 1'000'000; }
};

}  // namespace

Clock& system_clock() {
  static SystemClock* clock = new SystemClock;  // outlives every thread that may ask for the time
  return *clock;
}

}  // namespace quire
