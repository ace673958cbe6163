#include "tiers/io/block_device.h"

namespace quire {

Status check_device_range(const BlockDevice& device, uint64_t offset, const std::byte* memory,
                          uint64_t bytes) {
  const uint64_t alignment = device.alignment_bytes();
  if (offset % alignment != 0 || bytes % alignment != 0 || bytes == 0) {
    return Status(StatusCode::kInvalidArgument, "device offset and size must be whole blocks");
  }
  if (reinterpret_cast<uintptr_t>(memory) % alignment != 0) {
    return Status(StatusCode::kInvalidArgument, "device memory is not aligned");
  }
  if (offset > device.size_bytes() || bytes > device.size_bytes() - offset) {
    return Status(StatusCode::kInvalidArgument, "range lies beyond the end of the device");
  }
  return Status::ok();
}

}  // namespace quire
