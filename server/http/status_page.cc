#include "server/http/status_page.h"

#include <cstdio>
#include <string_view>

#include "server/http/metrics.h"

namespace quire::server {
namespace {

constexpr std::string_view kHead = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<title>quired</title><style>
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0}
th,td{border-bottom:1px solid #ccc;padding:.25rem .8rem;text-align:right}
th:first-child,td:first-child{text-align:left}
.bad{color:#b00020}.ok{color:#106b21}.neutral{color:#5f6368}
@media (prefers-color-scheme:dark){body{background:#16181c;color:#e4e4e4}
.bad{color:#ff8a9a}.ok{color:#7fd48a}.neutral{color:#9aa0a6}}
</style></head><body>
)";

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      case '\'':
        result += "&#39;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

std::string mib(uint64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f", static_cast<double>(bytes) / (1 << 20));
  return text;
}

template <typename... Cells>
std::string row(const Cells&... cells) {
  return "<tr>" + (("<td>" + cells + "</td>") + ...) + "</tr>\n";
}

// What is worse than it should be comes first.
std::string degraded_list(const ServerStats& stats) {
  if (stats.degraded.empty()) return "<p class=\"ok\">Nothing is degraded.</p>\n";
  std::string html = "<h2 class=\"bad\">Degraded</h2><ul>\n";
  for (const std::string& sentence : stats.degraded)
    html += "<li class=\"bad\">" + escaped(sentence) + "</li>\n";
  return html + "</ul>\n";
}

std::string amplification(const TierStats& tier) {
  if (tier.written_bytes == 0 || tier.device_written_bytes == 0) return "-";
  char text[32];
  std::snprintf(
      text, sizeof(text), "%.2f",
      static_cast<double>(tier.device_written_bytes) / static_cast<double>(tier.written_bytes));
  return text;
}

// A tier that is being opened, or that this machine does not have, is not worse than it should be;
// where it was wanted and is missing, that is said under Degraded.
std::string_view state_class(std::string_view state) {
  if (state == "ok") return "ok";
  return state == "opening" || state.starts_with("absent") ? "neutral" : "bad";
}

std::string tier_table(const ServerStats& stats) {
  std::string html =
      "<h2>Tiers</h2><table><tr><th>tier</th><th>state</th><th>backend</th><th>used MiB</th>"
      "<th>capacity MiB</th><th>objects</th><th>hits</th><th>evictions</th><th>corruptions</th>"
      "<th>written MiB</th><th>amplification</th><th>over budget</th><th>scrubbed MiB</th>"
      "<th>rounds</th><th>scrub found</th></tr>\n";
  for (const TierStats& tier : stats.tiers) {
    const std::string state = "<span class=\"" + std::string(state_class(tier.state)) + "\">" +
                              escaped(tier.state) + "</span>";
    html += row(std::string(tier_name(tier.tier)), state, escaped(tier.backend),
                mib(tier.used_bytes), mib(tier.capacity_bytes), std::to_string(tier.objects),
                std::to_string(tier.hits), std::to_string(tier.evictions),
                std::to_string(tier.corruptions), mib(tier.written_bytes), amplification(tier),
                std::string(tier.over_write_budget ? "<span class=\"bad\">yes</span>" : "no"),
                mib(tier.scrubbed_bytes), std::to_string(tier.scrub_rounds),
                std::to_string(tier.scrub_corruptions));
  }
  return html + "</table>\n";
}

}  // namespace

std::string render_status_page(const ServerStats& stats) {
  std::string html(kHead);
  html += "<h1>quired " + escaped(stats.version) + "</h1>\n<p>";
  html += stats.draining ? "<span class=\"bad\">draining: new puts are refused</span>"
                         : "<span class=\"ok\">serving</span>";
  html += " for " + std::to_string(stats.uptime_ms / 1000) + " s; warm after " +
          std::to_string(stats.recovery_ms) + " ms. Data in <code>" +
          escaped(stats.data_directory) + "</code>, socket <code>" + escaped(stats.socket_path) +
          "</code>.</p>\n";
  html += degraded_list(stats) + tier_table(stats);
  html += "<h2>Counts</h2><table>\n";
  const auto count = [&](const char* name, uint64_t value) {
    html += row(std::string(name), std::to_string(value));
  };
  count("objects", stats.objects);
  count("models", stats.models);
  count("sessions", stats.sessions);
  count("leases held", stats.leases);
  count("reservations open", stats.reservations);
  count("lookups", stats.resolves);
  count("tokens found", stats.resolved_tokens);
  count("acquires", stats.acquires);
  count("misses", stats.misses);
  count("puts", stats.puts);
  count("puts refused", stats.refused_puts);
  count("busy replies", stats.busy_replies);
  count("protocol errors", stats.protocol_errors);
  count("quota evictions", stats.quota_evictions);
  count("corruptions found", stats.corruptions);
  count("index bytes", stats.index_bytes);
  count("details cache bytes", stats.details_cache_bytes);
  html += "</table><p>Also here: <code>/metrics</code>, <code>/healthz</code>.</p></body></html>\n";
  return html;
}

}  // namespace quire::server
