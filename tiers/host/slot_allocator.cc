#include "tiers/host/slot_allocator.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>

namespace quire::tiers {
namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "slot allocator: %s\n", what);
  std::abort();
}

}  // namespace

SlotAllocator::SlotAllocator(uint64_t capacity_bytes) {
  for (auto& row : heads_) row.fill(kNone);
  extend(capacity_bytes);
}

void SlotAllocator::resize(uint64_t granules) {
  kind_.resize(granules, Kind::kInside);
  length_.resize(granules, 0);
  first_of_.resize(granules, 0);
  next_free_.resize(granules, kNone);
  previous_free_.resize(granules, kNone);
  generation_.resize(granules, 0);
  slot_payload_bytes_.resize(granules, 0);
  capacity_bytes_ = granules * kSlotGranuleBytes;
}

void SlotAllocator::reserve(uint64_t capacity_bytes) {
  require(capacity_bytes <= kSlotAllocatorCapacityBytesMax, "capacity out of range");
  const uint64_t granules = capacity_bytes / kSlotGranuleBytes;
  kind_.reserve(granules);
  length_.reserve(granules);
  first_of_.reserve(granules);
  next_free_.reserve(granules);
  previous_free_.reserve(granules);
  generation_.reserve(granules);
  slot_payload_bytes_.reserve(granules);
}

uint64_t SlotAllocator::free_tail_bytes() const {
  if (kind_.empty()) return 0;
  const uint32_t last = first_of_.back();
  return kind_[last] == Kind::kFree ? length_[last] * kSlotGranuleBytes : 0;
}

void SlotAllocator::extend(uint64_t bytes) {
  require(
      bytes % kSlotGranuleBytes == 0 && bytes <= kSlotAllocatorCapacityBytesMax - capacity_bytes_,
      "capacity out of range");
  if (bytes == 0) return;
  const auto old_granules = static_cast<uint32_t>(kind_.size());
  const auto tail = static_cast<uint32_t>(free_tail_bytes() / kSlotGranuleBytes);
  const auto added = static_cast<uint32_t>(bytes / kSlotGranuleBytes);
  if (tail != 0) remove_free(old_granules - tail);
  resize(old_granules + added);
  insert_free(old_granules - tail, tail + added);
}

void SlotAllocator::trim(uint64_t bytes) {
  require(bytes % kSlotGranuleBytes == 0 && bytes <= free_tail_bytes(),
          "what is to be cut off is not free");
  if (bytes == 0) return;
  const auto tail = static_cast<uint32_t>(free_tail_bytes() / kSlotGranuleBytes);
  const auto cut = static_cast<uint32_t>(bytes / kSlotGranuleBytes);
  const auto start = static_cast<uint32_t>(kind_.size()) - tail;
  remove_free(start);
  resize(kind_.size() - cut);
  if (tail > cut) insert_free(start, tail - cut);
}

// Lengths below kSecondLevels have a class each; above, every power of two is cut into
// kSecondLevels classes of equal width.
SlotAllocator::SizeClass SlotAllocator::class_of(uint32_t granules) {
  if (granules < kSecondLevels) return {0, granules};
  const uint32_t top_bit = static_cast<uint32_t>(std::bit_width(granules)) - 1;
  return {top_bit - kSecondLevelBits + 1,
          (granules >> (top_bit - kSecondLevelBits)) & (kSecondLevels - 1)};
}

void SlotAllocator::insert_free(uint32_t start, uint32_t granules) {
  const SizeClass size_class = class_of(granules);
  uint32_t& head = heads_[size_class.first][size_class.second];
  kind_[start] = Kind::kFree;
  length_[start] = granules;
  first_of_[start + granules - 1] = start;
  previous_free_[start] = kNone;
  next_free_[start] = head;
  if (head != kNone) previous_free_[head] = start;
  head = start;
  second_bitmap_[size_class.first] |= 1u << size_class.second;
  first_bitmap_ |= 1u << size_class.first;
  ++free_blocks_;
}

void SlotAllocator::remove_free(uint32_t start) {
  require(kind_[start] == Kind::kFree, "free list holds a block that is not free");
  const SizeClass size_class = class_of(length_[start]);
  const uint32_t next = next_free_[start];
  const uint32_t previous = previous_free_[start];
  if (next != kNone) previous_free_[next] = previous;
  if (previous != kNone) {
    next_free_[previous] = next;
  } else {
    heads_[size_class.first][size_class.second] = next;
    if (next == kNone) {
      second_bitmap_[size_class.first] &= ~(1u << size_class.second);
      if (second_bitmap_[size_class.first] == 0) first_bitmap_ &= ~(1u << size_class.first);
    }
  }
  kind_[start] = Kind::kInside;
  --free_blocks_;
}

uint32_t SlotAllocator::find_free(uint32_t granules) const {
  // Own class first: its blocks may be long enough, and taking them keeps long blocks whole. Beyond
  // it every block fits.
  const SizeClass own = class_of(granules);
  uint32_t steps = 0;
  for (uint32_t start = heads_[own.first][own.second]; start != kNone && steps < kClassScanMax;
       start = next_free_[start], ++steps) {
    if (length_[start] >= granules) return start;
  }
  const uint32_t above = own.second + 1 < kSecondLevels ? ~0u << (own.second + 1) : 0;
  uint32_t row = own.first;
  uint32_t row_bits = second_bitmap_[row] & above;
  if (row_bits == 0) {
    const uint32_t rows = row + 1 < kFirstLevels ? first_bitmap_ & (~0u << (row + 1)) : 0;
    if (rows == 0) return kNone;
    row = static_cast<uint32_t>(std::countr_zero(rows));
    row_bits = second_bitmap_[row];
  }
  return heads_[row][std::countr_zero(row_bits)];
}

std::optional<Slot> SlotAllocator::allocate(uint64_t payload_bytes) {
  if (payload_bytes == 0 || payload_bytes > capacity_bytes_) return std::nullopt;
  const auto granules =
      static_cast<uint32_t>((payload_bytes + kSlotGranuleBytes - 1) / kSlotGranuleBytes);
  const uint32_t start = find_free(granules);
  if (start == kNone) return std::nullopt;
  const uint32_t found = length_[start];
  require(found >= granules, "a free block is shorter than its class");
  remove_free(start);
  if (found > granules) insert_free(start + granules, found - granules);
  kind_[start] = Kind::kUsed;
  length_[start] = granules;
  first_of_[start + granules - 1] = start;
  generation_[start] = next_generation_++;
  slot_payload_bytes_[start] = payload_bytes;
  const uint64_t slot_bytes = granules * kSlotGranuleBytes;
  used_bytes_ += slot_bytes;
  payload_bytes_ += payload_bytes;
  ++live_slots_;
  return Slot{start * kSlotGranuleBytes, payload_bytes, slot_bytes, generation_[start]};
}

bool SlotAllocator::is_live(uint64_t offset, uint64_t generation) const {
  if (offset >= capacity_bytes_ || offset % kSlotGranuleBytes != 0) return false;
  const uint64_t start = offset / kSlotGranuleBytes;
  return kind_[start] == Kind::kUsed && generation_[start] == generation;
}

void SlotAllocator::free(const Slot& slot) {
  require(is_live(slot.offset, slot.generation), "double free or foreign slot");
  auto start = static_cast<uint32_t>(slot.offset / kSlotGranuleBytes);
  uint32_t granules = length_[start];
  require(slot_payload_bytes_[start] == slot.payload_bytes, "a slot's size was changed");
  used_bytes_ -= granules * kSlotGranuleBytes;
  payload_bytes_ -= slot.payload_bytes;
  --live_slots_;
  kind_[start] = Kind::kInside;
  generation_[start] = 0;

  const uint32_t behind = start + granules;
  if (behind < kind_.size() && kind_[behind] == Kind::kFree) {
    granules += length_[behind];
    remove_free(behind);
  }
  if (start > 0) {
    const uint32_t before = first_of_[start - 1];
    if (kind_[before] == Kind::kFree) {
      require(before + length_[before] == start, "neighbouring blocks do not meet");
      granules += length_[before];
      remove_free(before);
      start = before;
    }
  }
  insert_free(start, granules);
}

uint64_t SlotAllocator::largest_free_bytes() const {
  if (first_bitmap_ == 0) return 0;
  const auto row = static_cast<uint32_t>(std::bit_width(first_bitmap_)) - 1;
  const auto column = static_cast<uint32_t>(std::bit_width(second_bitmap_[row])) - 1;
  uint32_t longest = 0;
  for (uint32_t start = heads_[row][column]; start != kNone; start = next_free_[start])
    longest = std::max(longest, length_[start]);
  return longest * kSlotGranuleBytes;
}

void SlotAllocator::check_consistency() const {
  uint64_t used = 0;
  uint64_t payload = 0;
  uint64_t slots = 0;
  uint64_t free_count = 0;
  bool last_was_free = false;
  for (uint64_t start = 0; start < kind_.size(); start += length_[start]) {
    require(kind_[start] != Kind::kInside, "a block begins inside another");
    require(length_[start] > 0 && start + length_[start] <= kind_.size(), "a block is too long");
    require(first_of_[start + length_[start] - 1] == start,
            "a block's end does not name its start");
    for (uint64_t i = start + 1; i < start + length_[start]; ++i)
      require(kind_[i] == Kind::kInside, "blocks overlap");
    const bool is_free = kind_[start] == Kind::kFree;
    require(!(is_free && last_was_free), "two free neighbours were not joined");
    last_was_free = is_free;
    if (is_free) {
      ++free_count;
    } else {
      ++slots;
      used += length_[start] * kSlotGranuleBytes;
      payload += slot_payload_bytes_[start];
    }
  }
  require(free_count == free_blocks_ && slots == live_slots_, "block counts are off");
  require(used == used_bytes_ && payload == payload_bytes_, "byte counts are off");
}

}  // namespace quire::tiers
