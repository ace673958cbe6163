// From what the store has for a prompt to what the engine does with it: a plan cuts the prompt into
// an exact prefix, reused chunks and fresh tokens, and picks one stored representation for each
// reused range. Pure functions of their arguments, callable from any thread.
//
// A plan never promises quality: a chunk that was computed in another context is approximately
// right, and the row policy (client/reuse/policy.h) says which of its tokens are computed again.
#ifndef QUIRE_CLIENT_REUSE_PLAN_H_
#define QUIRE_CLIENT_REUSE_PLAN_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "client/client.h"

namespace quire::reuse {

enum class SegmentKind : uint8_t {
  kFresh = 0,   // computed by the engine
  kPrefix = 1,  // loaded; the exact KV of these tokens at this place
  kChunk = 2,   // loaded; computed elsewhere, moved here
};
std::string_view segment_kind_name(SegmentKind kind);

// One run of prompt tokens. The engine position of prompt token t is t.
struct Segment {
  SegmentKind kind = SegmentKind::kFresh;
  uint32_t token_begin = 0;
  uint32_t n_tokens = 0;
  // First token of the representation that is used (> 0 where an earlier segment covers its head).
  uint32_t source_begin = 0;
  Match match = {};          // the representation to load; meaningless in fresh segments
  uint32_t match_index = 0;  // of match in the matches given to make_plan()
  // A chunk computed behind the very tokens before it, at this very place: what a prefill of this
  // prompt would give (as its codec keeps it), with or without its head. False also where nobody
  // knows.
  bool exact = false;

  uint32_t token_end() const { return token_begin + n_tokens; }
};

struct Plan {
  // Ascending, without gaps or overlaps, together [0, n_tokens); none is empty. The last one is
  // fresh.
  std::vector<Segment> segments;
  uint32_t n_tokens = 0;

  uint32_t tokens_of(SegmentKind kind) const;
};

// A slice of a representation shorter than this is computed instead of loaded.
inline constexpr uint32_t kSegmentTokensMin = kMatchTokensMin;

// The prompt itself, for telling which chunks stand as they were computed. Spans outlive the use.
struct PromptIdentity {
  std::span<const TokenId> tokens;
  Digest model;
  ByteSpan tenant_salt;
  Digest scope;  // of the session; zero: the tenant's own
};

struct PlanPreferences {
  // Prefix digests whose fixed_prefix variants fit this prompt, best first: normally that of the
  // deployment's own system prompt (notes: compiling behind it costs nothing and beats isolated).
  std::vector<Digest> fixed_prefixes;
  bool use_prefix = true;
  bool use_chunks = true;
  bool dummy_sink_only = false;  // Link0: chunks in their dummy_sink variant or not at all
  bool synthetic_first = false;  // chunks behind other texts go before those behind a fixed one
  // Tokens at the end that are always fresh: the question. At least 1 is enforced, since the engine
  // needs the last token's logits.
  uint32_t fresh_tail_tokens = 1;
  // Leave a match alone where the store estimates load_us > recompute_us (where both are known).
  bool skip_slow = true;
  // Codecs the caller can decode and bear; empty = all.
  std::vector<uint16_t> codecs;
  // Without it no chunk is exact.
  std::optional<PromptIdentity> prompt;
};

// matches: as Client::resolve() returns them (hostile ranges are refused with kInvalidArgument).
//  - prefix: the longest gapless run of kPrefix matches from token 0; of alternatives with one
//  range a
//    raw codec wins (it is exact), then the smaller load_us;
//  - chunks: by token_begin, of several at one token the longest; a chunk whose head is covered
//    already is used from there on. Variant by context: one that stands as it was computed (where
//    preferences.prompt is given, as client/reuse/exact_chunks.h says); one that seems to by its
//    position (without preferences.prompt: fixed_prefix of fixed_prefixes that ends where the chunk
//    begins); synthetic where preferences.synthetic_first; fixed_prefix in the order of
//    fixed_prefixes, then behind a beginning of preferences.prompt (longer ones first); isolated;
//    dummy_sink; fixed_prefix behind another text; else synthetic. Contextual, delta and decode
//    variants are never used as chunks. Equal rank: smaller load_us, then the nearer tier, then a
//    lossless codec (what a codec costs is far below what stale rows cost: docs/fidelity.md;
//    whoever cannot bear one leaves it out of codecs), then smaller codec id, then the one that
//    matches name first (a match does not say when it was stored). Among those that stand as they
//    were computed: a lossless codec, then the nearer tier, then smaller load_us;
//  - Segment::exact is set for the first of these kinds alone. kInvalidArgument: prompt.tokens is
//    not n_tokens long.
Expected<Plan> make_plan(uint32_t n_tokens, std::span<const Match> matches,
                         const PlanPreferences& preferences = {});

// kInternal with the reason where segments break the rules of Plan; for plans built by hand.
Status check_plan(const Plan& plan);

}  // namespace quire::reuse

#endif  // QUIRE_CLIENT_REUSE_PLAN_H_
