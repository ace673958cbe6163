#include "client/reuse/exact_chunks.h"

#include <algorithm>
#include <utility>

namespace quire::reuse {

PromptRuns::PromptRuns(const PromptIdentity& prompt)
    : prompt_(prompt), prefix_(std::in_place, prompt.model, prompt.tenant_salt) {}

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
  if (match.token_begin == 0 || match.token_begin > n_tokens_ ||
      match.base_position != match.token_begin || match.phase != Phase::kPrefill)
    return false;
  switch (match.context_kind) {
    case ContextKind::kFixedPrefix:
      ask(match);
      return match.variant == behind_prefix();
    case ContextKind::kSynthetic:
      if (n_runs_before(match.token_begin) > kContextIdsMax) return false;  // none names that many
      ask(match);
      return match.variant == behind_runs();
    default:
      return false;
  }
}

// What is kept stays right when runs are added: they change nothing before their old end.
void PromptRuns::ask(const Match& match) {
  const uint32_t begin = match.token_begin, end = begin + match.n_tokens;
  if (asked_.run.begin == begin && asked_.run.end == end) return;
  asked_ = {.run = {begin, end, {}}, .behind_prefix = {}, .behind_runs = {}};
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
    const uint32_t n_before = asked_.run.begin;
    if (n_before < n_prefix_tokens_) {
      prefix_.emplace(prompt_.model, prompt_.tenant_salt);
      n_prefix_tokens_ = 0;
    }
    prefix_->extend(prompt_.tokens.subspan(n_prefix_tokens_, n_before - n_prefix_tokens_));
    n_prefix_tokens_ = n_before;
    asked_.behind_prefix =
        variant_id(object_of(asked_.run), VariantContext::fixed_prefix(prefix_->digest()));
  }
  return *asked_.behind_prefix;
}

size_t PromptRuns::n_runs_before(uint32_t token) const {
  const auto first = std::partition_point(runs_.begin(), runs_.end(),
                                          [token](const Run& run) { return run.begin < token; });
  return static_cast<size_t>(first - runs_.begin());
}

std::vector<Digest> PromptRuns::runs_before_asked() {
  const uint32_t n_before = asked_.run.begin;
  std::vector<Digest> names;
  names.reserve(n_runs_before(n_before));
  for (Run& run : std::span(runs_).first(n_runs_before(n_before))) {
    Run part{run.begin, n_before, {}};
    names.push_back(object_of(run.end <= n_before ? run : part));
  }
  return names;
}

const Digest& PromptRuns::behind_runs() {
  if (!asked_.behind_runs) {
    asked_.behind_runs = variant_id(object_of(asked_.run),
                                    VariantContext::synthetic(runs_before_asked(), prompt_.scope));
  }
  return *asked_.behind_runs;
}

std::vector<bool> behind_own_beginning(const PromptIdentity& prompt,
                                       std::span<const Match> matches) {
  std::vector<bool> result(matches.size());
  std::vector<size_t> asked;
  for (size_t i = 0; i < matches.size(); ++i)
    if (matches[i].kind == wire::MatchKind::kChunk &&
        matches[i].context_kind == ContextKind::kFixedPrefix && matches[i].base_position != 0 &&
        matches[i].base_position != matches[i].token_begin &&
        matches[i].base_position <= prompt.tokens.size())
      asked.push_back(i);
  std::sort(asked.begin(), asked.end(), [&](size_t a, size_t b) {
    return matches[a].base_position < matches[b].base_position;
  });
  PrefixDigester digester(prompt.model, prompt.tenant_salt);
  uint64_t n_hashed = 0;
  Digest digest;
  for (const size_t i : asked) {
    const uint64_t n_tokens = matches[i].base_position;
    if (n_tokens != n_hashed) {
      digester.extend(prompt.tokens.subspan(n_hashed, n_tokens - n_hashed));
      digest = digester.digest();
      n_hashed = n_tokens;
    }
    result[i] = matches[i].context_reference == digest;
  }
  return result;
}

}  // namespace quire::reuse
