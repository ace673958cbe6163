#include "tiers/host/slab.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <utility>

namespace quire::tiers {
namespace {

Status io_error(const std::string& what) {
  return {StatusCode::kIoError, "host slab: " + what + ": " + std::strerror(errno)};
}

// What a limit of this process or machine leaves to the slab, and the limit's name.
struct MemoryLimit {
  uint64_t bytes = 0;
  std::string name;
};

// The memory controller's limit as seen from inside a container (version 2, then version 1), or
// nothing. Beyond it the kernel kills the process instead of refusing memory.
uint64_t controller_limit_bytes() {
  for (const char* path :
       {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::ifstream file(path);
    uint64_t bytes = 0;
    if (file >> bytes && bytes != 0) return bytes;  // "max" is not a number
  }
  return UINT64_MAX;
}

uint64_t resource_limit_bytes(__rlimit_resource resource) {
  rlimit limit{};
  if (::getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return UINT64_MAX;
  return limit.rlim_cur;
}

MemoryLimit tightest_limit() {
  const uint64_t machine_bytes = static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                                 static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const MemoryLimit limits[] = {
      {machine_bytes, "the machine's memory"},
      {controller_limit_bytes(), "the memory limit of this container or service"},
      {resource_limit_bytes(RLIMIT_AS), "the limit of address space (ulimit -v)"},
      // A memory file that grows beyond it would end the process with a signal.
      {resource_limit_bytes(RLIMIT_FSIZE), "the limit of file sizes (ulimit -f)"},
  };
  return *std::ranges::min_element(limits, {}, &MemoryLimit::bytes);
}

// A descriptor that closes itself unless released.
class OwnedFd {
 public:
  explicit OwnedFd(int fd) : fd_(fd) {}
  OwnedFd(const OwnedFd&) = delete;
  OwnedFd& operator=(const OwnedFd&) = delete;
  ~OwnedFd() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

struct Mapping {
  int fd = -1;
  std::byte* data = nullptr;
};

Expected<Mapping> map_memfd(const SlabOptions& options, uint64_t capacity_bytes, bool huge_pages) {
  const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge_pages ? MFD_HUGETLB : 0);
  OwnedFd fd(::memfd_create("quire-slab", flags));
  if (fd.get() < 0) return io_error("memfd_create");
  if (::ftruncate(fd.get(), static_cast<off_t>(capacity_bytes)) != 0) return io_error("ftruncate");
  const int map_flags = MAP_SHARED | (options.prefault ? MAP_POPULATE : 0);
  void* data = ::mmap(nullptr, capacity_bytes, PROT_READ | PROT_WRITE, map_flags, fd.get(), 0);
  if (data == MAP_FAILED)
    return Status(errno == ENOMEM ? StatusCode::kResourceExhausted : StatusCode::kIoError,
                  "host slab: mapping " + std::to_string(capacity_bytes >> 20) + " MiB: " +
                      std::strerror(errno) + "; configure a smaller host tier (host.bytes)");
  return Mapping{fd.release(), static_cast<std::byte*>(data)};
}

// Seals it against everybody, ourselves included, and gives the descriptor for clients.
Expected<int> seal(int fd) {
  // Reopening through /proc asks for the file's mode: nobody may ask for write access.
  if (::fchmod(fd, S_IRUSR) != 0) return io_error("fchmod");
  constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL;
  if (::fcntl(fd, F_ADD_SEALS, kSeals) != 0) return io_error("sealing");
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  const int readonly_fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (readonly_fd < 0) return io_error("opening it read-only through " + path);
  return readonly_fd;
}

}  // namespace

Expected<std::unique_ptr<HostSlab>> HostSlab::create(const SlabOptions& options) {
  if (options.capacity_bytes < kSlabCapacityBytesMin)
    return Status(StatusCode::kInvalidArgument, "host slab: capacity must be at least 1 MiB");
  const MemoryLimit limit = tightest_limit();
  // First: rounding up a size near 2^64 would wrap.
  const uint64_t capacity_bytes = options.capacity_bytes > limit.bytes
                                      ? options.capacity_bytes
                                      : align_up(options.capacity_bytes, kSlabCapacityAlignment);
  if (capacity_bytes > limit.bytes)
    return Status(StatusCode::kResourceExhausted,
                  "host slab: " + std::to_string(options.capacity_bytes >> 20) +
                      " MiB wanted, but " + limit.name + " is " +
                      std::to_string(limit.bytes >> 20) +
                      " MiB; configure a smaller host tier (host.bytes)");

  bool huge_pages = options.huge_pages;
  Expected<Mapping> mapping = map_memfd(options, capacity_bytes, huge_pages);
  if (!mapping && huge_pages) {
    // None reserved, or not enough of them.
    huge_pages = false;
    mapping = map_memfd(options, capacity_bytes, huge_pages);
  }
  if (!mapping) return mapping.status();
  Expected<int> readonly_fd = seal(mapping->fd);
  if (!readonly_fd) {
    ::munmap(mapping->data, capacity_bytes);
    ::close(mapping->fd);
    return readonly_fd.status();
  }
  return std::unique_ptr<HostSlab>(
      new HostSlab(mapping->fd, *readonly_fd, mapping->data, capacity_bytes, huge_pages));
}

HostSlab::HostSlab(int fd, int readonly_fd, std::byte* data, uint64_t capacity_bytes,
                   bool huge_pages)
    : fd_(fd),
      readonly_fd_(readonly_fd),
      data_(data),
      huge_pages_(huge_pages),
      allocator_(capacity_bytes) {}

HostSlab::~HostSlab() {
  ::munmap(data_, allocator_.capacity_bytes());
  ::close(readonly_fd_);
  ::close(fd_);
}

MutableByteSpan HostSlab::payload(const Slot& slot) const {
  if (!is_live(slot.offset, slot.generation)) std::abort();
  return {data_ + slot.offset, slot.payload_bytes};
}

MutableByteSpan HostSlab::whole(const Slot& slot) const {
  if (!is_live(slot.offset, slot.generation)) std::abort();
  return {data_ + slot.offset, slot.slot_bytes};
}

void HostSlab::zero_tail(const Slot& slot) const {
  const MutableByteSpan bytes = whole(slot);
  std::memset(bytes.data() + slot.payload_bytes, 0, slot.slot_bytes - slot.payload_bytes);
}

SlabStats HostSlab::stats() const {
  SlabStats stats;
  stats.capacity_bytes = allocator_.capacity_bytes();
  stats.used_bytes = allocator_.used_bytes();
  stats.payload_bytes = allocator_.payload_bytes();
  stats.slots = allocator_.live_slots();
  stats.free_blocks = allocator_.free_blocks();
  stats.largest_free_bytes = allocator_.largest_free_bytes();
  if (stats.used_bytes > 0)
    stats.internal_loss =
        1.0 - static_cast<double>(stats.payload_bytes) / static_cast<double>(stats.used_bytes);
  const uint64_t free_bytes = stats.capacity_bytes - stats.used_bytes;
  if (free_bytes > 0)
    stats.fragmentation =
        1.0 - static_cast<double>(stats.largest_free_bytes) / static_cast<double>(free_bytes);
  stats.backend = huge_pages_ ? "memfd 2 MiB pages" : "memfd 4 KiB pages";
  return stats;
}

}  // namespace quire::tiers
