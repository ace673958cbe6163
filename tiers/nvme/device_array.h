// Several devices as one NVMe tier.
#ifndef QUIRE_TIERS_NVME_DEVICE_ARRAY_H_
#define QUIRE_TIERS_NVME_DEVICE_ARRAY_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "tiers/nvme/nvme_tier.h"

namespace quire {

inline constexpr uint32_t kNvmeDevicesMax = 16;
// Location.segment of an array: device << kNvmeDeviceShift | segment of that device.
inline constexpr uint32_t kNvmeDeviceShift = 20;
static_assert(kSegmentsMax == 1u << kNvmeDeviceShift);

// Makes one tier of tiers that were opened (NvmeTier::open()) and not yet recovered; one alone is
// returned as it is. Blocking. The rules of NvmeTier hold, and:
// - The number of a device is its place in `devices`. Locations that outlive the process need the
//   same order at the next start; recover() reports what is true now in any case.
// - A write goes to the device that has the fewest bytes waiting, then to the one with the most
// free
//   segments. A device that refuses (read-only, quarantined, stuck, no room) or fails is left out
//   for that write and the others are tried; the answer is an error only where all of them gave
//   one.
// - An object is moved within its device. payload_bytes_max() is the smallest one's.
// - Sequences are drawn from one counter for all devices, so that the highest sequence of a key is
//   the newest wherever it lies. So that this holds across restarts, also with a device less, the
//   epochs of all devices are raised to one above the highest, durably, before anything is written:
//   each run's sequences start above all that earlier runs can have written, seen or not.
// - recover() succeeds if one device at least did; sync() if all that can be written did, so that
// an
//   acknowledged write on a device that failed since is an error; seal() likewise.
// - store_uuid() is a hash of the devices' in order.
// Errors: kInvalidArgument (none, more than kNvmeDevicesMax, or one that is not from open()),
// kIoError.
Expected<std::unique_ptr<NvmeTier>> make_nvme_array(std::vector<std::unique_ptr<NvmeTier>> devices);

}  // namespace quire

#endif  // QUIRE_TIERS_NVME_DEVICE_ARRAY_H_
