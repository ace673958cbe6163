#include "base/gpu/cuda_api.h"

#include <dlfcn.h>

namespace quire::gpu::cuda {
namespace {

// The names below mean, to cuGetProcAddress, their newest form up to this version. 11.3 is the
// first that has it; nothing we call has changed its form up to 13.0.
constexpr int kCudaVersion = 11030;
// From here on the uuid tells slices (MIG) of one device apart.
constexpr int kCudaVersionOfSliceUuid = 11040;

// Up to CUDA 11.8; later ones export this form under the old name and the other beside it.
using GetProcAddress = Result (*)(const char* symbol, void** function, int version,
                                  unsigned long long flags);
using GetProcAddress2 = Result (*)(const char* symbol, void** function, int version,
                                   unsigned long long flags, int* status);

struct Finder {
  GetProcAddress first = nullptr;
  GetProcAddress2 second = nullptr;

  void* find(const char* symbol, int version) const {
    void* function = nullptr;
    int status = 0;
    const Result result = second != nullptr ? second(symbol, &function, version, 0, &status)
                                            : first(symbol, &function, version, 0);
    return result == kSuccess && status == 0 ? function : nullptr;
  }
};

template <typename Function>
Status find(const Finder& finder, const char* symbol, Function& slot) {
  void* function = finder.find(symbol, kCudaVersion);
  if (function == nullptr)
    return {StatusCode::kUnsupported,
            std::string("the CUDA driver has no ") + symbol + "; it must be of CUDA 11.3 or later"};
  slot = reinterpret_cast<Function>(function);
  return Status::ok();
}

Status find_devices(const Finder& finder, Api& api) {
  QUIRE_RETURN_IF_ERROR(find(finder, "cuInit", api.init));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuDriverGetVersion", api.driver_version));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuGetErrorName", api.error_name));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuDeviceGetCount", api.device_count));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuDeviceGet", api.device_get));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuDeviceGetName", api.device_name));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuDeviceGetUuid", api.device_uuid));
  if (void* newer = finder.find("cuDeviceGetUuid", kCudaVersionOfSliceUuid))
    api.device_uuid = reinterpret_cast<decltype(api.device_uuid)>(newer);
  QUIRE_RETURN_IF_ERROR(find(finder, "cuDeviceTotalMem", api.device_total_memory));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuDeviceGetAttribute", api.device_attribute));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuDevicePrimaryCtxRetain", api.context_retain));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuDevicePrimaryCtxRelease", api.context_release));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuCtxPushCurrent", api.context_push));
  return find(finder, "cuCtxPopCurrent", api.context_pop);
}

Status find_memory(const Finder& finder, Api& api) {
  QUIRE_RETURN_IF_ERROR(find(finder, "cuMemGetAllocationGranularity", api.granularity));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuMemAddressReserve", api.address_reserve));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuMemAddressFree", api.address_free));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuMemCreate", api.create));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuMemRelease", api.release));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuMemMap", api.map));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuMemUnmap", api.unmap));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuMemSetAccess", api.set_access));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuMemExportToShareableHandle", api.export_handle));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuMemImportFromShareableHandle", api.import_handle));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuMemHostRegister", api.host_register));
  return find(finder, "cuMemHostUnregister", api.host_unregister);
}

Status find_copies(const Finder& finder, Api& api) {
  QUIRE_RETURN_IF_ERROR(find(finder, "cuStreamCreate", api.stream_create));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuStreamDestroy", api.stream_destroy));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuMemcpyHtoDAsync", api.copy_to_device));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuMemcpyDtoHAsync", api.copy_to_host));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuMemcpyDtoDAsync", api.copy_on_device));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuEventCreate", api.event_create));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuEventRecord", api.event_record));
  QUIRE_RETURN_IF_ERROR(find(finder, "cuEventQuery", api.event_query));
  return find(finder, "cuEventDestroy", api.event_destroy);
}

}  // namespace

Expected<Api> load_api(const char* library) {
  // Never closed: the driver does not take that well, and it is opened once.
  void* handle = ::dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* reason = ::dlerror();
    return Status(StatusCode::kUnavailable,
                  std::string("no CUDA driver: ") + (reason != nullptr ? reason : library));
  }
  Finder finder;
  finder.second = reinterpret_cast<GetProcAddress2>(::dlsym(handle, "cuGetProcAddress_v2"));
  finder.first = reinterpret_cast<GetProcAddress>(::dlsym(handle, "cuGetProcAddress"));
  if (finder.first == nullptr && finder.second == nullptr)
    return Status(StatusCode::kUnsupported, std::string(library) +
                                                " has no cuGetProcAddress: the CUDA driver must be "
                                                "of CUDA 11.3 or later");
  Api api{};
  QUIRE_RETURN_IF_ERROR(find_devices(finder, api));
  QUIRE_RETURN_IF_ERROR(find_memory(finder, api));
  QUIRE_RETURN_IF_ERROR(find_copies(finder, api));
  return api;
}

}  // namespace quire::gpu::cuda
