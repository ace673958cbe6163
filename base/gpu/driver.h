// What Quire needs of a GPU's driver, and nothing else: physical memory that another process can
// import, a range of addresses to map it into, copies that run by themselves. Kernels are not
// launched here. Implemented by CUDA's driver API (cuda_driver.h) and by host memory that behaves
// like it (fake_driver.h).
//
// Two steps make memory, as in CUDA's virtual memory management: a range of addresses costs
// nothing; physical memory is created (or imported) and mapped into it, so that a pool grows
// without moving. Sizes and addresses are multiples of DeviceInfo::granularity_bytes.
//
// Threads: any, also at once, also threads that use the device in other ways: no state of the
// calling thread is changed. Calls may block inside the driver (milliseconds, more when another
// process holds it): nothing that others wait for should make them. Copies return once they are
// queued, but for host memory that is not registered, where they may take as long as the copy.
//
// Errors: kUnavailable (no driver, no such device), kUnsupported (the device cannot do this),
// kResourceExhausted (out of device memory), kPermissionDenied, kInvalidArgument, kIoError (all
// else), each with the call and the driver's name of the error. A failed call has changed nothing.
#ifndef QUIRE_BASE_GPU_DRIVER_H_
#define QUIRE_BASE_GPU_DRIVER_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "base/bytes.h"
#include "base/status.h"

namespace quire::gpu {

// An address of device memory, as kernels take it. 0 = none.
using Address = uint64_t;
// Handles of the driver; 0 = none.
using Memory = uint64_t;
using Stream = uint64_t;
using Event = uint64_t;

// The numbers travel in frames.
enum class DriverKind : uint32_t { kCuda = 1, kFake = 2 };
enum class Access : uint8_t { kRead, kReadWrite };

using DeviceUuid = std::array<uint8_t, 16>;

struct DeviceInfo {
  std::string name;
  DeviceUuid uuid{};  // the same in every process, whatever number the device has there
  uint64_t total_bytes = 0;
  uint64_t granularity_bytes = 0;  // of physical memory and mappings; a power of two
};

class Driver {
 public:
  virtual ~Driver() = default;
  virtual DriverKind kind() const = 0;
  // For people: "cuda 12.4".
  virtual std::string describe() const = 0;
  virtual Expected<uint32_t> device_count() = 0;
  // kUnsupported where the device has no virtual memory management or cannot export descriptors.
  virtual Expected<DeviceInfo> device_info(uint32_t device) = 0;
  // Everything below is about this device: called once, before all of it.
  virtual Status use_device(uint32_t device) = 0;

  virtual Expected<Address> reserve_range(uint64_t bytes) = 0;
  // Nothing may be mapped in it any more.
  virtual Status release_range(Address range, uint64_t bytes) = 0;

  // Exportable physical memory, not mapped anywhere.
  virtual Expected<Memory> create(uint64_t bytes) = 0;
  // The memory goes when no process holds it or has it mapped.
  virtual Status release(Memory memory) = 0;
  // The whole of the memory. Not accessible until set_access().
  virtual Status map(Address at, Memory memory, uint64_t bytes) = 0;
  // kRead is refused with kUnsupported by devices that cannot tell it from kReadWrite.
  virtual Status set_access(Address at, uint64_t bytes, Access access) = 0;
  // No copy or kernel may be using it.
  virtual Status unmap(Address at, uint64_t bytes) = 0;
  // A descriptor that import_fd() of another process takes (SCM_RIGHTS); the caller closes it.
  virtual Expected<int> export_fd(Memory memory) = 0;
  // The descriptor stays the caller's. bytes: the size it was created with.
  virtual Expected<Memory> import_fd(int fd, uint64_t bytes) = 0;

  virtual Expected<Stream> create_stream() = 0;
  virtual Status destroy_stream(Stream stream) = 0;
  // In order of the stream. Source and target stay as they are until an event recorded behind the
  // copy has happened.
  virtual Status copy_to_device(Address target, ByteSpan source, Stream stream) = 0;
  virtual Status copy_to_host(MutableByteSpan target, Address source, Stream stream) = 0;
  virtual Status copy_on_device(Address target, Address source, uint64_t bytes, Stream stream) = 0;
  virtual Expected<Event> record(Stream stream) = 0;
  // True once everything before the event is done; an error where some of it failed.
  virtual Expected<bool> query(Event event) = 0;
  virtual Status destroy_event(Event event) = 0;

  // Makes copies from and to this host memory fast and asynchronous. May take seconds for a large
  // range.
  virtual Status register_host(MutableByteSpan memory) = 0;
  virtual Status unregister_host(MutableByteSpan memory) = 0;
};

// The device of that uuid, or kNotFound.
Expected<uint32_t> find_device(Driver& driver, const DeviceUuid& uuid);

// "cuda", "fake"; "unknown" for other numbers.
const char* driver_kind_name(DriverKind kind);

}  // namespace quire::gpu

#endif  // QUIRE_BASE_GPU_DRIVER_H_
