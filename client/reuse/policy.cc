#include "client/reuse/policy.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "client/reuse/query_value.h"
#include "client/reuse/row_choice.h"

namespace quire::reuse {
namespace {

using Rows = std::vector<uint32_t>;

constexpr const char* kPolicyHelp =
    "policies: full, prefix, reuse, epic:K (K tokens per chunk, at least 1), link0, "
    "query:B, query-value:B (0 <= B <= 1)";

void append_range(Rows& rows, uint32_t begin, uint32_t n_rows) {
  const size_t first = rows.size();
  rows.resize(first + n_rows);
  std::iota(rows.begin() + static_cast<ptrdiff_t>(first), rows.end(), begin);
}

class FullPrefill final : public RowPolicy {
 public:
  PolicyNeeds needs() const override { return {.uses_prefix = false, .uses_chunks = false}; }
  std::string name() const override { return "full"; }

 private:
  Expected<Rows> choose(const Plan& plan, std::span<const float>,
                        const QuestionPass&) const override {
    Rows rows;
    for (const Segment& segment : plan.segments)
      if (segment.kind != SegmentKind::kFresh)
        append_range(rows, segment.token_begin, segment.n_tokens);
    return rows;
  }
};

class ExactPrefix final : public RowPolicy {
 public:
  PolicyNeeds needs() const override { return {.uses_chunks = false}; }
  std::string name() const override { return "prefix"; }

 private:
  Expected<Rows> choose(const Plan& plan, std::span<const float>,
                        const QuestionPass&) const override {
    return chunk_rows(plan, true);
  }
};

class FullReuse final : public RowPolicy {
 public:
  explicit FullReuse(bool dummy_sink_only) : dummy_sink_only_(dummy_sink_only) {}
  PolicyNeeds needs() const override { return {.dummy_sink_only = dummy_sink_only_}; }
  std::string name() const override { return dummy_sink_only_ ? "link0" : "reuse"; }

 private:
  Expected<Rows> choose(const Plan&, std::span<const float>, const QuestionPass&) const override {
    return Rows{};
  }
  bool dummy_sink_only_;
};

class Epic final : public RowPolicy {
 public:
  explicit Epic(uint32_t rows_per_chunk) : rows_per_chunk_(rows_per_chunk) {}
  PolicyNeeds needs() const override { return {}; }
  std::string name() const override { return "epic:" + std::to_string(rows_per_chunk_); }

 private:
  // A chunk at position 0 has nothing before it: its first tokens are right as they are. A chunk
  // whose head is covered by the prefix lacks the seam at its head, so its first used tokens count.
  Expected<Rows> choose(const Plan& plan, std::span<const float>,
                        const QuestionPass&) const override {
    Rows rows;
    for (const Segment& segment : plan.segments)
      if (segment.kind == SegmentKind::kChunk && segment.token_begin != 0)
        append_range(rows, segment.token_begin, std::min(rows_per_chunk_, segment.n_tokens));
    return rows;
  }

 private:
  uint32_t rows_per_chunk_;
};

class QueryGuided final : public RowPolicy {
 public:
  QueryGuided(double share, std::string name) : share_(share), name_(std::move(name)) {}
  PolicyNeeds needs() const override {
    return {.static_rows = false, .needs_query_attention = true};
  }
  std::string name() const override { return name_; }

 private:
  Expected<Rows> choose(const Plan& plan, std::span<const float> column_mass,
                        const QuestionPass&) const override {
    QUIRE_RETURN_IF_ERROR(check_column_mass(plan, column_mass, name_));
    Rows rows = chunk_rows(plan, true);
    const double wanted = std::ceil(share_ * static_cast<double>(rows.size()));
    return heaviest_rows(std::move(rows), column_mass, static_cast<size_t>(wanted));
  }

  double share_;
  std::string name_;
};

Status bad_policy(std::string_view text) {
  return {StatusCode::kInvalidArgument,
          "unknown policy \"" + std::string(text.substr(0, 64)) + "\"; " + kPolicyHelp};
}

template <typename T>
bool parse_number(std::string_view text, T& value) {
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  return result.ec == std::errc() && result.ptr == text.data() + text.size();
}

uint64_t rows_in_chunks(const Plan& plan, std::span<const uint32_t> rows) {
  uint64_t count = 0;
  for (const Segment& segment : plan.segments) {
    if (segment.kind != SegmentKind::kChunk) continue;
    const auto first = std::lower_bound(rows.begin(), rows.end(), segment.token_begin);
    count +=
        static_cast<uint64_t>(std::lower_bound(first, rows.end(), segment.token_end()) - first);
  }
  return count;
}

}  // namespace

uint32_t RowPolicy::question_layers(const Plan& plan, const AttentionLayers& layers) const {
  if (!needs().needs_query_attention || plan.tokens_of(SegmentKind::kChunk) == 0) return 0;
  return layers.full.empty() ? 0 : layers.full.back() + 1;
}

Expected<Rows> RowPolicy::select_rows(const Plan& plan, std::span<const float> column_mass,
                                      const QuestionPass& pass) const {
  if (pass.n_layers == 0 || pass.layers_run > pass.n_layers)
    return Status(StatusCode::kInvalidArgument, "a pass through " +
                                                    std::to_string(pass.layers_run) + " of " +
                                                    std::to_string(pass.n_layers) + " layers");
  return choose(plan, column_mass, pass);
}

Expected<std::unique_ptr<RowPolicy>> parse_policy(std::string_view text) {
  using Result = std::unique_ptr<RowPolicy>;
  if (text == "full") return Result(std::make_unique<FullPrefill>());
  if (text == "prefix") return Result(std::make_unique<ExactPrefix>());
  if (text == "reuse") return Result(std::make_unique<FullReuse>(false));
  if (text == "link0") return Result(std::make_unique<FullReuse>(true));
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos) return bad_policy(text);
  const std::string_view kind = text.substr(0, colon);
  const std::string_view argument = text.substr(colon + 1);
  if (kind == "epic") {
    uint32_t rows_per_chunk = 0;
    if (!parse_number(argument, rows_per_chunk) || rows_per_chunk == 0 ||
        rows_per_chunk > kChunkTokensMax)
      return bad_policy(text);
    return Result(std::make_unique<Epic>(rows_per_chunk));
  }
  if (kind == "query" || kind == "query-value") {
    double share = 0;
    if (!parse_number(argument, share) || !(share >= 0 && share <= 1)) return bad_policy(text);
    if (kind == "query-value")
      return Result(std::make_unique<QueryValue>(share, std::string(text)));
    return Result(std::make_unique<QueryGuided>(share, std::string(text)));
  }
  return bad_policy(text);
}

PlanPreferences preferences_for(const RowPolicy& policy, PlanPreferences preferences) {
  const PolicyNeeds needs = policy.needs();
  preferences.use_prefix = preferences.use_prefix && needs.uses_prefix;
  preferences.use_chunks = preferences.use_chunks && needs.uses_chunks;
  preferences.dummy_sink_only = preferences.dummy_sink_only || needs.dummy_sink_only;
  preferences.synthetic_first = preferences.synthetic_first || needs.prefers_synthetic;
  return preferences;
}

double charged_budget(const Plan& plan, std::span<const std::vector<uint32_t>> rows_per_layer) {
  const uint64_t chunk_tokens = plan.tokens_of(SegmentKind::kChunk);
  if (chunk_tokens == 0 || rows_per_layer.empty()) return 0;
  uint64_t charged = 0;
  for (const Rows& rows : rows_per_layer) charged += rows_in_chunks(plan, rows);
  return static_cast<double>(charged) /
         (static_cast<double>(rows_per_layer.size()) * static_cast<double>(chunk_tokens));
}

double charged_budget(const Plan& plan, std::span<const uint32_t> rows) {
  const uint64_t chunk_tokens = plan.tokens_of(SegmentKind::kChunk);
  if (chunk_tokens == 0) return 0;
  return static_cast<double>(rows_in_chunks(plan, rows)) / static_cast<double>(chunk_tokens);
}

double question_charge(const Plan& plan, const QuestionPass& pass) {
  const uint64_t chunk_tokens = plan.tokens_of(SegmentKind::kChunk);
  if (chunk_tokens == 0) return 0;
  const uint64_t run = uint64_t{pass.layers_run} * plan.tokens_of(SegmentKind::kFresh);
  return static_cast<double>(run) / static_cast<double>(pass.n_layers * chunk_tokens);
}

}  // namespace quire::reuse
