#include "client/reuse/exact_chunks.h"

#include <utility>

namespace quire::reuse {

PromptRuns::PromptRuns(const PromptIdentity& prompt)
    : prompt_(prompt), prefix_(prompt.model, prompt.tenant_salt) {}

void PromptRuns::append(const Segment& segment) {
  const uint32_t end = segment.token_end();
  const bool is_prefix = segment.kind == SegmentKind::kPrefix;
  if (is_prefix && ends_in_prefix_) {
    runs_.back().end = end;
    runs_.back().object.reset();
  } else if (asked_.run.begin == n_tokens_ && asked_.run.end == end) {
    runs_.push_back(asked_.run);
  } else {
    runs_.push_back({n_tokens_, end, {}});
  }
  ends_in_prefix_ = is_prefix;
  n_tokens_ = end;
}

bool PromptRuns::stands_as_computed(const Match& match) {
  // The position is compared first: it is right for few matches, and the rest is hashing.
  if (match.token_begin == 0 || match.token_begin != n_tokens_ ||
      match.base_position != match.token_begin || match.phase != Phase::kPrefill)
    return false;
  switch (match.context_kind) {
    case ContextKind::kFixedPrefix:
      ask(match.n_tokens);
      return match.variant == behind_prefix();
    case ContextKind::kSynthetic:
      if (runs_.size() > kContextIdsMax) return false;  // no variant names that many
      ask(match.n_tokens);
      return match.variant == behind_runs();
    default:
      return false;
  }
}

void PromptRuns::ask(uint32_t n_tokens) {
  const uint32_t end = n_tokens_ + n_tokens;
  if (asked_.run.begin == n_tokens_ && asked_.run.end == end) return;
  asked_ = {.run = {n_tokens_, end, {}}, .behind_prefix = {}, .behind_runs = {}};
}

const Digest& PromptRuns::object_of(Run& run) const {
  if (!run.object) {
    const auto tokens = prompt_.tokens.subspan(run.begin, run.end - run.begin);
    run.object = object_id(prompt_.model, tokens, prompt_.tenant_salt);
  }
  return *run.object;
}

const Digest& PromptRuns::behind_prefix() {
  if (!asked_.behind_prefix) {
    prefix_.extend(prompt_.tokens.subspan(n_prefix_tokens_, n_tokens_ - n_prefix_tokens_));
    n_prefix_tokens_ = n_tokens_;
    asked_.behind_prefix =
        variant_id(object_of(asked_.run), VariantContext::fixed_prefix(prefix_.digest()));
  }
  return *asked_.behind_prefix;
}

const Digest& PromptRuns::behind_runs() {
  if (!asked_.behind_runs) {
    std::vector<Digest> names;
    names.reserve(runs_.size());
    for (Run& run : runs_) names.push_back(object_of(run));
    asked_.behind_runs = variant_id(object_of(asked_.run),
                                    VariantContext::synthetic(std::move(names), prompt_.scope));
  }
  return *asked_.behind_runs;
}

}  // namespace quire::reuse
