// What the parts of the NVMe tier share. One thread.
#ifndef QUIRE_TIERS_NVME_STORE_CONTEXT_H_
#define QUIRE_TIERS_NVME_STORE_CONTEXT_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/status.h"
#include "tiers/io/block_device.h"
#include "tiers/nvme/nvme_tier.h"
#include "tiers/nvme/segment_format.h"
#include "tiers/nvme/segment_table.h"

namespace quire::nvme {

// May the device still be trusted? States only get worse.
class StoreHealth {
 public:
  StoreHealth(Clock& clock, uint32_t read_errors_per_minute_max)
      : clock_(clock), read_errors_per_minute_max_(read_errors_per_minute_max) {}

  NvmeState state() const { return state_; }
  const std::string& reason() const { return reason_; }
  // OK, or the kUnavailable that refuses the operation.
  Status check_readable() const;
  Status check_writable() const;
  // A failed write or sync; kNoSpace is told apart.
  void write_failed(const Status& status);
  // A read that failed or did not verify.
  void read_failed(const Status& status);
  // Called, inside the two above, when the state got worse.
  void set_listener(std::function<void()> on_worse) { on_worse_ = std::move(on_worse); }

 private:
  void worsen(NvmeState state, const std::string& reason);

  Clock& clock_;
  uint32_t read_errors_per_minute_max_;
  std::deque<uint64_t> read_failures_ns_;
  NvmeState state_ = NvmeState::kOk;
  std::string reason_;
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
               Clock& store_clock)
      : options(std::move(store_options)),
        health(store_clock, options.read_errors_per_minute_max),
        device(std::move(block_device)) {}

  NvmeOptions options;
  Geometry geometry;
  SegmentTable table;
  StoreHealth health;
  StoreCounters counters;
  uint64_t last_generation = 0;
  uint64_t last_sequence = 0;
  // Destroyed first: no callback runs afterwards.
  std::unique_ptr<BlockDevice> device;
};

}  // namespace quire::nvme

#endif  // QUIRE_TIERS_NVME_STORE_CONTEXT_H_
