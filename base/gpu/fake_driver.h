// A GPU made of host memory, for tests on machines without one: memory files stand for physical
// memory (another process imports their descriptors), anonymous reservations for address ranges,
// and page protection for access rights. A device address is a host address of the process that
// mapped it, so that CPU kernels load from it. Copies are done late, when an event behind them has
// been asked for often enough: who publishes bytes before that is found out. Every call can be made
// to fail, and whatever was made is counted until it is given back.
#ifndef QUIRE_BASE_GPU_FAKE_DRIVER_H_
#define QUIRE_BASE_GPU_FAKE_DRIVER_H_

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>

#include "base/gpu/driver.h"

namespace quire::gpu {

enum class FakeCall : uint32_t {
  kDeviceCount,
  kDeviceInfo,
  kUseDevice,
  kReserveRange,
  kReleaseRange,
  kCreate,
  kRelease,
  kMap,
  kSetAccess,
  kUnmap,
  kExport,
  kImport,
  kCreateStream,
  kDestroyStream,
  kCopyToDevice,
  kCopyToHost,
  kCopyOnDevice,
  kRecord,
  kQuery,
  kDestroyEvent,
  kRegisterHost,
  kUnregisterHost,
};
inline constexpr uint32_t kFakeCallCount = 22;
const char* fake_call_name(FakeCall call);

struct FakeOptions {
  uint32_t devices = 1;
  uint64_t total_bytes = 1ull << 30;
  uint64_t granularity_bytes = 2ull << 20;
  // An event happens when it has been asked for this often.
  uint32_t queries_per_event = 2;
  bool read_only_access = true;  // false: as devices that cannot map read-only
};

// What exists and was not given back.
struct FakeLive {
  uint32_t ranges = 0;
  uint32_t memories = 0;
  uint32_t mappings = 0;
  uint32_t streams = 0;
  uint32_t events = 0;
  uint32_t registrations = 0;
  bool operator==(const FakeLive&) const = default;
};

class FakeDriver final : public Driver {
 public:
  explicit FakeDriver(const FakeOptions& options = {});
  ~FakeDriver() override;

  // --- for tests ---
  // The call after `after` successful ones fails, and `times` - 1 more behind it.
  void fail(FakeCall call, const Status& status, uint32_t after = 0, uint32_t times = 1);
  // The next copy to the device changes a byte on its way.
  void corrupt_next_copy();
  // While held, no event happens.
  void hold_events(bool hold);
  uint64_t calls(FakeCall call) const;
  FakeLive live() const;

  // --- Driver ---
  DriverKind kind() const override { return DriverKind::kFake; }
  std::string describe() const override { return "host memory that poses as a GPU, for tests"; }
  Expected<uint32_t> device_count() override;
  Expected<DeviceInfo> device_info(uint32_t device) override;
  Status use_device(uint32_t device) override;
  Expected<Address> reserve_range(uint64_t bytes) override;
  Status release_range(Address range, uint64_t bytes) override;
  Expected<Memory> create(uint64_t bytes) override;
  Status release(Memory memory) override;
  Status map(Address at, Memory memory, uint64_t bytes) override;
  Status set_access(Address at, uint64_t bytes, Access access) override;
  Status unmap(Address at, uint64_t bytes) override;
  Expected<int> export_fd(Memory memory) override;
  Expected<Memory> import_fd(int fd, uint64_t bytes) override;
  Expected<Stream> create_stream() override;
  Status destroy_stream(Stream stream) override;
  Status copy_to_device(Address target, ByteSpan source, Stream stream) override;
  Status copy_to_host(MutableByteSpan target, Address source, Stream stream) override;
  Status copy_on_device(Address target, Address source, uint64_t bytes, Stream stream) override;
  Expected<Event> record(Stream stream) override;
  Expected<bool> query(Event event) override;
  Status destroy_event(Event event) override;
  Status register_host(MutableByteSpan memory) override;
  Status unregister_host(MutableByteSpan memory) override;

 private:
  struct Physical {
    int fd = -1;
    uint64_t bytes = 0;
    bool created = false;  // here, not imported
  };
  struct MappedMemory {
    uint64_t bytes = 0;
    std::optional<Access> access;
  };
  struct Copy {
    std::byte* target = nullptr;
    const std::byte* source = nullptr;
    uint64_t bytes = 0;
    bool corrupt = false;
  };
  struct StreamState {
    std::deque<Copy> copies;
    uint64_t enqueued = 0;
    uint64_t done = 0;
  };
  struct EventState {
    Stream stream = 0;
    uint64_t behind = 0;  // copies of the stream
    uint32_t queries = 0;
  };
  struct Failure {
    Status status;
    uint32_t after = 0;
    uint32_t times = 0;
  };

  Status enter(FakeCall call);
  Status check_mapped(Address at, uint64_t bytes, Access access) const;
  Status enqueue(Stream stream, const Copy& copy);

  const FakeOptions options_;
  mutable std::mutex mutex_;
  std::array<uint64_t, kFakeCallCount> calls_{};
  std::array<Failure, kFakeCallCount> failures_;
  bool corrupt_next_ = false;
  bool held_ = false;
  bool device_used_ = false;
  uint64_t created_bytes_ = 0;
  uint64_t next_handle_ = 1;
  std::map<Address, uint64_t> ranges_;
  std::map<Memory, Physical> memories_;
  std::map<Address, MappedMemory> mappings_;
  std::map<Stream, StreamState> streams_;
  std::map<Event, EventState> events_;
  std::map<const std::byte*, uint64_t> registrations_;
};

}  // namespace quire::gpu

#endif  // QUIRE_BASE_GPU_FAKE_DRIVER_H_
