// Injects seeded faults into another device.
#ifndef QUIRE_TIERS_IO_FAULTY_DEVICE_H_
#define QUIRE_TIERS_IO_FAULTY_DEVICE_H_

#include <cstdint>
#include <list>
#include <memory>

#include "tiers/io/block_device.h"
#include "tiers/io/seeded_random.h"

namespace quire {

// Chance of each fault per operation (the first that strikes wins), 0 .. 1.
struct FaultRates {
  // Silent: the operation reports success.
  double torn_write = 0;         // only the first blocks are written
  double lost_write = 0;         // nothing is written
  double misdirected_write = 0;  // written to another place
  double write_bit_flip = 0;     // one bit is written wrong
  double read_bit_flip = 0;      // one bit is read wrong; the device is intact
  double misdirected_read = 0;   // read from another place
  // Reported.
  double short_read = 0;   // a part is read, then kIoError
  double read_error = 0;   // kIoError
  double write_error = 0;  // kIoError, a part may be written
  double sync_error = 0;   // kIoError, nothing becomes durable
  double no_space = 0;     // a write: kNoSpace
  // The completion comes some polls later.
  double delay = 0;
  uint32_t delay_polls_max = 20;
};

class FaultyDevice final : public BlockDevice {
 public:
  FaultyDevice(std::unique_ptr<BlockDevice> device, FaultRates rates, uint64_t seed);

  void read(uint64_t offset, MutableByteSpan target, DeviceCallback done) override;
  void write(uint64_t offset, ByteSpan source, DeviceCallback done) override;
  void sync(DeviceCallback done) override;
  void defer(std::function<void()> task) override { device_->defer(std::move(task)); }
  // Blocking operations meet no faults.
  Status read_blocking(uint64_t offset, MutableByteSpan target) override;
  Status write_blocking(uint64_t offset, ByteSpan source) override;
  Status sync_blocking() override;
  bool poll() override;
  uint64_t size_bytes() const override { return device_->size_bytes(); }
  uint64_t inflight_bytes() const override { return device_->inflight_bytes(); }
  std::string backend() const override { return "faulty " + device_->backend(); }

  void set_rates(const FaultRates& rates) { rates_ = rates; }
  uint64_t faults_injected() const { return faults_; }

 private:
  struct Delayed {
    uint32_t polls_left = 0;
    Status status;
    DeviceCallback done;
  };
  bool strikes(double rate);
  uint64_t other_offset(uint64_t bytes);
  // Runs the callback from a later poll().
  void complete_later(Status status, DeviceCallback done, uint32_t polls = 0);
  // The callback itself, or one that holds the completion back for some polls.
  DeviceCallback maybe_delayed(DeviceCallback done);
  void write_damaged(uint64_t offset, ByteSpan source, DeviceCallback done);

  std::unique_ptr<BlockDevice> device_;
  FaultRates rates_;
  SeededRandom random_;
  std::list<Delayed> delayed_;
  uint64_t faults_ = 0;
};

}  // namespace quire

#endif  // QUIRE_TIERS_IO_FAULTY_DEVICE_H_
