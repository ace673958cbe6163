// The host tier's memory: one memfd reservation made at start, carved into slots. The server maps
// it read-write once; then the seals F_SEAL_SHRINK, F_SEAL_GROW and F_SEAL_FUTURE_WRITE are set, so
// that nobody (not even a process that reopens the descriptor) can map it writable, resize it or
// punch holes into it again. Clients get readonly_fd().
//
// Thread rules: allocate, free and stats belong to one thread (the reactor). The bytes of a live
// slot may be read and written from any thread; who may do so when is the caller's business. No
// allocation after create().
#ifndef QUIRE_TIERS_HOST_SLAB_H_
#define QUIRE_TIERS_HOST_SLAB_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "base/status.h"
#include "tiers/host/slot_allocator.h"

namespace quire::tiers {

inline constexpr uint64_t kSlabCapacityBytesMin = 1ull << 20;
// Capacity is rounded up to this, so that huge pages fit.
inline constexpr uint64_t kSlabCapacityAlignment = 2ull << 20;

struct SlabOptions {
  uint64_t capacity_bytes = 1ull << 30;
  // Touch every page at start: slower start, no page faults and no out-of-memory surprise later.
  bool prefault = false;
  // Use 2 MiB pages where enough of them are reserved (vm.nr_hugepages), else 4 KiB pages.
  bool huge_pages = true;
};

struct SlabStats {
  uint64_t capacity_bytes = 0;
  uint64_t used_bytes = 0;     // granules in slots
  uint64_t payload_bytes = 0;  // what the slots' users asked for
  uint64_t slots = 0;
  uint64_t free_blocks = 0;
  uint64_t largest_free_bytes = 0;
  double internal_loss = 0;  // 1 - payload / used; 0 where nothing is used
  double fragmentation = 0;  // 1 - largest free block / free bytes; 0 where nothing is free
  std::string backend;       // "memfd 2 MiB pages" or "memfd 4 KiB pages"
};

class HostSlab {
 public:
  // kInvalidArgument for a size out of range, kResourceExhausted where the machine has less memory,
  // kIoError with errno's text else.
  static Expected<std::unique_ptr<HostSlab>> create(const SlabOptions& options);
  ~HostSlab();
  HostSlab(const HostSlab&) = delete;
  HostSlab& operator=(const HostSlab&) = delete;

  // nullopt: no free run is long enough; evict something and try again.
  std::optional<Slot> allocate(uint64_t payload_bytes) {
    return allocator_.allocate(payload_bytes);
  }
  // Ends the process on a slot that is not live (double free, foreign offset).
  void free(const Slot& slot) { allocator_.free(slot); }
  bool is_live(uint64_t offset, uint64_t generation) const {
    return allocator_.is_live(offset, generation);
  }

  // The payload's bytes.
  MutableByteSpan payload(const Slot& slot) const;
  // All bytes of the slot (for O_DIRECT, whose lengths are multiples of 4 KiB).
  MutableByteSpan whole(const Slot& slot) const;
  // Zeroes what lies behind the payload, so that no earlier object's bytes reach a disk or a
  // client.
  void zero_tail(const Slot& slot) const;

  std::byte* data() const { return data_; }
  uint64_t capacity_bytes() const { return allocator_.capacity_bytes(); }
  // Opened O_RDONLY; owned by the slab. Sending it over a socket duplicates it.
  int readonly_fd() const { return readonly_fd_; }
  SlabStats stats() const;

 private:
  HostSlab(int fd, int readonly_fd, std::byte* data, uint64_t capacity_bytes, bool huge_pages);

  int fd_ = -1;
  int readonly_fd_ = -1;
  std::byte* data_ = nullptr;
  bool huge_pages_ = false;
  SlotAllocator allocator_;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_HOST_SLAB_H_
