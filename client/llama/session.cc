#include "client/llama/session.h"

#include <algorithm>

#include "base/clock.h"

namespace quire {

namespace {

// Link0: so many dummy tokens in front of a chunk, dropped after the capture.
constexpr uint32_t kDummyTokens = 4;

uint64_t since_us(uint64_t start_ns) {
  return (system_clock().now_ns() - start_ns) / 1000;
}

// Plans that lose what they wanted, before one of nothing but what the last of them held.
constexpr uint32_t kPlanTriesMax = 4;
// Starts whose bytes turn out to be unusable while they load, before one without anything stored.
constexpr uint32_t kLoadTriesMax = 2;

// Representations of a plan, acquired; one span per segment.
struct Acquired {
  std::unique_ptr<HeldKv> held;
  std::vector<ByteSpan> per_segment;
  std::vector<Digest> had, lost;
};

Expected<Acquired> acquire(KvSource& source, const reuse::Plan& plan) {
  Acquired acquired;
  acquired.per_segment.resize(plan.segments.size());
  std::vector<Digest> ids;
  std::vector<size_t> owner(plan.segments.size());
  for (size_t i = 0; i < plan.segments.size(); ++i) {
    if (plan.segments[i].kind == reuse::SegmentKind::kFresh) continue;
    const Digest& id = plan.segments[i].match.representation;
    const auto known = std::find(ids.begin(), ids.end(), id);
    owner[i] = static_cast<size_t>(known - ids.begin());
    if (known == ids.end()) ids.push_back(id);
  }
  if (ids.empty()) return acquired;
  QUIRE_ASSIGN_OR_RETURN(acquired.held, source.acquire(ids));
  for (size_t i = 0; i < plan.segments.size(); ++i) {
    if (plan.segments[i].kind == reuse::SegmentKind::kFresh) continue;
    acquired.per_segment[i] = acquired.held->bytes[owner[i]];
  }
  for (size_t i = 0; i < ids.size(); ++i)
    (acquired.held->bytes[i].empty() ? acquired.lost : acquired.had).push_back(ids[i]);
  return acquired;
}

// Whether the store has no time for this prompt, or is gone: nothing more is asked of it.
bool is_last_word(const Status& status) {
  return status.code() == StatusCode::kDeadlineExceeded ||
         status.code() == StatusCode::kUnavailable;
}

// Whether a prompt is to be answered without what the store has.
bool can_do_without(const Status& status) {
  return status.code() == StatusCode::kBusy || is_last_word(status);
}

}  // namespace

LogitDistance logit_distance(const std::vector<std::vector<float>>& p,
                             const std::vector<std::vector<float>>& q) {
  LogitDistance distance;
  const size_t n = std::min(p.size(), q.size());
  if (n == 0) return distance;
  distance.kl_first = kl_divergence(p[0], q[0]);
  double agree = 0;
  for (size_t i = 0; i < n; ++i) {
    distance.kl_mean += kl_divergence(p[i], q[i]) / static_cast<double>(n);
    agree += top_token(p[i]) == top_token(q[i]) ? 1 : 0;
  }
  distance.top1 = agree / static_cast<double>(n);
  return distance;
}

Expected<LlamaSession> LlamaSession::make(LlamaEngine& engine, KvSource& source,
                                          const SessionOptions& options) {
  LlamaSession session(engine, source, options);
  QUIRE_ASSIGN_OR_RETURN(session.system_, prompt_system_prefix(engine, options.system_text));
  QUIRE_ASSIGN_OR_RETURN(const std::vector<TokenId> start, engine.tokenize("", true, true));
  // BOS where the model has one; else the prompt's own first token, which is its attention sink.
  const TokenId dummy = start.empty() ? session.system_.front() : start.front();
  session.dummies_.assign(kDummyTokens, dummy);
  return session;
}

Expected<std::vector<TokenId>> LlamaSession::chunk(std::string_view text) const {
  return prompt_chunk(*engine_, text);
}

Expected<ChunkedPrompt> LlamaSession::prompt(const std::vector<std::vector<TokenId>>& chunks,
                                             std::string_view question,
                                             std::string_view opening) const {
  QUIRE_ASSIGN_OR_RETURN(std::vector<TokenId> suffix,
                         prompt_question_suffix(*engine_, question, options_.system_text));
  QUIRE_ASSIGN_OR_RETURN(const std::vector<TokenId> words, prompt_chunk(*engine_, opening));
  suffix.insert(suffix.end(), words.begin(), words.end());
  return join_prompt(system_, chunks, suffix);
}

VariantContext LlamaSession::dummy_context() const {
  return VariantContext::dummy_sink(dummies_, kDummyTokens);
}

Expected<bool> LlamaSession::is_stored(const std::vector<TokenId>& chunk,
                                       const VariantContext& context) const {
  const Digest variant =
      variant_id(object_id(engine_->model_id(), chunk, source_->tenant_salt()), context);
  QUIRE_ASSIGN_OR_RETURN(const std::vector<Match> matches,
                         source_->resolve(engine_->model_id(), chunk));
  return std::any_of(matches.begin(), matches.end(),
                     [&](const Match& match) { return match.variant == variant; });
}

Expected<StoreSummary> LlamaSession::store(
    const std::vector<std::vector<TokenId>>& chunks, bool link0,
    const std::function<bool(uint32_t, uint32_t)>& on_chunk) {
  const uint64_t start_ns = system_clock().now_ns();
  StoreSummary summary;
  const Digest nothing = prefix_digest(engine_->model_id(), {}, source_->tenant_salt());
  QUIRE_ASSIGN_OR_RETURN(const bool has_prefix,
                         is_stored(system_, VariantContext::contextual(nothing)));
  if (!has_prefix) QUIRE_RETURN_IF_ERROR(store_prefix(*engine_, *source_, system_).status());
  const VariantContext behind = behind_prefix(*engine_, *source_, system_);
  uint32_t done = 0;
  for (const std::vector<TokenId>& chunk : chunks) {
    if (on_chunk && !on_chunk(done, static_cast<uint32_t>(chunks.size()))) {
      return Status(StatusCode::kCancelled, "stopped");
    }
    ++done;
    if (chunk.size() < kMatchTokensMin) {
      ++summary.too_short;
      continue;
    }
    bool computed = false;
    for (const bool dummy : {false, true}) {
      if (dummy && !link0) continue;
      const VariantContext context = dummy ? dummy_context() : behind;
      QUIRE_ASSIGN_OR_RETURN(const bool stored, is_stored(chunk, context));
      if (stored) continue;
      computed = true;
      summary.computed_tokens += chunk.size();
      QUIRE_RETURN_IF_ERROR(store_chunk(*engine_, *source_, dummy ? dummies_ : system_, chunk,
                                        context, options_.codec)
                                .status());
    }
    ++(computed ? summary.computed : summary.found);
  }
  summary.elapsed_us = since_us(start_ns);
  return summary;
}

// A plan whose representations are all held.
struct LlamaSession::Loaded {
  reuse::Plan plan;
  Acquired acquired;
  uint32_t lost_representations = 0;
  Status lost;
};

// What is lost is planned around: a store under pressure, or gone, makes answers slower, never
// fail.
Expected<LlamaSession::Loaded> LlamaSession::load(const ChunkedPrompt& prompt,
                                                  const reuse::RowPolicy& policy, bool from_store,
                                                  AnswerTimeline& times) {
  const auto n_tokens = static_cast<uint32_t>(prompt.tokens.size());
  uint64_t begin_ns = system_clock().now_ns();
  Loaded loaded;
  std::vector<Match> matches;
  const reuse::PolicyNeeds needs = policy.needs();
  if (from_store && (needs.uses_prefix || needs.uses_chunks)) {
    auto found = source_->resolve(engine_->model_id(), prompt.tokens);
    if (found) {
      matches = std::move(*found);
    } else if (can_do_without(found.status())) {
      loaded.lost = found.status();
    } else {
      return found.status();
    }
  }
  reuse::PlanPreferences preferences;
  preferences.fixed_prefixes = {
      prefix_digest(engine_->model_id(), system_, source_->tenant_salt())};
  preferences.fresh_tail_tokens = n_tokens - prompt.question_begin;
  preferences.prompt = reuse::PromptIdentity{prompt.tokens, engine_->model_id(),
                                             source_->tenant_salt(), source_->scope()};
  preferences = reuse::preferences_for(policy, preferences);
  for (uint32_t tries = 1;; ++tries) {
    QUIRE_ASSIGN_OR_RETURN(loaded.plan, reuse::make_plan(n_tokens, matches, preferences));
    times.resolve_us += since_us(begin_ns);
    begin_ns = system_clock().now_ns();
    QUIRE_ASSIGN_OR_RETURN(loaded.acquired, acquire(*source_, loaded.plan));
    times.acquire_us += since_us(begin_ns);
    const Acquired& acquired = loaded.acquired;
    if (acquired.lost.empty()) return loaded;
    begin_ns = system_clock().now_ns();
    if (loaded.lost.is_ok()) loaded.lost = acquired.held->lost;
    loaded.lost_representations += static_cast<uint32_t>(acquired.lost.size());
    if (tries > kPlanTriesMax) matches.clear();
    // No more than what is held, where there is no time for another deadline, or no end of this.
    const bool settle = tries == kPlanTriesMax || is_last_word(acquired.held->lost);
    const std::vector<Digest>& listed = settle ? acquired.had : acquired.lost;
    std::erase_if(matches, [&](const Match& match) {
      const bool is_listed =
          std::find(listed.begin(), listed.end(), match.representation) != listed.end();
      return is_listed != settle;
    });
  }
}

Expected<PolicyRun> LlamaSession::start(const ChunkedPrompt& prompt, const reuse::RowPolicy& policy,
                                        bool from_store) {
  AnswerTimeline times;
  QUIRE_ASSIGN_OR_RETURN(const Loaded loaded, load(prompt, policy, from_store, times));
  AnswerInput input;
  input.tokens = prompt.tokens;
  input.plan = &loaded.plan;
  input.representations = loaded.acquired.per_segment;
  input.policy = &policy;
  input.question_begin = prompt.question_begin;
  // Not behind the computing, which may take longer than a lease.
  if (loaded.acquired.held != nullptr)
    input.check_bytes = [&] { return loaded.acquired.held->check(); };
  PolicyRun run;
  QUIRE_ASSIGN_OR_RETURN(run.start, start_answer(*engine_, input));
  QUIRE_ASSIGN_OR_RETURN(const std::span<const float> logits, engine_->logits());
  run.first_logits.assign(logits.begin(), logits.end());
  run.start.timeline.resolve_us = times.resolve_us;
  run.start.timeline.acquire_us = times.acquire_us;
  run.policy = policy.name();
  run.prompt_tokens = static_cast<uint32_t>(prompt.tokens.size());
  run.prefix_tokens = loaded.plan.tokens_of(reuse::SegmentKind::kPrefix);
  run.chunk_tokens = loaded.plan.tokens_of(reuse::SegmentKind::kChunk);
  run.lost_representations = loaded.lost_representations;
  run.lost = loaded.lost;
  return run;
}

Expected<PolicyRun> LlamaSession::ask(const ChunkedPrompt& prompt, const reuse::RowPolicy& policy,
                                      const std::function<bool(TokenId)>& on_token) {
  const uint64_t begin_ns = system_clock().now_ns();
  Expected<PolicyRun> started = start(prompt, policy, true);
  const Status first = started.status();
  const auto unusable = [&] {
    const StatusCode code = started.status().code();
    return code == StatusCode::kStaleLease || code == StatusCode::kCorrupt ||
           code == StatusCode::kUnavailable;
  };
  for (uint32_t tries = 1; tries <= kLoadTriesMax && unusable(); ++tries)
    started = start(prompt, policy, tries < kLoadTriesMax);
  QUIRE_RETURN_IF_ERROR(started.status());
  PolicyRun run = std::move(*started);
  if (run.lost.is_ok()) run.lost = first;
  run.start.timeline.total_us = since_us(begin_ns);
  QUIRE_ASSIGN_OR_RETURN(run.answer_tokens,
                         engine_->generate(options_.answer_tokens_max, on_token));
  run.answer = engine_->detokenize(run.answer_tokens);
  return run;
}

Expected<std::vector<std::vector<float>>> LlamaSession::forced_logits(
    const PolicyRun& run, const ChunkedPrompt& prompt, std::span<const TokenId> along) {
  std::vector<std::vector<float>> rows = {run.first_logits};
  if (along.size() < 2) return rows;
  QUIRE_RETURN_IF_ERROR(engine_->truncate(static_cast<uint32_t>(prompt.tokens.size())));
  QUIRE_ASSIGN_OR_RETURN(std::vector<std::vector<float>> more,
                         engine_->force(along.first(along.size() - 1)));
  std::move(more.begin(), more.end(), std::back_inserter(rows));
  return rows;
}

Expected<std::vector<Comparison>> LlamaSession::compare(
    const ChunkedPrompt& prompt, const std::vector<std::unique_ptr<reuse::RowPolicy>>& policies) {
  QUIRE_ASSIGN_OR_RETURN(const auto full_policy, reuse::parse_policy("full"));
  QUIRE_ASSIGN_OR_RETURN(const PolicyRun full, ask(prompt, *full_policy));
  QUIRE_ASSIGN_OR_RETURN(const auto full_rows, forced_logits(full, prompt, full.answer_tokens));
  std::vector<Comparison> comparisons;
  for (const auto& policy : policies) {
    Comparison comparison;
    if (policy->name() == full_policy->name()) {
      comparison.run = full;
      comparisons.push_back(std::move(comparison));
      continue;
    }
    QUIRE_ASSIGN_OR_RETURN(comparison.run, ask(prompt, *policy));
    QUIRE_ASSIGN_OR_RETURN(const auto rows,
                           forced_logits(comparison.run, prompt, full.answer_tokens));
    comparison.speedup = full.ttft_ms() / comparison.run.ttft_ms();
    comparison.distance = logit_distance(full_rows, rows);
    comparisons.push_back(std::move(comparison));
  }
  return comparisons;
}

}  // namespace quire
