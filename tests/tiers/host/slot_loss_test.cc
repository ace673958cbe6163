#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "bench/quire-bench/slab.h"
#include "bench/quire-bench/trace.h"
#include "tiers/host/slot_allocator.h"

namespace quire::bench {
namespace {

constexpr double kLossMax = 0.25;
constexpr uint64_t kCapacityChunks = 512;

// Bytes of both planes of all layers: 24 layers x 2 heads x 64 in f16 and int8, and a large model.
constexpr std::initializer_list<uint64_t> kBytesPerToken = {12'288, 6'144, 131'072};

void expect_small_loss(const Trace& trace) {
  for (const uint64_t bytes_per_token : kBytesPerToken) {
    for (const SlabChunks chunks : {SlabChunks::kTails, SlabChunks::kBlocks}) {
      SCOPED_TRACE(std::to_string(bytes_per_token) + " bytes per token, " +
                   (chunks == SlabChunks::kTails ? "tails" : "blocks"));
      const auto bytes = chunk_bytes(trace, chunks, bytes_per_token);
      const SlabLoss loss = slab_loss(bytes, kCapacityChunks * kTraceBlockTokens * bytes_per_token);
      EXPECT_EQ(loss.chunks, bytes.size());
      EXPECT_LE(loss.internal_loss(), kLossMax);
      EXPECT_LE(loss.internal_loss_max, kLossMax);
      EXPECT_GT(loss.filled_min, 0.5);
    }
  }
}

TEST(SlotLoss, CountsWhatRoundingCosts) {
  const uint64_t granule = tiers::kSlotGranuleBytes;
  const SlabLoss loss = slab_loss({granule, granule + 1, 2 * granule - 1}, 16 * granule);
  EXPECT_EQ(loss.chunks, 3u);
  EXPECT_EQ(loss.slot_bytes, 5 * granule);
  EXPECT_DOUBLE_EQ(loss.internal_loss(), 1.0 / 5);
  // The fourth does not fit beside the first three: those go, oldest first.
  const SlabLoss full =
      slab_loss({4 * granule, 4 * granule, 8 * granule, 12 * granule}, 16 * granule);
  EXPECT_EQ(full.chunks, 4u);
  EXPECT_DOUBLE_EQ(full.filled_mean, 1.0);
  EXPECT_EQ(slab_loss({17 * granule}, 16 * granule).chunks, 0u);
}

TEST(SlotLoss, ChunkSizesOfATrace) {
  Trace trace;
  trace.requests.push_back({0, 700, {1, 2}});
  trace.requests.push_back({0, 1024, {1, 3}});
  EXPECT_EQ(chunk_bytes(trace, SlabChunks::kTails, 10), (std::vector<uint64_t>{1880}));
  EXPECT_EQ(chunk_bytes(trace, SlabChunks::kBlocks, 10), (std::vector<uint64_t>{5120, 1880, 5120}));
}

TEST(SlotLoss, AtMostAQuarterOnAMadeUpTrace) {
  for (const uint64_t seed : {1, 2, 3}) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    expect_small_loss(synthetic_trace(seed, 3000));
  }
}

TEST(SlotLoss, AtMostAQuarterOnThePublicTrace) {
  const auto path = find_trace(QUIRE_SOURCE_DIR);
  if (!path) GTEST_SKIP() << path.status().message();
  const auto trace = read_trace_file(*path);
  ASSERT_TRUE(trace) << trace.status().message();
  expect_small_loss(*trace);
}

TEST(SlotLoss, NoSizeOf64KibOrMoreLosesAQuarter) {
  tiers::SlotAllocator slots(128 << 20);
  std::mt19937_64 random(1);
  for (int i = 0; i < 20'000; ++i) {
    const uint64_t bytes = (64 << 10) + random() % (i % 2 == 0 ? 256 << 10 : 64 << 20);
    const auto slot = slots.allocate(bytes);
    ASSERT_TRUE(slot.has_value());
    EXPECT_LE(static_cast<double>(slot->slot_bytes - bytes),
              kLossMax * static_cast<double>(slot->slot_bytes))
        << bytes;
    slots.free(*slot);
  }
}

}  // namespace
}  // namespace quire::bench
