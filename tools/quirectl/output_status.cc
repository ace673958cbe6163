// The statistics: what is degraded first, then the server, its tiers and their wear.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "tools/quirectl/format.h"
#include "tools/quirectl/output.h"
#include "tools/quirectl/output_parts.h"

namespace quire::ctl {
namespace {

using Json = nlohmann::ordered_json;

// Device bytes for each payload byte; null where nothing was written or it is not known.
Json write_amplification(const pb::TierStats& tier) {
  if (tier.written_bytes() == 0 || tier.device_written_bytes() == 0) return nullptr;
  return static_cast<double>(tier.device_written_bytes()) /
         static_cast<double>(tier.written_bytes());
}

std::string amplification_text(const pb::TierStats& tier) {
  const Json ratio = write_amplification(tier);
  if (ratio.is_null()) return "-";
  char text[32];
  std::snprintf(text, sizeof(text), "%.2f", ratio.get<double>());
  return text;
}

std::string health_lines(const std::vector<std::string>& reasons, bool colour) {
  constexpr char kRed[] = "\x1b[1;31m";
  constexpr char kGreen[] = "\x1b[32m";
  constexpr char kPlain[] = "\x1b[0m";
  const auto painted = [&](const char* paint, const std::string& text) {
    return colour ? paint + text + kPlain : text;
  };
  if (reasons.empty()) return painted(kGreen, "HEALTHY") + "\n\n";
  std::string text = painted(kRed, "DEGRADED") + "\n";
  for (const std::string& reason : reasons) text += painted(kRed, "  ! ") + reason + "\n";
  return text + "\n";
}

// Of the tiers on devices that wear or rot.
std::string wear_table(const pb::StatsResponse& stats) {
  Table table({"TIER", ">WRITTEN", ">TO DEVICE", ">AMPLIFICATION", ">MOVED", "BUDGET", ">SCRUBBED",
               ">ROUNDS", ">SCRUB FOUND"});
  bool any = false;
  for (const pb::TierStats& tier : stats.tiers()) {
    if (tier.device_written_bytes() == 0 && tier.scrubbed_bytes() == 0 &&
        !tier.over_write_budget() && tier.tier() != pb::TIER_NVME)
      continue;
    any = true;
    table.add({tier_text(tier.tier()), format_mib(tier.written_bytes()),
               format_mib(tier.device_written_bytes()), amplification_text(tier),
               format_mib(tier.reinserted_bytes()), tier.over_write_budget() ? "exceeded" : "ok",
               format_mib(tier.scrubbed_bytes()), std::to_string(tier.scrub_rounds()),
               std::to_string(tier.scrub_corruptions())});
  }
  return any ? "\n" + table.text() : "";
}

}  // namespace

std::vector<std::string> degraded_reasons(const pb::StatsResponse& stats) {
  std::vector<std::string> reasons(stats.degraded().begin(), stats.degraded().end());
  const auto mentioned = [&](const std::string& text) {
    return std::any_of(reasons.begin(), reasons.end(), [&](const std::string& reason) {
      return reason.find(text) != std::string::npos;
    });
  };
  if (stats.draining() && !mentioned("drain")) reasons.push_back("draining: new puts are refused");
  for (const pb::TierStats& tier : stats.tiers()) {
    const std::string name = tier_text(tier.tier());
    // A tier that is being opened, not configured or without hardware is not worse than it should
    // be.
    const bool well =
        tier.state() == "ok" || tier.state() == "opening" || tier.state().starts_with("absent");
    if (!well && !mentioned(name)) reasons.push_back(name + " tier: " + tier.state());
    if (tier.over_write_budget() && !mentioned("budget"))
      reasons.push_back(name + " tier: over its write budget; writes are held back");
  }
  return reasons;
}

bool colour_wanted() {
  return isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr;
}

Json to_json(const pb::StatsResponse& stats) {
  Json json;
  const std::vector<std::string> reasons = degraded_reasons(stats);
  json["healthy"] = reasons.empty();
  json["degraded"] = reasons;
  json["version"] = stats.version();
  json["data_directory"] = stats.data_directory();
  json["socket_path"] = stats.socket_path();
  json["epoch"] = stats.epoch();
  json["uptime_ms"] = stats.uptime_ms();
  json["recovery_ms"] = stats.recovery_ms();
  json["draining"] = stats.draining();
  json["objects"] = stats.objects();
  json["models"] = stats.models();
  json["sessions"] = stats.sessions();
  json["leases"] = stats.leases();
  json["reservations"] = stats.reservations();
  json["resolves"] = stats.resolves();
  json["resolved_tokens"] = stats.resolved_tokens();
  json["acquires"] = stats.acquires();
  json["misses"] = stats.misses();
  json["puts"] = stats.puts();
  json["put_bytes"] = stats.put_bytes();
  json["refused_puts"] = stats.refused_puts();
  json["busy_replies"] = stats.busy_replies();
  json["protocol_errors"] = stats.protocol_errors();
  json["index_bytes"] = stats.index_bytes();
  json["details_cache_bytes"] = stats.details_cache_bytes();
  json["quota_evictions"] = stats.quota_evictions();
  json["corruptions"] = stats.corruptions();
  json["tiers"] = Json::array();
  for (const pb::TierStats& tier : stats.tiers()) {
    Json entry;
    entry["tier"] = tier_text(tier.tier());
    entry["state"] = tier.state();
    entry["backend"] = tier.backend();
    entry["capacity_bytes"] = tier.capacity_bytes();
    entry["used_bytes"] = tier.used_bytes();
    entry["objects"] = tier.objects();
    entry["hits"] = tier.hits();
    entry["evictions"] = tier.evictions();
    entry["read_bytes"] = tier.read_bytes();
    entry["written_bytes"] = tier.written_bytes();
    entry["corruptions"] = tier.corruptions();
    entry["read_bytes_per_us"] = tier.read_bytes_per_us();
    entry["latency_us"] = tier.latency_us();
    entry["device_written_bytes"] = tier.device_written_bytes();
    entry["write_amplification"] = write_amplification(tier);
    entry["reinserted_bytes"] = tier.reinserted_bytes();
    entry["over_write_budget"] = tier.over_write_budget();
    entry["scrubbed_bytes"] = tier.scrubbed_bytes();
    entry["scrub_rounds"] = tier.scrub_rounds();
    entry["scrub_corruptions"] = tier.scrub_corruptions();
    json["tiers"].push_back(std::move(entry));
  }
  return json;
}

std::string stats_text(const pb::StatsResponse& stats, bool colour) {
  std::string text = health_lines(degraded_reasons(stats), colour);
  text += line("quired", stats.version() + (stats.draining() ? ", draining" : ", serving") +
                             ", up " + format_duration_ms(stats.uptime_ms()) + ", warm after " +
                             std::to_string(stats.recovery_ms()) + " ms") +
          line("data", stats.data_directory()) + line("socket", stats.socket_path()) +
          line("objects", std::to_string(stats.objects()) + " of " +
                              std::to_string(stats.models()) + " models") +
          line("clients", std::to_string(stats.sessions()) + " sessions, " +
                              std::to_string(stats.leases()) + " leases, " +
                              std::to_string(stats.reservations()) + " puts in progress") +
          line("lookups", std::to_string(stats.resolves()) + ", " +
                              std::to_string(stats.resolved_tokens()) + " tokens found") +
          line("acquires", std::to_string(stats.acquires()) + ", " +
                               std::to_string(stats.misses()) + " misses") +
          line("puts", std::to_string(stats.puts()) + " (" + format_mib(stats.put_bytes()) + "), " +
                           std::to_string(stats.refused_puts()) + " refused") +
          line("trouble", std::to_string(stats.busy_replies()) + " busy replies, " +
                              std::to_string(stats.protocol_errors()) + " protocol errors, " +
                              std::to_string(stats.corruptions()) + " corruptions, " +
                              std::to_string(stats.quota_evictions()) + " quota evictions") +
          line("memory", format_bytes(stats.index_bytes()) + " index, " +
                             format_bytes(stats.details_cache_bytes()) + " details cache") +
          "\n";
  Table table({"TIER", "STATE", "BACKEND", ">USED", ">CAPACITY", ">FULL", ">OBJECTS", ">HITS",
               ">EVICTED", ">CORRUPT"});
  for (const pb::TierStats& tier : stats.tiers())
    table.add({tier_text(tier.tier()), tier.state(), tier.backend().empty() ? "-" : tier.backend(),
               format_mib(tier.used_bytes()),
               tier.capacity_bytes() == 0 ? "-" : format_mib(tier.capacity_bytes()),
               percent(tier.used_bytes(), tier.capacity_bytes()), std::to_string(tier.objects()),
               std::to_string(tier.hits()), std::to_string(tier.evictions()),
               std::to_string(tier.corruptions())});
  return text + table.text() + wear_table(stats);
}

}  // namespace quire::ctl
