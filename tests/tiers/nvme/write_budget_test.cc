#include "tiers/nvme/write_budget.h"

#include <gtest/gtest.h>

namespace quire::nvme {
namespace {

constexpr uint64_t kHourNs = 3'600'000'000'000;
constexpr uint64_t kPerDay = 24'000'000;  // a million in an hour

TEST(WriteBudget, WithoutALimitItIsNeverOver) {
  ManualClock clock;
  WriteBudget budget(clock, 0);
  budget.update(UINT64_MAX);
  EXPECT_FALSE(budget.is_over());
}

TEST(WriteBudget, StartsWithAnHourAndRefillsAtItsRate) {
  ManualClock clock;
  WriteBudget budget(clock, kPerDay);
  EXPECT_EQ(1'000'000, budget.balance_bytes());
  budget.update(1'000'000);
  EXPECT_FALSE(budget.is_over());
  budget.update(1'000'001);
  EXPECT_TRUE(budget.is_over());
  clock.advance_ns(kHourNs / 10);
  budget.update(1'000'001);
  EXPECT_NEAR(99'999, static_cast<double>(budget.balance_bytes()), 2);
  EXPECT_TRUE(budget.is_over()) << "flaps";
  clock.advance_ns(kHourNs / 5);
  budget.update(1'000'001);
  EXPECT_FALSE(budget.is_over());
  // Idle time does not pile up beyond an hour's share.
  clock.advance_ns(100 * kHourNs);
  budget.update(1'000'001);
  EXPECT_EQ(1'000'000, budget.balance_bytes());
}

TEST(WriteBudget, KeepsDebtUpToADay) {
  ManualClock clock;
  WriteBudget budget(clock, kPerDay);
  budget.update(1'000'000'000'000);
  EXPECT_EQ(-static_cast<int64_t>(kPerDay) + 1'000'000, budget.balance_bytes());
  clock.advance_ns(23 * kHourNs);
  budget.update(1'000'000'000'000);
  EXPECT_TRUE(budget.is_over());
  clock.advance_ns(kHourNs / 2);
  budget.update(1'000'000'000'000);
  EXPECT_FALSE(budget.is_over());
}

// However often it is asked, a day lets a day's bytes pass, and the first hour's.
TEST(WriteBudget, SmallStepsLoseNothing) {
  ManualClock clock;
  WriteBudget budget(clock, kPerDay);
  uint64_t written = 0;
  for (int step = 0; step < 864'000; ++step) {  // 100 ms each
    clock.advance_ns(100'000'000);
    budget.update(written);
    if (!budget.is_over()) written += 100;
    if (budget.balance_bytes() > 0) written += 1000;
  }
  EXPECT_GT(written, kPerDay);
  EXPECT_LT(written, kPerDay + 1'100'000);
}

}  // namespace
}  // namespace quire::nvme
