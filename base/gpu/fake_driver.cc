#include "base/gpu/fake_driver.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <string>

namespace quire::gpu {
namespace {

constexpr const char* kCallNames[] = {
    "device_count",  "device_info",    "use_device",    "reserve_range",  "release_range",
    "create",        "release",        "map",           "set_access",     "unmap",
    "export_fd",     "import_fd",      "create_stream", "destroy_stream", "copy_to_device",
    "copy_to_host",  "copy_on_device", "record",        "query",          "destroy_event",
    "register_host", "unregister_host"};
static_assert(std::size(kCallNames) == kFakeCallCount);

std::byte* pointer(Address address) {
  return std::bit_cast<std::byte*>(address);
}

Status invalid(const char* what) {
  return {StatusCode::kInvalidArgument, std::string("fake GPU: ") + what};
}

Status io_error(const char* what) {
  return {StatusCode::kIoError, std::string("fake GPU: ") + what + ": " + std::strerror(errno)};
}

}  // namespace

const char* fake_call_name(FakeCall call) {
  return kCallNames[static_cast<uint32_t>(call)];
}

FakeDriver::FakeDriver(const FakeOptions& options) : options_(options) {}

FakeDriver::~FakeDriver() {
  for (const auto& [memory, physical] : memories_) ::close(physical.fd);
  for (const auto& [range, bytes] : ranges_) ::munmap(pointer(range), bytes);
}

void FakeDriver::fail(FakeCall call, const Status& status, uint32_t after, uint32_t times) {
  const std::scoped_lock lock(mutex_);
  failures_[static_cast<uint32_t>(call)] = {status, after, times};
}

void FakeDriver::corrupt_next_copy() {
  const std::scoped_lock lock(mutex_);
  corrupt_next_ = true;
}

void FakeDriver::hold_events(bool hold) {
  const std::scoped_lock lock(mutex_);
  held_ = hold;
}

uint64_t FakeDriver::calls(FakeCall call) const {
  const std::scoped_lock lock(mutex_);
  return calls_[static_cast<uint32_t>(call)];
}

FakeLive FakeDriver::live() const {
  const std::scoped_lock lock(mutex_);
  const auto count = [](const auto& map) { return static_cast<uint32_t>(map.size()); };
  return {count(ranges_),  count(memories_), count(mappings_),
          count(streams_), count(events_),   count(registrations_)};
}

Status FakeDriver::enter(FakeCall call) {
  const auto number = static_cast<uint32_t>(call);
  ++calls_[number];
  Failure& failure = failures_[number];
  if (failure.times != 0) {
    if (failure.after == 0) {
      --failure.times;
      return failure.status;
    }
    --failure.after;
  }
  if (call > FakeCall::kUseDevice && !device_used_)
    return {StatusCode::kFailedPrecondition, "fake GPU: a call before use_device()"};
  return Status::ok();
}

Expected<uint32_t> FakeDriver::device_count() {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kDeviceCount));
  return options_.devices;
}

Expected<DeviceInfo> FakeDriver::device_info(uint32_t device) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kDeviceInfo));
  if (device >= options_.devices)
    return Status(StatusCode::kUnavailable, "fake GPU: no device " + std::to_string(device));
  DeviceInfo info;
  info.name = "fake GPU " + std::to_string(device);
  std::memcpy(info.uuid.data(), "quire fake gpu ", 15);
  info.uuid[15] = static_cast<uint8_t>(device);
  info.total_bytes = options_.total_bytes;
  info.granularity_bytes = options_.granularity_bytes;
  return info;
}

Status FakeDriver::use_device(uint32_t device) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kUseDevice));
  if (device >= options_.devices)
    return {StatusCode::kUnavailable, "fake GPU: no device " + std::to_string(device)};
  if (device_used_) return {StatusCode::kFailedPrecondition, "fake GPU: a device is used already"};
  device_used_ = true;
  return Status::ok();
}

Expected<Address> FakeDriver::reserve_range(uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kReserveRange));
  if (bytes == 0 || bytes % options_.granularity_bytes != 0) return invalid("size of a range");
  void* range =
      ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return io_error("mmap");
  const auto address = std::bit_cast<Address>(range);
  ranges_[address] = bytes;
  return address;
}

Status FakeDriver::release_range(Address range, uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kReleaseRange));
  const auto found = ranges_.find(range);
  if (found == ranges_.end() || found->second != bytes) return invalid("no such range");
  const auto inside = mappings_.lower_bound(range);
  if (inside != mappings_.end() && inside->first < range + bytes)
    return invalid("something is mapped in the range");
  ::munmap(pointer(range), bytes);
  ranges_.erase(found);
  return Status::ok();
}

Expected<Memory> FakeDriver::create(uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kCreate));
  if (bytes == 0 || bytes % options_.granularity_bytes != 0) return invalid("size of memory");
  if (bytes > options_.total_bytes - created_bytes_)
    return Status(StatusCode::kResourceExhausted, "fake GPU: out of memory");
  const int fd = ::memfd_create("quire-fake-gpu", MFD_CLOEXEC);
  if (fd < 0) return io_error("memfd_create");
  if (::ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
    const Status status = io_error("ftruncate");
    ::close(fd);
    return status;
  }
  created_bytes_ += bytes;
  memories_[next_handle_] = {fd, bytes, true};
  return next_handle_++;
}

Status FakeDriver::release(Memory memory) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kRelease));
  const auto found = memories_.find(memory);
  if (found == memories_.end()) return invalid("no such memory");
  ::close(found->second.fd);
  if (found->second.created) created_bytes_ -= found->second.bytes;
  memories_.erase(found);
  return Status::ok();
}

Status FakeDriver::map(Address at, Memory memory, uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kMap));
  const auto found = memories_.find(memory);
  if (found == memories_.end() || found->second.bytes != bytes) return invalid("no such memory");
  auto range = ranges_.upper_bound(at);
  if (range == ranges_.begin()) return invalid("mapping outside a range");
  --range;
  if (at - range->first > range->second || bytes > range->second - (at - range->first))
    return invalid("mapping outside a range");
  const auto next = mappings_.lower_bound(at);
  if (next != mappings_.end() && next->first < at + bytes) return invalid("mapped already");
  if (next != mappings_.begin() && std::prev(next)->first + std::prev(next)->second.bytes > at)
    return invalid("mapped already");
  if (::mmap(pointer(at), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, found->second.fd, 0) ==
      MAP_FAILED)
    return io_error("mmap");
  mappings_[at] = {bytes, std::nullopt};
  return Status::ok();
}

Status FakeDriver::set_access(Address at, uint64_t bytes, Access access) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kSetAccess));
  if (access == Access::kRead && !options_.read_only_access)
    return {StatusCode::kUnsupported, "fake GPU: no read-only mappings"};
  const auto found = mappings_.find(at);
  if (found == mappings_.end() || found->second.bytes != bytes) return invalid("not mapped");
  const int protection = access == Access::kRead ? PROT_READ : PROT_READ | PROT_WRITE;
  if (::mprotect(pointer(at), bytes, protection) != 0) return io_error("mprotect");
  found->second.access = access;
  return Status::ok();
}

Status FakeDriver::unmap(Address at, uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kUnmap));
  const auto found = mappings_.find(at);
  if (found == mappings_.end() || found->second.bytes != bytes) return invalid("not mapped");
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  if (::mmap(pointer(at), bytes, PROT_NONE, flags, -1, 0) == MAP_FAILED) return io_error("mmap");
  mappings_.erase(found);
  return Status::ok();
}

Expected<int> FakeDriver::export_fd(Memory memory) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kExport));
  const auto found = memories_.find(memory);
  if (found == memories_.end()) return invalid("no such memory");
  const int fd = ::fcntl(found->second.fd, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return io_error("fcntl");
  return fd;
}

Expected<Memory> FakeDriver::import_fd(int fd, uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kImport));
  struct stat info {};
  if (::fstat(fd, &info) != 0 || static_cast<uint64_t>(info.st_size) != bytes)
    return invalid("the descriptor is not memory of that size");
  const int own = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (own < 0) return io_error("fcntl");
  memories_[next_handle_] = {own, bytes, false};
  return next_handle_++;
}

Expected<Stream> FakeDriver::create_stream() {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kCreateStream));
  streams_[next_handle_];
  return next_handle_++;
}

Status FakeDriver::destroy_stream(Stream stream) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kDestroyStream));
  return streams_.erase(stream) != 0 ? Status::ok() : invalid("no such stream");
}

// As a device would fault, but with an error instead.
Status FakeDriver::check_mapped(Address at, uint64_t bytes, Access access) const {
  while (bytes != 0) {
    auto found = mappings_.upper_bound(at);
    if (found == mappings_.begin()) return invalid("address is not mapped");
    --found;
    const uint64_t end = found->first + found->second.bytes;
    if (at >= end) return invalid("address is not mapped");
    if (!found->second.access) return invalid("mapping without access");
    if (access == Access::kReadWrite && *found->second.access == Access::kRead)
      return invalid("mapping is read-only");
    const uint64_t here = std::min(bytes, end - at);
    at += here;
    bytes -= here;
  }
  return Status::ok();
}

Status FakeDriver::enqueue(Stream stream, const Copy& copy) {
  const auto found = streams_.find(stream);
  if (found == streams_.end()) return invalid("no such stream");
  found->second.copies.push_back(copy);
  ++found->second.enqueued;
  return Status::ok();
}

Status FakeDriver::copy_to_device(Address target, ByteSpan source, Stream stream) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kCopyToDevice));
  QUIRE_RETURN_IF_ERROR(check_mapped(target, source.size(), Access::kReadWrite));
  QUIRE_RETURN_IF_ERROR(
      enqueue(stream, {pointer(target), source.data(), source.size(), corrupt_next_}));
  corrupt_next_ = false;
  return Status::ok();
}

Status FakeDriver::copy_to_host(MutableByteSpan target, Address source, Stream stream) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kCopyToHost));
  QUIRE_RETURN_IF_ERROR(check_mapped(source, target.size(), Access::kRead));
  return enqueue(stream, {target.data(), pointer(source), target.size(), false});
}

Status FakeDriver::copy_on_device(Address target, Address source, uint64_t bytes, Stream stream) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kCopyOnDevice));
  QUIRE_RETURN_IF_ERROR(check_mapped(source, bytes, Access::kRead));
  QUIRE_RETURN_IF_ERROR(check_mapped(target, bytes, Access::kReadWrite));
  return enqueue(stream, {pointer(target), pointer(source), bytes, false});
}

Expected<Event> FakeDriver::record(Stream stream) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kRecord));
  const auto found = streams_.find(stream);
  if (found == streams_.end()) return invalid("no such stream");
  events_[next_handle_] = {stream, found->second.enqueued, 0};
  return next_handle_++;
}

Expected<bool> FakeDriver::query(Event event) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kQuery));
  const auto found = events_.find(event);
  if (found == events_.end()) return invalid("no such event");
  EventState& state = found->second;
  if (held_ || ++state.queries < options_.queries_per_event) return false;
  const auto stream = streams_.find(state.stream);
  if (stream == streams_.end()) return true;
  while (stream->second.done < state.behind) {
    const Copy copy = stream->second.copies.front();
    stream->second.copies.pop_front();
    ++stream->second.done;
    std::memmove(copy.target, copy.source, copy.bytes);
    if (copy.corrupt) copy.target[copy.bytes / 2] ^= std::byte{1};
  }
  return true;
}

Status FakeDriver::destroy_event(Event event) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kDestroyEvent));
  return events_.erase(event) != 0 ? Status::ok() : invalid("no such event");
}

Status FakeDriver::register_host(MutableByteSpan memory) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kRegisterHost));
  if (!registrations_.emplace(memory.data(), memory.size()).second)
    return invalid("registered already");
  return Status::ok();
}

Status FakeDriver::unregister_host(MutableByteSpan memory) {
  const std::scoped_lock lock(mutex_);
  QUIRE_RETURN_IF_ERROR(enter(FakeCall::kUnregisterHost));
  return registrations_.erase(memory.data()) != 0 ? Status::ok() : invalid("not registered");
}

}  // namespace quire::gpu
