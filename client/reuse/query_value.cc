// Built without contraction of products and sums (CMakeLists.txt): rows are those of Python's
// doubles.
#include "client/reuse/query_value.h"

#include <algorithm>
#include <cmath>

#include "client/reuse/row_choice.h"

namespace quire::reuse {
namespace {

// What the question's pass may take of the charge.
constexpr double kAskedShareMax = 1.0 / 3;
// Of what sliding-window layers read: what the charge is above kWindowCharge, at most this. With
// few rows those that hold the answer come first.
constexpr double kWindowWeightMax = 0.1;
constexpr double kWindowCharge = 0.05;
// A budget of whole rows may come out a little below, in doubles.
constexpr double kRowRounding = 1e-9;

// A token's weight is summed with those of the token before it and the one behind it, inside the
// chunk.
void spread(std::span<const float> mass, const Segment& chunk, std::span<double> weights) {
  for (uint32_t row = chunk.token_begin; row < chunk.token_end(); ++row) {
    const double before = row > chunk.token_begin ? mass[row - 1] : 0.0;
    const double behind = row + 1 < chunk.token_end() ? mass[row + 1] : 0.0;
    weights[row] = before + static_cast<double>(mass[row]) + behind;
  }
}

}  // namespace

QueryValue::QueryValue(double charge, std::string name) : charge_(charge), name_(std::move(name)) {}

PolicyNeeds QueryValue::needs() const {
  return {.static_rows = false,
          .needs_query_attention = true,
          .weighs_by_values = true,
          .window_weight = std::clamp(charge_ - kWindowCharge, 0.0, kWindowWeightMax),
          .prefers_synthetic = true};
}

uint32_t QueryValue::question_layers(const Plan& plan, const AttentionLayers& layers) const {
  if (plan.tokens_of(SegmentKind::kChunk) == 0) return 0;
  const double affordable = charge_ * kAskedShareMax;
  uint32_t n_run = 0;
  for (const uint32_t layer : layers.full)
    if (question_charge(plan, {layer + 1, layers.n_layers}) <= affordable) n_run = layer + 1;
  return n_run;
}

// A full budget is a full prefill of the chunks, whatever the question's pass costs: see choose().
size_t QueryValue::rows_wanted(const Plan& plan, const QuestionPass& pass) const {
  const double left = std::max(charge_ - question_charge(plan, pass), 0.0);
  const double n_reusable = plan.tokens_of(SegmentKind::kChunk);
  return static_cast<size_t>(std::floor(left * n_reusable + kRowRounding));
}

Expected<std::vector<uint32_t>> QueryValue::choose(const Plan& plan,
                                                   std::span<const float> column_mass,
                                                   const QuestionPass& pass) const {
  if (charge_ >= 1.0) return chunk_rows(plan, true);
  if (pass.layers_run == 0) return std::vector<uint32_t>{};
  QUIRE_RETURN_IF_ERROR(check_column_mass(plan, column_mass, name_));
  std::vector<double> weights(plan.n_tokens);
  for (const Segment& segment : plan.segments)
    if (segment.kind == SegmentKind::kChunk) spread(column_mass, segment, weights);
  return heaviest_rows(chunk_rows(plan, false), std::span<const double>(weights),
                       rows_wanted(plan, pass));
}

}  // namespace quire::reuse
