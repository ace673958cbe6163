// Finding (DESIGN section 3): which stored representations fit a prompt. In memory; rebuilt at
// start from the metadata store.
//
// resolve() answers in two parts. The exact prefix: contextual variants, chained from position 0,
// each block named by the digest of everything before it. Then, from its end on, chunks at any
// offset: leftmost, longest match first, then on behind it. Hash values only nominate candidates;
// the tokens are always compared.
//
// Trust: an entry is visible to its own tenant only. Contextual variants are found as exact prefix
// only, delta variants never (they mean nothing without their base); of the rest, all are chunk
// matches.
//
// Thread rules: one thread (the reactor). Pointers to entries stay valid until that entry is
// removed.
#ifndef QUIRE_TIERS_INDEX_MATCH_INDEX_H_
#define QUIRE_TIERS_INDEX_MATCH_INDEX_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/ids.h"
#include "base/status.h"

namespace quire::tiers {

using TenantId = uint32_t;  // 0 = the default tenant
using TokenList = std::vector<TokenId>;

// Work of one resolve: tokens compared and candidates tried. Far above what real prompts need;
// prompts and chunks made to be slow get an incomplete answer (a miss), not a reactor that stands
// still.
inline constexpr uint64_t kResolveWorkMax = 1ull << 24;
inline constexpr uint32_t kIndexMatchesMax = 1u << 16;

struct IndexEntry {
  Digest representation;
  Digest variant;
  Digest object;
  Digest model;
  TenantId tenant = 0;
  VariantContext context;
  uint16_t codec = 0;
  PositionFrame frame = PositionFrame::kLocal;
  Coverage coverage;
  uint64_t base_position = 0;
  uint32_t n_tokens = 0;  // set by add() from tokens
  uint64_t bytes = 0;
  uint64_t cookie = 0;  // the caller's own (slot of its record, say); the index never looks at it
  // Shared by all entries of an object: add() replaces it by the first one's list.
  std::shared_ptr<const TokenList> tokens;
};

enum class IndexMatchKind : uint8_t { kPrefix = 0, kChunk = 1 };

// One candidate for one token range of the prompt.
struct IndexMatch {
  const IndexEntry* entry = nullptr;
  IndexMatchKind kind = IndexMatchKind::kChunk;
  uint32_t token_begin = 0;
  uint32_t n_tokens = 0;
};

struct ResolveQuery {
  Digest model;
  TenantId tenant = 0;
  ByteSpan tenant_salt;  // what the tenant's prefix digests are made with
  std::span<const TokenId> tokens;
  bool prefix = true;
  bool chunks = true;
  uint32_t start_token = 0;  // ranges that begin before are not listed (paging)
  uint32_t matches_max = kIndexMatchesMax;
};

struct ResolveResult {
  // Ranges ascend and never overlap; entries of the same range are alternatives, next to each
  // other: fixed_prefix, isolated, dummy_sink, synthetic, then by codec.
  std::vector<IndexMatch> matches;
  uint32_t prefix_tokens = 0;  // length of the exact prefix, also where query.start_token hides it
  uint32_t next_token = 0;  // tokens.size() where the answer is complete, else ask again from here
  bool work_limited = false;  // kResolveWorkMax was reached; what lies behind was not looked at
};

struct IndexUsage {
  uint64_t entries = 0;
  uint64_t objects = 0;
  uint64_t bytes = 0;  // of representations
};

struct MatchIndexOptions {
  // Secret per process, so that nobody can prepare colliding tokens.
  uint64_t fingerprint_seed = 0;
  // Tests set few bits to make fingerprints collide.
  uint64_t fingerprint_mask = ~0ull;
};

class MatchIndex {
 public:
  explicit MatchIndex(const MatchIndexOptions& options = {});
  ~MatchIndex();
  MatchIndex(const MatchIndex&) = delete;
  MatchIndex& operator=(const MatchIndex&) = delete;

  // kAlreadyExists for a known representation; kInvalidArgument for no tokens, more than
  // kChunkTokensMax, or tokens other than those this object was added with before. Objects shorter
  // than kMatchTokensMin are kept but never match.
  Expected<const IndexEntry*> add(IndexEntry entry);
  // False where it is not there. The object's tokens go with its last entry.
  bool remove(const Digest& representation);
  // nullptr where unknown. Does not look at tenants: the caller compares entry->tenant.
  const IndexEntry* find(const Digest& representation) const;
  // The cookie is the only field that may change.
  bool set_cookie(const Digest& representation, uint64_t cookie);
  // Tokens of an object that is here already (so that a second variant need not bring them).
  std::shared_ptr<const TokenList> object_tokens(const Digest& model, TenantId tenant,
                                                 const Digest& object) const;

  // At most limit entries with representation > after (all from the first one where after is
  // empty), in id order.
  std::vector<const IndexEntry*> list(const std::optional<Digest>& after, uint32_t limit) const;

  // Models are movable unless said otherwise; others give no chunk matches.
  void set_model_movable(const Digest& model, bool movable);

  // Prompts beyond kPromptTokensMax are cut there. Never fails; the worst answer is an empty one.
  ResolveResult resolve(const ResolveQuery& query) const;

  IndexUsage usage() const;
  IndexUsage usage(const Digest& model) const;  // over all tenants

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_INDEX_MATCH_INDEX_H_
