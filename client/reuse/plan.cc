#include "client/reuse/plan.h"

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "client/reuse/exact_chunks.h"
#include "codecs/codec_ids.h"
#include "codecs/registry.h"

namespace quire::reuse {
namespace {

bool is_raw_codec(uint16_t codec) {
  switch (static_cast<CodecId>(codec)) {
    case CodecId::kRawF16:
    case CodecId::kRawBf16:
    case CodecId::kRawF32:
      return true;
    default:
      return false;
  }
}

bool codec_allowed(const Match& match, const PlanPreferences& preferences) {
  if (match.codec == static_cast<uint16_t>(CodecId::kStatistics)) return false;  // no KV
  return preferences.codecs.empty() ||
         std::find(preferences.codecs.begin(), preferences.codecs.end(), match.codec) !=
             preferences.codecs.end();
}

bool worth_loading(const Match& match, const PlanPreferences& preferences) {
  const bool costs_known = match.load_us != 0 && match.recompute_us != 0;
  return !(preferences.skip_slow && costs_known && match.load_us > match.recompute_us);
}

// find_codec() would word an error for each match of an unknown codec.
bool is_lossless(uint16_t id) {
  const auto known = codecs();
  const auto found = std::find_if(known.begin(), known.end(), [id](const CodecInfo& codec) {
    return static_cast<uint16_t>(codec.id) == id;
  });
  return found != known.end() && found->lossless;
}

bool is_listed(const Match& match, const PlanPreferences& preferences) {
  const auto& prefixes = preferences.fixed_prefixes;
  return std::find(prefixes.begin(), prefixes.end(), match.context_reference) != prefixes.end();
}

// Smaller is better; nothing where the variant must not be used as a chunk of this prompt.
// behind_own: a fixed_prefix variant behind a beginning of the prompt that is not listed.
std::optional<uint32_t> context_rank(const Match& match, bool behind_own,
                                     const PlanPreferences& preferences) {
  if (match.phase != Phase::kPrefill) return std::nullopt;
  if (preferences.dummy_sink_only && match.context_kind != ContextKind::kDummySink)
    return std::nullopt;
  const auto& prefixes = preferences.fixed_prefixes;
  const auto n_prefixes = static_cast<uint32_t>(prefixes.size());
  // In place: [0, n_prefixes), synthetic first: n_prefixes, the other known ones: the next ones.
  const uint32_t n_before = 2 * n_prefixes + 2;
  switch (match.context_kind) {
    case ContextKind::kFixedPrefix: {
      const auto found = std::find(prefixes.begin(), prefixes.end(), match.context_reference);
      if (found == prefixes.end()) return behind_own ? n_before - 1 : n_before + 2;
      const auto place = static_cast<uint32_t>(found - prefixes.begin());
      // Where the prompt is known, its ids tell better what stands as computed.
      const bool in_place =
          !preferences.prompt && match.token_begin != 0 && match.base_position == match.token_begin;
      return in_place ? place : n_prefixes + 1 + place;
    }
    case ContextKind::kIsolated:
      return n_before;
    case ContextKind::kDummySink:
      return n_before + 1;
    case ContextKind::kSynthetic:
      return preferences.synthetic_first ? n_prefixes : n_before + 3;
    case ContextKind::kContextual:
    case ContextKind::kDeltaOf:
      return std::nullopt;
  }
  return std::nullopt;
}

Status check_match(const Match& match, uint32_t n_tokens) {
  if (match.n_tokens == 0 || match.token_begin > n_tokens ||
      match.n_tokens > n_tokens - match.token_begin)
    return {StatusCode::kInvalidArgument, "a match lies outside the prompt"};
  return Status::ok();
}

// match is an element of matches.
Segment reused_segment(SegmentKind kind, std::span<const Match> matches, const Match& match) {
  return {.kind = kind,
          .token_begin = match.token_begin,
          .n_tokens = match.n_tokens,
          .match = match,
          .match_index = static_cast<uint32_t>(&match - matches.data())};
}

// The gapless run of prefix matches from token 0. Where ranges of different lengths begin at the
// same token the longest is taken: a chain of blocks never offers two.
std::vector<Segment> prefix_segments(std::span<const Match> matches,
                                     const PlanPreferences& preferences) {
  std::vector<const Match*> candidates;
  for (const Match& match : matches)
    if (match.kind == wire::MatchKind::kPrefix && codec_allowed(match, preferences) &&
        worth_loading(match, preferences))
      candidates.push_back(&match);
  const auto order = [](const Match* match) {
    return std::make_tuple(match->token_begin, UINT32_MAX - match->n_tokens,
                           !is_raw_codec(match->codec), match->load_us, match->codec);
  };
  std::stable_sort(candidates.begin(), candidates.end(),
                   [&](const Match* a, const Match* b) { return order(a) < order(b); });
  std::vector<Segment> segments;
  uint32_t covered = 0;
  for (const Match* match : candidates) {
    if (match->token_begin > covered) break;
    if (match->token_begin < covered) continue;
    segments.push_back(reused_segment(SegmentKind::kPrefix, matches, *match));
    covered += match->n_tokens;
  }
  return segments;
}

// Made once for each match: numbers that are smaller where it is the better one.
struct ChunkCandidate {
  const Match* match;
  uint64_t range;    // ranges that begin earlier, of these the longer ones
  uint64_t context;  // context_rank(), then variants behind a longer beginning of the prompt
  uint64_t cost;     // what loads sooner, the nearer tier, a lossless codec, the smaller codec id
};

bool comes_before(const ChunkCandidate& a, const ChunkCandidate& b) {
  if (a.range != b.range) return a.range < b.range;
  return a.context != b.context ? a.context < b.context : a.cost < b.cost;
}

// Of variants that are only nearly right. What a codec costs is far below what stale rows cost
// (docs/fidelity.md), so it is no reason to load from further away.
uint64_t load_cost(const Match& match) {
  const uint64_t lossy = is_lossless(match.codec) ? 0 : 1;
  return uint64_t{match.load_us} << 32 | uint64_t{static_cast<uint8_t>(match.tier)} << 24 |
         lossy << 16 | match.codec;
}

// Of variants that stand as computed, where what a codec costs is all there is to lose.
uint64_t exact_cost(const Match& match) {
  const uint64_t lossy = is_lossless(match.codec) ? 0 : 1;
  return lossy << 56 | uint64_t{static_cast<uint8_t>(match.tier)} << 48 |
         uint64_t{match.load_us} << 16 | match.codec;
}

std::vector<ChunkCandidate> chunk_candidates(std::span<const Match> matches,
                                             const PlanPreferences& preferences) {
  std::vector<ChunkCandidate> candidates;
  const auto& prompt = preferences.prompt;
  const auto own = prompt ? behind_own_beginning(*prompt, matches) : std::vector<bool>{};
  for (size_t i = 0; i < matches.size(); ++i) {
    const Match& match = matches[i];
    if (match.kind != wire::MatchKind::kChunk || !codec_allowed(match, preferences) ||
        !worth_loading(match, preferences))
      continue;
    const bool behind_own = prompt && own[i] && !is_listed(match, preferences);
    const auto rank = context_rank(match, behind_own, preferences);
    if (!rank) continue;
    // Below 2^32: a prompt has at most kPromptTokensMax tokens.
    const uint64_t shorter_by = behind_own ? prompt->tokens.size() - match.base_position : 0;
    candidates.push_back(
        {.match = &match,
         .range = uint64_t{match.token_begin} << 32 | (UINT32_MAX - match.n_tokens),
         .context = uint64_t{*rank} << 32 | shorter_by,
         .cost = load_cost(match)});
  }
  std::stable_sort(candidates.begin(), candidates.end(), comes_before);
  return candidates;
}

// Cuts the segment to [covered, limit). False where nothing is left, or a slice that is not worth a
// load: that is left to the fresh run that follows.
bool fit(Segment& segment, uint32_t covered, uint32_t limit) {
  const uint32_t end = std::min(segment.token_end(), limit);
  const uint32_t begin = std::max(segment.token_begin, covered);
  const bool whole = begin == segment.token_begin && end == segment.token_end();
  if (begin >= end || (!whole && end - begin < kSegmentTokensMin)) return false;
  segment.source_begin = begin - segment.token_begin;
  segment.token_begin = begin;
  segment.n_tokens = end - begin;
  return true;
}

// The best of the alternatives for one range that stand as computed behind the runs, else nullptr.
const Match* exact_alternative(std::span<const ChunkCandidate> alternatives, PromptRuns& runs) {
  const Match* best = nullptr;
  // Of equals the first of all matches: what they stood behind is the same now.
  const auto order = [](const Match* match) { return std::make_pair(exact_cost(*match), match); };
  for (const ChunkCandidate& candidate : alternatives)
    if (runs.stands_as_computed(*candidate.match) &&
        (best == nullptr || order(candidate.match) < order(best)))
      best = candidate.match;
  return best;
}

// Builds a plan's segments from the first token on.
class Cutter {
 public:
  Cutter(std::span<const Match> matches, const PlanPreferences& preferences, uint32_t limit)
      : matches_(matches), limit_(limit) {
    if (preferences.prompt) runs_.emplace(*preferences.prompt);
  }

  void append_prefix(Segment segment) {
    if (fit(segment, covered_, limit_)) push(segment);
  }

  // alternatives: for one range, best first.
  void append_chunk(std::span<const ChunkCandidate> alternatives) {
    Segment segment = reused_segment(SegmentKind::kChunk, matches_, *alternatives.front().match);
    if (!fit(segment, covered_, limit_)) return;
    append_fresh(segment.token_begin);
    const Match* exact = runs_ ? exact_alternative(alternatives, *runs_) : nullptr;
    if (exact != nullptr) {
      segment.match = *exact;
      segment.match_index = static_cast<uint32_t>(exact - matches_.data());
      segment.exact = true;
    }
    push(segment);
  }

  std::vector<Segment> finish(uint32_t n_tokens) {
    append_fresh(n_tokens);
    return std::move(segments_);
  }

 private:
  void append_fresh(uint32_t end) {
    if (covered_ < end) push({.token_begin = covered_, .n_tokens = end - covered_});
  }

  void push(const Segment& segment) {
    if (runs_) runs_->append(segment);
    covered_ = segment.token_end();
    segments_.push_back(segment);
  }

  std::span<const Match> matches_;
  uint32_t limit_;
  uint32_t covered_ = 0;
  std::optional<PromptRuns> runs_;
  std::vector<Segment> segments_;
};

void append_chunks(Cutter& cutter, std::span<const ChunkCandidate> candidates) {
  while (!candidates.empty()) {
    const Match& first = *candidates.front().match;
    const auto other = std::find_if(candidates.begin(), candidates.end(), [&](const auto& next) {
      return next.match->token_begin != first.token_begin || next.match->n_tokens != first.n_tokens;
    });
    const auto n_alternatives = static_cast<size_t>(other - candidates.begin());
    cutter.append_chunk(candidates.first(n_alternatives));
    candidates = candidates.subspan(n_alternatives);
  }
}

}  // namespace

std::string_view segment_kind_name(SegmentKind kind) {
  switch (kind) {
    case SegmentKind::kFresh:
      return "fresh";
    case SegmentKind::kPrefix:
      return "prefix";
    case SegmentKind::kChunk:
      return "chunk";
  }
  return "unknown";
}

uint32_t Plan::tokens_of(SegmentKind kind) const {
  uint32_t total = 0;
  for (const Segment& segment : segments)
    if (segment.kind == kind) total += segment.n_tokens;
  return total;
}

Expected<Plan> make_plan(uint32_t n_tokens, std::span<const Match> matches,
                         const PlanPreferences& preferences) {
  if (n_tokens == 0 || n_tokens > kPromptTokensMax)
    return Status(StatusCode::kInvalidArgument, "a prompt has 1 to " +
                                                    std::to_string(kPromptTokensMax) +
                                                    " tokens, not " + std::to_string(n_tokens));
  for (const Match& match : matches) QUIRE_RETURN_IF_ERROR(check_match(match, n_tokens));
  if (preferences.prompt && preferences.prompt->tokens.size() != n_tokens)
    return Status(StatusCode::kInvalidArgument,
                  "the prompt's identity has " + std::to_string(preferences.prompt->tokens.size()) +
                      " tokens, the prompt " + std::to_string(n_tokens));

  const uint32_t tail = std::clamp(preferences.fresh_tail_tokens, 1u, n_tokens);
  const uint32_t limit = n_tokens - tail;
  Cutter cutter(matches, preferences, limit);
  if (preferences.use_prefix)
    for (const Segment& segment : prefix_segments(matches, preferences))
      cutter.append_prefix(segment);
  if (preferences.use_chunks) append_chunks(cutter, chunk_candidates(matches, preferences));
  Plan plan;
  plan.n_tokens = n_tokens;
  plan.segments = cutter.finish(n_tokens);
  return plan;
}

Status check_plan(const Plan& plan) {
  const auto broken = [](const char* reason) {
    return Status(StatusCode::kInternal, std::string("plan: ") + reason);
  };
  if (plan.segments.empty()) return broken("no segments");
  if (plan.n_tokens > kPromptTokensMax) return broken("more tokens than a prompt may have");
  uint32_t covered = 0;
  for (const Segment& segment : plan.segments) {
    if (segment.token_begin != covered) return broken("segments leave a gap or overlap");
    if (segment.n_tokens == 0 || segment.n_tokens > plan.n_tokens - covered)
      return broken("a segment is empty or ends behind the prompt");
    if (static_cast<uint8_t>(segment.kind) > static_cast<uint8_t>(SegmentKind::kChunk))
      return broken("unknown segment kind");
    covered += segment.n_tokens;
  }
  if (covered != plan.n_tokens) return broken("segments do not reach the end of the prompt");
  if (plan.segments.back().kind != SegmentKind::kFresh)
    return broken("the last token is not fresh");
  return Status::ok();
}

}  // namespace quire::reuse
