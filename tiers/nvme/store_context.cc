#include "tiers/nvme/store_context.h"

namespace quire::nvme {
namespace {

constexpr uint64_t kMinuteNs = 60'000'000'000;
constexpr uint64_t kMillisecondNs = 1'000'000;
constexpr uint32_t kStuckRetryMs = 500;
// Free segments that must have their space before writing goes on: one to write, one in reserve.
constexpr uint32_t kSegmentsToResume = 2;

}  // namespace

void StoreHealth::worsen(NvmeState state, const std::string& reason) {
  if (state <= final_) return;
  final_ = state;
  reason_ = reason;
  if (on_worse_) on_worse_();
}

bool StoreHealth::is_stuck() const {
  return device_.reads_stuck() || device_.writes_stuck();
}

NvmeState StoreHealth::state() const {
  if (final_ != NvmeState::kOk) return final_;
  if (is_stuck()) return NvmeState::kStuck;
  return no_space_ ? NvmeState::kReadOnlyNoSpace : NvmeState::kOk;
}

std::string StoreHealth::reason() const {
  switch (state()) {
    case NvmeState::kOk:
      return "";
    case NvmeState::kStuck:
      return device_.stuck_reason();
    case NvmeState::kReadOnlyNoSpace:
      return no_space_reason_;
    default:
      return reason_;
  }
}

Status StoreHealth::check_readable() const {
  if (final_ == NvmeState::kQuarantined) {
    return Status(StatusCode::kUnavailable, "nvme tier is quarantined: " + reason_);
  }
  if (device_.reads_stuck()) {
    return Status(StatusCode::kBusy, "nvme tier is stuck: " + device_.stuck_reason(),
                  kStuckRetryMs);
  }
  return Status::ok();
}

Status StoreHealth::check_writable() const {
  const NvmeState now = state();
  if (now == NvmeState::kOk) return Status::ok();
  const std::string message = "nvme tier is " + std::string(nvme_state_name(now)) + ": " + reason();
  if (now == NvmeState::kStuck) return Status(StatusCode::kBusy, message, kStuckRetryMs);
  return Status(
      now == NvmeState::kReadOnlyNoSpace ? StatusCode::kNoSpace : StatusCode::kUnavailable,
      message);
}

void StoreHealth::write_failed(const Status& status) {
  if (status.code() != StatusCode::kNoSpace) {
    worsen(NvmeState::kReadOnlyError, status.message());
    return;
  }
  const bool is_new = !std::exchange(no_space_, true);
  no_space_since_ns_ = clock_.now_ns();
  no_space_reason_ = status.message();
  if (is_new && on_worse_) on_worse_();
}

void StoreHealth::sync_failed(const Status& status) {
  worsen(NvmeState::kReadOnlyError, status.message());
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

StoreContext::StoreContext(NvmeOptions store_options, std::unique_ptr<BlockDevice> block_device,
                           Clock& store_clock)
    : options(std::move(store_options)),
      clock(store_clock),
      budget(store_clock, options.write_bytes_per_day),
      device(std::make_unique<MeteredDevice>(std::move(block_device), store_clock,
                                             options.stuck_after_ms * kMillisecondNs)),
      health(store_clock, options.read_errors_per_minute_max, *device) {}

bool StoreContext::over_write_budget() {
  budget.update(device->written_bytes());
  return budget.is_over();
}

void StoreContext::refresh_space() {
  if (!health.has_no_space() && !table.only_written()) return;
  if (clock.now_ns() - health.no_space_since_ns() >= kNvmeNoSpaceRetryMs * kMillisecondNs) {
    table.set_only_written(false);
    health.space_found();
  } else if (health.has_no_space()) {
    table.set_only_written(true);
    if (table.usable_free() >= kSegmentsToResume) health.space_found();
  }
}

}  // namespace quire::nvme
