// One resolve. Part of MatchIndex; see match_index.h for what the answer means.
//
// At every position the fingerprint of the first 16 tokens is looked up; if any chunk begins so,
// fingerprints of 4096, 1024, 256, 64 and 16 tokens are, as far as there are chunks of that length.
// Rows found so are tried longest first: the hash of all their tokens against the prompt's, then,
// with their details, the tokens themselves.
#ifndef QUIRE_TIERS_INDEX_RESOLVER_H_
#define QUIRE_TIERS_INDEX_RESOLVER_H_

#include <array>
#include <cstdint>
#include <span>
#include <unordered_set>
#include <vector>

#include "tiers/index/candidates.h"
#include "tiers/index/match_index.h"

namespace quire::tiers {

// Numbers of spaces, which rows carry; UINT32_MAX: none. Of the tenant's own a session of another
// scope sees what is not bound.
struct ResolvedSpaces {
  uint32_t shared = UINT32_MAX;
  uint32_t own = UINT32_MAX;  // of the session's scope; equal to shared where that is the tenant's
};

class Resolver {
 public:
  // All arguments outlive it; result.next_token is the number of tokens.
  Resolver(const RowStore& rows, const Candidates& candidates, const MatchIndexOptions& options,
           const ResolvedSpaces& spaces, const ResolveQuery& query,
           const MatchIndex::DetailsLookup& details, ResolveResult& result);

  void run(bool prefix, bool chunks);

 private:
  // What rows are looked for in a list of candidates: chunks of a level, or blocks behind a prefix.
  struct Wanted {
    uint32_t position = 0;
    uint32_t level = 0;
    const Digest* prefix = nullptr;  // chunks where null
  };
  struct Nominee {
    uint32_t n_tokens;
    RowId row;
  };
  struct Alternative {
    RowId row;
    SharedDetails details;  // null: not known yet, taken for a match
  };

  void count_work(uint64_t work) { work_ += work; }
  bool stopped();

  void resolve_prefix();
  void resolve_chunks(uint32_t begin);
  uint32_t first_fingerprint(uint64_t position);
  uint32_t longest_chunk(uint32_t position, uint32_t levels);
  // Fills alternatives_ with the longest match among the rows from head on; its length, 0 for none.
  uint32_t longest(const Wanted& wanted, RowId head);
  bool visible(const IndexRow& row) const;
  void nominate(const Wanted& wanted, RowId head);
  void choose(const Wanted& wanted, std::span<const Nominee> same_length);
  bool refuted(const Wanted& wanted, const IndexRow& row, const IndexDetails& details);
  void add_missing(RowId row);
  // Lists alternatives_ as a range. False where they no longer fit: the answer ends before it.
  bool list(IndexMatchKind kind, uint32_t begin, uint32_t n_tokens);
  uint64_t room() const { return matches_max_ - result_.matches.size(); }

  static constexpr uint64_t kLookahead = 32;

  const RowStore& rows_;
  const Candidates& candidates_;
  const uint64_t all_mask_;
  const ResolvedSpaces spaces_;
  const ResolveQuery& query_;
  const MatchIndex::DetailsLookup& details_;
  ResolveResult& result_;
  const TokenHasher hasher_;
  const uint64_t matches_max_;
  uint64_t work_ = 0;
  bool missing_full_ = false;
  std::unordered_set<RowId> missing_;

  // Fingerprints of the first tokens from this position on, made ahead so that their cells are on
  // their way into the cache.
  std::array<uint32_t, kLookahead> ahead_;
  uint64_t ahead_begin_ = 0;
  uint64_t ahead_end_ = 0;
  uint64_t ahead_count_ = 1;

  // Of the position at hand; kept for their memory.
  std::vector<Nominee> nominees_;
  std::vector<RowId> chosen_;
  std::vector<Alternative> alternatives_;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_INDEX_RESOLVER_H_
