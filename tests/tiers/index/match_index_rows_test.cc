// Rows by id and by number, against a map.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <unordered_map>

#include "tests/tiers/index/index_harness.h"

namespace quire::tiers {
namespace {

TEST(MatchIndexRows, ListsInOrderPageByPage) {
  std::mt19937_64 random(36);
  const Maker maker;
  IndexHarness store;
  for (int i = 0; i < 50; ++i)
    ASSERT_TRUE(
        store.add(maker.entry(random_tokens(random, 20, 1000), VariantContext::isolated())));
  std::vector<Digest> listed;
  std::optional<Digest> after;
  while (true) {
    const auto page = store.index.list(after, 7);
    if (page.empty()) break;
    ASSERT_LE(page.size(), 7u);
    for (const RowId row : page) listed.push_back(store.index.row(row).representation);
    after = listed.back();
  }
  std::vector<Digest> ids;
  for (const auto& [id, entry] : store.stored) ids.push_back(id);
  EXPECT_EQ(listed, ids);
  // The argument may live inside the row.
  const RowId row = store.index.find(listed[3]);
  EXPECT_TRUE(store.index.remove(store.index.row(row).representation));
  EXPECT_FALSE(store.index.remove(listed[3]));
  EXPECT_FALSE(store.index.remove(row));
  EXPECT_FALSE(store.index.remove(1000));
  EXPECT_FALSE(store.index.remove(kNoRow));
  // Behind an id that is gone.
  ASSERT_EQ(store.index.list(listed[3], 1).size(), 1u);
  EXPECT_EQ(store.index.row(store.index.list(listed[3], 1)[0]).representation, listed[4]);
  EXPECT_TRUE(store.index.list(listed.back(), 10).empty());
  EXPECT_TRUE(store.index.list(std::nullopt, 0).empty());
}

TEST(MatchIndexRows, PlaceAndFlagsDoNotTouchEachOther) {
  IndexRow row;
  EXPECT_EQ(row.place(), RowPlace::kMemory);
  row.set_flag(kRowDurable, true);
  row.set_place(RowPlace::kRocks);
  EXPECT_TRUE(row.flag(kRowDurable));
  EXPECT_FALSE(row.flag(kRowPinned));
  row.set_flag(kRowPinned, true);
  row.set_place(RowPlace::kNvme);
  row.set_flag(kRowDurable, false);
  EXPECT_EQ(row.place(), RowPlace::kNvme);
  EXPECT_TRUE(row.flag(kRowPinned));
  EXPECT_FALSE(row.flag(kRowDurable));
}

// Ids as SHA-256 gives them, and ids that somebody made to lie together: all the same but the last
// bytes, or all in the last sixteenth.
enum class Ids { kUniform, kCommonStart, kAtTheEnd };

class RowsAgainstMap {
 public:
  RowsAgainstMap(uint64_t seed, Ids ids) : random_(seed), ids_(ids) {}

  void run() {
    for (int step = 0; step < 30000 && !testing::Test::HasFatalFailure(); ++step) {
      // Grows and shrinks in turns; at times it is emptied.
      const bool shrinking = (step / 5000) % 2 == 1;
      if (random_() % 5 < (shrinking ? 1u : 4u)) {
        add();
      } else if (!model_.empty()) {
        remove();
      }
      if (step % 500 == 0) check_all();
      if (step == 20000)
        while (!model_.empty()) remove();
    }
    check_all();
  }

 private:
  struct Held {
    RowId row;
    const IndexRow* address;
    NewRow given;
    uint32_t hits;
  };

  Digest random_id() {
    Digest id = random_digest(random_);
    if (ids_ == Ids::kCommonStart)
      std::fill(id.bytes.begin(), id.bytes.begin() + 30, uint8_t{0x5a});
    if (ids_ == Ids::kAtTheEnd) id.bytes[0] |= 0xf0;
    return id;
  }

  void add() {
    NewRow row;
    row.representation = random_id();
    row.model = make_digest(static_cast<uint8_t>(random_() % 3));
    row.tenant = static_cast<TenantId>(random_() % 3);
    row.kind = static_cast<ContextKind>(random_() % kContextKindCount);
    row.phase = static_cast<Phase>(random_() % 2);
    row.codec = static_cast<uint16_t>(random_());
    row.checksum = {random_(), random_()};
    row.bytes = static_cast<uint32_t>(random_());
    row.n_tokens = static_cast<uint32_t>(1 + random_() % 300);
    row.fingerprints = {random_(), static_cast<uint32_t>(random_() % 64),
                        static_cast<uint32_t>(random_() % 64)};
    const auto added = index_.add(row);
    if (model_.contains(row.representation)) {
      ASSERT_EQ(added.status().code(), StatusCode::kAlreadyExists);
      return;
    }
    ASSERT_TRUE(added);
    const auto hits = static_cast<uint32_t>(random_());
    EXPECT_EQ(index_.row(*added).hits, 0u);
    EXPECT_EQ(index_.row(*added).live, UINT32_MAX);
    EXPECT_EQ(index_.row(*added).place_and_flags, 0u);
    index_.row(*added).hits = hits;
    model_[row.representation] = {*added, &index_.row(*added), row, hits};
    ASSERT_TRUE(numbers_.emplace(*added, row.representation).second);
  }

  void remove() {
    auto victim = model_.lower_bound(random_id());
    if (victim == model_.end()) victim = model_.begin();
    const bool by_number = random_() % 2 == 0;
    ASSERT_TRUE(by_number ? index_.remove(victim->second.row) : index_.remove(victim->first));
    ASSERT_EQ(index_.find(victim->first), kNoRow);
    numbers_.erase(victim->second.row);
    model_.erase(victim);
  }

  void check_all() {
    ASSERT_EQ(index_.rows(), model_.size());
    IndexUsage total;
    std::map<Digest, IndexUsage> by_model;
    for (const auto& [id, held] : model_) {
      ASSERT_EQ(index_.find(id), held.row);
      const IndexRow& row = index_.row(held.row);
      ASSERT_EQ(&row, held.address);
      EXPECT_EQ(row.representation, id);
      EXPECT_EQ(row.checksum, held.given.checksum);
      EXPECT_EQ(row.fingerprints, held.given.fingerprints);
      EXPECT_EQ(row.bytes, held.given.bytes);
      EXPECT_EQ(row.n_tokens, held.given.n_tokens);
      EXPECT_EQ(row.codec, held.given.codec);
      EXPECT_EQ(row.kind(), held.given.kind);
      EXPECT_EQ(row.phase(), held.given.phase);
      EXPECT_EQ(row.hits, held.hits);
      EXPECT_EQ(index_.space(row), (IndexSpace{held.given.model, held.given.tenant}));
      for (IndexUsage* usage : {&total, &by_model[held.given.model]}) {
        ++usage->entries;
        usage->bytes += held.given.bytes;
      }
    }
    EXPECT_EQ(index_.usage(), total);
    for (uint8_t number = 0; number < 3; ++number)
      EXPECT_EQ(index_.usage(make_digest(number)), by_model[make_digest(number)]);
    check_walks();
  }

  void check_walks() {
    const std::optional<Digest> after =
        random_() % 4 == 0 ? std::nullopt : std::optional(random_id());
    const auto limit = static_cast<uint32_t>(random_() % 200);
    auto expected = after ? model_.upper_bound(*after) : model_.begin();
    for (const RowId row : index_.list(after, limit)) {
      ASSERT_NE(expected, model_.end());
      ASSERT_EQ(row, (expected++)->second.row);
    }
    const auto all = static_cast<uint32_t>(model_.size());
    ASSERT_EQ(index_.list(std::nullopt, UINT32_MAX).size(), all);
    uint32_t walked = 0;
    for (RowId row = index_.next_row(0); row != kNoRow; row = index_.next_row(row + 1)) {
      ASSERT_TRUE(numbers_.contains(row));
      ++walked;
    }
    EXPECT_EQ(walked, all);
    EXPECT_EQ(index_.next_row(kNoRow), kNoRow);
  }

  std::mt19937_64 random_;
  Ids ids_;
  MatchIndex index_;
  std::map<Digest, Held> model_;
  std::unordered_map<RowId, Digest> numbers_;
};

TEST(MatchIndexRows, RandomUseAgainstAMap) {
  for (const uint64_t seed : {1, 2}) {
    for (const Ids ids : {Ids::kUniform, Ids::kCommonStart, Ids::kAtTheEnd}) {
      SCOPED_TRACE("seed " + std::to_string(seed) + ", ids " +
                   std::to_string(static_cast<int>(ids)));
      RowsAgainstMap(seed, ids).run();
    }
  }
}

TEST(MatchIndexRows, ManyThatBeginAlikeAreAddedAndRemovedInConstantTime) {
  // Everything in one list: with a sorted or singly linked one this takes minutes.
  std::mt19937_64 random(3);
  MatchIndex index;
  std::vector<RowId> rows;
  for (uint32_t i = 0; i < 200'000; ++i) {
    NewRow row;
    row.representation = random_digest(random);
    row.model = kModel;
    row.n_tokens = 16 + i % 48;
    row.fingerprints = {i, 5, 5};
    const auto added = index.add(row);
    ASSERT_TRUE(added);
    rows.push_back(*added);
  }
  std::shuffle(rows.begin(), rows.end(), random);
  for (const RowId row : rows) ASSERT_TRUE(index.remove(row));
  EXPECT_EQ(index.rows(), 0u);
}

}  // namespace
}  // namespace quire::tiers
