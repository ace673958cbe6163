#include "tiers/gpu/device_pool.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <iterator>
#include <random>
#include <set>

#include "base/gpu/fake_driver.h"

namespace quire::tiers {
namespace {

using gpu::FakeCall;
using gpu::FakeDriver;
using gpu::FakeLive;

constexpr uint64_t kMiB = 1ull << 20;
constexpr uint64_t kChunk = 2 * kMiB;

size_t open_descriptors() {
  std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

std::unique_ptr<DevicePool> make_pool(const std::shared_ptr<FakeDriver>& driver,
                                      uint64_t capacity_bytes) {
  auto pool = DevicePool::create(driver, {.capacity_bytes = capacity_bytes});
  EXPECT_TRUE(pool.is_ok()) << pool.status().to_string();
  return pool ? std::move(*pool) : nullptr;
}

TEST(DevicePool, StartsEmptyAndGrowsToItsCapacity) {
  auto driver = std::make_shared<FakeDriver>();
  auto pool = make_pool(driver, 4 * kChunk + kMiB);
  EXPECT_EQ(pool->capacity_bytes(), 4 * kChunk);
  EXPECT_EQ(pool->chunk_bytes(), kChunk);
  EXPECT_FALSE(pool->allocate(1));
  ASSERT_TRUE(pool->grow(1).is_ok());
  EXPECT_EQ(pool->stats().backed_bytes, kChunk);
  const auto first = pool->allocate(kMiB);
  ASSERT_TRUE(first);
  EXPECT_FALSE(pool->allocate(kChunk));
  // One run over the free half of the first chunk and two more.
  ASSERT_TRUE(pool->grow(kChunk + kMiB).is_ok());
  EXPECT_EQ(pool->stats().backed_bytes, 2 * kChunk);
  const auto second = pool->allocate(kChunk + kMiB);
  ASSERT_TRUE(second);
  EXPECT_EQ(pool->address(*second), pool->address(*first) + kMiB);
  ASSERT_TRUE(pool->grow(100 * kChunk).is_ok());
  EXPECT_EQ(pool->stats().backed_bytes, 4 * kChunk);
  EXPECT_EQ(pool->grow(1).code(), StatusCode::kResourceExhausted);
  std::set<uint64_t> ids;
  for (const DeviceChunk& chunk : pool->chunks()) ids.insert(chunk.id);
  EXPECT_EQ(ids.size(), 4u);
  pool.reset();
  EXPECT_EQ(driver->live(), FakeLive{});
}

TEST(DevicePool, ChunksAreFew) {
  auto driver = std::make_shared<FakeDriver>(gpu::FakeOptions{.total_bytes = 1ull << 40});
  auto pool = make_pool(driver, 64ull << 30);
  EXPECT_EQ(pool->chunk_bytes(), 1ull << 30);
  EXPECT_LE(pool->capacity_bytes() / pool->chunk_bytes(), kDeviceChunksMax);
}

TEST(DevicePool, ShrinksFromItsEndOnly) {
  auto driver = std::make_shared<FakeDriver>();
  auto pool = make_pool(driver, 4 * kChunk);
  ASSERT_TRUE(pool->grow(4 * kChunk).is_ok());
  const auto low = pool->allocate(kMiB);
  const auto wide = pool->allocate(2 * kChunk);
  ASSERT_TRUE(low && wide);
  const uint64_t version = pool->layout_version();
  auto cut = pool->detach_tail();  // the fourth
  ASSERT_TRUE(cut);
  EXPECT_NE(pool->layout_version(), version);
  ASSERT_TRUE(pool->dismantle(*cut).is_ok());
  EXPECT_EQ(driver->live().memories, 3u);
  EXPECT_FALSE(pool->detach_tail()) << "the third holds a slot's end";
  const gpu::Address address = pool->address(*low);
  pool->free(*wide);
  for (int i = 0; i < 2; ++i) {
    cut = pool->detach_tail();
    ASSERT_TRUE(cut);
    ASSERT_TRUE(pool->dismantle(*cut).is_ok());
  }
  EXPECT_FALSE(pool->detach_tail());
  EXPECT_TRUE(pool->is_live(low->offset, low->generation));
  EXPECT_FALSE(pool->is_live(wide->offset, wide->generation));
  // What grows again has new ids and new generations, at the same addresses.
  ASSERT_TRUE(pool->grow(3 * kChunk - kMiB).is_ok());
  const auto again = pool->allocate(2 * kChunk);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->offset, wide->offset);
  EXPECT_GT(again->generation, wide->generation);
  EXPECT_EQ(pool->address(*low), address);
  EXPECT_GT(pool->chunks().back().id, 4u);
}

TEST(DevicePool, OneGrowthAtATime) {
  auto pool = make_pool(std::make_shared<FakeDriver>(), 4 * kChunk);
  const auto plan = pool->plan_growth(1);
  ASSERT_TRUE(plan);
  EXPECT_FALSE(pool->plan_growth(1));
  EXPECT_FALSE(pool->detach_tail());
  auto built = pool->build(*plan);
  ASSERT_TRUE(built);
  EXPECT_FALSE(pool->allocate(1)) << "not before it is adopted";
  pool->adopt(std::move(*built));
  EXPECT_TRUE(pool->allocate(1));
}

TEST(DevicePool, SizesOutOfRangeAreErrors) {
  auto driver = std::make_shared<FakeDriver>();
  const auto code = [&](DevicePoolOptions options) {
    return DevicePool::create(driver, options).status().code();
  };
  EXPECT_EQ(code({.capacity_bytes = kMiB}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.capacity_bytes = 2ull << 40}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.capacity_bytes = 2ull << 30}), StatusCode::kResourceExhausted);
  EXPECT_EQ(code({.device = 3}), StatusCode::kUnavailable);
  EXPECT_EQ(driver->live(), FakeLive{});
}

// Every call of the driver fails once, at every place where it is made: a typed error comes back,
// what existed stays usable, and in the end nothing is left over.
TEST(DevicePool, NothingLeaksWhereverTheDriverFails) {
  const size_t descriptors = open_descriptors();
  int failures = 0;
  for (uint32_t call = 0; call < gpu::kFakeCallCount; ++call) {
    for (uint32_t after = 0; after < 6; ++after) {
      SCOPED_TRACE(std::string(gpu::fake_call_name(FakeCall{call})) + " after " +
                   std::to_string(after));
      auto driver = std::make_shared<FakeDriver>();
      const Status wanted(StatusCode::kIoError, "wanted");
      driver->fail(FakeCall{call}, wanted, after);
      auto pool = DevicePool::create(driver, {.capacity_bytes = 8 * kChunk});
      if (!pool) {
        ++failures;
        EXPECT_EQ(pool.status().code(), StatusCode::kIoError);
        // A stream or range that the driver would not take back is the driver's.
        EXPECT_EQ(driver->live(), FakeLive{});
        continue;
      }
      uint64_t backed = 0;
      for (int round = 0; round < 3; ++round) {
        const Status grown = (*pool)->grow(2 * kChunk);
        if (grown.is_ok()) {
          EXPECT_GT((*pool)->stats().backed_bytes, backed);
        } else {
          ++failures;
          EXPECT_EQ(grown.code(), StatusCode::kIoError) << grown.to_string();
          EXPECT_EQ((*pool)->stats().backed_bytes, backed);
        }
        backed = (*pool)->stats().backed_bytes;
        if (const auto slot = (*pool)->allocate(kChunk)) {
          EXPECT_TRUE((*pool)->is_live(slot->offset, slot->generation));
        }
      }
      pool->reset();
      const FakeLive left = driver->live();
      const auto is = [&](FakeCall which) { return FakeCall{call} == which; };
      if (is(FakeCall::kUnmap) || is(FakeCall::kRelease) || is(FakeCall::kReleaseRange) ||
          is(FakeCall::kDestroyStream) || is(FakeCall::kDestroyEvent)) {
        // What the driver refuses to give up cannot be given back; nothing else may stay.
        EXPECT_LE(left.memories + left.mappings + left.streams + left.events, 2u);
      } else {
        EXPECT_EQ(left, FakeLive{});
      }
    }
  }
  EXPECT_GT(failures, 20);
  EXPECT_EQ(open_descriptors(), descriptors);
}

// Against a model: slots never overlap, lie in backed memory, and dead generations stay dead.
TEST(DevicePool, RandomGrowthShrinkingAndSlots) {
  const uint64_t seed = 20;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  auto driver = std::make_shared<FakeDriver>();
  auto pool = make_pool(driver, 16 * kChunk);
  std::vector<Slot> live;
  std::vector<Slot> dead;
  for (int step = 0; step < 3000; ++step) {
    switch (random() % 6) {
      case 0:
        (void)pool->grow(1 + random() % (3 * kChunk));
        break;
      case 1:
        if (const auto chunk = pool->detach_tail()) {
          ASSERT_TRUE(pool->dismantle(*chunk).is_ok());
        }
        break;
      case 2:
      case 3:
        if (const auto slot = pool->allocate(1 + random() % kChunk)) {
          ASSERT_LE(slot->offset + slot->slot_bytes, pool->stats().backed_bytes);
          for (const Slot& other : live) {
            ASSERT_TRUE(slot->offset + slot->slot_bytes <= other.offset ||
                        other.offset + other.slot_bytes <= slot->offset);
          }
          live.push_back(*slot);
        }
        break;
      default:
        if (live.empty()) break;
        const size_t i = random() % live.size();
        pool->free(live[i]);
        dead.push_back(live[i]);
        live.erase(live.begin() + static_cast<ptrdiff_t>(i));
    }
    ASSERT_EQ(driver->live().memories, pool->chunks().size());
  }
  for (const Slot& slot : live) ASSERT_TRUE(pool->is_live(slot.offset, slot.generation));
  for (const Slot& slot : dead) ASSERT_FALSE(pool->is_live(slot.offset, slot.generation));
}

}  // namespace
}  // namespace quire::tiers
