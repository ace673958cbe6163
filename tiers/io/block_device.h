// A device of blocks as the NVMe tier sees it: asynchronous reads, writes and syncs of aligned
// ranges. Implementations: FileDevice (file_device.h), MemoryDevice (memory_device.h) and
// FaultyDevice (faulty_device.h), which wraps another one and injects faults.
#ifndef QUIRE_TIERS_IO_BLOCK_DEVICE_H_
#define QUIRE_TIERS_IO_BLOCK_DEVICE_H_

#include <cstdint>
#include <functional>
#include <string>

#include "base/bytes.h"
#include "base/status.h"

namespace quire {

// Everything a device transfers is aligned to this: offset, size and memory.
inline constexpr uint64_t kBlockBytes = 4096;

using DeviceCallback = std::function<void(Status)>;

// What a probe of the device at its opening found: nothing is stored, each opening measures anew.
// Zero: not measured.
struct DeviceProfile {
  double read_latency_us = 0;  // one block of kBlockBytes, alone
  double read_bytes_per_us = 0;
  double write_latency_us = 0;
  double write_bytes_per_us = 0;
  // Bytes that the device hands to the kernel at one time; 0: no such limit.
  uint64_t read_inflight_bytes_max = 0;
  uint64_t write_inflight_bytes_max = 0;
};

// Thread rules: one thread (the loop thread of a FileDevice). Callbacks run from poll() or from the
// event loop, never inside read(), write() or sync(); each runs exactly once while the device
// lives.
class BlockDevice {
 public:
  virtual ~BlockDevice() = default;

  // Whole or failed: OK means all bytes were transferred. Memory stays valid until `done` has run
  // or is destroyed. Errors: kInvalidArgument (alignment, range), kIoError, kNoSpace, kBusy
  // (kQueuedOpsMax waiting). Operations in flight at one time on the same range have no order.
  virtual void read(uint64_t offset, MutableByteSpan target, DeviceCallback done) = 0;
  virtual void write(uint64_t offset, ByteSpan source, DeviceCallback done) = 0;
  // Makes every write whose callback ran before this call durable. After a failure nothing may be
  // assumed about those writes, and a later success does not change that.
  virtual void sync(DeviceCallback done) = 0;

  // The same, blocking: for opening and for offline tools. Not while operations are in flight.
  virtual Status read_blocking(uint64_t offset, MutableByteSpan target) = 0;
  virtual Status write_blocking(uint64_t offset, ByteSpan source) = 0;
  virtual Status sync_blocking() = 0;

  // Runs the task soon, the way completions run. For answers that need no I/O.
  virtual void defer(std::function<void()> task) = 0;

  // Runs the task once after delay_ns, unless the device is destroyed before. False, and the task
  // is dropped, where the device has no timers.
  virtual bool run_after(uint64_t /*delay_ns*/, std::function<void()> /*task*/) { return false; }

  // Runs completions that are due. True if a callback ran. A device on an event loop does nothing
  // here: its completions come from the loop.
  virtual bool poll() { return false; }

  virtual uint64_t size_bytes() const = 0;
  virtual uint64_t alignment_bytes() const { return kBlockBytes; }
  virtual uint64_t inflight_bytes() const { return 0; }
  virtual DeviceProfile profile() const { return {}; }
  // For the status page: "io_uring, O_DIRECT", "epoll + pread pool, buffered (O_DIRECT refused)".
  virtual std::string backend() const = 0;

  static constexpr uint32_t kQueuedOpsMax = 16384;
};

// OK, or kInvalidArgument naming what is not aligned or out of range.
Status check_device_range(const BlockDevice& device, uint64_t offset, const std::byte* memory,
                          uint64_t bytes);

}  // namespace quire

#endif  // QUIRE_TIERS_IO_BLOCK_DEVICE_H_
