// Finding (DESIGN section 3): which stored representations fit a prompt, and which there are by id.
// In memory, at most kIndexBytesPerObjectMax each; rebuilt at start from the metadata store's
// records, without their tokens.
//
// resolve() answers in two parts. The exact prefix: contextual variants, chained from position 0,
// each block named by the digest of everything before it. Then, from its end on, chunks at any
// offset: leftmost, longest match first, then on behind it. Hash values only nominate candidates;
// the tokens are always compared. They are not in memory for every object: where the caller's
// lookup does not have the details of a candidate, resolve() names its row in `missing`, goes on as
// if it matched, and is asked again when those details are loaded.
//
// Trust: a row is visible to its own tenant only, and what is bound (base/ids.h) in its own scope
// only. Contextual variants are found as exact prefix only, delta variants never (they mean nothing
// without their base); of the rest, all are chunk matches but those with kStrikesMax strikes.
//
// Statistics (CodecId::kStatistics) are no matches: where they are asked for they are listed behind
// the matches of a range, for as many of its variants as have some.
//
// Thread rules: one thread (the reactor).
#ifndef QUIRE_TIERS_INDEX_MATCH_INDEX_H_
#define QUIRE_TIERS_INDEX_MATCH_INDEX_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/ids.h"
#include "base/status.h"
#include "tiers/index/details.h"
#include "tiers/index/fingerprints.h"
#include "tiers/index/row.h"

namespace quire::tiers {

// All memory of the index by its rows, beyond 10,000 rows that are there at once. Rows that were
// removed leave their place to later ones; tables shrink.
inline constexpr uint32_t kIndexBytesPerObjectMax = 160;

// Row numbers are below this.
inline constexpr uint32_t kIndexRowsMax = (1u << 27) - 2;

// Work of one resolve, about a nanosecond each: tokens compared and hashed, candidates tried. Far
// above what real prompts need; prompts and chunks made to be slow get an incomplete answer (a
// miss), not a reactor that stands still.
inline constexpr uint64_t kResolveWorkMax = 1ull << 24;
inline constexpr uint32_t kIndexMatchesMax = 1u << 16;
inline constexpr uint32_t kMissingRowsMax = 4096;
inline constexpr uint32_t kSameTextRowsMax = 4096;

struct NewRow {
  Digest representation;
  Digest model;
  TenantId tenant = 0;
  Digest scope;  // of the context; zero unless it is bound
  Digest variant;
  ContextKind kind = ContextKind::kIsolated;
  Phase phase = Phase::kPrefill;
  uint16_t codec = 0;
  Hash128 checksum;
  uint32_t bytes = 0;
  uint32_t n_tokens = 0;
  // By fingerprint_tokens() with the index's seed. Wrong ones cost matches, never a wrong one.
  TokenFingerprints fingerprints;
};

// One tenant's objects under one model in one scope. What is not bound lies in the tenant's own
// scope, zero. A resolve looks into that space, and into that of its own scope.
struct IndexSpace {
  Digest model;
  TenantId tenant = 0;
  Digest scope{};
  bool operator==(const IndexSpace&) const = default;
};

enum class IndexMatchKind : uint8_t { kPrefix = 0, kChunk = 1 };

// One candidate for one token range of the prompt.
struct IndexMatch {
  RowId row = kNoRow;
  SharedDetails details;  // never null in an answer that may be used
  IndexMatchKind kind = IndexMatchKind::kChunk;
  uint32_t token_begin = 0;
  uint32_t n_tokens = 0;
};

struct ResolveQuery {
  Digest model;
  TenantId tenant = 0;
  ByteSpan tenant_salt;  // what the tenant's prefix digests are made with
  Digest scope;          // the session's; zero: the tenant's own
  std::span<const TokenId> tokens;
  bool prefix = true;
  bool chunks = true;
  bool statistics = false;   // list those of the ranges found, too
  uint32_t start_token = 0;  // ranges that begin before are not listed (paging)
  uint32_t matches_max = kIndexMatchesMax;
};

struct ResolveResult {
  // Ranges ascend and never overlap; rows of the same range are alternatives, next to each other:
  // fixed_prefix, isolated, dummy_sink, synthetic, decode variants behind all of them; then by
  // codec, then by id. Behind these the statistics of the range, in the same order.
  std::vector<IndexMatch> matches;
  uint32_t prefix_tokens = 0;  // length of the exact prefix, also where query.start_token hides it
  uint32_t next_token = 0;  // tokens.size() where the answer is complete, else ask again from here
  bool work_limited = false;  // kResolveWorkMax was reached; what lies behind was not looked at
  // Rows whose details the lookup did not have and the answer needs, each once, at most
  // kMissingRowsMax. Not empty: nothing else of this answer may be used. Load the details of these
  // rows, remove() the rows that have none, and ask again, with a lookup that holds on to
  // everything loaded for this query: then each round needs fewer, and one is nearly always enough.
  std::vector<RowId> missing;
};

struct IndexUsage {
  uint64_t entries = 0;
  uint64_t bytes = 0;  // of representations
  bool operator==(const IndexUsage&) const = default;
};

struct MatchIndexOptions {
  // The store's secret: the one that fingerprint_tokens() is called with for rows.
  uint64_t fingerprint_seed = 0;
  // Tests set few bits to make fingerprints collide: `first` and `level`, and `all`.
  uint32_t fingerprint_mask = ~0u;
  uint64_t all_mask = ~0ull;
};

class MatchIndex {
 public:
  explicit MatchIndex(const MatchIndexOptions& options = {});
  ~MatchIndex();
  MatchIndex(const MatchIndex&) = delete;
  MatchIndex& operator=(const MatchIndex&) = delete;

  // kAlreadyExists for a known representation; kInvalidArgument for no tokens or more than
  // kChunkTokensMax; kResourceExhausted beyond kIndexRowsMax. Objects shorter than kMatchTokensMin
  // are kept but never match. The caller's fields begin with their defaults (checksum: as given).
  // Constant time; the tables grow by half now and then, which takes about 10 ns for every row.
  Expected<RowId> add(const NewRow& row);
  // Room for so many rows altogether: no table grows before.
  void reserve(uint64_t rows);
  // False where it is not there. Links and numbers go at once: drop the row's details too.
  bool remove(const Digest& representation);
  bool remove(RowId row);

  // kNoRow where unknown. Does not look at tenants: the caller compares space(row).tenant.
  RowId find(const Digest& representation) const;
  // Of a row that is there. Rows do not move while they live. See IndexRow for what may be changed.
  const IndexRow& row(RowId row) const;
  IndexRow& row(RowId row);
  // Valid until the next add().
  const IndexSpace& space(const IndexRow& row) const;

  // May a session of this tenant and scope know of the row?
  bool visible(const IndexRow& row, TenantId tenant, const Digest& scope) const;
  // Rows of the same text in the same space that a resolve would list as alternatives, and their
  // statistics; the row itself among them. The text is known by its fingerprint. Looks at no more
  // than kSameTextRowsMax rows that begin alike, the latest first. Empty for what is no chunk
  // match.
  std::vector<RowId> same_text(RowId row) const;

  // At most limit rows with representation > after (all from the first one where after is empty),
  // in id order. Costs what it lists.
  std::vector<RowId> list(const std::optional<Digest>& after, uint32_t limit) const;
  // The first row with a number >= from, kNoRow behind the last: for scans (rows added meanwhile
  // may be missed) and for samples.
  RowId next_row(RowId from) const;
  uint64_t rows() const;

  // Models are movable unless said otherwise; others give no chunk matches.
  void set_model_movable(const Digest& model, bool movable);

  // Answers from memory, on the calling thread, or null. Must not change the index.
  using DetailsLookup = std::function<SharedDetails(RowId)>;
  // Prompts beyond kPromptTokensMax are cut there. Never fails; the worst answer is an empty one.
  // Asks for details of rows that are nominated for the answer only; of a range, for no more
  // alternatives than query.matches_max lets in, and one.
  ResolveResult resolve(const ResolveQuery& query, const DetailsLookup& details) const;

  IndexUsage usage() const;
  IndexUsage usage(const Digest& model) const;  // over all tenants
  // Everything allocated by the index, counted exactly.
  uint64_t memory_bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_INDEX_MATCH_INDEX_H_
