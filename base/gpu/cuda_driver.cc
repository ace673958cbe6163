#include "base/gpu/cuda_driver.h"

#include <bit>
#include <cstring>

#include "base/gpu/cuda_api.h"

namespace quire::gpu {
namespace {

using cuda::Result;

StatusCode code_of(Result result) {
  switch (result) {
    case cuda::kErrorOutOfMemory:
      return StatusCode::kResourceExhausted;
    case cuda::kErrorNoDevice:
    case cuda::kErrorInvalidDevice:
      return StatusCode::kUnavailable;
    case cuda::kErrorNotSupported:
      return StatusCode::kUnsupported;
    case cuda::kErrorNotPermitted:
      return StatusCode::kPermissionDenied;
    case cuda::kErrorInvalidValue:
      return StatusCode::kInvalidArgument;
    default:
      return StatusCode::kIoError;
  }
}

Status status_of(const cuda::Api& api, Result result, const char* call) {
  if (result == cuda::kSuccess) return Status::ok();
  const char* name = nullptr;
  if (api.error_name(result, &name) != cuda::kSuccess || name == nullptr) name = "unknown error";
  return {code_of(result), std::string(call) + ": " + name + " (" + std::to_string(result) + ")"};
}

template <typename Handle>
uint64_t to_number(Handle* handle) {
  return std::bit_cast<uint64_t>(handle);
}

class CudaDriver final : public Driver {
 public:
  CudaDriver(const cuda::Api& api, int version) : api_(api), version_(version) {}
  ~CudaDriver() override {
    if (context_ != nullptr) (void)api_.context_release(device_);
  }

  DriverKind kind() const override { return DriverKind::kCuda; }
  std::string describe() const override {
    return "cuda " + std::to_string(version_ / 1000) + "." + std::to_string(version_ % 1000 / 10);
  }
  Expected<uint32_t> device_count() override {
    int count = 0;
    QUIRE_RETURN_IF_ERROR(check(api_.device_count(&count), "cuDeviceGetCount"));
    return static_cast<uint32_t>(count);
  }
  Expected<DeviceInfo> device_info(uint32_t device) override;
  Status use_device(uint32_t device) override;

  Expected<Address> reserve_range(uint64_t bytes) override {
    cuda::DevicePointer range = 0;
    QUIRE_RETURN_IF_ERROR(within([&] { return api_.address_reserve(&range, bytes, 0, 0, 0); },
                                 "cuMemAddressReserve"));
    return Address{range};
  }
  Status release_range(Address range, uint64_t bytes) override {
    return within([&] { return api_.address_free(range, bytes); }, "cuMemAddressFree");
  }
  Expected<Memory> create(uint64_t bytes) override {
    cuda::MemoryHandle memory = 0;
    const cuda::MemoryProperties properties = properties_of(device_);
    QUIRE_RETURN_IF_ERROR(
        within([&] { return api_.create(&memory, bytes, &properties, 0); }, "cuMemCreate"));
    return keep(memory);
  }
  Status release(Memory memory) override {
    return within([&] { return api_.release(handle_of(memory)); }, "cuMemRelease");
  }
  Status map(Address at, Memory memory, uint64_t bytes) override {
    return within([&] { return api_.map(at, bytes, 0, handle_of(memory), 0); }, "cuMemMap");
  }
  Status set_access(Address at, uint64_t bytes, Access access) override {
    cuda::AccessDescription description;
    description.location.id = device_;
    description.flags = access == Access::kRead ? cuda::kAccessRead : cuda::kAccessReadWrite;
    Status status =
        within([&] { return api_.set_access(at, bytes, &description, 1); }, "cuMemSetAccess");
    // Devices that know no read-only mappings say that the value is wrong.
    if (access == Access::kRead && status.code() == StatusCode::kInvalidArgument)
      return {StatusCode::kUnsupported, status.message()};
    return status;
  }
  Status unmap(Address at, uint64_t bytes) override {
    return within([&] { return api_.unmap(at, bytes); }, "cuMemUnmap");
  }
  Expected<int> export_fd(Memory memory) override {
    int fd = -1;
    QUIRE_RETURN_IF_ERROR(within(
        [&] { return api_.export_handle(&fd, handle_of(memory), cuda::kHandleDescriptor, 0); },
        "cuMemExportToShareableHandle"));
    return fd;
  }
  Expected<Memory> import_fd(int fd, uint64_t) override {
    cuda::MemoryHandle memory = 0;
    // The descriptor itself travels in the pointer.
    void* shareable = std::bit_cast<void*>(static_cast<intptr_t>(fd));
    QUIRE_RETURN_IF_ERROR(
        within([&] { return api_.import_handle(&memory, shareable, cuda::kHandleDescriptor); },
               "cuMemImportFromShareableHandle"));
    return keep(memory);
  }

  Expected<Stream> create_stream() override {
    cuda::StreamHandle stream = nullptr;
    QUIRE_RETURN_IF_ERROR(within(
        [&] { return api_.stream_create(&stream, cuda::kStreamNonBlocking); }, "cuStreamCreate"));
    return to_number(stream);
  }
  Status destroy_stream(Stream stream) override {
    return within([&] { return api_.stream_destroy(stream_of(stream)); }, "cuStreamDestroy");
  }
  Status copy_to_device(Address target, ByteSpan source, Stream stream) override {
    return within(
        [&] {
          return api_.copy_to_device(target, source.data(), source.size(), stream_of(stream));
        },
        "cuMemcpyHtoDAsync");
  }
  Status copy_to_host(MutableByteSpan target, Address source, Stream stream) override {
    return within(
        [&] { return api_.copy_to_host(target.data(), source, target.size(), stream_of(stream)); },
        "cuMemcpyDtoHAsync");
  }
  Status copy_on_device(Address target, Address source, uint64_t bytes, Stream stream) override {
    return within([&] { return api_.copy_on_device(target, source, bytes, stream_of(stream)); },
                  "cuMemcpyDtoDAsync");
  }
  Expected<Event> record(Stream stream) override;
  Expected<bool> query(Event event) override;
  Status destroy_event(Event event) override {
    return within([&] { return api_.event_destroy(event_of(event)); }, "cuEventDestroy");
  }
  Status register_host(MutableByteSpan memory) override {
    return within(
        [&] {
          return api_.host_register(memory.data(), memory.size(), cuda::kHostRegisterPortable);
        },
        "cuMemHostRegister");
  }
  Status unregister_host(MutableByteSpan memory) override {
    return within([&] { return api_.host_unregister(memory.data()); }, "cuMemHostUnregister");
  }

 private:
  Status check(Result result, const char* call) const { return status_of(api_, result, call); }
  static cuda::MemoryProperties properties_of(int device) {
    cuda::MemoryProperties properties;
    properties.location.id = device;
    return properties;
  }
  // A handle may be 0 to the driver, never to us.
  static Memory keep(cuda::MemoryHandle handle) { return handle + 1; }
  static cuda::MemoryHandle handle_of(Memory memory) { return memory - 1; }
  static cuda::StreamHandle stream_of(Stream stream) {
    return std::bit_cast<cuda::StreamHandle>(stream);
  }
  static cuda::EventHandle event_of(Event event) { return std::bit_cast<cuda::EventHandle>(event); }

  // Runs the call with our context current, and leaves the thread's own as it was.
  template <typename Call>
  Status within(Call&& call, const char* name) const {
    if (context_ == nullptr)
      return {StatusCode::kFailedPrecondition, std::string(name) + " before use_device()"};
    QUIRE_RETURN_IF_ERROR(check(api_.context_push(context_), "cuCtxPushCurrent"));
    const Result result = call();
    cuda::Context popped = nullptr;
    const Result pop = api_.context_pop(&popped);
    QUIRE_RETURN_IF_ERROR(check(result, name));
    return check(pop, "cuCtxPopCurrent");
  }

  const cuda::Api api_;
  const int version_;
  cuda::Device device_ = 0;
  cuda::Context context_ = nullptr;
};

Expected<DeviceInfo> CudaDriver::device_info(uint32_t number) {
  cuda::Device device = 0;
  QUIRE_RETURN_IF_ERROR(check(api_.device_get(&device, static_cast<int>(number)), "cuDeviceGet"));
  for (const auto& [attribute, what] :
       {std::pair(cuda::kAttributeVirtualMemory, "virtual memory management"),
        std::pair(cuda::kAttributeExportDescriptor, "memory that other processes can import")}) {
    int value = 0;
    QUIRE_RETURN_IF_ERROR(
        check(api_.device_attribute(&value, attribute, device), "cuDeviceGetAttribute"));
    if (value == 0)
      return Status(StatusCode::kUnsupported,
                    "device " + std::to_string(number) + " has no " + what);
  }
  DeviceInfo info;
  char name[256] = {};
  QUIRE_RETURN_IF_ERROR(check(api_.device_name(name, sizeof(name) - 1, device), "cuDeviceGetName"));
  info.name = name;
  cuda::Uuid uuid{};
  QUIRE_RETURN_IF_ERROR(check(api_.device_uuid(&uuid, device), "cuDeviceGetUuid"));
  std::memcpy(info.uuid.data(), uuid.bytes, info.uuid.size());
  size_t bytes = 0;
  QUIRE_RETURN_IF_ERROR(check(api_.device_total_memory(&bytes, device), "cuDeviceTotalMem"));
  info.total_bytes = bytes;
  const cuda::MemoryProperties properties = properties_of(device);
  QUIRE_RETURN_IF_ERROR(check(api_.granularity(&bytes, &properties, cuda::kGranularityMinimum),
                              "cuMemGetAllocationGranularity"));
  info.granularity_bytes = bytes;
  return info;
}

Status CudaDriver::use_device(uint32_t number) {
  if (context_ != nullptr)
    return {StatusCode::kFailedPrecondition, "this driver uses a device already"};
  cuda::Device device = 0;
  QUIRE_RETURN_IF_ERROR(check(api_.device_get(&device, static_cast<int>(number)), "cuDeviceGet"));
  cuda::Context context = nullptr;
  QUIRE_RETURN_IF_ERROR(check(api_.context_retain(&context, device), "cuDevicePrimaryCtxRetain"));
  device_ = device;
  context_ = context;
  return Status::ok();
}

Expected<Event> CudaDriver::record(Stream stream) {
  cuda::EventHandle event = nullptr;
  QUIRE_RETURN_IF_ERROR(within([&] { return api_.event_create(&event, cuda::kEventDisableTiming); },
                               "cuEventCreate"));
  const Status recorded =
      within([&] { return api_.event_record(event, stream_of(stream)); }, "cuEventRecord");
  if (!recorded.is_ok()) {
    (void)destroy_event(to_number(event));
    return recorded;
  }
  return to_number(event);
}

Expected<bool> CudaDriver::query(Event event) {
  bool ready = true;
  QUIRE_RETURN_IF_ERROR(within(
      [&] {
        const Result result = api_.event_query(event_of(event));
        ready = result != cuda::kErrorNotReady;
        return ready ? result : cuda::kSuccess;
      },
      "cuEventQuery"));
  return ready;
}

}  // namespace

Expected<std::unique_ptr<Driver>> open_cuda_driver(const char* library) {
  QUIRE_ASSIGN_OR_RETURN(const cuda::Api api, cuda::load_api(library));
  QUIRE_RETURN_IF_ERROR(status_of(api, api.init(0), "cuInit"));
  int version = 0;
  QUIRE_RETURN_IF_ERROR(status_of(api, api.driver_version(&version), "cuDriverGetVersion"));
  return std::unique_ptr<Driver>(new CudaDriver(api, version));
}

}  // namespace quire::gpu
