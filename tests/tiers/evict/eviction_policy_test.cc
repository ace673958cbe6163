#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <vector>

#include "tiers/evict/policy.h"

namespace quire::tiers {
namespace {

using Handle = EvictionPolicy::Handle;

constexpr auto kAllPolicies = {EvictionPolicyKind::kLru, EvictionPolicyKind::kDecayedLfu,
                               EvictionPolicyKind::kS3Fifo};

bool any(Handle) {
  return true;
}

std::vector<Handle> evict_all(EvictionPolicy& policy) {
  std::vector<Handle> order;
  while (const auto victim = policy.victim(any)) {
    order.push_back(*victim);
    policy.evict(*victim);
  }
  return order;
}

// Share of accesses that hit, with room for `capacity` keys of one byte each.
double replay(EvictionPolicyKind kind, const std::vector<Handle>& trace, uint64_t capacity,
              double k = 2) {
  const auto policy = make_eviction_policy(kind, {.capacity_bytes = capacity, .k = k});
  uint64_t hits = 0;
  for (const Handle handle : trace) {
    if (policy->contains(handle)) {
      ++hits;
      policy->touch(handle);
      continue;
    }
    while (policy->bytes() + 1 > capacity) policy->evict(policy->victim(any).value());
    policy->insert(handle, 1);
  }
  return static_cast<double>(hits) / static_cast<double>(trace.size());
}

TEST(Lru, EvictsInOrderOfUse) {
  const auto policy = make_eviction_policy(EvictionPolicyKind::kLru, {.capacity_bytes = 4});
  for (const Handle handle : {1, 2, 3, 4}) policy->insert(handle, 1);
  policy->touch(2);
  policy->touch(1);
  EXPECT_EQ(evict_all(*policy), (std::vector<Handle>{3, 4, 2, 1}));
}

TEST(DecayedLfu, FrequencyCountsUntilItsAgeOutweighsIt) {
  const EvictionOptions options{.capacity_bytes = 10, .k = 1};
  const auto policy = make_eviction_policy(EvictionPolicyKind::kDecayedLfu, options);
  policy->insert(100, 1);
  for (int i = 0; i < 20; ++i) policy->touch(100);
  policy->insert(200, 1);
  // Used last, but once against many times.
  EXPECT_EQ(policy->victim(any), Handle{200});
  policy->evict(200);
  // Its frequency is about 1 / (1 - e^-0.1) = 10.5, worth ln 10.5 = 2.4 turnovers of 10 bytes.
  for (Handle handle = 1; handle <= 20; ++handle) {
    policy->insert(handle, 1);
    if (handle > 1) policy->evict(policy->victim(any).value());
    EXPECT_TRUE(policy->contains(100)) << handle;
  }
  for (Handle handle = 21; handle <= 30; ++handle) {
    policy->insert(handle, 1);
    policy->evict(policy->victim(any).value());
  }
  EXPECT_FALSE(policy->contains(100));
}

TEST(DecayedLfu, ScoresFollowTheFormula) {
  // Against the definition: frequency is the sum of exp(-age) over all accesses.
  for (const uint64_t seed : {11, 12, 13}) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const EvictionOptions options{.capacity_bytes = 1000, .k = 1.5};
    const double unit = 1.5 * 1000;
    const auto policy = make_eviction_policy(EvictionPolicyKind::kDecayedLfu, options);
    std::vector<std::vector<double>> accesses(40);
    std::vector<uint64_t> bytes(40);
    for (auto& size : bytes) size = std::uniform_int_distribution<uint64_t>(1, 100)(random);
    double now = 0;
    for (int step = 0; step < 2000; ++step) {
      const Handle handle = std::uniform_int_distribution<Handle>(0, 39)(random) *
                            std::uniform_int_distribution<Handle>(0, 39)(random) / 40;
      now += static_cast<double>(bytes[handle]) / unit;
      accesses[handle].push_back(now);
      policy->insert(handle, bytes[handle]);
    }
    std::vector<std::pair<double, Handle>> expected;
    for (Handle handle = 0; handle < 40; ++handle) {
      double frequency = 0;
      for (const double time : accesses[handle]) frequency += std::exp(time - now);
      if (!accesses[handle].empty()) expected.push_back({std::log(frequency), handle});
    }
    std::ranges::sort(expected);
    std::vector<Handle> order;
    for (const auto& [score, handle] : expected) order.push_back(handle);
    EXPECT_EQ(evict_all(*policy), order);
  }
}

TEST(DecayedLfu, RemembersEvictedKeysButNotDeletedOnes) {
  const EvictionOptions options{.capacity_bytes = 1000, .k = 2};
  const auto policy = make_eviction_policy(EvictionPolicyKind::kDecayedLfu, options);
  for (const Handle handle : {1, 2}) {
    policy->insert(handle, 1);
    for (int i = 0; i < 5; ++i) policy->touch(handle);
  }
  policy->evict(1);
  policy->remove(2);
  policy->insert(1, 1);
  policy->insert(3, 1);
  policy->insert(2, 1);
  EXPECT_EQ(evict_all(*policy), (std::vector<Handle>{3, 2, 1}));
}

TEST(DecayedLfu, GhostsAreBounded) {
  const auto policy =
      make_eviction_policy(EvictionPolicyKind::kDecayedLfu, {.capacity_bytes = 1 << 20});
  policy->insert(1, 1);
  for (int i = 0; i < 100; ++i) policy->touch(1);
  policy->evict(1);
  for (Handle handle = 1000; handle < 1000 + kGhostKeysMin; ++handle) {
    policy->insert(handle, 1);
    policy->evict(handle);
  }
  policy->insert(1, 1);
  policy->insert(2, 1);
  EXPECT_EQ(policy->victim(any), Handle{1}) << "key 1 should have been forgotten";
}

TEST(AllPolicies, OnlyGrantedVictimsAndAllOfThem) {
  for (const auto kind : kAllPolicies) {
    const auto policy = make_eviction_policy(kind, {.capacity_bytes = 100});
    SCOPED_TRACE(policy->name());
    for (Handle handle = 0; handle < 100; ++handle) policy->insert(handle, 1);
    EXPECT_FALSE(policy->insert(5, 1));
    EXPECT_EQ(policy->victim([](Handle) { return false; }), std::nullopt);
    std::set<Handle> evicted;
    const auto odd = [](Handle handle) { return handle % 2 == 1; };
    while (const auto victim = policy->victim(odd)) {
      EXPECT_TRUE(policy->contains(*victim));
      EXPECT_TRUE(evicted.insert(*victim).second);
      policy->evict(*victim);
    }
    EXPECT_EQ(evicted.size(), 50u);
    EXPECT_EQ(policy->size(), 50u);
    EXPECT_EQ(policy->bytes(), 50u);
    for (Handle handle = 0; handle < 100; ++handle) policy->remove(handle);
    EXPECT_EQ(policy->size(), 0u);
    EXPECT_EQ(policy->bytes(), 0u);
    EXPECT_EQ(policy->victim(any), std::nullopt);
  }
}

TEST(AllPolicies, ManyInUseDoNotHideTheRestForEver) {
  constexpr Handle kInUse = 3 * kVictimScanMax;
  for (const auto kind : kAllPolicies) {
    const auto policy = make_eviction_policy(kind, {.capacity_bytes = kInUse});
    SCOPED_TRACE(policy->name());
    for (Handle handle = 0; handle <= kInUse; ++handle) policy->insert(handle, 1);
    std::optional<Handle> victim;
    uint64_t asked = 0;
    for (int call = 0; call < 10 && !victim; ++call)
      victim = policy->victim([&](Handle handle) {
        ++asked;
        return handle == kInUse;
      });
    EXPECT_EQ(victim, kInUse);
    EXPECT_LE(asked, 3 * kInUse);
  }
}

TEST(AllPolicies, TailsTouchedFirstGoFirst) {
  for (const auto kind : {EvictionPolicyKind::kLru, EvictionPolicyKind::kDecayedLfu}) {
    const auto policy = make_eviction_policy(kind, {.capacity_bytes = 100});
    SCOPED_TRACE(policy->name());
    // A chain of ten: head 0, tail 9; used three times, tail first.
    for (int round = 0; round < 3; ++round)
      for (Handle link = 10; link-- > 0;) policy->insert(link, 1);
    EXPECT_EQ(evict_all(*policy), (std::vector<Handle>{9, 8, 7, 6, 5, 4, 3, 2, 1, 0}));
  }
}

TEST(Replay, DecayedLfuKeepsHotKeysThroughAScanAndLruDoesNot) {
  // 40 hot keys used again and again, between them keys that never return.
  constexpr uint64_t kCapacity = 100;
  std::mt19937_64 random(7);
  std::vector<Handle> trace;
  Handle cold = 1000;
  for (int round = 0; round < 100; ++round) {
    std::vector<Handle> part;
    for (Handle hot = 0; hot < 40; ++hot) part.push_back(hot);
    for (int i = 0; i < 120; ++i) part.push_back(cold++);
    std::ranges::shuffle(part, random);
    trace.insert(trace.end(), part.begin(), part.end());
  }
  const double possible = 40.0 * 99 / static_cast<double>(trace.size());
  const double lru = replay(EvictionPolicyKind::kLru, trace, kCapacity);
  // Between two uses of a hot key 1.6 turnovers pass: k = 4 bridges them, k = 2 in part.
  const double lfu = replay(EvictionPolicyKind::kDecayedLfu, trace, kCapacity, 4);
  const double lfu_short = replay(EvictionPolicyKind::kDecayedLfu, trace, kCapacity, 2);
  EXPECT_LT(lru, 0.6 * possible);
  EXPECT_GT(lfu_short, 0.7 * possible);
  EXPECT_GT(lfu, 0.95 * possible);
}

TEST(Replay, DecayedLfuFollowsAShiftOfInterest) {
  // Yesterday's hot keys must go, however often they were used.
  constexpr uint64_t kCapacity = 100;
  std::vector<Handle> trace;
  for (int round = 0; round < 200; ++round)
    for (Handle handle = 0; handle < 90; ++handle) trace.push_back(handle);
  const uint64_t before_shift = trace.size();
  for (int round = 0; round < 50; ++round)
    for (Handle handle = 500; handle < 590; ++handle) trace.push_back(handle);
  const double all = replay(EvictionPolicyKind::kDecayedLfu, trace, kCapacity);
  const double misses = (1 - all) * static_cast<double>(trace.size());
  EXPECT_EQ(before_shift, 200u * 90);
  // 180 first uses, and few more until the old ones are gone.
  EXPECT_LT(misses, 180 + 8 * 90);
}

TEST(Replay, SmallKIsLru) {
  std::mt19937_64 random(9);
  std::vector<Handle> trace;
  for (int i = 0; i < 20000; ++i) {
    const double u = std::uniform_real_distribution<double>(0, 1)(random);
    trace.push_back(static_cast<Handle>(1000 * u * u * u));
  }
  const double lru = replay(EvictionPolicyKind::kLru, trace, 100);
  const double lfu = replay(EvictionPolicyKind::kDecayedLfu, trace, 100, 1e-3);
  EXPECT_NEAR(lru, lfu, 0.005);
}

TEST(EvictionPolicy, Names) {
  for (const auto kind : kAllPolicies) {
    const auto policy = make_eviction_policy(kind, {});
    EXPECT_EQ(eviction_policy_from_name(policy->name()), kind);
  }
  EXPECT_EQ(eviction_policy_from_name("fifo"), std::nullopt);
}

}  // namespace
}  // namespace quire::tiers
