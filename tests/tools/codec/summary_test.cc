#include <gtest/gtest.h>

#include "bench/codec/end_to_end.h"

namespace quire::bench {
namespace {

TEST(KlSummary, MeansOverPositionsAndIntervalsOverPrompts) {
  std::vector<PromptDistance> prompts = {{1.0, 10, 9, 100, 800}, {6.0, 20, 10, 100, 800}};
  const KlSummary summary = summarize(prompts, 7);
  EXPECT_DOUBLE_EQ(summary.kl, 7.0 / 30);
  EXPECT_DOUBLE_EQ(summary.top1, 19.0 / 30);
  EXPECT_DOUBLE_EQ(summary.bits_per_element, 1.0);
  EXPECT_EQ(summary.prompts, 2u);
  EXPECT_EQ(summary.positions, 30u);
  // Both draws the same prompt in a quarter of all cases each.
  EXPECT_DOUBLE_EQ(summary.kl_low, 0.1);
  EXPECT_DOUBLE_EQ(summary.kl_high, 0.3);
  prompts.resize(1);
  const KlSummary one = summarize(prompts, 7);
  EXPECT_DOUBLE_EQ(one.kl_low, one.kl_high);
  EXPECT_EQ(summarize({}, 7).prompts, 0u);
}

}  // namespace
}  // namespace quire::bench
