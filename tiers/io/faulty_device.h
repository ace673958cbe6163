// Injects seeded faults into another device, and remembers which blocks it damaged without a word:
// a test can then tell what had to survive.
#ifndef QUIRE_TIERS_IO_FAULTY_DEVICE_H_
#define QUIRE_TIERS_IO_FAULTY_DEVICE_H_

#include <array>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "tiers/io/block_device.h"
#include "tiers/io/seeded_random.h"

namespace quire {

enum class Fault : uint8_t {
  kTornWrite,
  kLostWrite,
  kMisdirectedWrite,
  kWriteBitFlip,
  kReadBitFlip,
  kMisdirectedRead,
  kShortRead,
  kReadError,
  kWriteError,
  kSyncError,
  kNoSpace,
  kDelay,
  kStuck,
  kBlockingError,
};
inline constexpr size_t kFaultKinds = static_cast<size_t>(Fault::kBlockingError) + 1;
// "torn write", "lost write" ...
std::string_view fault_name(Fault fault);
using FaultCounts = std::array<uint64_t, kFaultKinds>;

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
  // kIoError and nothing becomes durable, by this sync or a later one, whatever that reports: a
  // kernel drops what it could not write back.
  double sync_error = 0;
  double no_space = 0;        // a write: kNoSpace
  double blocking_error = 0;  // a blocking call: kIoError, nothing is done
  // The completion comes some polls later.
  double delay = 0;
  uint32_t delay_polls_max = 20;
  // Nothing is heard of the operation until a later time on the device's clock (set_clock()); half
  // of them have not even begun till then.
  double stuck = 0;
  uint64_t stuck_ns_max = 5'000'000'000;
};

// Blocks whose contents are not what was last written to them with success. Shared between the
// devices before and after a "restart", as MemoryImage is.
class MediaDamage {
 public:
  explicit MediaDamage(uint64_t device_bytes) : damaged_(device_bytes / kBlockBytes) {}
  // Whole blocks that the range touches.
  void set(uint64_t offset, uint64_t bytes, bool damaged);
  bool any(uint64_t offset, uint64_t bytes) const;

 private:
  std::vector<bool> damaged_;
};

class FaultyDevice final : public BlockDevice {
 public:
  FaultyDevice(std::unique_ptr<BlockDevice> device, FaultRates rates, uint64_t seed);
  // Operations in flight end as those of the device below do.
  ~FaultyDevice() override;

  void read(uint64_t offset, MutableByteSpan target, DeviceCallback done) override;
  void write(uint64_t offset, ByteSpan source, DeviceCallback done) override;
  void sync(DeviceCallback done) override;
  void defer(std::function<void()> task) override { device_->defer(std::move(task)); }
  Status read_blocking(uint64_t offset, MutableByteSpan target) override;
  Status write_blocking(uint64_t offset, ByteSpan source) override;
  Status sync_blocking() override;
  // True also while completions are held back by `delay`: poll on. False while only stuck
  // operations are left: move the clock to next_due_ns().
  bool poll() override;
  uint64_t size_bytes() const override { return device_->size_bytes(); }
  uint64_t inflight_bytes() const override { return device_->inflight_bytes(); }
  std::string backend() const override { return "faulty " + device_->backend(); }

  void set_rates(const FaultRates& rates) { rates_ = rates; }
  // Without a clock nothing is ever stuck. It outlives the device.
  void set_clock(const Clock& clock) { clock_ = &clock; }
  void set_damage(std::shared_ptr<MediaDamage> damage) { damage_ = std::move(damage); }
  // Called when a fault strikes, inside the call that it strikes: kind and range of the operation
  // (empty for a sync).
  using FaultListener = std::function<void(Fault, uint64_t offset, uint64_t bytes)>;
  void set_listener(FaultListener listener) { listener_ = std::move(listener); }

  uint64_t faults_injected() const;
  const FaultCounts& fault_counts() const { return counts_; }
  // When the next stuck operation goes on; UINT64_MAX without one.
  uint64_t next_due_ns() const;

 private:
  using Range = std::pair<uint64_t, uint64_t>;  // offset, bytes
  struct Held {
    uint32_t polls_left = 0;
    uint64_t due_ns = 0;
    std::function<void()> run;
  };
  bool strikes(Fault fault, double rate, uint64_t offset = 0, uint64_t bytes = 0);
  uint64_t other_offset(uint64_t bytes);
  void hold(std::function<void()> run, uint32_t polls, uint64_t due_ns = 0);
  // Runs the callback from a later poll().
  void complete_later(Status status, DeviceCallback done);
  // The callback itself, or one that holds the completion back for some polls.
  DeviceCallback maybe_delayed(DeviceCallback done, uint64_t offset, uint64_t bytes);
  // Runs the start of an operation now, or when it is no longer stuck.
  void start_maybe_stuck(DeviceCallback done, uint64_t offset, uint64_t bytes,
                         std::function<void(DeviceCallback)> start);
  void start_read(uint64_t offset, MutableByteSpan target, DeviceCallback done);
  void start_write(uint64_t offset, ByteSpan source, DeviceCallback done);
  // A write whose ranges are damaged from now on, again when it completes, and if it never does.
  DeviceCallback damaging(std::vector<Range> ranges, DeviceCallback done);
  void write_intact(uint64_t offset, ByteSpan source, DeviceCallback done);
  void write_flipped(uint64_t offset, ByteSpan source, DeviceCallback done);

  std::unique_ptr<BlockDevice> device_;
  FaultRates rates_;
  SeededRandom random_;
  const Clock* clock_ = nullptr;
  std::shared_ptr<MediaDamage> damage_;
  FaultListener listener_;
  std::list<std::vector<Range>> damaging_;  // by writes in flight
  std::list<Held> held_;
  FaultCounts counts_{};
  bool drops_data_ = false;  // since a failed sync
};

}  // namespace quire

#endif  // QUIRE_TIERS_IO_FAULTY_DEVICE_H_
