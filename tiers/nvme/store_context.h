// What the parts of the NVMe tier share. One thread.
#ifndef QUIRE_TIERS_NVME_STORE_CONTEXT_H_
#define QUIRE_TIERS_NVME_STORE_CONTEXT_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "tiers/nvme/metered_device.h"
#include "tiers/nvme/nvme_tier.h"
#include "tiers/nvme/segment_format.h"
#include "tiers/nvme/segment_table.h"
#include "tiers/nvme/write_budget.h"

namespace quire::nvme {

// May the device still be trusted? Write errors and quarantine are for good; a lack of space and a
// stuck operation end.
class StoreHealth {
 public:
  StoreHealth(Clock& clock, uint32_t read_errors_per_minute_max, const MeteredDevice& device)
      : clock_(clock), read_errors_per_minute_max_(read_errors_per_minute_max), device_(device) {}

  NvmeState state() const;
  std::string reason() const;
  // OK, or what refuses the operation: kUnavailable for good, kBusy while stuck, kNoSpace.
  Status check_readable() const;
  Status check_writable() const;
  // Reclaiming goes on without space: it may find some.
  bool can_reclaim() const { return final_ == NvmeState::kOk && !is_stuck(); }
  bool is_stuck() const;
  bool has_no_space() const { return no_space_; }
  uint64_t no_space_since_ns() const { return no_space_since_ns_; }

  // A failed write; kNoSpace is told apart.
  void write_failed(const Status& status);
  // A failed sync, for whatever reason.
  void sync_failed(const Status& status);
  // A read that failed or did not verify.
  void read_failed(const Status& status);
  void space_found() { no_space_ = false; }
  // Called, inside the three above, when the state got worse.
  void set_listener(std::function<void()> on_worse) { on_worse_ = std::move(on_worse); }

 private:
  void worsen(NvmeState state, const std::string& reason);

  Clock& clock_;
  uint32_t read_errors_per_minute_max_;
  const MeteredDevice& device_;
  std::deque<uint64_t> read_failures_ns_;
  NvmeState final_ = NvmeState::kOk;  // kOk, kReadOnlyError or kQuarantined
  std::string reason_;
  bool no_space_ = false;
  uint64_t no_space_since_ns_ = 0;
  std::string no_space_reason_;
  std::function<void()> on_worse_;
};

struct StoreCounters {
  uint64_t read_bytes = 0;
  uint64_t written_bytes = 0;
  uint64_t reinserted_bytes = 0;
  uint64_t evicted_objects = 0;
  uint64_t reclaimed_segments = 0;
  uint64_t corruptions = 0;
  uint64_t read_errors = 0;
  uint64_t write_errors = 0;
  uint64_t syncs = 0;
  uint64_t reads_inflight = 0;
};

struct StoreContext {
  StoreContext(NvmeOptions store_options, std::unique_ptr<BlockDevice> block_device,
               Clock& store_clock);

  // Charges the budget with what was written since; true while it is exceeded.
  bool over_write_budget();
  // To be called now and then while health.has_no_space() or table.only_written(): ends either when
  // there is a reason to try again.
  void refresh_space();

  NvmeOptions options;
  Clock& clock;
  Geometry geometry;
  SegmentTable table;
  StoreCounters counters;
  WriteBudget budget;
  uint64_t last_generation = 0;
  // Shared with the other devices of an array.
  std::shared_ptr<uint64_t> last_sequence = std::make_shared<uint64_t>(0);
  // The tier resets it before anything else goes: no callback runs afterwards.
  std::unique_ptr<MeteredDevice> device;
  StoreHealth health;
};

}  // namespace quire::nvme

#endif  // QUIRE_TIERS_NVME_STORE_CONTEXT_H_
