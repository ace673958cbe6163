#include "tiers/evict/k_tuner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "tiers/evict/policy.h"

namespace quire::tiers {
namespace {

using Handle = EvictionPolicy::Handle;

struct Replayed {
  double hit_ratio = 0;
  std::optional<double> k;
  uint64_t remembered_keys_max = 0;
};

Replayed replay(const std::vector<Handle>& trace, uint64_t capacity,
                std::optional<double> k = std::nullopt) {
  EvictionOptions options;
  options.capacity_bytes = capacity;
  options.k = k;
  const auto policy = make_eviction_policy(EvictionPolicyKind::kDecayedLfu, options);
  Replayed result;
  uint64_t hits = 0;
  for (const Handle handle : trace) {
    if (policy->contains(handle)) {
      ++hits;
      policy->touch(handle);
      continue;
    }
    while (policy->bytes() + 1 > capacity)
      policy->evict(policy->victim([](Handle) { return true; }).value());
    policy->insert(handle, 1);
    result.remembered_keys_max = std::max(result.remembered_keys_max, policy->remembered_keys());
  }
  result.hit_ratio = static_cast<double>(hits) / static_cast<double>(trace.size());
  result.k = policy->tuned_k();
  return result;
}

// Hot keys that come back after 1.6 turnovers, between keys that never do.
std::vector<Handle> frequency_counts(uint64_t seed, uint64_t capacity, uint64_t rounds) {
  std::mt19937_64 random(seed);
  std::vector<Handle> trace;
  Handle cold = 1ull << 32;
  for (uint64_t round = 0; round < rounds; ++round) {
    std::vector<Handle> part;
    for (Handle hot = 0; hot < capacity * 2 / 5; ++hot) part.push_back(hot);
    for (uint64_t i = 0; i < capacity * 6 / 5; ++i) part.push_back(cold++);
    std::ranges::shuffle(part, random);
    trace.insert(trace.end(), part.begin(), part.end());
  }
  return trace;
}

// A window of keys that moves on: those used most are those that are over, but for a few.
std::vector<Handle> recency_counts(uint64_t seed, uint64_t capacity, uint64_t accesses) {
  std::mt19937_64 random(seed);
  std::vector<Handle> trace;
  for (uint64_t i = 0; i < accesses; ++i) {
    const uint64_t window = capacity * 9 / 10;
    const uint64_t newest = window + i / 6;
    trace.push_back(newest - random() % window);
  }
  return trace;
}

TEST(KTuner, LargeKWhereFrequencyCounts) {
  for (const uint64_t capacity : {200, 2500}) {
    for (const uint64_t seed : {1, 2}) {
      SCOPED_TRACE("capacity " + std::to_string(capacity) + " seed " + std::to_string(seed));
      const auto trace = frequency_counts(seed, capacity, 30);
      const Replayed tuned = replay(trace, capacity);
      EXPECT_GE(tuned.k.value(), 4);
      EXPECT_GT(tuned.hit_ratio, 0.9 * replay(trace, capacity, 8).hit_ratio);
      EXPECT_GT(tuned.hit_ratio, 1.5 * replay(trace, capacity, 1).hit_ratio);
    }
  }
}

TEST(KTuner, SmallKWhereRecencyCounts) {
  for (const uint64_t capacity : {200, 2500}) {
    for (const uint64_t seed : {1, 2}) {
      SCOPED_TRACE("capacity " + std::to_string(capacity) + " seed " + std::to_string(seed));
      const auto trace = recency_counts(seed, capacity, 30 * capacity);
      const Replayed tuned = replay(trace, capacity);
      EXPECT_LE(tuned.k.value(), 1);
      EXPECT_GT(tuned.hit_ratio, 0.99 * replay(trace, capacity, 0.5).hit_ratio);
      EXPECT_GT(tuned.hit_ratio, 1.02 * replay(trace, capacity, 16).hit_ratio);
    }
  }
}

TEST(KTuner, FollowsWhenTheLoadChanges) {
  constexpr uint64_t kCapacity = 300;
  auto trace = frequency_counts(5, kCapacity, 40);
  EXPECT_GE(replay(trace, kCapacity).k.value(), 4);
  const auto then = recency_counts(6, kCapacity, 60 * kCapacity);
  for (const Handle handle : then) trace.push_back(handle + (1ull << 40));
  EXPECT_LE(replay(trace, kCapacity).k.value(), 1);
}

TEST(KTuner, GivenKIsNotTuned) {
  EXPECT_EQ(replay(recency_counts(1, 100, 1000), 100, 2.0).k, std::nullopt);
}

TEST(KTuner, MemoryIsBoundedWhateverTheTier) {
  constexpr uint64_t kKeysMax = kShadowK.size() * (kShadowKeysMax + kShadowGhostKeysMax);
  KTuner tuner(1ull << 40);
  std::mt19937_64 random(3);
  uint64_t keys_max = 0;
  for (int i = 0; i < 200'000; ++i) {
    tuner.access(random() % 150'000, 1 + random() % (64ull << 20));
    if (i % 16 == 0) keys_max = std::max(keys_max, tuner.keys());
  }
  EXPECT_LE(keys_max, kKeysMax);
  EXPECT_LE(tuner.keys(), kKeysMax);
  // 2^40 bytes in objects of 32 MiB: 32,768 objects, of which a shadow may hold 512.
  EXPECT_LE(tuner.sampled_share(), 1.0 / 64);
  EXPECT_GE(tuner.sampled_share(), 1.0 / 256);
}

TEST(KTuner, GhostsOfTheTierAreBounded) {
  constexpr uint64_t kCapacity = 2000;
  std::vector<Handle> trace;
  for (Handle handle = 0; handle < 30'000; ++handle) trace.push_back(handle);
  const Replayed result = replay(trace, kCapacity);
  EXPECT_LE(
      result.remembered_keys_max,
      kGhostKeysFactor * kCapacity + kShadowK.size() * (kShadowKeysMax + kShadowGhostKeysMax));
  EXPECT_GE(result.remembered_keys_max, kGhostKeysFactor * kCapacity);
}

TEST(KTuner, ObjectsLargerThanAShadowDoNotStopIt) {
  KTuner tuner(100);
  for (uint64_t handle = 0; handle < 5000; ++handle) {
    tuner.access(handle, 1000);
    tuner.access(handle % 3, 1);
  }
  EXPECT_LE(tuner.keys(), kShadowK.size() * 3);
}

TEST(KTuner, RemovedKeysAreForgotten) {
  KTuner tuner(100);
  for (uint64_t handle = 0; handle < 50; ++handle) tuner.access(handle, 1);
  EXPECT_EQ(tuner.keys(), kShadowK.size() * 50);
  for (uint64_t handle = 0; handle < 50; ++handle) tuner.remove(handle);
  EXPECT_EQ(tuner.keys(), 0u);
}

}  // namespace
}  // namespace quire::tiers
