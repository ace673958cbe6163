#include "tiers/index/fingerprint_table.h"

#include <gtest/gtest.h>

#include <random>
#include <unordered_map>

namespace quire::tiers {
namespace {

TEST(FingerprintTable, RandomUseAgainstAMap) {
  // A small range of fingerprints makes them collide and wrap around.
  for (const uint64_t range : {20ull, 300ull, 1ull << 40}) {
    std::mt19937_64 random(range);
    FingerprintTable table;
    std::unordered_map<uint64_t, uint32_t> model;
    for (int step = 0; step < 30000; ++step) {
      const uint64_t key = std::uniform_int_distribution<uint64_t>(0, range)(random) % (range + 1);
      const uint64_t action = random() % 3;
      const bool shrinking = (step / 3000) % 2 == 1;
      if (action == 0 || (action == 1 && !shrinking)) {
        const auto value = static_cast<uint32_t>(random() % 1000);
        table.set(key, value);
        model[key] = value;
      } else if (!model.empty()) {
        const uint64_t victim = random() % 2 == 0 ? key : model.begin()->first;
        table.erase(victim);
        model.erase(victim);
      }
      ASSERT_EQ(table.size(), model.size());
      const auto found = model.find(key);
      ASSERT_EQ(table.find(key), found == model.end() ? FingerprintTable::kEmpty : found->second);
      if (step % 500 != 0) continue;
      for (const auto& [each, value] : model) {
        ASSERT_EQ(table.find(each), value) << "range " << range;
      }
    }
  }
}

}  // namespace
}  // namespace quire::tiers
