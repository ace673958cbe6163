// A token bucket for what may be written to a device in a day.
#ifndef QUIRE_TIERS_NVME_WRITE_BUDGET_H_
#define QUIRE_TIERS_NVME_WRITE_BUDGET_H_

#include <cstdint>

#include "base/clock.h"

namespace quire::nvme {

// Holds at most one hour's share, which it starts with, so that a quiet night does not pay for a
// burst of a whole day's writes. Debt is kept, up to a day's share. One thread.
class WriteBudget {
 public:
  // 0: no limit.
  WriteBudget(Clock& clock, uint64_t bytes_per_day);

  // `total_bytes`: a counter of everything written so far, which only grows.
  void update(uint64_t total_bytes);
  // From an empty bucket until it is a quarter full again: no flapping with each write.
  bool is_over() const { return over_; }
  // Bytes left; negative: debt.
  int64_t balance_bytes() const { return balance_bytes_; }
  uint64_t bytes_per_day() const { return bytes_per_day_; }

 private:
  Clock& clock_;
  uint64_t bytes_per_day_;
  int64_t balance_max_;
  int64_t balance_bytes_;
  uint64_t refilled_ns_;
  uint64_t charged_bytes_ = 0;
  bool over_ = false;
};

}  // namespace quire::nvme

#endif  // QUIRE_TIERS_NVME_WRITE_BUDGET_H_
