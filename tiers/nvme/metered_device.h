// The device as the tier uses it: counts what is written and watches for operations that do not
// come back.
#ifndef QUIRE_TIERS_NVME_METERED_DEVICE_H_
#define QUIRE_TIERS_NVME_METERED_DEVICE_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "base/clock.h"
#include "tiers/io/block_device.h"

namespace quire::nvme {

class MeteredDevice final : public BlockDevice {
 public:
  static constexpr uint64_t kLostFactor = 10;

  MeteredDevice(std::unique_ptr<BlockDevice> device, Clock& clock, uint64_t stuck_after_ns)
      : clock_(clock), stuck_after_ns_(stuck_after_ns), device_(std::move(device)) {}

  void read(uint64_t offset, MutableByteSpan target, DeviceCallback done) override;
  void write(uint64_t offset, ByteSpan source, DeviceCallback done) override;
  void sync(DeviceCallback done) override;
  Status read_blocking(uint64_t offset, MutableByteSpan target) override {
    return device_->read_blocking(offset, target);
  }
  Status write_blocking(uint64_t offset, ByteSpan source) override {
    return device_->write_blocking(offset, source);
  }
  Status sync_blocking() override { return device_->sync_blocking(); }
  void defer(std::function<void()> task) override { device_->defer(std::move(task)); }
  bool run_after(uint64_t delay_ns, std::function<void()> task) override {
    return device_->run_after(delay_ns, std::move(task));
  }
  bool poll() override { return device_->poll(); }
  uint64_t size_bytes() const override { return device_->size_bytes(); }
  uint64_t alignment_bytes() const override { return device_->alignment_bytes(); }
  uint64_t inflight_bytes() const override { return device_->inflight_bytes(); }
  DeviceProfile profile() const override { return device_->profile(); }
  std::string backend() const override { return device_->backend(); }

  // Written without an error.
  uint64_t written_bytes() const { return written_bytes_; }
  // Operations are in flight and none came back for stuck_after. By progress, not by age: a long
  // queue on a slow device is not stuck. But writes are reported in order, so that one of them that
  // is lost among others holds up all: it counts as stuck after kLostFactor times that.
  bool reads_stuck() const { return has_no_progress(reads_); }
  bool writes_stuck() const;  // or syncs
  // "a read has not come back for 2100 ms, 3 in flight"; empty where nothing is stuck.
  std::string stuck_reason() const;

 private:
  struct Direction;
  struct Operation {
    Direction* direction = nullptr;
    uint64_t written_bytes = 0;
    uint64_t start_ns = 0;
    DeviceCallback done;
    // In the list of its direction, oldest first; next also in that of free ones.
    Operation* previous = nullptr;
    Operation* next = nullptr;
  };
  struct Direction {
    uint64_t inflight = 0;
    uint64_t last_ns = 0;  // when one came back, or the first of them began
    Operation* oldest = nullptr;
    Operation* newest = nullptr;
  };
  bool has_no_progress(const Direction& direction) const;
  Operation* take(Direction& direction, uint64_t written_bytes, DeviceCallback done);
  void finish(Operation* operation, const Status& status);

  Clock& clock_;
  uint64_t stuck_after_ns_;
  uint64_t written_bytes_ = 0;
  Direction reads_;
  Direction writes_;  // and syncs
  // As many as were ever in flight at one time. Shared with those in flight: a callback owns the
  // memory of its operation, which the kernel may still write when the tier is gone.
  const std::shared_ptr<std::deque<Operation>> operations_ =
      std::make_shared<std::deque<Operation>>();
  Operation* free_ = nullptr;
  // Destroyed first: no callback runs afterwards.
  std::unique_ptr<BlockDevice> device_;
};

}  // namespace quire::nvme

#endif  // QUIRE_TIERS_NVME_METERED_DEVICE_H_
