// A short measurement of a file or raw device when it is opened: what a read costs, and how many
// bytes in flight it takes to reach its bandwidth (more only adds latency). Blocking.
#ifndef QUIRE_TIERS_IO_DEVICE_PROBE_H_
#define QUIRE_TIERS_IO_DEVICE_PROBE_H_

#include <cstdint>

#include "tiers/io/block_device.h"

namespace quire {

inline constexpr uint32_t kProbeMsMax = 500;
// Smaller devices are not measured: a probe would cost more than it could gain.
inline constexpr uint64_t kProbeDeviceBytesMin = 64 << 20;

// Takes at most limit_ms (and no more than kProbeMsMax), plus the operations in flight at its end.
// fd: opened with O_DIRECT, or what is measured is the page cache. Reads go to places that were
// written, since others cost nothing: in a file, those that lseek(SEEK_DATA) names. may_write: the
// file is new, nothing is in it; zeroes are written behind its first MiB, which leaves it as good
// as new. What cannot be measured stays 0.
DeviceProfile probe_device(int fd, uint64_t device_bytes, bool may_write, uint32_t limit_ms);

}  // namespace quire

#endif  // QUIRE_TIERS_IO_DEVICE_PROBE_H_
