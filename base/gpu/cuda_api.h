// The few declarations of CUDA's driver API that cuda_driver.cc calls, by the names of cuda.h, with
// the types it gives them on 64-bit Linux. Written out here so that no toolkit is needed.
#ifndef QUIRE_BASE_GPU_CUDA_API_H_
#define QUIRE_BASE_GPU_CUDA_API_H_

#include <cstddef>
#include <cstdint>

#include "base/gpu/driver.h"

namespace quire::gpu::cuda {

using Result = int;  // CUresult
inline constexpr Result kSuccess = 0;
inline constexpr Result kErrorInvalidValue = 1;
inline constexpr Result kErrorOutOfMemory = 2;
inline constexpr Result kErrorNoDevice = 100;
inline constexpr Result kErrorInvalidDevice = 101;
inline constexpr Result kErrorNotReady = 600;
inline constexpr Result kErrorNotPermitted = 800;
inline constexpr Result kErrorNotSupported = 801;

using Device = int;
using DevicePointer = unsigned long long;
using MemoryHandle = unsigned long long;
using Context = struct ContextState*;
using StreamHandle = struct StreamState*;
using EventHandle = struct EventState*;

struct Uuid {
  char bytes[16];
};

inline constexpr int kAttributeVirtualMemory = 102;
inline constexpr int kAttributeExportDescriptor = 103;
inline constexpr int kMemoryPinned = 1;        // CU_MEM_ALLOCATION_TYPE_PINNED
inline constexpr int kHandleDescriptor = 1;    // CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
inline constexpr int kLocationDevice = 1;      // CU_MEM_LOCATION_TYPE_DEVICE
inline constexpr int kAccessRead = 1;          // CU_MEM_ACCESS_FLAGS_PROT_READ
inline constexpr int kAccessReadWrite = 3;     // CU_MEM_ACCESS_FLAGS_PROT_READWRITE
inline constexpr int kGranularityMinimum = 0;  // CU_MEM_ALLOC_GRANULARITY_MINIMUM
inline constexpr unsigned kStreamNonBlocking = 1;
inline constexpr unsigned kEventDisableTiming = 2;
inline constexpr unsigned kHostRegisterPortable = 1;

struct MemoryLocation {
  int type = kLocationDevice;
  int id = 0;
};

struct MemoryProperties {  // CUmemAllocationProp
  int type = kMemoryPinned;
  int handle_types = kHandleDescriptor;
  MemoryLocation location;
  void* win32_metadata = nullptr;
  struct {
    unsigned char compression = 0;
    unsigned char rdma_capable = 0;
    unsigned short usage = 0;
    unsigned char reserved[4] = {};
  } flags;
};
static_assert(sizeof(MemoryProperties) == 32);

struct AccessDescription {  // CUmemAccessDesc
  MemoryLocation location;
  int flags = kAccessReadWrite;
};
static_assert(sizeof(AccessDescription) == 12);

struct Api {
  Result (*init)(unsigned flags);
  Result (*driver_version)(int* version);
  Result (*error_name)(Result error, const char** text);
  Result (*device_count)(int* count);
  Result (*device_get)(Device* device, int ordinal);
  Result (*device_name)(char* name, int bytes, Device device);
  Result (*device_uuid)(Uuid* uuid, Device device);
  Result (*device_total_memory)(size_t* bytes, Device device);
  Result (*device_attribute)(int* value, int attribute, Device device);
  Result (*context_retain)(Context* context, Device device);
  Result (*context_release)(Device device);
  Result (*context_push)(Context context);
  Result (*context_pop)(Context* context);
  Result (*granularity)(size_t* bytes, const MemoryProperties* properties, int option);
  Result (*address_reserve)(DevicePointer* range, size_t bytes, size_t alignment,
                            DevicePointer wanted, unsigned long long flags);
  Result (*address_free)(DevicePointer range, size_t bytes);
  Result (*create)(MemoryHandle* memory, size_t bytes, const MemoryProperties* properties,
                   unsigned long long flags);
  Result (*release)(MemoryHandle memory);
  Result (*map)(DevicePointer at, size_t bytes, size_t offset, MemoryHandle memory,
                unsigned long long flags);
  Result (*unmap)(DevicePointer at, size_t bytes);
  Result (*set_access)(DevicePointer at, size_t bytes, const AccessDescription* access,
                       size_t count);
  Result (*export_handle)(void* shareable, MemoryHandle memory, int type, unsigned long long flags);
  Result (*import_handle)(MemoryHandle* memory, void* shareable, int type);
  Result (*stream_create)(StreamHandle* stream, unsigned flags);
  Result (*stream_destroy)(StreamHandle stream);
  Result (*copy_to_device)(DevicePointer target, const void* source, size_t bytes,
                           StreamHandle stream);
  Result (*copy_to_host)(void* target, DevicePointer source, size_t bytes, StreamHandle stream);
  Result (*copy_on_device)(DevicePointer target, DevicePointer source, size_t bytes,
                           StreamHandle stream);
  Result (*event_create)(EventHandle* event, unsigned flags);
  Result (*event_record)(EventHandle event, StreamHandle stream);
  Result (*event_query)(EventHandle event);
  Result (*event_destroy)(EventHandle event);
  Result (*host_register)(void* memory, size_t bytes, unsigned flags);
  Result (*host_unregister)(void* memory);
};

// Opens the library and finds every function of Api through cuGetProcAddress, in the form that
// CUDA 11.3 gave it.
Expected<Api> load_api(const char* library);

}  // namespace quire::gpu::cuda

#endif  // QUIRE_BASE_GPU_CUDA_API_H_
