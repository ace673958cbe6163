#include "tiers/index/sorted_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

namespace quire::tiers {
namespace {

// Order, and no gap between a cell and the place where probing for it begins.
void expect_sound(const SortedTable& table, const std::map<uint32_t, uint32_t>& model) {
  ASSERT_EQ(table.size(), model.size());
  auto expected = model.begin();
  for (uint64_t position = 0; position < table.positions(); ++position) {
    if (!table.occupied(position)) continue;
    ASSERT_NE(expected, model.end());
    ASSERT_EQ(table.at(position).tag, expected->first);
    ASSERT_EQ(table.at(position).value, expected->second);
    ASSERT_EQ(table.seek(expected->first), position);
    ASSERT_EQ(table.find(expected->first), expected->second);
    ++expected;
  }
  ASSERT_EQ(expected, model.end());
  ASSERT_FALSE(table.occupied(table.positions() - 1));
}

struct Keys {
  const char* name;
  uint32_t base;
  uint32_t range;  // keys are base to base + range, both included
};

TEST(SortedTable, RandomUseAgainstAMap) {
  // Uniform keys; few; and many that all begin at one home: at the front, within, at the very end.
  const Keys sets[] = {{"uniform", 0, UINT32_MAX},
                       {"few", 0, 20},
                       {"one home", 0, 3000},
                       {"one home within", 1u << 31, 3000},
                       {"last home", UINT32_MAX - 3000, 3000}};
  for (const Keys& keys : sets) {
    const uint64_t seed = 7;
    SCOPED_TRACE(std::string(keys.name) + ", seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    SortedTable table;
    std::map<uint32_t, uint32_t> model;
    for (int step = 0; step < 15000; ++step) {
      const auto key = static_cast<uint32_t>(keys.base + random() % (uint64_t{keys.range} + 1));
      const bool shrinking = (step / 3000) % 2 == 1;
      const bool insert = random() % 4 < (shrinking ? 1 : 3);
      if (insert) {
        table.prepare_insert();
        const uint64_t position = table.seek(key);
        const auto value = static_cast<uint32_t>(random() % 1000);
        if (model.contains(key)) {
          ASSERT_EQ(table.at(position).tag, key);
          table.set_value(position, value);
        } else {
          table.insert(position, key, value);
        }
        model[key] = value;
      } else if (!model.empty()) {
        auto victim = model.lower_bound(key);
        if (victim == model.end()) victim = model.begin();
        const uint64_t position = table.seek(victim->first);
        ASSERT_EQ(table.at(position).tag, victim->first);
        table.erase(position);
        model.erase(victim);
      }
      const auto found = model.find(key);
      ASSERT_EQ(table.find(key), found == model.end() ? SortedTable::kEmpty : found->second);
      if (step % 1000 == 0) expect_sound(table, model);
    }
    expect_sound(table, model);
    while (!model.empty()) {
      table.erase(table.seek(model.begin()->first));
      model.erase(model.begin());
    }
    expect_sound(table, model);
  }
}

TEST(SortedTable, SeekFindsTheFirstThatIsNotBefore) {
  std::mt19937_64 random(8);
  for (const uint32_t range : {500u, 1u << 20, UINT32_MAX}) {
    SortedTable table;
    std::map<uint32_t, uint32_t> model;
    for (uint32_t i = 0; i < 2000; ++i) {
      const auto key = static_cast<uint32_t>(random() % range);
      if (!model.emplace(key, i).second) continue;
      table.prepare_insert();
      table.insert(table.seek(key), key, i);
    }
    for (int i = 0; i < 20000; ++i) {
      const auto key = static_cast<uint32_t>(random() % range);
      uint64_t position = table.seek(key);
      while (position < table.positions() && !table.occupied(position)) ++position;
      const auto expected = model.lower_bound(key);
      if (expected == model.end()) {
        ASSERT_EQ(position, table.positions());
      } else {
        ASSERT_LT(position, table.positions());
        ASSERT_EQ(table.at(position).tag, expected->first);
      }
    }
  }
}

TEST(SortedTable, MemoryFollowsSize) {
  std::mt19937_64 random(9);
  SortedTable table;
  std::vector<uint32_t> keys;
  while (keys.size() < 100'000) {
    const auto key = static_cast<uint32_t>(random());
    if (table.find(key) != SortedTable::kEmpty) continue;
    table.prepare_insert();
    table.insert(table.seek(key), key, 1);
    keys.push_back(key);
    if (keys.size() >= 10'000) {
      ASSERT_LE(table.memory_bytes(), 15 * keys.size());
    }
  }
  for (const uint32_t key : keys) table.erase(table.seek(key));
  EXPECT_LE(table.memory_bytes(), 4096u);

  SortedTable reserved;
  reserved.reserve(100'000);
  const uint64_t bytes = reserved.memory_bytes();
  EXPECT_LE(bytes, 100'000 * 10u);
  for (const uint32_t key : keys) {
    reserved.prepare_insert();
    reserved.insert(reserved.seek(key), key, 1);
  }
  EXPECT_EQ(reserved.memory_bytes(), bytes);
}

}  // namespace
}  // namespace quire::tiers
