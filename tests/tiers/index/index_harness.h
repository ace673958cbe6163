// Representations made up from tokens, and an index together with everything it was given.
#ifndef QUIRE_TESTS_TIERS_INDEX_INDEX_HARNESS_H_
#define QUIRE_TESTS_TIERS_INDEX_INDEX_HARNESS_H_

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tiers/index/match_index.h"

namespace quire::tiers {

inline Digest make_digest(uint8_t number) {
  Digest digest;
  digest.bytes.fill(number);
  return digest;
}

inline const Digest kModel = make_digest(1);

// What a store would have on disk for one representation.
struct Entry {
  NewRow row;
  IndexDetails details;
  const TokenList& tokens() const { return *details.tokens; }
};

struct Maker {
  Digest model = kModel;
  TenantId tenant = 0;
  std::vector<std::byte> salt;
  Digest scope{};  // of queries

  Entry entry(const TokenList& tokens, const VariantContext& context, uint16_t codec = 1,
              uint64_t base_position = 0) const {
    Entry result;
    IndexDetails& details = result.details;
    details.object = object_id(model, tokens, salt);
    details.variant = variant_id(details.object, context);
    details.context = context;
    details.coverage = {0, 4, 0, 2};
    details.base_position = base_position;
    details.tokens = std::make_shared<TokenList>(tokens);
    result.row = {.representation = representation_id(details.variant, codec, PositionFrame::kLocal,
                                                      details.coverage),
                  .model = model,
                  .tenant = tenant,
                  .scope = context.scope,
                  .variant = details.variant,
                  .kind = context.kind,
                  .phase = context.phase,
                  .codec = codec,
                  .checksum = {tokens.size(), codec},
                  .bytes = static_cast<uint32_t>(tokens.size() * 100),
                  .n_tokens = static_cast<uint32_t>(tokens.size()),
                  .fingerprints = {}};
    return result;
  }

  // A block of the exact prefix: tokens behind `before`.
  Entry block(const TokenList& before, const TokenList& tokens, uint16_t codec = 1) const {
    return entry(tokens, VariantContext::contextual(prefix_digest(model, before, salt)), codec,
                 before.size());
  }

  ResolveQuery query(const TokenList& prompt) const {
    ResolveQuery result;
    result.model = model;
    result.tenant = tenant;
    result.tenant_salt = salt;
    result.scope = scope;
    result.tokens = prompt;
    return result;
  }
};

class IndexHarness {
 public:
  explicit IndexHarness(const MatchIndexOptions& options = {})
      : index(options), options_(options) {}

  Expected<RowId> add(const Entry& entry) {
    NewRow row = entry.row;
    row.fingerprints = fingerprint_tokens(options_.fingerprint_seed, row.model, row.tenant,
                                          entry.details.context, entry.tokens());
    Expected<RowId> added = index.add(row);
    if (added) {
      EXPECT_TRUE(details_.emplace(*added, std::make_shared<IndexDetails>(entry.details)).second);
      stored.emplace(row.representation, entry);
    }
    return added;
  }

  void remove(const Digest& representation) {
    const RowId row = index.find(representation);
    ASSERT_NE(row, kNoRow);
    details_.erase(row);
    EXPECT_TRUE(index.remove(representation));
    EXPECT_EQ(index.find(representation), kNoRow);
    stored.erase(representation);
  }

  SharedDetails details(RowId row) const { return details_.at(row); }

  // With all details at hand.
  ResolveResult resolve(const ResolveQuery& query) const {
    return index.resolve(query, [this](RowId row) { return details(row); });
  }

  // With none at hand in the beginning.
  ResolveResult resolve_by_rounds(const ResolveQuery& query, uint32_t* rounds = nullptr) const {
    DetailsCache cache(1ull << 40);
    for (uint32_t round = 1;; ++round) {
      ResolveResult result = index.resolve(query, [&](RowId row) { return cache.find(row); });
      if (rounds != nullptr) *rounds = round;
      if (result.missing.empty() || round > 2 * stored.size() + 2) return result;
      EXPECT_TRUE(result.matches.empty());
      EXPECT_LE(result.missing.size(), kMissingRowsMax);
      EXPECT_EQ(std::set<RowId>(result.missing.begin(), result.missing.end()).size(),
                result.missing.size());
      for (const RowId row : result.missing) {
        EXPECT_EQ(cache.find(row), nullptr);
        cache.insert(row, details(row));
      }
    }
  }

  const IndexRow& row(const IndexMatch& match) const { return index.row(match.row); }

  MatchIndex index;
  std::map<Digest, Entry> stored;

 private:
  MatchIndexOptions options_;
  std::unordered_map<RowId, SharedDetails> details_;
};

inline TokenList random_tokens(std::mt19937_64& random, size_t count, TokenId alphabet) {
  TokenList tokens(count);
  for (TokenId& token : tokens)
    token = std::uniform_int_distribution<TokenId>(0, alphabet - 1)(random);
  return tokens;
}

inline TokenList join(std::initializer_list<TokenList> parts) {
  TokenList result;
  for (const TokenList& part : parts) result.insert(result.end(), part.begin(), part.end());
  return result;
}

inline TokenList slice(const TokenList& tokens, size_t begin, size_t count) {
  return {tokens.begin() + static_cast<ptrdiff_t>(begin),
          tokens.begin() + static_cast<ptrdiff_t>(begin + count)};
}

inline Digest random_digest(std::mt19937_64& random) {
  Digest digest;
  for (uint8_t& byte : digest.bytes) byte = static_cast<uint8_t>(random());
  return digest;
}

}  // namespace quire::tiers

#endif  // QUIRE_TESTS_TIERS_INDEX_INDEX_HARNESS_H_
