#include "base/spin_gate.h"

#include <gtest/gtest.h>

namespace quire {
namespace {

TEST(SpinGate, StaysOpenWhileItFinds) {
  SpinGate gate;
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(gate.should_spin());
    gate.report(true);
  }
}

TEST(SpinGate, ClosesForLongerAndLongerThenOpensAtOnce) {
  SpinGate gate;
  for (const uint32_t skips : {1u, 3u, 7u, 15u, 31u, 63u, 63u, 63u}) {
    ASSERT_TRUE(gate.should_spin());
    gate.report(false);
    for (uint32_t i = 0; i < skips; ++i) ASSERT_FALSE(gate.should_spin()) << skips;
  }
  ASSERT_TRUE(gate.should_spin());
  gate.report(true);
  EXPECT_TRUE(gate.should_spin());
}

}  // namespace
}  // namespace quire
