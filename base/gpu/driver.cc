#include "base/gpu/driver.h"

namespace quire::gpu {

Expected<uint32_t> find_device(Driver& driver, const DeviceUuid& uuid) {
  QUIRE_ASSIGN_OR_RETURN(const uint32_t count, driver.device_count());
  for (uint32_t device = 0; device < count; ++device) {
    // One that cannot be used may stand before the one that is looked for.
    const auto info = driver.device_info(device);
    if (info && info->uuid == uuid) return device;
  }
  return Status(StatusCode::kNotFound,
                "the device is not among the " + std::to_string(count) + " that this process sees");
}

const char* driver_kind_name(DriverKind kind) {
  switch (kind) {
    case DriverKind::kCuda:
      return "cuda";
    case DriverKind::kFake:
      return "fake";
  }
  return "unknown";
}

}  // namespace quire::gpu
