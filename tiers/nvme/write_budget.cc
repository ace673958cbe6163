#include "tiers/nvme/write_budget.h"

#include <algorithm>

namespace quire::nvme {
namespace {

constexpr uint64_t kDayNs = 86'400'000'000'000;
constexpr int64_t kHoursPerDay = 24;
constexpr int64_t kResumeShare = 4;  // over until a quarter of the bucket is there again
constexpr uint64_t kBytesPerDayMax = 1ull << 55;

}  // namespace

WriteBudget::WriteBudget(Clock& clock, uint64_t bytes_per_day)
    : clock_(clock),
      bytes_per_day_(std::min(bytes_per_day, kBytesPerDayMax)),
      balance_max_(static_cast<int64_t>(bytes_per_day_) / kHoursPerDay),
      balance_bytes_(balance_max_),
      refilled_ns_(clock.now_ns()) {}

void WriteBudget::update(uint64_t total_bytes) {
  if (bytes_per_day_ == 0) return;
  const uint64_t now_ns = clock_.now_ns();
  // Whole bytes; the time of the rest stays to be counted.
  const double bytes_per_ns = static_cast<double>(bytes_per_day_) / static_cast<double>(kDayNs);
  const auto refill_bytes = static_cast<int64_t>(
      static_cast<double>(std::min(now_ns - refilled_ns_, 2 * kDayNs)) * bytes_per_ns);
  balance_bytes_ += refill_bytes;
  refilled_ns_ += static_cast<uint64_t>(static_cast<double>(refill_bytes) / bytes_per_ns);
  if (balance_bytes_ >= balance_max_) {
    balance_bytes_ = balance_max_;
    refilled_ns_ = now_ns;
  }
  const uint64_t spent_bytes = std::min(total_bytes - charged_bytes_, bytes_per_day_);
  charged_bytes_ = total_bytes;
  balance_bytes_ = std::max(balance_bytes_ - static_cast<int64_t>(spent_bytes),
                            -static_cast<int64_t>(bytes_per_day_));
  if (balance_bytes_ < 0) over_ = true;
  if (balance_bytes_ >= balance_max_ / kResumeShare) over_ = false;
}

}  // namespace quire::nvme
