// Carves one address range into slots: two-level segregated fit (Masmano et al., "TLSF", ECRTS
// 2004) over granules of 16 KiB with immediate coalescing. Works on offsets only and never touches
// the memory it hands out. All bookkeeping lies in side arrays sized at construction, so neither
// allocate() nor free() allocates. The range may grow and shrink
// at its end.
//
// Thread rules: none of its methods may run concurrently. Errors: no space is an answer (nullopt);
// a double free or a foreign offset is a bug of the caller and ends the process.
#ifndef QUIRE_TIERS_HOST_SLOT_ALLOCATOR_H_
#define QUIRE_TIERS_HOST_SLOT_ALLOCATOR_H_

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace quire::tiers {

// A slot's size is its payload rounded up to this: at most 16 % loss on 100 KB, and any offset can
// be the target of O_DIRECT.
inline constexpr uint64_t kSlotGranuleBytes = 16 * 1024;
inline constexpr uint64_t kSlotAllocatorCapacityBytesMax = 16ull << 40;

struct Slot {
  uint64_t offset = 0;         // from the first byte of the range; a multiple of kSlotGranuleBytes
  uint64_t payload_bytes = 0;  // what was asked for
  uint64_t slot_bytes = 0;     // what is reserved; payload_bytes rounded up
  uint64_t generation = 0;     // different for every allocation, never 0
};

class SlotAllocator {
 public:
  // capacity_bytes: a multiple of kSlotGranuleBytes; 0 where the range has yet to grow.
  explicit SlotAllocator(uint64_t capacity_bytes);

  // Makes extend() up to this capacity free of allocation.
  void reserve(uint64_t capacity_bytes);
  // The range grows at its end, by a multiple of kSlotGranuleBytes. May allocate.
  void extend(uint64_t bytes);
  // Cuts that many bytes off the end; at most free_tail_bytes(). Generations go on: a slot that was
  // there is never live again.
  void trim(uint64_t bytes);
  // How much of the end is free. O(1).
  uint64_t free_tail_bytes() const;

  // nullopt where no free run is long enough (evict and try again) or payload_bytes is 0. O(1), but
  // for at most kClassScanMax list steps.
  std::optional<Slot> allocate(uint64_t payload_bytes);
  // The slot must be live and of this generation. O(1).
  void free(const Slot& slot);
  // True while the allocation that got this generation at this offset lives. Any offset may be
  // asked.
  bool is_live(uint64_t offset, uint64_t generation) const;

  uint64_t capacity_bytes() const { return capacity_bytes_; }
  uint64_t used_bytes() const { return used_bytes_; }        // granules in slots
  uint64_t payload_bytes() const { return payload_bytes_; }  // asked for
  uint64_t live_slots() const { return live_slots_; }
  uint64_t free_blocks() const { return free_blocks_; }
  // The longest payload that allocate() would serve now. Walks free lists: for status pages and for
  // choosing victims, not for every put.
  uint64_t largest_free_bytes() const;
  // Ends the process where the side arrays contradict each other. O(capacity); tests.
  void check_consistency() const;

 private:
  static constexpr uint32_t kSecondLevelBits = 4;
  static constexpr uint32_t kSecondLevels = 1u << kSecondLevelBits;
  static constexpr uint32_t kFirstLevels = 32;
  // Where only the request's own class has blocks, so many are tried before giving up.
  static constexpr uint32_t kClassScanMax = 64;
  static constexpr uint32_t kNone = UINT32_MAX;

  struct SizeClass {
    uint32_t first = 0;
    uint32_t second = 0;
  };
  static SizeClass class_of(uint32_t granules);
  uint32_t find_free(uint32_t granules) const;
  void insert_free(uint32_t start, uint32_t granules);
  void remove_free(uint32_t start);
  void resize(uint64_t granules);

  // Indexed by granule. length_ holds a block's length at its first granule, first_of_ (for the
  // block that ends there) its first granule; both are meaningless elsewhere and checked through
  // kind_.
  enum class Kind : uint8_t { kInside = 0, kFree = 1, kUsed = 2 };
  std::vector<Kind> kind_;
  std::vector<uint32_t> length_;
  std::vector<uint32_t> first_of_;
  std::vector<uint32_t> next_free_;
  std::vector<uint32_t> previous_free_;
  std::vector<uint64_t> generation_;
  std::vector<uint64_t> slot_payload_bytes_;

  std::array<std::array<uint32_t, kSecondLevels>, kFirstLevels> heads_;
  std::array<uint32_t, kFirstLevels> second_bitmap_{};
  uint32_t first_bitmap_ = 0;

  uint64_t capacity_bytes_ = 0;
  uint64_t used_bytes_ = 0;
  uint64_t payload_bytes_ = 0;
  uint64_t live_slots_ = 0;
  uint64_t free_blocks_ = 0;
  uint64_t next_generation_ = 1;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_HOST_SLOT_ALLOCATOR_H_
