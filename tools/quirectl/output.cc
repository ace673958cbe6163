#include "tools/quirectl/output.h"

#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "codecs/registry.h"
#include "tools/quirectl/format.h"
#include "tools/quirectl/output_parts.h"

namespace quire::ctl {

const char* tier_text(pb::Tier tier) {
  switch (tier) {
    case pb::TIER_GPU:
      return "gpu";
    case pb::TIER_HOST:
      return "host";
    case pb::TIER_NVME:
      return "nvme";
    case pb::TIER_ROCKS:
      return "rocks";
    default:
      return "none";
  }
}

std::string line(const char* name, const std::string& value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%-16s", name);
  return text + value + "\n";
}

std::string percent(uint64_t part, uint64_t whole) {
  if (whole == 0) return "-";
  char text[16];
  std::snprintf(text, sizeof(text), "%.1f%%",
                100.0 * static_cast<double>(part) / static_cast<double>(whole));
  return text;
}

namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kShortIdDigits = 12;
constexpr uint64_t kPinnedForever = std::numeric_limits<uint64_t>::max();

std::string short_id(const std::string& id) {
  return to_hex(id).substr(0, kShortIdDigits);
}

const char* context_text(pb::ContextKind kind) {
  switch (kind) {
    case pb::CONTEXT_KIND_ISOLATED:
      return "isolated";
    case pb::CONTEXT_KIND_FIXED_PREFIX:
      return "fixed_prefix";
    case pb::CONTEXT_KIND_DUMMY_SINK:
      return "dummy_sink";
    case pb::CONTEXT_KIND_CONTEXTUAL:
      return "contextual";
    case pb::CONTEXT_KIND_SYNTHETIC:
      return "synthetic";
    case pb::CONTEXT_KIND_DELTA_OF:
      return "delta_of";
    default:
      return "unknown";
  }
}

const char* frame_text(pb::PositionFrame frame) {
  switch (frame) {
    case pb::POSITION_FRAME_PRE_ROPE:
      return "pre_rope";
    case pb::POSITION_FRAME_LOCAL:
      return "local";
    default:
      return "unknown";
  }
}

// The names that command lines take; a newer server may know more codecs.
std::string codec_text(uint32_t codec) {
  if (codec <= UINT16_MAX) {
    const std::string_view name = codec_name(static_cast<CodecId>(codec));
    if (!name.empty()) return std::string(name);
  }
  return "codec-" + std::to_string(codec);
}

template <typename Tiers>
std::string joined_tiers(const Tiers& tiers) {
  std::string text;
  for (const auto tier : tiers)
    text += (text.empty() ? "" : ",") + std::string(tier_text(static_cast<pb::Tier>(tier)));
  return text.empty() ? "none" : text;
}

std::string pin_text(const pb::Object& object, uint64_t now_wall_ms) {
  if (!object.pinned()) return "no";
  const uint64_t until = object.pinned_until_wall_ms();
  if (until == kPinnedForever) return "until unpinned";
  return until > now_wall_ms ? "for " + format_duration_ms(until - now_wall_ms) : "ending";
}

}  // namespace

Json to_json(const pb::Object& object) {
  Json tiers = Json::array();
  for (const auto tier : object.tiers()) tiers.push_back(tier_text(static_cast<pb::Tier>(tier)));
  Json json;
  json["id"] = to_hex(object.representation());
  json["variant"] = to_hex(object.variant());
  json["object"] = to_hex(object.object());
  json["model"] = to_hex(object.model());
  json["tenant"] = object.tenant();
  json["scope"] = object.scope().empty() ? Json(nullptr) : Json(to_hex(object.scope()));
  json["context"] = context_text(object.context_kind());
  json["codec"] = codec_text(object.codec());
  json["frame"] = frame_text(object.frame());
  json["tokens"] = object.n_tokens();
  json["base_position"] = object.base_position();
  json["bytes"] = object.bytes();
  json["tiers"] = tiers;
  json["durable"] = object.durable();
  json["leases"] = object.leases();
  json["hits"] = object.hits();
  json["created_wall_ms"] = object.created_wall_ms();
  json["pinned"] = object.pinned();
  const bool ends = object.pinned() && object.pinned_until_wall_ms() != kPinnedForever;
  json["pinned_until_wall_ms"] = ends ? Json(object.pinned_until_wall_ms()) : Json(nullptr);
  return json;
}

Json to_json(const pb::Model& model) {
  Json json;
  json["id"] = to_hex(model.model());
  json["name"] = model.name();
  json["layers"] = model.layers();
  json["movable"] = model.movable();
  json["not_movable_because"] = model.not_movable_because();
  json["objects"] = model.objects();
  json["bytes"] = model.bytes();
  json["verdict"] = model.has_verdict() ? to_json(model.verdict()) : Json(nullptr);
  return json;
}

Json to_json(const pb::Verdict& verdict) {
  Json figures = Json::object();
  const std::map<std::string, double> sorted(verdict.figures().begin(), verdict.figures().end());
  for (const auto& [name, value] : sorted) figures[name] = value;
  Json json;
  json["chunks"] = verdict.chunks();
  json["reason"] = verdict.reason();
  json["policy"] = verdict.policy();
  json["budget"] = verdict.budget();
  json["codec"] = verdict.codec();
  json["figures"] = std::move(figures);
  json["measured_wall_ms"] = verdict.measured_wall_ms();
  json["tool"] = verdict.tool();
  return json;
}

Json to_json(const pb::LookupResponse& lookup) {
  Json entries = Json::array();
  for (const pb::LookupEntry& entry : lookup.entries()) {
    Json json;
    json["id"] = to_hex(entry.representation());
    json["variant"] = to_hex(entry.variant());
    json["match"] = entry.match_kind() == pb::MATCH_KIND_PREFIX ? "prefix" : "chunk";
    json["context"] = context_text(entry.context_kind());
    json["context_reference"] = to_hex(entry.context_reference());
    json["token_begin"] = entry.token_begin();
    json["tokens"] = entry.n_tokens();
    json["base_position"] = entry.base_position();
    json["bytes"] = entry.bytes();
    json["load_us"] = entry.load_us();
    json["codec"] = codec_text(entry.codec());
    json["frame"] = frame_text(entry.frame());
    json["tier"] = tier_text(entry.tier());
    entries.push_back(std::move(json));
  }
  Json json;
  json["matched_tokens"] = lookup.matched_tokens();
  json["truncated"] = lookup.truncated();
  json["entries"] = std::move(entries);
  return json;
}

std::string objects_table(const std::vector<pb::Object>& objects, uint64_t now_wall_ms) {
  Table table({"ID", "MODEL", "TENANT", "CONTEXT", "CODEC", ">TOKENS", ">SIZE", "TIERS", "DURABLE",
               "PINNED", ">HITS", ">AGE"});
  for (const pb::Object& object : objects)
    table.add({short_id(object.representation()), short_id(object.model()),
               object.tenant().empty() ? "-" : object.tenant(), context_text(object.context_kind()),
               codec_text(object.codec()), std::to_string(object.n_tokens()),
               format_mib(object.bytes()), joined_tiers(object.tiers()),
               object.durable() ? "yes" : "no", pin_text(object, now_wall_ms),
               std::to_string(object.hits()), format_age(object.created_wall_ms(), now_wall_ms)});
  return table.text();
}

std::string object_details(const pb::Object& object, uint64_t now_wall_ms) {
  return line("id", to_hex(object.representation())) + line("variant", to_hex(object.variant())) +
         line("object", to_hex(object.object())) + line("model", to_hex(object.model())) +
         line("tenant", object.tenant().empty() ? "-" : object.tenant()) +
         line("scope", object.scope().empty() ? "-" : to_hex(object.scope())) +
         line("context", context_text(object.context_kind())) +
         line("codec", codec_text(object.codec())) + line("frame", frame_text(object.frame())) +
         line("tokens", std::to_string(object.n_tokens())) +
         line("base position", std::to_string(object.base_position())) +
         line("size",
              format_mib(object.bytes()) + " (" + std::to_string(object.bytes()) + " bytes)") +
         line("tiers", joined_tiers(object.tiers())) +
         line("durable", object.durable() ? "yes" : "no") +
         line("leases", std::to_string(object.leases())) +
         line("hits", std::to_string(object.hits())) +
         line("age", format_age(object.created_wall_ms(), now_wall_ms)) +
         line("pinned", pin_text(object, now_wall_ms));
}

Json to_json(const pb::Tenant& tenant) {
  Json json;
  json["name"] = tenant.name();
  json["soft_bytes"] = tenant.soft_bytes();
  json["hard_bytes"] = tenant.hard_bytes();
  json["bytes"] = tenant.bytes();
  json["host_bytes"] = tenant.host_bytes();
  json["objects"] = tenant.objects();
  json["refused_puts"] = tenant.refused_puts();
  return json;
}

std::string tenants_table(const pb::ListTenantsResponse& tenants) {
  Table table(
      {"TENANT", ">OBJECTS", ">STORED", ">IN MEMORY", ">SOFT", ">HARD", ">FULL", ">REFUSED PUTS"});
  const auto limit = [](uint64_t bytes) { return bytes == 0 ? "-" : format_bytes(bytes); };
  for (const pb::Tenant& tenant : tenants.tenants())
    table.add({tenant.name().empty() ? "(default)" : tenant.name(),
               std::to_string(tenant.objects()), format_bytes(tenant.bytes()),
               format_bytes(tenant.host_bytes()), limit(tenant.soft_bytes()),
               limit(tenant.hard_bytes()), percent(tenant.bytes(), tenant.hard_bytes()),
               std::to_string(tenant.refused_puts())});
  return table.text();
}

std::string models_table(const pb::ListModelsResponse& models, uint64_t now_wall_ms) {
  const auto verdict_text = [now_wall_ms](const pb::Model& model) -> std::string {
    if (!model.has_verdict()) return "not measured";
    const pb::Verdict& verdict = model.verdict();
    if (!verdict.chunks()) return "prefix only: " + verdict.reason();
    std::string text = "chunks";
    if (!verdict.policy().empty()) text += ", " + verdict.policy();
    text +=
        ", budget " + percent(static_cast<uint64_t>(std::lround(verdict.budget() * 1000)), 1000);
    if (!verdict.codec().empty()) text += ", " + verdict.codec();
    return text + ", " + format_age(verdict.measured_wall_ms(), now_wall_ms) + " ago";
  };
  Table table({"ID", "NAME", ">LAYERS", "MOVABLE", ">OBJECTS", ">SIZE", "VERDICT"});
  for (const pb::Model& model : models.models())
    table.add({short_id(model.model()), model.name(), std::to_string(model.layers()),
               model.movable() ? "yes" : "no: " + model.not_movable_because(),
               std::to_string(model.objects()), format_mib(model.bytes()), verdict_text(model)});
  return table.text();
}

std::string lookup_table(const pb::LookupResponse& lookup, uint64_t n_tokens) {
  Table table({">FROM", ">TOKENS", "MATCH", "CONTEXT", "ID", "CODEC", "TIER", ">SIZE", ">LOAD"});
  for (const pb::LookupEntry& entry : lookup.entries())
    table.add({std::to_string(entry.token_begin()), std::to_string(entry.n_tokens()),
               entry.match_kind() == pb::MATCH_KIND_PREFIX ? "prefix" : "chunk",
               context_text(entry.context_kind()), short_id(entry.representation()),
               codec_text(entry.codec()), tier_text(entry.tier()), format_mib(entry.bytes()),
               std::to_string(entry.load_us()) + " us"});
  return table.text() + "\n" + std::to_string(lookup.matched_tokens()) + " of " +
         std::to_string(n_tokens) + " tokens are stored (" +
         percent(lookup.matched_tokens(), n_tokens) + ")" +
         (lookup.truncated() ? "; there are more entries than shown" : "") + "\n";
}

}  // namespace quire::ctl
