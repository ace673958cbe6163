// Stands for libcuda.so.1 in tests of cuda_driver.cc: the functions it looks for, with the types
// that cuda.h gives them on 64-bit Linux, over host memory. It checks what it is called with
// (context current, structs filled in as documented) and can be told to fail.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>

namespace {

constexpr size_t kGranularity = 2 << 20;
constexpr int kInvalidValue = 1;
constexpr int kInvalidContext = 201;
constexpr int kNotReady = 600;

struct Location {
  int type;
  int id;
};
struct Properties {
  int type;
  int handle_types;
  Location location;
  void* win32;
  unsigned char flags[8];
};
struct Access {
  Location location;
  int flags;
};

std::string failing;
int failing_code = 0;
int context_depth = 0;
int contexts_retained = 0;
bool refuse_read_only = false;
std::map<unsigned long long, int> memories;
unsigned long long next_memory = 0;  // handles may be 0
int event_queries = 0;
char context_object;
char stream_object;
char event_object;

int enter(const char* name, bool needs_context = true) {
  if (failing == name) return failing_code;
  return needs_context && context_depth == 0 ? kInvalidContext : 0;
}

#define ENTER(name, ...)                             \
  if (const int code = enter(name, ##__VA_ARGS__)) { \
    return code;                                     \
  }

bool sound(const Properties& properties) {
  for (const unsigned char byte : properties.flags) {
    if (byte != 0) return false;
  }
  return properties.type == 1 && properties.handle_types == 1 && properties.location.type == 1 &&
         properties.location.id == 0 && properties.win32 == nullptr;
}

int init(unsigned flags) {
  ENTER("cuInit", false)
  return flags == 0 ? 0 : kInvalidValue;
}
int driver_version(int* version) {
  *version = 12040;
  return 0;
}
int error_name(int error, const char** text) {
  *text = error == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : error == 801 ? "CUDA_ERROR_NOT_SUPPORTED" : "?";
  return 0;
}
int device_count(int* count) {
  ENTER("cuDeviceGetCount", false)
  *count = 1;
  return 0;
}
int device_get(int* device, int ordinal) {
  ENTER("cuDeviceGet", false)
  *device = 0;
  return ordinal == 0 ? 0 : 101;
}
int device_name(char* name, int bytes, int) {
  std::strncpy(name, "stand-in", static_cast<size_t>(bytes));
  return 0;
}
int device_uuid(char* uuid, int) {
  for (char i = 0; i < 16; ++i) uuid[static_cast<int>(i)] = i;
  return 0;
}
int total_memory(size_t* bytes, int) {
  *bytes = 1ull << 30;
  return 0;
}
int attribute(int* value, int which, int) {
  ENTER("cuDeviceGetAttribute", false)
  *value = failing == "vmm" ? 0 : which == 102 || which == 103;
  return 0;
}
int context_retain(void** context, int) {
  ENTER("cuDevicePrimaryCtxRetain", false)
  *context = &context_object;
  ++contexts_retained;
  return 0;
}
int context_release(int) {
  --contexts_retained;
  return 0;
}
int context_push(void* context) {
  ++context_depth;
  return context == &context_object ? 0 : kInvalidContext;
}
int context_pop(void** context) {
  *context = &context_object;
  return --context_depth < 0 ? kInvalidContext : 0;
}
int granularity(size_t* bytes, const Properties* properties, int option) {
  *bytes = kGranularity;
  return option == 0 && sound(*properties) ? 0 : kInvalidValue;
}
int address_reserve(unsigned long long* range, size_t bytes, size_t alignment,
                    unsigned long long wanted, unsigned long long flags) {
  ENTER("cuMemAddressReserve")
  if (alignment != 0 || wanted != 0 || flags != 0) return kInvalidValue;
  void* at = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  *range = reinterpret_cast<unsigned long long>(at);
  return 0;
}
int address_free(unsigned long long range, size_t bytes) {
  ENTER("cuMemAddressFree")
  return munmap(reinterpret_cast<void*>(range), bytes) == 0 ? 0 : kInvalidValue;
}
int create(unsigned long long* memory, size_t bytes, const Properties* properties,
           unsigned long long flags) {
  ENTER("cuMemCreate")
  if (flags != 0 || !sound(*properties) || bytes % kGranularity != 0) return kInvalidValue;
  const int fd = memfd_create("cuda-stand-in", MFD_CLOEXEC);
  if (ftruncate(fd, static_cast<off_t>(bytes)) != 0) return 2;
  *memory = next_memory++;
  memories[*memory] = fd;
  return 0;
}
int release(unsigned long long memory) {
  ENTER("cuMemRelease")
  const auto found = memories.find(memory);
  if (found == memories.end()) return kInvalidValue;
  close(found->second);
  memories.erase(found);
  return 0;
}
int map(unsigned long long at, size_t bytes, size_t offset, unsigned long long memory,
        unsigned long long flags) {
  ENTER("cuMemMap")
  const auto found = memories.find(memory);
  if (offset != 0 || flags != 0 || found == memories.end()) return kInvalidValue;
  void* mapped =
      mmap(reinterpret_cast<void*>(at), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, found->second, 0);
  return mapped == MAP_FAILED ? kInvalidValue : 0;
}
int unmap(unsigned long long at, size_t bytes) {
  ENTER("cuMemUnmap")
  mmap(reinterpret_cast<void*>(at), bytes, PROT_NONE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
  return 0;
}
int set_access(unsigned long long at, size_t bytes, const Access* access, size_t count) {
  ENTER("cuMemSetAccess")
  if (count != 1 || access->location.type != 1 || access->location.id != 0) return kInvalidValue;
  if (access->flags == 1 && refuse_read_only) return kInvalidValue;
  const int protection = access->flags == 3 ? PROT_READ | PROT_WRITE : PROT_READ;
  return mprotect(reinterpret_cast<void*>(at), bytes, protection) == 0 ? 0 : kInvalidValue;
}
int export_handle(void* shareable, unsigned long long memory, int type, unsigned long long flags) {
  ENTER("cuMemExportToShareableHandle")
  const auto found = memories.find(memory);
  if (type != 1 || flags != 0 || found == memories.end()) return kInvalidValue;
  *static_cast<int*>(shareable) = fcntl(found->second, F_DUPFD_CLOEXEC, 0);
  return 0;
}
int import_handle(unsigned long long* memory, void* shareable, int type) {
  ENTER("cuMemImportFromShareableHandle")
  const int fd = static_cast<int>(reinterpret_cast<uintptr_t>(shareable));
  if (type != 1) return kInvalidValue;
  *memory = next_memory++;
  memories[*memory] = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  return 0;
}
int stream_create(void** stream, unsigned flags) {
  ENTER("cuStreamCreate")
  *stream = &stream_object;
  return flags == 1 ? 0 : kInvalidValue;
}
int stream_destroy(void* stream) {
  return stream == &stream_object ? 0 : kInvalidValue;
}
int copy_to_device(unsigned long long target, const void* source, size_t bytes, void*) {
  ENTER("cuMemcpyHtoDAsync")
  std::memcpy(reinterpret_cast<void*>(target), source, bytes);
  return 0;
}
int copy_to_host(void* target, unsigned long long source, size_t bytes, void*) {
  ENTER("cuMemcpyDtoHAsync")
  std::memcpy(target, reinterpret_cast<void*>(source), bytes);
  return 0;
}
int copy_on_device(unsigned long long target, unsigned long long source, size_t bytes, void*) {
  ENTER("cuMemcpyDtoDAsync")
  std::memcpy(reinterpret_cast<void*>(target), reinterpret_cast<void*>(source), bytes);
  return 0;
}
int event_create(void** event, unsigned flags) {
  ENTER("cuEventCreate")
  *event = &event_object;
  event_queries = 0;
  return flags == 2 ? 0 : kInvalidValue;
}
int event_record(void* event, void* stream) {
  ENTER("cuEventRecord")
  return event == &event_object && stream == &stream_object ? 0 : kInvalidValue;
}
int event_query(void*) {
  ENTER("cuEventQuery")
  return ++event_queries < 2 ? kNotReady : 0;
}
int event_destroy(void* event) {
  ENTER("cuEventDestroy")
  return event == &event_object ? 0 : kInvalidValue;
}
int host_register(void*, size_t, unsigned flags) {
  ENTER("cuMemHostRegister")
  return flags == 1 ? 0 : kInvalidValue;
}
int host_unregister(void*) {
  ENTER("cuMemHostUnregister")
  return 0;
}

template <typename Function>
void* address_of(Function* function) {
  return reinterpret_cast<void*>(function);
}

const std::map<std::string, void*>& table() {
  static const std::map<std::string, void*> functions = {
      {"cuInit", address_of(init)},
      {"cuDriverGetVersion", address_of(driver_version)},
      {"cuGetErrorName", address_of(error_name)},
      {"cuDeviceGetCount", address_of(device_count)},
      {"cuDeviceGet", address_of(device_get)},
      {"cuDeviceGetName", address_of(device_name)},
      {"cuDeviceGetUuid", address_of(device_uuid)},
      {"cuDeviceTotalMem", address_of(total_memory)},
      {"cuDeviceGetAttribute", address_of(attribute)},
      {"cuDevicePrimaryCtxRetain", address_of(context_retain)},
      {"cuDevicePrimaryCtxRelease", address_of(context_release)},
      {"cuCtxPushCurrent", address_of(context_push)},
      {"cuCtxPopCurrent", address_of(context_pop)},
      {"cuMemGetAllocationGranularity", address_of(granularity)},
      {"cuMemAddressReserve", address_of(address_reserve)},
      {"cuMemAddressFree", address_of(address_free)},
      {"cuMemCreate", address_of(create)},
      {"cuMemRelease", address_of(release)},
      {"cuMemMap", address_of(map)},
      {"cuMemUnmap", address_of(unmap)},
      {"cuMemSetAccess", address_of(set_access)},
      {"cuMemExportToShareableHandle", address_of(export_handle)},
      {"cuMemImportFromShareableHandle", address_of(import_handle)},
      {"cuStreamCreate", address_of(stream_create)},
      {"cuStreamDestroy", address_of(stream_destroy)},
      {"cuMemcpyHtoDAsync", address_of(copy_to_device)},
      {"cuMemcpyDtoHAsync", address_of(copy_to_host)},
      {"cuMemcpyDtoDAsync", address_of(copy_on_device)},
      {"cuEventCreate", address_of(event_create)},
      {"cuEventRecord", address_of(event_record)},
      {"cuEventQuery", address_of(event_query)},
      {"cuEventDestroy", address_of(event_destroy)},
      {"cuMemHostRegister", address_of(host_register)},
      {"cuMemHostUnregister", address_of(host_unregister)},
  };
  return functions;
}

}  // namespace

// What a test says: the call of that name fails with code ("": none does).
extern "C" void stub_fail(const char* name, int code) {
  failing = name;
  failing_code = code;
}
extern "C" void stub_refuse_read_only(bool refuse) {
  refuse_read_only = refuse;
}
extern "C" int stub_left_over() {
  return static_cast<int>(memories.size()) + context_depth + contexts_retained;
}

extern "C" int cuGetProcAddress_v2(const char* symbol, void** function, int version,
                                   unsigned long long flags, int* status) {
  const auto found = table().find(symbol);
  const bool missing = found == table().end() || failing == std::string("missing ") + symbol;
  *function = missing ? nullptr : found->second;
  *status = missing ? 1 : 0;
  return version >= 11030 && flags == 0 ? 0 : kInvalidValue;
}
