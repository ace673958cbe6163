#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "tiers/evict/next_uses.h"
#include "tiers/evict/policies.h"

namespace quire::tiers {
namespace {

using Handle = EvictionPolicy::Handle;
using Kind = EvictionPolicyKind;

constexpr auto kAllPolicies = {Kind::kLru, Kind::kDecayedLfu, Kind::kS3Fifo};
constexpr uint64_t kSecondNs = 1'000'000'000;

bool any(Handle) {
  return true;
}

UseHint finished() {
  UseHint hint;
  hint.finished = true;
  return hint;
}

UseHint steps(uint32_t count) {
  UseHint hint;
  hint.steps_to_next_use = count;
  return hint;
}

UseHint at_ns(uint64_t next_use_ns) {
  UseHint hint;
  hint.next_use_ns = next_use_ns;
  return hint;
}

UseHint priority(uint8_t value) {
  UseHint hint;
  hint.priority = value;
  return hint;
}

std::unique_ptr<EvictionPolicy> make(Kind kind, uint64_t capacity, std::optional<double> k = 2.0) {
  EvictionOptions options;
  options.capacity_bytes = capacity;
  options.k = k;
  return make_eviction_policy(kind, options);
}

std::vector<Handle> evict_all(EvictionPolicy& policy) {
  std::vector<Handle> order;
  while (const auto victim = policy.victim(any)) {
    order.push_back(*victim);
    policy.evict(*victim);
  }
  return order;
}

TEST(UseHint, FinishedGoFirstInTheOrderOfTheirHints) {
  for (const Kind kind : kAllPolicies) {
    const auto policy = make(kind, 10);
    SCOPED_TRACE(policy->name());
    for (Handle handle = 0; handle < 10; ++handle) policy->insert(handle, 1);
    for (int use = 0; use < 5; ++use)
      for (const Handle handle : {8, 9, 5}) policy->touch(handle);
    policy->hint(9, finished());
    policy->hint(8, finished());
    policy->hint(77, finished());
    EXPECT_EQ(policy->size(), 10u);
    EXPECT_FALSE(policy->contains(77));
    const std::vector<Handle> order = evict_all(*policy);
    ASSERT_EQ(order.size(), 10u);
    EXPECT_EQ((std::vector<Handle>{order[0], order[1]}), (std::vector<Handle>{9, 8}));
    EXPECT_EQ(policy->bytes(), 0u);
  }
}

TEST(UseHint, ATouchOrAnotherHintTakesFinishedBack) {
  for (const Kind kind : kAllPolicies) {
    const auto policy = make(kind, 10);
    SCOPED_TRACE(policy->name());
    for (Handle handle = 0; handle < 10; ++handle) policy->insert(handle, 1);
    for (const Handle handle : {3, 4, 5}) policy->hint(handle, finished());
    policy->touch(3);
    policy->hint(4, UseHint{});
    EXPECT_EQ(policy->victim(any), Handle{5});
    policy->remove(5);
    const auto next = policy->victim(any);
    EXPECT_TRUE(next.has_value() && *next != 3) << *next;
    EXPECT_EQ(evict_all(*policy).size(), 9u);
  }
}

TEST(UseHint, FinishedButInUseIsStillFirstOnceItIsFree) {
  for (const Kind kind : kAllPolicies) {
    const auto policy = make(kind, 1000);
    SCOPED_TRACE(policy->name());
    for (Handle handle = 0; handle < 1000; ++handle) policy->insert(handle, 1);
    for (Handle handle = 0; handle < 2 * kFinishedScanMax; ++handle)
      policy->hint(500 + handle, finished());
    // All of them leased: others go, and few are asked about.
    uint64_t asked = 0;
    const auto not_finished = [&](Handle handle) {
      ++asked;
      return handle < 500;
    };
    const auto other = policy->victim(not_finished);
    ASSERT_TRUE(other.has_value());
    EXPECT_LT(*other, 500u);
    EXPECT_LE(asked, kFinishedScanMax + 1);
    const auto first = policy->victim(any);
    ASSERT_TRUE(first.has_value());
    EXPECT_GE(*first, 500u);
    EXPECT_LT(*first, 500u + 2 * kFinishedScanMax);
  }
}

TEST(UseHint, FarNextUsesLowerAndNearOnesRaise) {
  for (const Kind kind : kAllPolicies) {
    const auto policy = make(kind, 160);
    SCOPED_TRACE(policy->name());
    for (Handle handle = 0; handle < 16; ++handle) policy->insert(handle, 10);
    // A step is a sixteenth of a turnover until measured: 1000 steps are 62 turnovers.
    policy->hint(15, steps(1000));
    policy->hint(0, steps(1));
    EXPECT_EQ(policy->victim(any), Handle{15});
    policy->evict(15);
    EXPECT_EQ(policy->victim(any), Handle{1});
    const std::vector<Handle> order = evict_all(*policy);
    // S3-FIFO gives it its hits, and then those of the small queue follow.
    const auto place = std::ranges::find(order, Handle{0}) - order.begin();
    EXPECT_GE(place, kind == Kind::kS3Fifo ? 8 : 14);
  }
}

TEST(UseHint, MostStepsGoFirst) {
  const auto policy = make(Kind::kDecayedLfu, 160);
  std::vector<Handle> expected;
  for (Handle handle = 0; handle < 16; ++handle) policy->insert(handle, 10);
  for (Handle handle = 0; handle < 16; ++handle)
    policy->hint(handle, steps(static_cast<uint32_t>((handle * 7) % 16 + 1)));
  const std::vector<Handle> order = evict_all(*policy);
  for (uint64_t i = 1; i < order.size(); ++i)
    EXPECT_GT((order[i - 1] * 7) % 16, (order[i] * 7) % 16);
}

TEST(UseHint, AsIfUsedAtThatDistanceAgainAndAgain) {
  // k = 1 and 100 bytes: used every d bytes means a frequency of 100 / d. The hinted one (d = 25 by
  // its steps) lies between the one with 3 recent uses and the one with 5.
  const auto policy = make(Kind::kDecayedLfu, 100'000, 1.0);
  for (const Handle handle : {1, 2, 3}) policy->insert(handle, 1);
  for (int i = 0; i < 2; ++i) policy->touch(1);
  for (int i = 0; i < 4; ++i) policy->touch(2);
  policy->hint(3, steps(4));
  EXPECT_EQ(evict_all(*policy), (std::vector<Handle>{1, 3, 2}));
}

TEST(UseHint, PriorityDoublesFrequencyEvery32) {
  const auto policy = make(Kind::kDecayedLfu, 100'000, 1.0);
  for (const Handle handle : {1, 2, 3, 4, 5}) policy->insert(handle, 1);
  for (int i = 0; i < 2; ++i) policy->touch(1);     // 3 uses
  for (int i = 0; i < 4; ++i) policy->touch(2);     // 5
  policy->hint(3, priority(kPriorityNormal + 64));  // counts as 4
  policy->hint(4, priority(255));                   // as nearly 16
  for (int i = 0; i < 20; ++i) policy->touch(5);
  policy->hint(5, priority(kPriorityNormal - 96));  // 21 / 8
  EXPECT_EQ(evict_all(*policy), (std::vector<Handle>{5, 1, 3, 2, 4}));
}

TEST(UseHint, PriorityOutlivesTouchesAndHintsButNotEviction) {
  const auto policy = make(Kind::kDecayedLfu, 100'000, 1.0);
  for (const Handle handle : {1, 2}) policy->insert(handle, 1);
  policy->hint(1, priority(255));
  policy->touch(1);
  policy->hint(1, UseHint{});
  for (int i = 0; i < 6; ++i) policy->touch(2);
  EXPECT_EQ(policy->victim(any), Handle{2});
  policy->evict(1);
  policy->insert(1, 1);
  EXPECT_EQ(policy->victim(any), Handle{1});
}

TEST(UseHint, TimeIsTurnedIntoBytesByTheMeasuredRate) {
  // 100 bytes are accessed in a second: 10 s away is one turnover of 1000 bytes.
  NextUses uses(1000);
  uint64_t now_ns = kSecondNs;
  for (int i = 0; i < 60; ++i) {
    uses.tick(now_ns);
    uses.accessed(100);
    now_ns += kSecondNs;
  }
  uses.tick(now_ns);
  uses.tick(now_ns - 30 * kSecondNs);
  EXPECT_NEAR(uses.distance_bytes(at_ns(now_ns + 10 * kSecondNs)).value(), 1000, 1);
  EXPECT_NEAR(uses.distance_bytes(at_ns(now_ns - 5)).value(), 1000 * kNearestTurnovers, 1e-9);
  // The sooner of the two counts.
  UseHint both = at_ns(now_ns + 10 * kSecondNs);
  both.steps_to_next_use = 2;
  EXPECT_NEAR(uses.distance_bytes(both).value(), 2 * 1000 * kStepTurnoversGuess, 1e-9);
  EXPECT_EQ(uses.distance_bytes(UseHint{}), std::nullopt);
  // Far beyond anything: still a number.
  EXPECT_TRUE(std::isfinite(uses.distance_bytes(at_ns(UINT64_MAX)).value()));
}

TEST(UseHint, StepsAreMeasured) {
  NextUses uses(1'000'000);
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(uses.set(1, steps(4)));
    uses.accessed(4 * 500);
    EXPECT_TRUE(uses.used(1));
    EXPECT_FALSE(uses.used(1));
  }
  const double nearest = 1'000'000 * kNearestTurnovers;
  EXPECT_NEAR(uses.distance_bytes(steps(100)).value(), 50'000, 500);
  EXPECT_EQ(uses.distance_bytes(steps(0)).value(), nearest);
}

TEST(UseHint, PassesWhenTheUseStaysAway) {
  const auto policy = make(Kind::kDecayedLfu, 160);
  policy->insert(1000, 10);
  policy->hint(1000, steps(1));
  // One step is 10 bytes here; four are enough to be overdue. Then it is as old as it is.
  for (Handle handle = 1; handle <= 8; ++handle) policy->insert(handle, 10);
  EXPECT_EQ(policy->victim(any), Handle{1000});
}

TEST(UseHint, RaisesAnObjectAsItsUseComesNear) {
  // 64 steps of 10 bytes are 4 turnovers: at first it would go before all others.
  const auto policy = make(Kind::kDecayedLfu, 160, 1.0);
  policy->insert(1000, 10);
  policy->hint(1000, steps(64));
  policy->insert(1, 10);
  EXPECT_EQ(policy->victim(any), Handle{1000});
  // 600 bytes later the use is near: whatever is inserted meanwhile goes before it.
  for (Handle handle = 2; handle <= 60; ++handle) {
    policy->insert(handle, 10);
    const auto cold = [](Handle candidate) { return candidate != 1000; };
    while (policy->size() > 16) policy->evict(policy->victim(cold).value());
  }
  EXPECT_NE(policy->victim(any), Handle{1000});
  policy->touch(1000);
  EXPECT_EQ(evict_all(*policy).back(), 1000u);
}

TEST(UseHint, EqualHintsOfAChainGivenTailFirstLeaveTailFirst) {
  for (const UseHint& hint : {steps(3), steps(500), finished(), priority(20), priority(220)}) {
    const auto policy = make(Kind::kDecayedLfu, 1000);
    for (Handle link = 10; link-- > 0;) policy->insert(link, 1);
    for (Handle link = 10; link-- > 0;) policy->hint(link, hint);
    EXPECT_EQ(evict_all(*policy), (std::vector<Handle>{9, 8, 7, 6, 5, 4, 3, 2, 1, 0}));
  }
}

// The definition, without any incremental arithmetic.
class Reference {
 public:
  explicit Reference(double unit_bytes) : unit_bytes_(unit_bytes) {}

  void access(Handle handle, uint64_t bytes) {
    now_ += static_cast<double>(bytes) / unit_bytes_;
    accesses_[handle].push_back(now_);
    held_.insert(handle);
    finished_.erase(handle);
    order_[handle] = next_++;
  }
  void hint(Handle handle, const UseHint& hint) {
    if (!held_.contains(handle)) return;
    if (hint.priority) priority_[handle] = *hint.priority;
    finished_.erase(handle);
    if (hint.finished) finished_.insert(handle);
    order_[handle] = next_++;
  }
  void leave(Handle handle, bool forget) {
    if (forget) accesses_.erase(handle);
    held_.erase(handle);
    finished_.erase(handle);
    priority_.erase(handle);
  }
  // Lower goes first; -infinity where it has finished.
  double score(Handle handle) const {
    if (finished_.contains(handle)) return -1e300 + static_cast<double>(order_.at(handle)) * 1e280;
    double frequency = 0;
    for (const double time : accesses_.at(handle)) frequency += std::exp(time - now_);
    const auto found = priority_.find(handle);
    const double shift = found == priority_.end() ? 0 : (found->second - 128.0) / 32;
    return std::log2(frequency) + shift;
  }
  double lowest() const {
    double lowest = 1e300;
    for (const Handle handle : held_) lowest = std::min(lowest, score(handle));
    return lowest;
  }
  uint64_t size() const { return held_.size(); }

 private:
  double unit_bytes_;
  double now_ = 0;
  uint64_t next_ = 0;
  std::map<Handle, std::vector<double>> accesses_;
  std::map<Handle, double> priority_;
  std::map<Handle, uint64_t> order_;
  std::set<Handle> held_;
  std::set<Handle> finished_;
};

TEST(DecayedLfuProperty, EveryVictimHasTheLowestScoreOfTheDefinition) {
  for (const uint64_t seed : {1, 2, 3, 4}) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto draw = [&](uint64_t limit) { return random() % limit; };
    const auto policy = make(Kind::kDecayedLfu, 500, 1.5);
    Reference reference(1.5 * 500);
    std::vector<uint64_t> bytes(60);
    for (auto& size : bytes) size = 1 + draw(40);
    for (int step = 0; step < 4000; ++step) {
      const Handle handle = draw(60) * draw(60) / 60;
      const uint64_t dice = draw(20);
      if (dice < 14) {
        policy->insert(handle, bytes[handle]);
        reference.access(handle, bytes[handle]);
      } else if (dice < 16) {
        UseHint hint;
        if (draw(2) == 0) hint.priority = static_cast<uint8_t>(draw(256));
        hint.finished = draw(3) == 0;
        policy->hint(handle, hint);
        reference.hint(handle, hint);
      } else if (dice < 17) {
        policy->remove(handle);
        reference.leave(handle, true);
      }
      while (policy->bytes() > 500) {
        const Handle victim = policy->victim(any).value();
        const double lowest = reference.lowest();
        ASSERT_NEAR(reference.score(victim), lowest, std::abs(lowest) * 1e-12 + 1e-9)
            << "step " << step;
        policy->evict(victim);
        reference.leave(victim, false);
      }
      ASSERT_EQ(policy->size(), reference.size());
    }
  }
}

}  // namespace
}  // namespace quire::tiers
