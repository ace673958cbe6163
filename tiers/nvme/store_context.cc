#include "tiers/nvme/store_context.h"

namespace quire::nvme {
namespace {

constexpr uint64_t kMinuteNs = 60'000'000'000;

}  // namespace

void StoreHealth::worsen(NvmeState state, const std::string& reason) {
  if (state <= state_) return;
  state_ = state;
  reason_ = reason;
  if (on_worse_) on_worse_();
}

Status StoreHealth::check_readable() const {
  if (state_ != NvmeState::kQuarantined) return Status::ok();
  return Status(StatusCode::kUnavailable, "nvme tier is quarantined: " + reason_);
}

Status StoreHealth::check_writable() const {
  if (state_ == NvmeState::kOk) return Status::ok();
  return Status(StatusCode::kUnavailable,
                "nvme tier is " + std::string(nvme_state_name(state_)) + ": " + reason_);
}

void StoreHealth::write_failed(const Status& status) {
  const bool full = status.code() == StatusCode::kNoSpace;
  worsen(full ? NvmeState::kReadOnlyNoSpace : NvmeState::kReadOnlyError, status.message());
}

void StoreHealth::read_failed(const Status& status) {
  const uint64_t now_ns = clock_.now_ns();
  read_failures_ns_.push_back(now_ns);
  while (now_ns - read_failures_ns_.front() > kMinuteNs) read_failures_ns_.pop_front();
  if (read_failures_ns_.size() <= read_errors_per_minute_max_) return;
  worsen(NvmeState::kQuarantined,
         std::to_string(read_failures_ns_.size()) +
             " failed reads within a minute, the last: " + status.message());
}

}  // namespace quire::nvme
