// What an object costs in RAM, and how long adding, finding and listing take (printed only).
#include <gtest/gtest.h>
#include <malloc.h>

#include <chrono>
#include <cstdio>
#include <random>

#include "tests/tiers/index/index_harness.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define QUIRE_TEST_OWN_MALLOC 0
#else
#define QUIRE_TEST_OWN_MALLOC 1
#endif

namespace quire::tiers {
namespace {

constexpr uint64_t kSeed = 5;

class Stopwatch {
 public:
  double us() const {
    return std::chrono::duration<double, std::micro>(Clock::now() - begin_).count();
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point begin_ = Clock::now();
};

uint64_t allocated_bytes() {
#if QUIRE_TEST_OWN_MALLOC
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
#else
  return 0;
#endif
}

NewRow random_row(std::mt19937_64& random) {
  NewRow row;
  row.representation = random_digest(random);
  row.model = kModel;
  row.n_tokens = static_cast<uint32_t>(16 + random() % 2000);
  row.bytes = 1 << 20;
  row.codec = static_cast<uint16_t>(random() % 3);
  row.fingerprints = {random(), static_cast<uint32_t>(random()), static_cast<uint32_t>(random())};
  return row;
}

void add_rows(uint64_t count, uint64_t reserved) {
  std::mt19937_64 random(kSeed);
  std::vector<NewRow> rows(count);
  for (NewRow& row : rows) row = random_row(random);
  const uint64_t before = allocated_bytes();
  auto index = std::make_unique<MatchIndex>();
  index->reserve(reserved);
  double add_us = 0;
  double worst = 0;
  constexpr uint64_t kStep = 1000;
  for (uint64_t begin = 0; begin < count; begin += kStep) {
    const Stopwatch watch;
    for (uint64_t i = begin; i < begin + kStep; ++i) ASSERT_TRUE(index->add(rows[i]));
    add_us += watch.us();
    if (index->rows() < 10'000 || index->rows() < reserved) continue;
    const double each =
        static_cast<double>(index->memory_bytes()) / static_cast<double>(index->rows());
    worst = std::max(worst, each);
    ASSERT_LE(each, kIndexBytesPerObjectMax) << index->rows() << " rows";
  }
  const auto counted = static_cast<double>(index->memory_bytes());
  const auto allocated = static_cast<double>(allocated_bytes() - before);
  std::printf(
      "%lu rows, reserved %lu: %.1f bytes each, %.1f at worst on the way; %.2f million "
      "adds a second\n",
      count, reserved, counted / static_cast<double>(count), worst,
      static_cast<double>(count) / add_us);
#if QUIRE_TEST_OWN_MALLOC
  EXPECT_NEAR(allocated, counted, counted / 10);
  index.reset();
  EXPECT_LE(allocated_bytes(), before + (64u << 10));
#else
  (void)allocated;
#endif
}

TEST(MatchIndexMemory, AtMostTheLimitForEveryObject) {
  add_rows(100'000, 0);
  add_rows(100'000, 100'000);
  add_rows(1'000'000, 0);
}

TEST(MatchIndexMemory, ManySpacesAreCountedToo) {
  std::mt19937_64 random(kSeed);
  const uint64_t before = allocated_bytes();
  MatchIndex index;
  for (uint32_t i = 0; i < 20'000; ++i) {
    NewRow row = random_row(random);
    row.tenant = i;
    ASSERT_TRUE(index.add(row));
  }
#if QUIRE_TEST_OWN_MALLOC
  const auto counted = static_cast<double>(index.memory_bytes());
  EXPECT_NEAR(static_cast<double>(allocated_bytes() - before), counted, counted / 10);
#else
  (void)before;
#endif
}

// Chunks of 256 tokens; prompts of which most is known and prompts of which nothing is, against an
// index full of other rows.
TEST(MatchIndexMemory, TimesAreOnlyPrinted) {
  std::mt19937_64 random(kSeed);
  const Maker maker;
  IndexHarness store;
  for (uint64_t i = 0; i < 1'000'000; ++i) ASSERT_TRUE(store.index.add(random_row(random)));
  TokenList known;
  TokenList chain;
  for (int i = 0; i < 128; ++i) {
    const TokenList chunk = random_tokens(random, 250, 100'000);
    ASSERT_TRUE(store.add(maker.entry(chunk, VariantContext::isolated())));
    known = join({known, chunk, random_tokens(random, 6, 100'000)});
    const TokenList block = random_tokens(random, 256, 100'000);
    ASSERT_TRUE(store.add(maker.block(chain, block)));
    chain.insert(chain.end(), block.begin(), block.end());
  }
  const TokenList unknown = random_tokens(random, 32'768, 100'000);
  const auto time = [&](const char* name, const TokenList& prompt, uint64_t matches) {
    double best = 1e9;
    for (int i = 0; i < 9; ++i) {
      const Stopwatch watch;
      const ResolveResult result = store.resolve(maker.query(prompt));
      best = std::min(best, watch.us());
      EXPECT_EQ(result.matches.size(), matches);
    }
    std::printf("resolve of %zu tokens, %s: %.0f us\n", prompt.size(), name, best);
  };
  time("all chunks known", known, 128);
  time("all blocks known", chain, 128);
  time("nothing known", unknown, 0);
  Stopwatch watch;
  uint64_t listed = 0;
  std::optional<Digest> after;
  for (int i = 0; i < 100; ++i) {
    const auto page = store.index.list(after, 1000);
    listed += page.size();
    after = store.index.row(page.back()).representation;
  }
  EXPECT_EQ(listed, 100'000u);
  std::printf("page of 1000 rows: %.1f us\n", watch.us() / 100);
  watch = {};
  uint64_t found = 0;
  for (int i = 0; i < 100'000; ++i) found += store.index.find(random_digest(random)) != kNoRow;
  EXPECT_EQ(found, 0u);
  std::printf("find of an unknown id, its making included: %.3f us\n", watch.us() / 1e5);
}

}  // namespace
}  // namespace quire::tiers
