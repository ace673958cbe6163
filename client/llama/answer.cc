#include "client/llama/answer.h"

#include <algorithm>
#include <cmath>

#include "base/clock.h"

namespace quire {

namespace {

Status invalid(std::string text) {
  return Status(StatusCode::kInvalidArgument, std::move(text));
}

class Stopwatch {
 public:
  uint64_t lap_us() {
    const uint64_t now_ns = system_clock().now_ns();
    const uint64_t result = (now_ns - last_ns_) / 1000;
    last_ns_ = now_ns;
    return result;
  }

 private:
  uint64_t last_ns_ = system_clock().now_ns();
};

// The plan in the engine's terms: [0, loaded_end) is placed, gaps inside it and all behind it is
// fresh.
struct Layout {
  std::vector<KvPiece> pieces;
  std::vector<uint32_t> gaps;
  uint32_t loaded_end = 0;
  uint32_t loaded_tokens = 0;
};

Status check_input(const AnswerInput& input) {
  if (input.plan == nullptr || input.policy == nullptr) return invalid("no plan or no policy");
  QUIRE_RETURN_IF_ERROR(reuse::check_plan(*input.plan));
  if (input.plan->n_tokens == input.tokens.size() &&
      input.representations.size() == input.plan->segments.size()) {
    return Status::ok();
  }
  return invalid("plan, tokens and representations do not belong together");
}

// looks: the question runs first, so all that is fresh before it has to be there.
Layout make_layout(const AnswerInput& input, bool looks) {
  Layout layout;
  for (size_t i = 0; i < input.plan->segments.size(); ++i) {
    const reuse::Segment& segment = input.plan->segments[i];
    if (segment.kind == reuse::SegmentKind::kFresh) continue;
    for (uint32_t t = layout.loaded_end; t < segment.token_begin; ++t) layout.gaps.push_back(t);
    layout.pieces.push_back(
        {input.representations[i], segment.source_begin, segment.n_tokens, segment.token_begin});
    layout.loaded_end = segment.token_end();
    layout.loaded_tokens += segment.n_tokens;
  }
  if (looks && input.question_begin < input.tokens.size()) {
    for (uint32_t t = layout.loaded_end; t < input.question_begin; ++t) layout.gaps.push_back(t);
    layout.loaded_end = std::max(layout.loaded_end, input.question_begin);
  }
  return layout;
}

std::vector<TokenId> tokens_at(std::span<const TokenId> tokens, std::span<const uint32_t> rows) {
  std::vector<TokenId> result(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) result[i] = tokens[rows[i]];
  return result;
}

std::vector<uint32_t> merge_rows(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b) {
  std::vector<uint32_t> result;
  std::set_union(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(result));
  return result;
}

// How many layers the question's first pass goes through; 0: there are no chunks, the policy needs
// none, or cannot pay for one.
uint32_t question_layers(const LlamaEngine& engine, const AnswerInput& input) {
  if (input.plan->tokens_of(reuse::SegmentKind::kChunk) == 0) return 0;
  const std::vector<uint32_t> full = engine.full_layers();
  return input.policy->question_layers(*input.plan, {engine.n_layers(), full});
}

// The question over what was loaded, and no further than asked for. Gaps are computed first: their
// zero keys would draw attention. Returns what it cost: layers that were computed, over all tokens.
Expected<uint64_t> look(LlamaEngine& engine, const AnswerInput& input, const Layout& layout,
                        uint32_t n_layers, std::vector<float>& column_mass) {
  uint64_t token_layers = 0;
  uint32_t layers_run = 0;
  if (!layout.gaps.empty()) {
    QUIRE_RETURN_IF_ERROR(engine.recompute_below(
        n_layers, layout.gaps, tokens_at(input.tokens, layout.gaps), &layers_run));
    token_layers += layout.gaps.size() * layers_run;
  }
  const reuse::PolicyNeeds needs = input.policy->needs();
  const std::span<const TokenId> tail = input.tokens.subspan(layout.loaded_end);
  QUIRE_RETURN_IF_ERROR(engine.append_with_mass(
      tail, {needs.weighs_by_values, n_layers, needs.window_weight}, &column_mass, &layers_run));
  return token_layers + tail.size() * layers_run;
}

Expected<AnswerStart> load_and_run(LlamaEngine& engine, const AnswerInput& input) {
  QUIRE_RETURN_IF_ERROR(check_input(input));
  AnswerStart start;
  start.question_layers = question_layers(engine, input);
  const bool looks = start.question_layers > 0;
  const Layout layout = make_layout(input, looks);
  start.loaded_tokens = layout.loaded_tokens;
  const auto n_tokens = static_cast<uint32_t>(input.tokens.size());
  const std::span<const TokenId> tail = input.tokens.subspan(layout.loaded_end);
  const bool has_chunks = input.plan->tokens_of(reuse::SegmentKind::kChunk) > 0;
  const reuse::QuestionPass pass{start.question_layers, engine.n_layers()};
  if (has_chunks && !looks) {
    QUIRE_ASSIGN_OR_RETURN(start.rows, input.policy->select_rows(*input.plan, {}, pass));
  }
  std::vector<uint32_t> rows = merge_rows(start.rows, layout.gaps);
  // With rows to renew the tail is computed among them, in cells that place() makes.
  const bool in_rows = looks || !rows.empty();

  Stopwatch watch;
  QUIRE_RETURN_IF_ERROR(
      engine.place(in_rows && !looks ? n_tokens : layout.loaded_end, layout.pieces));
  if (input.check_bytes) QUIRE_RETURN_IF_ERROR(input.check_bytes());
  start.timeline.load_us = watch.lap_us();
  if (looks) {
    QUIRE_ASSIGN_OR_RETURN(const uint64_t token_layers,
                           look(engine, input, layout, start.question_layers, start.column_mass));
    start.question_charge =
        static_cast<double>(token_layers) / (static_cast<double>(engine.n_layers()) *
                                             input.plan->tokens_of(reuse::SegmentKind::kChunk));
    // The rows are those of a pass that ends where the policy meant it to.
    QUIRE_ASSIGN_OR_RETURN(start.rows,
                           input.policy->select_rows(*input.plan, start.column_mass, pass));
    rows = merge_rows(start.rows, layout.gaps);
    start.timeline.question_us = watch.lap_us();
  }
  if (in_rows) {
    for (uint32_t t = layout.loaded_end; t < n_tokens; ++t) rows.push_back(t);
    QUIRE_RETURN_IF_ERROR(engine.recompute(rows, tokens_at(input.tokens, rows), true));
  } else {
    QUIRE_RETURN_IF_ERROR(engine.append(tail, true));
  }
  if (has_chunks) start.charged_budget = reuse::charged_budget(*input.plan, start.rows);
  start.timeline.recompute_us = watch.lap_us();
  const AnswerTimeline& times = start.timeline;
  start.timeline.total_us = times.load_us + times.question_us + times.recompute_us;
  return start;
}

}  // namespace

Expected<AnswerStart> start_answer(LlamaEngine& engine, const AnswerInput& input) {
  Expected<AnswerStart> start = load_and_run(engine, input);
  // Gaps may be empty, and above the pass nothing has its KV: nothing may go on from there.
  if (!start) engine.clear();
  return start;
}

double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits) {
  const auto log_normaliser = [](std::span<const float> logits) {
    const double top = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float logit : logits) sum += std::exp(logit - top);
    return top + std::log(sum);
  };
  const double p_norm = log_normaliser(p_logits);
  const double q_norm = log_normaliser(q_logits);
  double kl = 0;
  for (size_t i = 0; i < p_logits.size(); ++i) {
    const double log_p = p_logits[i] - p_norm;
    const double p = std::exp(log_p);
    if (p != 0) kl += p * (log_p - (q_logits[i] - q_norm));
  }
  return std::max(kl, 0.0);  // in this order NaN stays what it is
}

TokenId top_token(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace quire
