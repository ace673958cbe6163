#include "tiers/host/slot_allocator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <vector>

namespace quire::tiers {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// 100 KB to 64 MiB, every order of magnitude equally often.
uint64_t object_bytes(std::mt19937_64& random) {
  std::uniform_real_distribution<double> exponent(std::log(100e3), std::log(64.0 * kMiB));
  return static_cast<uint64_t>(std::exp(exponent(random)));
}

TEST(SlotAllocator, RandomUseAgainstAModel) {
  for (const uint64_t seed : {1, 2, 3, 4, 5, 6}) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    SlotAllocator allocator(512 * kMiB);
    std::map<uint64_t, Slot> live;  // by offset
    uint64_t last_generation = 0;
    uint64_t refused = 0;
    for (int step = 0; step < 4000; ++step) {
      const bool grow = std::uniform_int_distribution<int>(0, 99)(random) < 55;
      if (grow) {
        const uint64_t bytes = object_bytes(random);
        const uint64_t longest = allocator.largest_free_bytes();
        const auto slot = allocator.allocate(bytes);
        // What it says would fit does fit, and nothing longer.
        ASSERT_EQ(slot.has_value(), bytes <= longest) << bytes << " of " << longest;
        if (!slot) {
          ++refused;
          continue;
        }
        EXPECT_EQ(slot->offset % 4096, 0u);
        EXPECT_EQ(slot->payload_bytes, bytes);
        EXPECT_GE(slot->slot_bytes, bytes);
        EXPECT_LE(static_cast<double>(slot->slot_bytes), 1.25 * static_cast<double>(bytes));
        EXPECT_GT(slot->generation, last_generation);
        last_generation = slot->generation;
        ASSERT_LE(slot->offset + slot->slot_bytes, allocator.capacity_bytes());
        const auto behind = live.lower_bound(slot->offset);
        if (behind != live.end()) {
          ASSERT_LE(slot->offset + slot->slot_bytes, behind->first);
        }
        if (behind != live.begin()) {
          const Slot& before = std::prev(behind)->second;
          ASSERT_LE(before.offset + before.slot_bytes, slot->offset);
        }
        live.emplace(slot->offset, *slot);
      } else if (!live.empty()) {
        auto it = live.begin();
        std::advance(it, std::uniform_int_distribution<size_t>(0, live.size() - 1)(random));
        EXPECT_TRUE(allocator.is_live(it->first, it->second.generation));
        allocator.free(it->second);
        EXPECT_FALSE(allocator.is_live(it->first, it->second.generation));
        live.erase(it);
      }
      uint64_t used = 0;
      uint64_t payload = 0;
      for (const auto& [offset, slot] : live) {
        used += slot.slot_bytes;
        payload += slot.payload_bytes;
      }
      ASSERT_EQ(allocator.used_bytes(), used);
      ASSERT_EQ(allocator.payload_bytes(), payload);
      ASSERT_EQ(allocator.live_slots(), live.size());
      if (step % 100 == 0) allocator.check_consistency();
    }
    EXPECT_GT(refused, 0u) << "the allocator was never full";
    for (const auto& [offset, slot] : live) allocator.free(slot);
    allocator.check_consistency();
    EXPECT_EQ(allocator.free_blocks(), 1u);
    EXPECT_EQ(allocator.largest_free_bytes(), allocator.capacity_bytes());
    EXPECT_EQ(allocator.used_bytes(), 0u);
  }
}

TEST(SlotAllocator, TheWholeRangeIsOneSlot) {
  SlotAllocator allocator(3 * kMiB + kSlotGranuleBytes);
  const auto slot = allocator.allocate(allocator.capacity_bytes());
  ASSERT_TRUE(slot);
  EXPECT_EQ(allocator.largest_free_bytes(), 0u);
  EXPECT_FALSE(allocator.allocate(1));
  allocator.free(*slot);
  EXPECT_EQ(allocator.largest_free_bytes(), allocator.capacity_bytes());
  EXPECT_FALSE(allocator.allocate(allocator.capacity_bytes() + 1));
  EXPECT_FALSE(allocator.allocate(0));
}

TEST(SlotAllocator, TheRangeGrowsAndShrinksAtItsEnd) {
  SlotAllocator allocator(0);
  allocator.reserve(8 * kMiB);
  EXPECT_FALSE(allocator.allocate(1));
  EXPECT_EQ(allocator.free_tail_bytes(), 0u);
  allocator.check_consistency();
  allocator.extend(kMiB);
  const auto first = allocator.allocate(kMiB / 2);
  ASSERT_TRUE(first);
  EXPECT_EQ(allocator.free_tail_bytes(), kMiB / 2);
  // What is added joins the free end.
  allocator.extend(kMiB);
  allocator.check_consistency();
  EXPECT_EQ(allocator.largest_free_bytes(), 3 * kMiB / 2);
  const auto second = allocator.allocate(3 * kMiB / 2);
  ASSERT_TRUE(second);
  EXPECT_EQ(allocator.free_tail_bytes(), 0u);
  allocator.extend(kMiB);
  allocator.check_consistency();
  EXPECT_EQ(allocator.free_tail_bytes(), kMiB);
  allocator.trim(kMiB / 2);
  allocator.check_consistency();
  allocator.free(*second);
  EXPECT_EQ(allocator.free_tail_bytes(), 2 * kMiB);
  allocator.trim(2 * kMiB);
  allocator.check_consistency();
  EXPECT_EQ(allocator.capacity_bytes(), kMiB / 2);
  EXPECT_TRUE(allocator.is_live(first->offset, first->generation));
  EXPECT_FALSE(allocator.is_live(second->offset, second->generation));
  allocator.free(*first);
  allocator.trim(kMiB / 2);
  allocator.check_consistency();
  EXPECT_FALSE(allocator.allocate(1));
  allocator.extend(kMiB);
  const auto again = allocator.allocate(kMiB);
  ASSERT_TRUE(again);
  EXPECT_GT(again->generation, second->generation);
}

TEST(SlotAllocator, GenerationsTellReusedSlotsApart) {
  SlotAllocator allocator(kMiB);
  const auto first = allocator.allocate(kMiB);
  ASSERT_TRUE(first);
  allocator.free(*first);
  const auto second = allocator.allocate(kMiB);
  ASSERT_TRUE(second);
  EXPECT_EQ(first->offset, second->offset);
  EXPECT_FALSE(allocator.is_live(first->offset, first->generation));
  EXPECT_TRUE(allocator.is_live(second->offset, second->generation));
  EXPECT_FALSE(allocator.is_live(second->offset + 1, second->generation));
  EXPECT_FALSE(allocator.is_live(allocator.capacity_bytes(), second->generation));
  EXPECT_FALSE(allocator.is_live(UINT64_MAX, second->generation));
}

TEST(SlotAllocatorDeathTest, MisuseEndsTheProcess) {
  SlotAllocator allocator(kMiB);
  const auto slot = allocator.allocate(100'000);
  ASSERT_TRUE(slot);
  Slot foreign = *slot;
  foreign.offset += kSlotGranuleBytes;
  EXPECT_DEATH(allocator.free(foreign), "double free or foreign");
  Slot stale = *slot;
  stale.generation += 1;
  EXPECT_DEATH(allocator.free(stale), "double free or foreign");
  Slot resized = *slot;
  resized.payload_bytes = 1;
  EXPECT_DEATH(allocator.free(resized), "size was changed");
  allocator.free(*slot);
  EXPECT_DEATH(allocator.free(*slot), "double free or foreign");
  EXPECT_DEATH(allocator.trim(2 * kMiB), "not free");
}

}  // namespace
}  // namespace quire::tiers
