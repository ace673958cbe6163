// Histories that a sound store can have are accepted, and each way of being wrong is rejected.
#include "tests/sim/value_history.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

namespace quire::sim {
namespace {

using testing::HasSubstr;
using testing::Optional;

class ValueHistoryTest : public testing::Test {
 protected:
  void put(uint64_t version, PutOutcome outcome = PutOutcome::kMemory) {
    EXPECT_EQ(history_.end_put(history_.begin_put(0, version), outcome, true), std::nullopt);
  }
  HistoryVerdict hit(uint64_t version) { return history_.end_hit(get(), {0, version}); }
  HistoryVerdict remove(RemoveOutcome outcome, bool evictions_possible = true) {
    return history_.end_remove(history_.begin_remove(0), outcome, evictions_possible);
  }
  HistoryVerdict miss(bool evictions_possible = false) {
    return history_.end_miss(get(), evictions_possible);
  }
  HistoryOperation get() { return history_.begin_get(0); }

  ValueHistory history_{2};
};

TEST_F(ValueHistoryTest, LastValueAndMissesAreAccepted) {
  EXPECT_EQ(miss(), std::nullopt);
  put(1);
  EXPECT_EQ(hit(1), std::nullopt);
  EXPECT_EQ(miss(), std::nullopt);  // in memory only: may be forgotten
  EXPECT_EQ(history_.end_found(get()), std::nullopt);
  put(2);
  EXPECT_EQ(hit(2), std::nullopt);
  EXPECT_EQ(remove(RemoveOutcome::kRemoved), std::nullopt);
  EXPECT_EQ(miss(), std::nullopt);
}

TEST_F(ValueHistoryTest, StaleValueIsRejected) {
  put(1);
  put(2);
  EXPECT_THAT(hit(1), Optional(HasSubstr("gone since")));
}

TEST_F(ValueHistoryTest, EitherOfOverlappingPutsIsAccepted) {
  const HistoryOperation first = history_.begin_put(0, 1);
  const HistoryOperation second = history_.begin_put(0, 2);
  EXPECT_EQ(history_.end_put(first, PutOutcome::kMemory, true), std::nullopt);
  EXPECT_EQ(history_.end_put(second, PutOutcome::kMemory, true), std::nullopt);
  EXPECT_EQ(hit(1), std::nullopt);
  // So the first one was the last.
  EXPECT_THAT(hit(2), Optional(HasSubstr("gone since")));
}

TEST_F(ValueHistoryTest, ValueReadBackAfterALaterOneIsRejected) {
  put(1);
  const HistoryOperation put = history_.begin_put(0, 2);
  EXPECT_EQ(hit(1), std::nullopt);
  EXPECT_EQ(hit(2), std::nullopt);
  EXPECT_THAT(hit(1), Optional(HasSubstr("gone since")));
  EXPECT_EQ(history_.end_put(put, PutOutcome::kMemory, true), std::nullopt);
}

TEST_F(ValueHistoryTest, GetThatOverlapsThePutMayReturnEither) {
  put(1);
  const HistoryOperation early = get();
  const HistoryOperation also_early = get();
  put(2);
  EXPECT_EQ(history_.end_hit(early, {0, 1}), std::nullopt);
  EXPECT_EQ(history_.end_hit(also_early, {0, 2}), std::nullopt);
}

TEST_F(ValueHistoryTest, ValueOfAPutUnderWayIsAccepted) {
  const HistoryOperation put = history_.begin_put(0, 1);
  EXPECT_EQ(hit(1), std::nullopt);
  EXPECT_EQ(history_.end_put(put, PutOutcome::kMemory, true), std::nullopt);
  EXPECT_EQ(hit(1), std::nullopt);
}

TEST_F(ValueHistoryTest, ValueOfAnotherKeyIsRejected) {
  put(1);
  EXPECT_EQ(history_.end_put(history_.begin_put(1, 2), PutOutcome::kMemory, true), std::nullopt);
  EXPECT_THAT(history_.end_hit(get(), {1, 2}), Optional(HasSubstr("another key")));
  EXPECT_THAT(history_.end_hit(get(), {0, 2}), Optional(HasSubstr("nobody put it")));
}

TEST_F(ValueHistoryTest, ValueFromTheFutureIsRejected) {
  put(1);
  const HistoryOperation early = get();
  EXPECT_THAT(history_.end_hit(early, {0, 2}), Optional(HasSubstr("nobody put it yet")));
  put(2);
  EXPECT_EQ(hit(2), std::nullopt);
}

TEST_F(ValueHistoryTest, ValueReadAfterItsDeleteCompletedIsRejected) {
  put(1);
  const HistoryOperation early = get();
  EXPECT_EQ(remove(RemoveOutcome::kRemoved), std::nullopt);
  EXPECT_EQ(history_.end_hit(early, {0, 1}), std::nullopt);  // it overlaps the delete
  EXPECT_THAT(hit(1), Optional(HasSubstr("gone since")));
  EXPECT_THAT(history_.end_found(get()), Optional(HasSubstr("no version")));
}

TEST_F(ValueHistoryTest, ValueReadAfterItsAbsenceWasReportedIsRejected) {
  put(1);
  EXPECT_EQ(remove(RemoveOutcome::kAbsent), std::nullopt);
  EXPECT_THAT(hit(1), Optional(HasSubstr("gone since")));
}

TEST_F(ValueHistoryTest, RefusedAndOverlappingDeletesTakeNothing) {
  put(1);
  EXPECT_EQ(remove(RemoveOutcome::kRefused), std::nullopt);
  EXPECT_EQ(hit(1), std::nullopt);
  EXPECT_EQ(remove(RemoveOutcome::kUnknown), std::nullopt);
  EXPECT_EQ(hit(1), std::nullopt);
  const HistoryOperation early = history_.begin_remove(0);
  put(2);
  EXPECT_EQ(history_.end_remove(early, RemoveOutcome::kRemoved, true), std::nullopt);
  EXPECT_EQ(hit(2), std::nullopt);
}

TEST_F(ValueHistoryTest, DurableValueLostWithoutEvictionIsRejected) {
  put(1, PutOutcome::kDurable);
  EXPECT_THAT(miss(), Optional(HasSubstr("never removed, and is missed")));
  EXPECT_EQ(miss(true), std::nullopt);
  EXPECT_THAT(remove(RemoveOutcome::kAbsent, false), Optional(HasSubstr("is missed")));
}

TEST_F(ValueHistoryTest, PutThatStoresOverADurableValueIsRejected) {
  put(1, PutOutcome::kDurable);
  EXPECT_THAT(history_.end_put(history_.begin_put(0, 2), PutOutcome::kMemory, false),
              Optional(HasSubstr("is missed")));
}

TEST_F(ValueHistoryTest, DurableValueMayBeMissedAfterOrDuringADelete) {
  const HistoryOperation early = get();
  put(1, PutOutcome::kDurable);
  EXPECT_EQ(history_.end_miss(early, false), std::nullopt);  // it began before the put had ended
  EXPECT_EQ(remove(RemoveOutcome::kRefused), std::nullopt);
  EXPECT_THAT(miss(), Optional(HasSubstr("is missed")));
  const HistoryOperation under_way = history_.begin_remove(0);
  EXPECT_EQ(miss(), std::nullopt);
  EXPECT_EQ(history_.end_remove(under_way, RemoveOutcome::kRemoved, false), std::nullopt);
  EXPECT_EQ(miss(), std::nullopt);
  put(2, PutOutcome::kDurable);
  EXPECT_THAT(miss(), Optional(HasSubstr("version 2")));
}

TEST_F(ValueHistoryTest, ValueOfARefusedPutIsRejected) {
  put(1, PutOutcome::kNothing);
  EXPECT_THAT(hit(1), Optional(HasSubstr("stored nothing")));
  const HistoryOperation put = history_.begin_put(0, 2);
  EXPECT_EQ(hit(2), std::nullopt);
  EXPECT_THAT(history_.end_put(put, PutOutcome::kNothing, true),
              Optional(HasSubstr("stored nothing")));
}

TEST_F(ValueHistoryTest, CancelledPutMayBeReadUntilItEnds) {
  const HistoryOperation put = history_.begin_put(0, 1);
  EXPECT_EQ(hit(1), std::nullopt);
  EXPECT_EQ(history_.end_put(put, PutOutcome::kCancelled, false), std::nullopt);
  EXPECT_EQ(miss(), std::nullopt);
  EXPECT_THAT(hit(1), Optional(HasSubstr("gone since")));
}

TEST_F(ValueHistoryTest, FailedPutMayHaveStored) {
  put(1);
  put(2, PutOutcome::kUnknown);
  EXPECT_EQ(hit(1), std::nullopt);
  EXPECT_EQ(hit(2), std::nullopt);
  EXPECT_THAT(hit(1), Optional(HasSubstr("gone since")));
}

// A store of one lock that keeps the rules: whatever the threads do, nothing is rejected.
TEST_F(ValueHistoryTest, ThreadsOnASoundStoreAreAccepted) {
  std::mutex mutex;
  std::optional<uint64_t> stored[2];
  std::vector<std::string> problems;
  const auto judge = [&](const HistoryVerdict& verdict) {
    if (!verdict) return;
    const std::lock_guard lock(mutex);
    problems.push_back(*verdict);
  };
  const auto swap_in = [&](uint32_t key, std::optional<uint64_t> value) {
    const std::lock_guard lock(mutex);
    const bool stores = value.has_value() != stored[key].has_value();
    if (stores) stored[key] = value;
    return stores;
  };
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937_64 random(thread);
      for (uint64_t i = 1; i <= 20'000; ++i) {
        const auto key = static_cast<uint32_t>(random() % 2);
        const uint64_t version = thread << 32 | i;
        if (random() % 4 == 0) {
          const HistoryOperation put = history_.begin_put(key, version);
          const bool stores = swap_in(key, version);
          judge(history_.end_put(put, stores ? PutOutcome::kDurable : PutOutcome::kNothing, false));
        } else if (random() % 4 == 0) {
          const HistoryOperation remove = history_.begin_remove(key);
          const bool stores = swap_in(key, std::nullopt);
          judge(history_.end_remove(
              remove, stores ? RemoveOutcome::kRemoved : RemoveOutcome::kAbsent, false));
        } else {
          const HistoryOperation get = history_.begin_get(key);
          std::unique_lock lock(mutex);
          const std::optional<uint64_t> value = stored[key];
          lock.unlock();
          judge(value ? history_.end_hit(get, {key, *value}) : history_.end_miss(get, false));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(problems, testing::IsEmpty());
}

}  // namespace
}  // namespace quire::sim
