#include "bench/quire-bench/result.h"

#include <gtest/gtest.h>

#include <sstream>

namespace quire::bench {
namespace {

Result result_of(Direction direction, double value, double floor) {
  Result result;
  result.bench = "x.y";
  result.value = value;
  result.floor = floor;
  result.unit = "u";
  result.direction = direction;
  return result;
}

TEST(Result, MoreIsAlwaysBetter) {
  EXPECT_DOUBLE_EQ(result_of(Direction::kRate, 3, 4).ratio(), 0.75);
  EXPECT_DOUBLE_EQ(result_of(Direction::kTime, 20, 5).ratio(), 0.25);
  EXPECT_DOUBLE_EQ(result_of(Direction::kCount, 0, 0).ratio(), 1);
  EXPECT_DOUBLE_EQ(result_of(Direction::kCount, 2, 0).ratio(), 0);
  EXPECT_DOUBLE_EQ(result_of(Direction::kRate, 3, 0).ratio(), 0);
  EXPECT_DOUBLE_EQ(result_of(Direction::kTime, 0, 3).ratio(), 0);
}

TEST(Result, JsonHasTheSixKeysInOrder) {
  Result result = result_of(Direction::kTime, 20, 5);
  result.params["rounds"] = 9;
  std::ostringstream out;
  print_json(result, out);
  EXPECT_EQ(out.str(),
            "{\"bench\":\"x.y\",\"params\":{\"rounds\":9},\"value\":20.0,\"unit\":\"u\","
            "\"floor\":5.0,\"ratio\":0.25}\n");
}

TEST(Percentile, NearestRank) {
  EXPECT_EQ(percentile({5}, 0.5), 5);
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 3, 2}), 2);
  EXPECT_EQ(percentile({1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 0.9), 9);
  EXPECT_EQ(percentile({1, 2, 3}, 0), 1);
  EXPECT_EQ(percentile({1, 2, 3}, 1), 3);
}

}  // namespace
}  // namespace quire::bench
