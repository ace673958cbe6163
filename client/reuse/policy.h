// Row policies: which tokens of the reused segments are computed again together with the fresh
// ones. "Rows" are prompt token indices inside reused segments, ascending and distinct; fresh
// tokens are always computed and never listed. Policies are immutable: any thread may call them at
// any time.
//
// All policies here choose one row set for all layers, before or after one look at the question's
// attention. A policy that probes layers (CacheBlend) gets a further entry in PolicyNeeds and an
// on-layer call that returns a subset of the rows before it: rows may only shrink with depth,
// because a row computed at layer l needs its hidden state from layer l - 1.
#ifndef QUIRE_CLIENT_REUSE_POLICY_H_
#define QUIRE_CLIENT_REUSE_POLICY_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "client/reuse/plan.h"

namespace quire::reuse {

// What the connector must do for a policy.
struct PolicyNeeds {
  bool static_rows = true;  // rows follow from the plan alone
  bool needs_query_attention =
      false;                     // run the question over the reused KV first, pass column_mass
  bool uses_prefix = true;       // false: do not load prefixes
  bool uses_chunks = true;       // false: do not load chunks
  bool dummy_sink_only = false;  // wants chunks in their dummy_sink variant
  // column_mass holds attention times the norm of each token's value, see select_rows().
  bool weighs_by_values = false;
  // What the mean over the pass's sliding-window layers counts in column_mass, beside the mean over
  // its full-attention layers.
  double window_weight = 0;
  bool prefers_synthetic = false;  // chunks computed behind other texts rather than a fixed one
};

// A model's layers as the question's first pass meets them.
struct AttentionLayers {
  uint32_t n_layers = 0;
  std::span<const uint32_t> full;  // layers that see the whole prompt, ascending
};

// How far the first pass of the question went: through layers [0, layers_run) of the model's
// n_layers. 0: there was none. The default: through all of them.
struct QuestionPass {
  uint32_t layers_run = 1;
  uint32_t n_layers = 1;
};

class RowPolicy {
 public:
  virtual ~RowPolicy() = default;
  virtual PolicyNeeds needs() const = 0;
  // The text parse_policy() takes.
  virtual std::string name() const = 0;
  // How many layers the question's first pass runs through in this prompt; the last of them is one
  // that sees the whole prompt, and mass is taken of those alone. 0: no pass.
  virtual uint32_t question_layers(const Plan& plan, const AttentionLayers& layers) const;
  // column_mass: one value per prompt token (plan.n_tokens), the attention the question's tokens
  // pay to it: softmax column sums over the question's rows, mean over heads and over
  // full-attention layers of the pass (sliding-window layers do not see the whole prompt: theirs
  // counts needs().window_weight, more ruins the ranking). Where needs().weighs_by_values each
  // head's sum counts times the L2 norm of the token's cached value in that head (query heads of a
  // group share one). Values outside chunks are not read. Ignored, and may be empty, unless
  // needs().needs_query_attention and a pass was made. kInvalidArgument: wrong length, a pass
  // through more layers than there are. kNonFinite: NaN or infinity in a chunk's mass.
  Expected<std::vector<uint32_t>> select_rows(const Plan& plan, std::span<const float> column_mass,
                                              const QuestionPass& pass = {}) const;

 private:
  virtual Expected<std::vector<uint32_t>> choose(const Plan& plan,
                                                 std::span<const float> column_mass,
                                                 const QuestionPass& pass) const = 0;
};

//  "full"       full prefill: nothing is loaded; every reusable row is computed
//  "prefix"     the exact prefix only; chunk tokens are computed
//  "reuse"      full reuse: no row is computed again
//  "epic:K"     EPIC / LegoLink-K (arXiv 2410.15332): the first K tokens of every reused chunk,
//  except a
//               chunk at prompt position 0
//  "link0"      EPIC's LegoLink-0: chunks compiled behind dropped dummy tokens, no rows
//  "query:B"    query-guided: the top ceil(B * chunk tokens) chunk tokens by column_mass
//               (ProphetKV; FusionRAG's online selection, with all full-attention layers fused
//               instead of the last alone). Equal mass: lower index first; the product is taken in
//               double.
//  "query-value:B"  the default: mass times value norm (VATP, arXiv 2406.12335), summed with the
//               token before and the one behind inside the chunk; chunks that stand as they were
//               computed (Segment::exact) left out; what sliding-window layers read counts a little
//               where B is above .05; B pays for the question's pass too, which ends
//               where it would take more than a third of it. Equal weight: lower index first.
//               B = 1: all chunk tokens. Equal rows: client/python/quire/transformers/policies.
//               Wants exact variants first, then synthetic ones, then the others.
// Anything else: kInvalidArgument with the list above.
inline constexpr std::string_view kDefaultPolicy = "query-value:0.15";
Expected<std::unique_ptr<RowPolicy>> parse_policy(std::string_view text);

// preferences with what the policy needs of the plan switched on or off.
PlanPreferences preferences_for(const RowPolicy& policy, PlanPreferences preferences = {});

// The share of work a method is charged for, comparable between methods:
//   sum over layers of |rows(l) inside chunks| / (layers * chunk tokens)
// 0 where the plan has no chunk. The second form is for one row set used at all layers.
double charged_budget(const Plan& plan, std::span<const std::vector<uint32_t>> rows_per_layer);
double charged_budget(const Plan& plan, std::span<const uint32_t> rows);

// What a first pass of the question costs in the same measure: layers run * fresh tokens /
// (layers * chunk tokens), with all fresh tokens, those between chunks too.
double question_charge(const Plan& plan, const QuestionPass& pass);

}  // namespace quire::reuse

#endif  // QUIRE_CLIENT_REUSE_POLICY_H_
