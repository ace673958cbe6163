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
};

class RowPolicy {
 public:
  virtual ~RowPolicy() = default;
  virtual PolicyNeeds needs() const = 0;
  // The text parse_policy() takes.
  virtual std::string name() const = 0;
  // column_mass: one value per prompt token (plan.n_tokens), the attention the question's tokens
  // pay to it: softmax column sums over the question's rows, mean over heads and over
  // full-attention layers only (sliding-window layers do not see the whole prompt and ruin the
  // ranking). Values outside chunks are not read. Ignored, and may be empty, unless
  // needs().needs_query_attention. kInvalidArgument: wrong length. kNonFinite: NaN or infinity in a
  // chunk's mass.
  virtual Expected<std::vector<uint32_t>> select_rows(const Plan& plan,
                                                      std::span<const float> column_mass) const = 0;
};

//  "full"       full prefill: nothing is loaded; every reusable row is computed
//  "prefix"     the exact prefix only; chunk tokens are computed
//  "reuse"      full reuse: no row is computed again
//  "epic:K"     EPIC / LegoLink-K (arXiv 2410.15332): the first K tokens of every reused chunk,
//  except a
//               chunk at prompt position 0
//  "link0"      EPIC's LegoLink-0: chunks compiled behind dropped dummy tokens, no rows
//  "query:B"    query-guided, the default: the top ceil(B * chunk tokens) chunk tokens by
//  column_mass
//               (ProphetKV; FusionRAG's online selection, with all full-attention layers fused
//               instead of the last alone). Equal mass: lower index first; the product is taken in
//               double.
// Anything else: kInvalidArgument with the list above.
inline constexpr std::string_view kDefaultPolicy = "query:0.15";
Expected<std::unique_ptr<RowPolicy>> parse_policy(std::string_view text);

// preferences with what the policy needs of the plan switched on or off.
PlanPreferences preferences_for(const RowPolicy& policy, PlanPreferences preferences = {});

// The share of work a method is charged for, comparable between methods:
//   sum over layers of |rows(l) inside chunks| / (layers * chunk tokens)
// 0 where the plan has no chunk. The second form is for one row set used at all layers.
double charged_budget(const Plan& plan, std::span<const std::vector<uint32_t>> rows_per_layer);
double charged_budget(const Plan& plan, std::span<const uint32_t> rows);

}  // namespace quire::reuse

#endif  // QUIRE_CLIENT_REUSE_POLICY_H_
