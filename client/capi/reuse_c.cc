// Plans and rows in C.
#include <optional>

#include "client/capi/errors.h"
#include "client/capi/matches.h"
#include "client/reuse/plan.h"
#include "client/reuse/policy.h"

namespace quire::capi {

quire_match to_c_match(const Match& match) {
  quire_match result{};
  result.struct_bytes = sizeof(result);
  result.kind = static_cast<uint32_t>(match.kind);
  result.token_begin = match.token_begin;
  result.n_tokens = match.n_tokens;
  result.representation = to_id(match.representation);
  result.variant = to_id(match.variant);
  result.context_reference = to_id(match.context_reference);
  result.context_kind = static_cast<uint32_t>(match.context_kind);
  result.phase = static_cast<uint32_t>(match.phase);
  result.codec = match.codec;
  result.frame = static_cast<uint32_t>(match.frame);
  result.base_position = match.base_position;
  result.bytes = match.bytes;
  result.tier = static_cast<uint32_t>(match.tier);
  result.load_us = match.load_us;
  result.recompute_us = match.recompute_us;
  result.strikes = match.strikes;
  result.deviation = match.deviation;
  result.hits = match.hits;
  return result;
}

Expected<Match> from_c_match(const quire_match& match) {
  if (match.kind > 1 || match.context_kind >= kContextKindCount || match.phase > 1 ||
      match.frame > 1 || match.codec > UINT16_MAX || match.tier > UINT8_MAX)
    return Status(StatusCode::kInvalidArgument, "a match holds a value that is not of its kind");
  Match result;
  result.kind = static_cast<wire::MatchKind>(match.kind);
  result.token_begin = match.token_begin;
  result.n_tokens = match.n_tokens;
  result.representation = to_digest(match.representation);
  result.variant = to_digest(match.variant);
  result.context_kind = static_cast<ContextKind>(match.context_kind);
  result.context_reference = to_digest(match.context_reference);
  result.phase = static_cast<Phase>(match.phase);
  result.codec = static_cast<uint16_t>(match.codec);
  result.frame = static_cast<PositionFrame>(match.frame);
  result.base_position = match.base_position;
  result.bytes = match.bytes;
  result.tier = static_cast<wire::TierId>(match.tier);
  result.load_us = match.load_us;
  result.recompute_us = match.recompute_us;
  result.strikes = match.strikes;
  result.deviation = match.deviation;
  result.hits = match.hits;
  return result;
}

namespace {

constexpr size_t kMatchesMax = 1u << 20;
constexpr size_t kFixedPrefixesMax = 1024;

// What quire_select_rows() takes for NULL: its callers know neither passes through some layers nor
// mass weighed by values.
constexpr const char* kPolicyOfWholePasses = "query:0.15";

Expected<std::unique_ptr<reuse::RowPolicy>> policy_of(const char* text) {
  return reuse::parse_policy(text == nullptr ? reuse::kDefaultPolicy : std::string_view(text));
}

Expected<std::optional<reuse::PromptIdentity>> to_prompt(const quire_plan_options& known,
                                                         uint32_t n_tokens) {
  if (known.tokens == nullptr) return std::optional<reuse::PromptIdentity>{};
  if (known.model == nullptr) return null_argument("model");
  if (known.salt == nullptr && known.salt_bytes != 0) return null_argument("salt");
  reuse::PromptIdentity prompt;
  prompt.tokens = {known.tokens, n_tokens};
  prompt.model = to_digest(*known.model);
  prompt.tenant_salt = {static_cast<const std::byte*>(known.salt), known.salt_bytes};
  if (known.scope != nullptr) prompt.scope = to_digest(*known.scope);
  return std::optional(prompt);
}

Expected<reuse::PlanPreferences> to_preferences(const quire_plan_options* source,
                                                uint32_t n_tokens) {
  quire_plan_options known{};
  if (source != nullptr) {
    QUIRE_RETURN_IF_ERROR(read_struct(source, known));
  }
  if (known.n_fixed_prefixes > kFixedPrefixesMax)
    return Status(StatusCode::kResourceExhausted, "too many fixed prefixes");
  if (known.n_fixed_prefixes != 0 && known.fixed_prefixes == nullptr)
    return null_argument("fixed_prefixes");
  reuse::PlanPreferences preferences;
  for (size_t i = 0; i < known.n_fixed_prefixes; ++i)
    preferences.fixed_prefixes.push_back(to_digest(known.fixed_prefixes[i]));
  preferences.fresh_tail_tokens = std::max(known.fresh_tail_tokens, 1u);
  preferences.skip_slow = known.keep_slow == 0;
  QUIRE_ASSIGN_OR_RETURN(preferences.prompt, to_prompt(known, n_tokens));
  QUIRE_ASSIGN_OR_RETURN(const auto policy, policy_of(known.policy));
  return reuse::preferences_for(*policy, std::move(preferences));
}

Expected<reuse::Plan> plan_of(uint32_t n_tokens, const quire_match* matches, size_t n_matches,
                              const quire_plan_options* options) {
  std::vector<quire_match> known;
  QUIRE_RETURN_IF_ERROR(read_struct_array(matches, n_matches, kMatchesMax, known));
  std::vector<Match> converted;
  converted.reserve(known.size());
  for (const quire_match& source : known) {
    QUIRE_ASSIGN_OR_RETURN(const Match match, from_c_match(source));
    converted.push_back(match);
  }
  QUIRE_ASSIGN_OR_RETURN(const auto preferences, to_preferences(options, n_tokens));
  return reuse::make_plan(n_tokens, converted, preferences);
}

Expected<reuse::Plan> to_plan(uint32_t n_tokens, const quire_segment* segments, size_t n_segments) {
  std::vector<quire_segment> known;
  QUIRE_RETURN_IF_ERROR(read_struct_array(segments, n_segments, kPromptTokensMax, known));
  reuse::Plan plan;
  plan.n_tokens = n_tokens;
  for (const quire_segment& segment : known) {
    if (segment.kind > QUIRE_SEGMENT_CHUNK)
      return Status(StatusCode::kInvalidArgument, "unknown segment kind");
    plan.segments.push_back({.kind = static_cast<reuse::SegmentKind>(segment.kind),
                             .token_begin = segment.token_begin,
                             .n_tokens = segment.n_tokens,
                             .source_begin = segment.source_begin,
                             .exact = segment.exact != 0});
  }
  const Status status = reuse::check_plan(plan);
  if (!status.is_ok()) return Status(StatusCode::kInvalidArgument, status.message());
  return plan;
}

// pass NULL: there was none, of whatever model.
Expected<reuse::QuestionPass> to_pass(const quire_question_pass* source,
                                      quire_question_pass& known) {
  if (source == nullptr) return reuse::QuestionPass{0, 1};
  QUIRE_RETURN_IF_ERROR(read_struct(source, known));
  return reuse::QuestionPass{known.layers_run, known.n_layers};
}

Status check_full_layers(uint32_t n_layers, std::span<const uint32_t> full) {
  if (n_layers == 0 || n_layers > kLayersMax)
    return {StatusCode::kInvalidArgument, "a model has 1 to " + std::to_string(kLayersMax) +
                                              " layers, not " + std::to_string(n_layers)};
  for (size_t i = 0; i < full.size(); ++i)
    if (full[i] >= n_layers || (i > 0 && full[i] <= full[i - 1]))
      return {StatusCode::kInvalidArgument, "full_layers must ascend below n_layers"};
  return Status::ok();
}

Status select_rows(const char* policy, uint32_t n_tokens, const quire_segment* segments,
                   size_t n_segments, const float* column_mass, const reuse::QuestionPass& pass,
                   uint32_t** rows, size_t* n_rows) {
  QUIRE_ASSIGN_OR_RETURN(const auto chosen, policy_of(policy));
  QUIRE_ASSIGN_OR_RETURN(const auto plan, to_plan(n_tokens, segments, n_segments));
  const std::span<const float> mass(column_mass, column_mass == nullptr ? 0 : n_tokens);
  QUIRE_ASSIGN_OR_RETURN(const auto selected, chosen->select_rows(plan, mass, pass));
  *rows = new_array<uint32_t>(selected.size());
  *n_rows = selected.size();
  std::copy(selected.begin(), selected.end(), *rows);
  return Status::ok();
}

}  // namespace
}  // namespace quire::capi

using quire::Status;
using quire::StatusCode;
using quire::capi::guarded;
using quire::capi::null_argument;

quire_status quire_plan(uint32_t n_tokens, const quire_match* matches, size_t n_matches,
                        const quire_plan_options* options, quire_segment** segments,
                        size_t* n_segments) {
  return guarded([&]() -> Status {
    if (segments == nullptr) return null_argument("segments");
    if (n_segments == nullptr) return null_argument("n_segments");
    *segments = nullptr;
    *n_segments = 0;
    QUIRE_ASSIGN_OR_RETURN(const auto plan,
                           quire::capi::plan_of(n_tokens, matches, n_matches, options));
    *segments = quire::capi::new_array<quire_segment>(plan.segments.size());
    *n_segments = plan.segments.size();
    for (size_t i = 0; i < plan.segments.size(); ++i) {
      const quire::reuse::Segment& segment = plan.segments[i];
      const bool fresh = segment.kind == quire::reuse::SegmentKind::kFresh;
      (*segments)[i] = {
          sizeof(quire_segment),  static_cast<uint32_t>(segment.kind),
          segment.token_begin,    segment.n_tokens,
          segment.source_begin,   fresh ? -1 : static_cast<int32_t>(segment.match_index),
          segment.exact ? 1u : 0u};
    }
    return Status::ok();
  });
}

quire_status quire_select_rows(const char* policy, uint32_t n_tokens, const quire_segment* segments,
                               size_t n_segments, const float* column_mass, uint32_t** rows,
                               size_t* n_rows) {
  return guarded([&]() -> Status {
    if (rows == nullptr) return null_argument("rows");
    if (n_rows == nullptr) return null_argument("n_rows");
    *rows = nullptr;
    *n_rows = 0;
    const char* known = policy == nullptr ? quire::capi::kPolicyOfWholePasses : policy;
    return quire::capi::select_rows(known, n_tokens, segments, n_segments, column_mass, {}, rows,
                                    n_rows);
  });
}

quire_status quire_select_rows_after(const char* policy, uint32_t n_tokens,
                                     const quire_segment* segments, size_t n_segments,
                                     const quire_question_pass* pass, uint32_t** rows,
                                     size_t* n_rows) {
  return guarded([&]() -> Status {
    if (rows == nullptr) return null_argument("rows");
    if (n_rows == nullptr) return null_argument("n_rows");
    *rows = nullptr;
    *n_rows = 0;
    quire_question_pass known{};
    QUIRE_ASSIGN_OR_RETURN(const auto run, quire::capi::to_pass(pass, known));
    return quire::capi::select_rows(policy, n_tokens, segments, n_segments, known.column_mass, run,
                                    rows, n_rows);
  });
}

quire_status quire_question_layers(const char* policy, uint32_t n_tokens,
                                   const quire_segment* segments, size_t n_segments,
                                   uint32_t n_layers, const uint32_t* full_layers,
                                   size_t n_full_layers, uint32_t* layers_run) {
  return guarded([&]() -> Status {
    if (layers_run == nullptr) return null_argument("layers_run");
    *layers_run = 0;
    if (full_layers == nullptr && n_full_layers != 0) return null_argument("full_layers");
    const std::span<const uint32_t> full(full_layers, n_full_layers);
    QUIRE_RETURN_IF_ERROR(quire::capi::check_full_layers(n_layers, full));
    QUIRE_ASSIGN_OR_RETURN(const auto chosen, quire::capi::policy_of(policy));
    QUIRE_ASSIGN_OR_RETURN(const auto plan, quire::capi::to_plan(n_tokens, segments, n_segments));
    *layers_run = chosen->question_layers(plan, {n_layers, full});
    return Status::ok();
  });
}
