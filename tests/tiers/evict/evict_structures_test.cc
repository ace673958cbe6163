#include <gtest/gtest.h>

#include <list>
#include <map>
#include <random>
#include <set>
#include <unordered_map>

#include "tiers/evict/ghost_keys.h"
#include "tiers/evict/handle_map.h"
#include "tiers/evict/score_heap.h"

namespace quire::tiers {
namespace {

TEST(HandleMap, AgreesWithAnOrdinaryMap) {
  for (const uint64_t seed : {1, 2, 3}) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    HandleMap map;
    std::unordered_map<uint64_t, uint32_t> expected;
    for (int step = 0; step < 40'000; ++step) {
      const uint64_t handle = random() % 700;
      if (random() % 2 == 0) {
        map.set(handle, static_cast<uint32_t>(step));
        expected[handle] = static_cast<uint32_t>(step);
      } else {
        map.erase(handle);
        expected.erase(handle);
      }
      ASSERT_EQ(map.size(), expected.size());
    }
    for (uint64_t handle = 0; handle < 700; ++handle) {
      const auto found = expected.find(handle);
      EXPECT_EQ(map.find(handle), found == expected.end() ? HandleMap::kNone : found->second);
    }
  }
}

TEST(ScoreHeap, AgreesWithASet) {
  std::mt19937_64 random(4);
  ScoreHeap heap;
  std::map<uint32_t, std::pair<double, uint64_t>> keys;
  std::set<std::tuple<double, uint64_t, uint32_t>> expected;
  for (uint64_t step = 0; step < 40'000; ++step) {
    const auto slot = static_cast<uint32_t>(random() % 300);
    if (const auto found = keys.find(slot); found != keys.end()) {
      expected.erase({found->second.first, found->second.second, slot});
      keys.erase(found);
    }
    if (random() % 3 == 0) {
      heap.erase(slot);
    } else {
      const double score = static_cast<double>(random() % 50);
      heap.set(slot, {score, step});
      keys[slot] = {score, step};
      expected.insert({score, step, slot});
    }
    ASSERT_EQ(heap.size(), expected.size());
    ASSERT_EQ(heap.contains(slot), keys.contains(slot));
    if (!expected.empty()) {
      ASSERT_EQ(heap.top(), std::get<2>(*expected.begin())) << "step " << step;
    }
  }
}

TEST(GhostKeys, AgreesWithAListAndStaysSmall) {
  constexpr uint64_t kLimit = 100;
  std::mt19937_64 random(5);
  GhostKeys<uint64_t> ghosts;
  std::list<std::pair<uint64_t, uint64_t>> expected;
  for (uint64_t step = 0; step < 50'000; ++step) {
    const uint64_t key = random() % 400;
    const auto known = std::ranges::find(expected, key, &std::pair<uint64_t, uint64_t>::first);
    if (random() % 3 == 0) {
      const auto value = ghosts.take(key);
      ASSERT_EQ(value.has_value(), known != expected.end());
      if (!value) continue;
      ASSERT_EQ(*value, known->second);
      expected.erase(known);
    } else {
      if (known != expected.end()) expected.erase(known);
      expected.push_back({key, step});
      if (expected.size() > kLimit) expected.pop_front();
      ghosts.put(key, step, kLimit);
    }
    ASSERT_EQ(ghosts.size(), expected.size());
    ASSERT_LE(ghosts.capacity(), kLimit + kLimit / 2);
  }
}

}  // namespace
}  // namespace quire::tiers
