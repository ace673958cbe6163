#include "server/control/messages.h"

#include <algorithm>
#include <cstring>

namespace quire::server {
namespace {

Status invalid(std::string message) {
  return {StatusCode::kInvalidArgument, std::move(message)};
}

std::string id_bytes(const Digest& digest) {
  return {reinterpret_cast<const char*>(digest.bytes.data()), digest.bytes.size()};
}

std::string id_bytes(const wire::Id& id) {
  return {reinterpret_cast<const char*>(id.data()), id.size()};
}

pb::Tier to_pb(wire::TierId tier) {
  switch (tier) {
    case wire::TierId::kGpu:
      return pb::TIER_GPU;
    case wire::TierId::kHost:
      return pb::TIER_HOST;
    case wire::TierId::kNvme:
      return pb::TIER_NVME;
    case wire::TierId::kRocks:
      return pb::TIER_ROCKS;
    case wire::TierId::kNone:
      break;
  }
  return pb::TIER_UNSPECIFIED;
}

Expected<std::optional<wire::TierId>> parse_tier(pb::Tier tier) {
  switch (tier) {
    case pb::TIER_UNSPECIFIED:
      return std::optional<wire::TierId>();
    case pb::TIER_GPU:
      return std::optional(wire::TierId::kGpu);
    case pb::TIER_HOST:
      return std::optional(wire::TierId::kHost);
    case pb::TIER_NVME:
      return std::optional(wire::TierId::kNvme);
    case pb::TIER_ROCKS:
      return std::optional(wire::TierId::kRocks);
    default:
      return invalid("filter.tier: unknown tier " + std::to_string(static_cast<int>(tier)));
  }
}

// The wire numbers of both enums start one later than ours: 0 is "unspecified".
pb::ContextKind to_pb(ContextKind kind) {
  const auto number = static_cast<uint8_t>(kind);
  if (number >= kContextKindCount) return pb::CONTEXT_KIND_UNSPECIFIED;
  return static_cast<pb::ContextKind>(number + 1);
}
static_assert(pb::CONTEXT_KIND_ISOLATED == static_cast<int>(ContextKind::kIsolated) + 1);
static_assert(pb::CONTEXT_KIND_CONTEXTUAL == static_cast<int>(ContextKind::kContextual) + 1);
static_assert(pb::CONTEXT_KIND_DELTA_OF == static_cast<int>(ContextKind::kDeltaOf) + 1);

pb::PositionFrame to_pb(PositionFrame frame) {
  return frame == PositionFrame::kPreRope ? pb::POSITION_FRAME_PRE_ROPE : pb::POSITION_FRAME_LOCAL;
}

template <typename Ids>
Expected<std::vector<Digest>> parse_ids(const Ids& representations, uint32_t ids_max) {
  const auto count = static_cast<uint64_t>(representations.size());
  if (count == 0) return invalid("representations: none given");
  if (count > ids_max)
    return invalid("representations: at most " + std::to_string(ids_max) + ", not " +
                   std::to_string(count));
  std::vector<Digest> ids;
  ids.reserve(count);
  for (const std::string& bytes : representations) {
    QUIRE_ASSIGN_OR_RETURN(Digest id,
                           parse_id(bytes, "representations[" + std::to_string(ids.size()) + "]"));
    ids.push_back(id);
  }
  return ids;
}

// The value of one hexadecimal digit, or 16.
uint8_t hex_value(char digit) {
  if (digit >= '0' && digit <= '9') return static_cast<uint8_t>(digit - '0');
  if (digit >= 'a' && digit <= 'f') return static_cast<uint8_t>(digit - 'a' + 10);
  if (digit >= 'A' && digit <= 'F') return static_cast<uint8_t>(digit - 'A' + 10);
  return 16;
}

// Bytes of the well-formed, printable UTF-8 character at the front of text, or 0.
size_t printable_character_bytes(std::string_view text) {
  const auto lead = static_cast<uint8_t>(text[0]);
  if (lead < 0x80) return lead >= 0x20 && lead != 0x7f ? 1 : 0;
  const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < length) return 0;
  uint32_t code = lead & (0x7fu >> length);
  for (size_t i = 1; i < length; ++i) {
    const auto next = static_cast<uint8_t>(text[i]);
    if ((next & 0xc0) != 0x80) return 0;
    code = code << 6 | (next & 0x3f);
  }
  constexpr uint32_t kShortest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xd800 && code <= 0xdfff;
  const bool c1_control = code >= 0x80 && code < 0xa0;
  if (code < kShortest[length] || code > 0x10ffff || surrogate || c1_control) return 0;
  return length;
}

}  // namespace

Expected<Digest> parse_id(const std::string& bytes, std::string_view field) {
  Digest digest;
  if (bytes.size() != digest.bytes.size())
    return invalid(std::string(field) + ": an id has 32 bytes, not " +
                   std::to_string(bytes.size()));
  std::memcpy(digest.bytes.data(), bytes.data(), bytes.size());
  return digest;
}

Expected<std::string> parse_tenant(const std::string& tenant) {
  if (tenant.size() >= wire::kNameBytesMax)
    return invalid("tenant: at most " + std::to_string(wire::kNameBytesMax - 1) + " bytes");
  if (tenant.find('\0') != std::string::npos) return invalid("tenant: holds a zero byte");
  return tenant;
}

Expected<ObjectFilter> parse_filter(const pb::ObjectFilter& filter) {
  ObjectFilter result;
  if (!filter.model().empty()) {
    QUIRE_ASSIGN_OR_RETURN(result.model, parse_id(filter.model(), "filter.model"));
  }
  QUIRE_ASSIGN_OR_RETURN(result.tier, parse_tier(filter.tier()));
  if (filter.has_tenant()) {
    QUIRE_ASSIGN_OR_RETURN(result.tenant, parse_tenant(filter.tenant()));
  }
  if (filter.has_scope()) {
    QUIRE_ASSIGN_OR_RETURN(result.scope, parse_scope(filter.scope()));
    if (!result.tenant) result.tenant = "";
  }
  return result;
}

Expected<std::vector<TokenId>> parse_tokens(const pb::LookupRequest& request) {
  const auto count = static_cast<uint64_t>(request.tokens_size());
  if (count == 0) return invalid("tokens: none given");
  if (count > kPromptTokensMax)
    return invalid("tokens: at most " + std::to_string(kPromptTokensMax) + ", not " +
                   std::to_string(count));
  return std::vector<TokenId>(request.tokens().begin(), request.tokens().end());
}

Expected<std::vector<Digest>> parse_prefetch_ids(const pb::PrefetchRequest& request) {
  return parse_ids(request.representations(), kPrefetchIdsMax);
}

Expected<std::vector<Digest>> parse_hint_ids(const pb::HintRequest& request) {
  return parse_ids(request.representations(), kHintIdsMax);
}

Expected<UseHint> parse_hint(const pb::HintRequest& request) {
  UseHint hint;
  const bool use_given =
      request.has_steps_to_next_use() || request.has_next_use_ms() || request.has_priority();
  if (!use_given && !request.finished())
    return invalid("give steps_to_next_use, next_use_ms, priority or finished");
  if (use_given && request.finished())
    return invalid("finished: goes with no other hint, it says that there is no next use");
  if (request.has_next_use_ms() && request.next_use_ms() > kNextUseMsMax)
    return invalid("next_use_ms: at most 100 years");
  if (request.has_priority() && request.priority() > kPriorityMax)
    return invalid("priority: 0 to 255, not " + std::to_string(request.priority()));
  if (request.has_steps_to_next_use()) hint.steps_to_next_use = request.steps_to_next_use();
  if (request.has_next_use_ms()) hint.next_use_ms = request.next_use_ms();
  if (request.has_priority()) hint.priority = static_cast<uint8_t>(request.priority());
  hint.finished = request.finished();
  return hint;
}

Expected<std::string> parse_directory(const std::string& path, std::string_view field) {
  const auto wrong = [&](const char* what) { return invalid(std::string(field) + ": " + what); };
  if (path.size() > kPathBytesMax) return wrong("at most 4096 bytes");
  if (path.find('\0') != std::string::npos) return wrong("holds a zero byte");
  if (path.empty() || path[0] != '/') return wrong("must be an absolute path");
  size_t begin = 0;
  bool names_something = false;
  while (begin < path.size()) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = std::string_view(path).substr(begin, end - begin);
    if (part == "." || part == "..") return wrong("must not hold a . or .. part");
    names_something = names_something || !part.empty();
    begin = end + 1;
  }
  if (!names_something) return wrong("must name a new directory");
  return path;
}

Status check_quota(uint64_t soft_bytes, uint64_t hard_bytes) {
  if (hard_bytes != 0 && soft_bytes > hard_bytes)
    return invalid("soft_bytes: " + std::to_string(soft_bytes) + " is more than hard_bytes, " +
                   std::to_string(hard_bytes));
  return Status::ok();
}

Expected<IdRange> parse_id_prefix(const std::string& hex_digits) {
  IdRange range;
  range.last.bytes.fill(0xff);
  if (hex_digits.size() > 2 * range.first.bytes.size())
    return invalid("id_prefix: at most 64 hexadecimal digits");
  for (size_t i = 0; i < hex_digits.size(); ++i) {
    const uint8_t value = hex_value(hex_digits[i]);
    if (value > 15) return invalid("id_prefix: hexadecimal digits only");
    const int shift = i % 2 == 0 ? 4 : 0;
    const auto mask = static_cast<uint8_t>(0xf << shift);
    range.first.bytes[i / 2] |= static_cast<uint8_t>(value << shift);
    uint8_t& last = range.last.bytes[i / 2];
    last = static_cast<uint8_t>((last & ~mask) | (value << shift));
  }
  return range;
}

void fill(const ObjectInfo& from, pb::Object& to) {
  to.set_representation(id_bytes(from.representation));
  to.set_variant(id_bytes(from.variant));
  to.set_object(id_bytes(from.object));
  to.set_model(id_bytes(from.model));
  to.set_tenant(printable_text(from.tenant));
  to.set_context_kind(to_pb(from.context_kind));
  to.set_codec(from.codec);
  to.set_frame(to_pb(from.frame));
  to.set_n_tokens(from.n_tokens);
  to.set_base_position(from.base_position);
  to.set_bytes(from.bytes);
  for (const wire::TierId tier : from.tiers) to.add_tiers(to_pb(tier));
  to.set_durable(from.durable);
  to.set_leases(from.leases);
  to.set_hits(from.hits);
  to.set_created_wall_ms(from.created_wall_ms);
  to.set_pinned(from.pinned_until_wall_ms != 0);
  to.set_pinned_until_wall_ms(from.pinned_until_wall_ms);
  if (from.scope != Digest{}) to.set_scope(id_bytes(from.scope));
}

void fill(const ListPage& from, pb::ListResponse& to) {
  for (const ObjectInfo& object : from.objects) fill(object, *to.add_objects());
  to.set_next_page_token(from.next_page_token);
  if (from.scope) to.set_scope(id_bytes(*from.scope));
}

void fill(const TierStats& from, pb::TierStats& to) {
  to.set_tier(to_pb(from.tier));
  to.set_state(printable_text(from.state));
  to.set_backend(printable_text(from.backend));
  to.set_capacity_bytes(from.capacity_bytes);
  to.set_used_bytes(from.used_bytes);
  to.set_objects(from.objects);
  to.set_hits(from.hits);
  to.set_evictions(from.evictions);
  to.set_read_bytes(from.read_bytes);
  to.set_written_bytes(from.written_bytes);
  to.set_corruptions(from.corruptions);
  to.set_read_bytes_per_us(from.read_bytes_per_us);
  to.set_latency_us(from.latency_us);
  to.set_device_written_bytes(from.device_written_bytes);
  to.set_reinserted_bytes(from.reinserted_bytes);
  to.set_over_write_budget(from.over_write_budget);
  to.set_scrubbed_bytes(from.scrubbed_bytes);
  to.set_scrub_rounds(from.scrub_rounds);
  to.set_scrub_corruptions(from.scrub_corruptions);
}

void fill(const ServerStats& from, pb::StatsResponse& to) {
  to.set_version(printable_text(from.version));
  to.set_data_directory(printable_text(from.data_directory));
  to.set_socket_path(printable_text(from.socket_path));
  to.set_epoch(from.epoch);
  to.set_uptime_ms(from.uptime_ms);
  to.set_recovery_ms(from.recovery_ms);
  to.set_draining(from.draining);
  to.set_objects(from.objects);
  to.set_models(from.models);
  to.set_sessions(from.sessions);
  to.set_leases(from.leases);
  to.set_reservations(from.reservations);
  to.set_resolves(from.resolves);
  to.set_resolved_tokens(from.resolved_tokens);
  to.set_acquires(from.acquires);
  to.set_misses(from.misses);
  to.set_puts(from.puts);
  to.set_put_bytes(from.put_bytes);
  to.set_refused_puts(from.refused_puts);
  to.set_busy_replies(from.busy_replies);
  to.set_protocol_errors(from.protocol_errors);
  for (const TierStats& tier : from.tiers) fill(tier, *to.add_tiers());
  for (const std::string& sentence : from.degraded) to.add_degraded(printable_text(sentence));
  to.set_index_bytes(from.index_bytes);
  to.set_details_cache_bytes(from.details_cache_bytes);
  to.set_quota_evictions(from.quota_evictions);
  to.set_corruptions(from.corruptions);
}

void fill(const TenantInfo& from, pb::Tenant& to) {
  to.set_name(printable_text(from.name));
  to.set_soft_bytes(from.soft_bytes);
  to.set_hard_bytes(from.hard_bytes);
  to.set_bytes(from.bytes);
  to.set_host_bytes(from.host_bytes);
  to.set_objects(from.objects);
  to.set_refused_puts(from.refused_puts);
}

void fill(const CheckpointInfo& from, pb::CheckpointResponse& to) {
  to.set_directory(printable_text(from.directory));
  to.set_objects(from.objects);
  to.set_metadata_bytes(from.metadata_bytes);
  for (const std::string& path : from.nvme_paths) to.add_nvme_paths(printable_text(path));
}

Expected<std::string> parse_scope(const std::string& label) {
  if (label.size() > wire::kScopeLabelBytesMax) return invalid("scope: at most 64 bytes");
  return label;
}

Verdict parse_verdict(const pb::Verdict& verdict) {
  Verdict out;
  out.chunks = verdict.chunks();
  out.reason = verdict.reason();
  out.policy = verdict.policy();
  out.budget = verdict.budget();
  out.codec = verdict.codec();
  out.figures = {verdict.figures().begin(), verdict.figures().end()};
  out.measured_wall_ms = verdict.measured_wall_ms();
  out.tool = verdict.tool();
  return out;
}

void fill(const Verdict& from, pb::Verdict& to) {
  to.set_chunks(from.chunks);
  to.set_reason(printable_text(from.reason));
  to.set_policy(printable_text(from.policy));
  to.set_budget(from.budget);
  to.set_codec(printable_text(from.codec));
  for (const auto& [name, value] : from.figures)
    (*to.mutable_figures())[printable_text(name)] = value;
  to.set_measured_wall_ms(from.measured_wall_ms);
  to.set_tool(printable_text(from.tool));
}

void fill(const ModelInfo& from, pb::Model& to) {
  to.set_model(id_bytes(from.model));
  to.set_name(printable_text(from.name));
  to.set_layers(from.layers);
  to.set_movable(from.movable);
  to.set_not_movable_because(printable_text(from.not_movable_because));
  if (from.verdict) fill(*from.verdict, *to.mutable_verdict());
  to.set_objects(from.objects);
  to.set_bytes(from.bytes);
}

void fill(const std::vector<wire::ResolveEntry>& from, pb::LookupResponse& to) {
  uint64_t covered_end = 0;
  uint64_t matched_tokens = 0;
  for (const wire::ResolveEntry& entry : from) {
    const uint64_t begin = std::max<uint64_t>(entry.token_begin, covered_end);
    const uint64_t end = uint64_t{entry.token_begin} + entry.n_tokens;
    if (end > begin) {
      matched_tokens += end - begin;
      covered_end = end;
    }
    if (to.entries_size() == kLookupEntriesMax) {
      to.set_truncated(true);
      continue;
    }
    pb::LookupEntry& out = *to.add_entries();
    out.set_representation(id_bytes(entry.representation));
    out.set_variant(id_bytes(entry.variant));
    out.set_match_kind(entry.kind == wire::MatchKind::kPrefix ? pb::MATCH_KIND_PREFIX
                                                              : pb::MATCH_KIND_CHUNK);
    out.set_context_kind(to_pb(static_cast<ContextKind>(entry.context_kind)));
    if (entry.context_reference != wire::Id{})
      out.set_context_reference(id_bytes(entry.context_reference));
    out.set_token_begin(entry.token_begin);
    out.set_n_tokens(entry.n_tokens);
    out.set_base_position(entry.base_position);
    out.set_bytes(entry.bytes);
    out.set_load_us(entry.load_us);
    out.set_codec(entry.codec);
    out.set_frame(to_pb(static_cast<PositionFrame>(entry.frame)));
    out.set_tier(to_pb(entry.tier));
  }
  to.set_matched_tokens(static_cast<uint32_t>(matched_tokens));
}

std::string printable_text(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const size_t count = printable_character_bytes(text);
    if (count == 0) {
      result += '?';
      text.remove_prefix(1);
    } else {
      result += text.substr(0, count);
      text.remove_prefix(count);
    }
  }
  return result;
}

}  // namespace quire::server
