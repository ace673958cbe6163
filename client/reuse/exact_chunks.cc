#include "client/reuse/exact_chunks.h"

#include <utility>

namespace quire::reuse {

bool stands_as_computed(const Match& match, const PromptIdentity& prompt,
                        std::span<const Digest> runs) {
  // The position is compared first: it is right for few matches, and the rest is hashing.
  if (match.token_begin == 0 || match.base_position != match.token_begin ||
      match.phase != Phase::kPrefill)
    return false;
  VariantContext context;
  if (match.context_kind == ContextKind::kFixedPrefix) {
    context = VariantContext::fixed_prefix(
        prefix_digest(prompt.model, prompt.tokens.first(match.token_begin), prompt.tenant_salt));
  } else if (match.context_kind == ContextKind::kSynthetic && !runs.empty()) {
    context = VariantContext::synthetic({runs.begin(), runs.end()}, prompt.scope);
  } else {
    return false;
  }
  const auto chunk = prompt.tokens.subspan(match.token_begin, match.n_tokens);
  return match.variant == variant_id(object_id(prompt.model, chunk, prompt.tenant_salt), context);
}

void mark_exact_chunks(Plan& plan, const PromptIdentity& prompt) {
  // [begin, end) of the runs before the segment at hand.
  std::vector<std::pair<uint32_t, uint32_t>> cuts;
  const auto names = [&] {
    std::vector<Digest> runs;
    for (const auto& [begin, end] : cuts)
      runs.push_back(
          object_id(prompt.model, prompt.tokens.subspan(begin, end - begin), prompt.tenant_salt));
    return runs;
  };
  bool behind_prefix = false;
  for (Segment& segment : plan.segments) {
    const Match& match = segment.match;
    segment.exact = false;
    if (segment.kind == SegmentKind::kChunk && segment.source_begin == 0) {
      const bool named =
          match.context_kind == ContextKind::kSynthetic && match.base_position == match.token_begin;
      segment.exact = stands_as_computed(match, prompt, named ? names() : std::vector<Digest>{});
    }
    const bool is_prefix = segment.kind == SegmentKind::kPrefix;
    if (is_prefix && behind_prefix) {
      cuts.back().second = segment.token_end();
    } else {
      cuts.emplace_back(segment.token_begin, segment.token_end());
    }
    behind_prefix = is_prefix;
  }
}

}  // namespace quire::reuse
