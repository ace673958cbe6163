#include "server/http/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <string_view>
#include <utility>
#include <vector>

namespace quire::server {
namespace {

using Label = prometheus::ClientMetric::Label;

struct Sample {
  std::vector<Label> labels;
  double value = 0;
};
using Samples = std::vector<Sample>;

enum class Kind { kCounter, kGauge };

struct MetricRow {
  std::string_view name;
  Kind kind;
  std::string_view labels;  // as documented; collect() sets exactly these
  std::string_view help;
  void (*collect)(const ServerStats& stats, Samples& samples);
  // Rows of tenants have this instead.
  void (*collect_tenants)(const std::vector<TenantInfo>& tenants, Samples& samples) = nullptr;
};

// A sample without labels.
template <auto Member>
void one(const ServerStats& stats, Samples& samples) {
  samples.push_back({{}, static_cast<double>(stats.*Member)});
}

template <auto Member>
void seconds(const ServerStats& stats, Samples& samples) {
  samples.push_back({{}, static_cast<double>(stats.*Member) / 1e3});
}

// A sample for each tier.
template <auto Member>
void per_tier(const ServerStats& stats, Samples& samples) {
  for (const TierStats& tier : stats.tiers)
    samples.push_back({{{"tier", tier_name(tier.tier)}}, static_cast<double>(tier.*Member)});
}

template <auto Member>
void per_tenant(const std::vector<TenantInfo>& tenants, Samples& samples) {
  for (const TenantInfo& tenant : tenants)
    samples.push_back({{{"tenant", tenant.name}}, static_cast<double>(tenant.*Member)});
}

void degraded(const ServerStats& stats, Samples& samples) {
  samples.push_back({{}, static_cast<double>(stats.degraded.size())});
}

void build_info(const ServerStats& stats, Samples& samples) {
  samples.push_back({{{"version", stats.version}}, 1});
}

void requests(const ServerStats& stats, Samples& samples) {
  const auto add = [&](const char* op, uint64_t count) {
    samples.push_back({{{"op", op}}, static_cast<double>(count)});
  };
  add("resolve", stats.resolves);
  add("acquire", stats.acquires);
  add("put", stats.puts + stats.refused_puts);
}

// Apart from the requests, since a miss may be known only after a read failed: each counter rises
// only.
void failed_requests(const ServerStats& stats, Samples& samples) {
  samples.push_back({{{"op", "acquire"}, {"reason", "miss"}}, static_cast<double>(stats.misses)});
  samples.push_back(
      {{{"op", "put"}, {"reason", "refused"}}, static_cast<double>(stats.refused_puts)});
}

void tier_up(const ServerStats& stats, Samples& samples) {
  for (const TierStats& tier : stats.tiers)
    samples.push_back({{{"tier", tier_name(tier.tier)}}, tier.state == "ok" ? 1.0 : 0.0});
}

void tier_backend(const ServerStats& stats, Samples& samples) {
  for (const TierStats& tier : stats.tiers)
    samples.push_back({{{"tier", tier_name(tier.tier)}, {"backend", tier.backend}}, 1});
}

void tier_read_rate(const ServerStats& stats, Samples& samples) {
  for (const TierStats& tier : stats.tiers)
    samples.push_back({{{"tier", tier_name(tier.tier)}}, tier.read_bytes_per_us * 1e6});
}

void tier_latency(const ServerStats& stats, Samples& samples) {
  for (const TierStats& tier : stats.tiers)
    samples.push_back({{{"tier", tier_name(tier.tier)}}, tier.latency_us / 1e6});
}

constexpr MetricRow kRows[] = {
    {"quire_build_info", Kind::kGauge, "version", "Always 1; the label tells the version.",
     build_info},
    {"quire_uptime_seconds", Kind::kGauge, "", "Time since the server started.",
     seconds<&ServerStats::uptime_ms>},
    {"quire_recovery_seconds", Kind::kGauge, "",
     "How long the last start took to find what was stored.", seconds<&ServerStats::recovery_ms>},
    {"quire_draining", Kind::kGauge, "", "1 while the server refuses new puts to shut down.",
     one<&ServerStats::draining>},
    {"quire_objects", Kind::kGauge, "", "Stored objects (representations).",
     one<&ServerStats::objects>},
    {"quire_models", Kind::kGauge, "", "Registered models.", one<&ServerStats::models>},
    {"quire_sessions", Kind::kGauge, "", "Connected data-plane clients.",
     one<&ServerStats::sessions>},
    {"quire_leases_active", Kind::kGauge, "", "Leases that clients hold.",
     one<&ServerStats::leases>},
    {"quire_reservations_active", Kind::kGauge, "", "Puts between reserve and commit.",
     one<&ServerStats::reservations>},
    {"quire_requests_total", Kind::kCounter, "op",
     "Data-plane requests: resolve, acquire (each object counts) and put, failed ones included.",
     requests},
    {"quire_failed_requests_total", Kind::kCounter, "op, reason",
     "Acquires of what is not stored or could not be read (miss); puts that were refused.",
     failed_requests},
    {"quire_resolved_tokens_total", Kind::kCounter, "",
     "Prompt tokens for which a stored match was found.", one<&ServerStats::resolved_tokens>},
    {"quire_put_bytes_total", Kind::kCounter, "", "Payload bytes of successful puts.",
     one<&ServerStats::put_bytes>},
    {"quire_busy_replies_total", Kind::kCounter, "",
     "Requests told to come back later for want of space or a slot.",
     one<&ServerStats::busy_replies>},
    {"quire_protocol_errors_total", Kind::kCounter, "", "Data-plane frames refused as malformed.",
     one<&ServerStats::protocol_errors>},
    {"quire_degraded", Kind::kGauge, "",
     "Things that work worse than they should; `quirectl status` says which and why.", degraded},
    {"quire_index_bytes", Kind::kGauge, "", "Memory of what finds objects.",
     one<&ServerStats::index_bytes>},
    {"quire_details_cache_bytes", Kind::kGauge, "",
     "Memory of tokens and details of objects found lately.",
     one<&ServerStats::details_cache_bytes>},
    {"quire_quota_evictions_total", Kind::kCounter, "",
     "Objects removed because a tenant was above its hard limit.",
     one<&ServerStats::quota_evictions>},
    {"quire_detected_corruptions_total", Kind::kCounter, "",
     "Wrong bytes found anywhere, by reads and by scrubbing. Each became a miss.",
     one<&ServerStats::corruptions>},
    {"quire_tier_up", Kind::kGauge, "tier", "1 where the tier's state is ok, else 0.", tier_up},
    {"quire_tier_backend_info", Kind::kGauge, "tier, backend",
     "Always 1; the label tells how the tier reaches its device.", tier_backend},
    {"quire_tier_capacity_bytes", Kind::kGauge, "tier", "Bytes the tier can hold.",
     per_tier<&TierStats::capacity_bytes>},
    {"quire_tier_used_bytes", Kind::kGauge, "tier", "Bytes in use.",
     per_tier<&TierStats::used_bytes>},
    {"quire_tier_objects", Kind::kGauge, "tier", "Objects the tier holds.",
     per_tier<&TierStats::objects>},
    {"quire_tier_hits_total", Kind::kCounter, "tier", "Objects served from the tier.",
     per_tier<&TierStats::hits>},
    {"quire_evictions_total", Kind::kCounter, "tier", "Objects removed to make room.",
     per_tier<&TierStats::evictions>},
    {"quire_corruptions_total", Kind::kCounter, "tier",
     "Reads that did not verify. Each became a miss and cost the entry.",
     per_tier<&TierStats::corruptions>},
    {"quire_tier_read_bytes_total", Kind::kCounter, "tier", "Bytes read from the tier.",
     per_tier<&TierStats::read_bytes>},
    {"quire_tier_written_bytes_total", Kind::kCounter, "tier", "Bytes written to the tier.",
     per_tier<&TierStats::written_bytes>},
    {"quire_tier_device_written_bytes_total", Kind::kCounter, "tier",
     "Bytes that reached the device, with headers, padding and what reclaiming moved.",
     per_tier<&TierStats::device_written_bytes>},
    {"quire_tier_reinserted_bytes_total", Kind::kCounter, "tier",
     "Bytes that reclaiming moved instead of dropping.", per_tier<&TierStats::reinserted_bytes>},
    {"quire_tier_over_write_budget", Kind::kGauge, "tier",
     "1 while writes are held back to spare the device.", per_tier<&TierStats::over_write_budget>},
    {"quire_tier_scrubbed_bytes_total", Kind::kCounter, "tier",
     "Bytes read and verified in the background.", per_tier<&TierStats::scrubbed_bytes>},
    {"quire_tier_scrub_rounds_total", Kind::kCounter, "tier",
     "Times that scrubbing went through the whole tier.", per_tier<&TierStats::scrub_rounds>},
    {"quire_tier_scrub_corruptions_total", Kind::kCounter, "tier",
     "Objects that scrubbing found damaged.", per_tier<&TierStats::scrub_corruptions>},
    {"quire_tier_read_bytes_per_second", Kind::kGauge, "tier",
     "Read rate measured at start, used to decide between loading and recomputing.",
     tier_read_rate},
    {"quire_tier_latency_seconds", Kind::kGauge, "tier", "Read latency measured at start.",
     tier_latency},
    {"quire_tenant_bytes", Kind::kGauge, "tenant",
     "Bytes a tenant has stored, in any tier, counted once.", nullptr,
     per_tenant<&TenantInfo::bytes>},
    {"quire_tenant_host_bytes", Kind::kGauge, "tenant", "Bytes of a tenant in memory.", nullptr,
     per_tenant<&TenantInfo::host_bytes>},
    {"quire_tenant_objects", Kind::kGauge, "tenant", "Objects of a tenant.", nullptr,
     per_tenant<&TenantInfo::objects>},
    {"quire_tenant_soft_limit_bytes", Kind::kGauge, "tenant",
     "Share that other tenants' puts do not evict; 0 is none.", nullptr,
     per_tenant<&TenantInfo::soft_bytes>},
    {"quire_tenant_hard_limit_bytes", Kind::kGauge, "tenant",
     "Never more than this is kept; 0 is no limit.", nullptr, per_tenant<&TenantInfo::hard_bytes>},
    {"quire_tenant_refused_puts_total", Kind::kCounter, "tenant",
     "Puts refused for a tenant's hard limit.", nullptr, per_tenant<&TenantInfo::refused_puts>},
};

}  // namespace

const char* tier_name(wire::TierId tier) {
  switch (tier) {
    case wire::TierId::kGpu:
      return "gpu";
    case wire::TierId::kHost:
      return "host";
    case wire::TierId::kNvme:
      return "nvme";
    case wire::TierId::kRocks:
      return "rocks";
    case wire::TierId::kNone:
      break;
  }
  return "none";
}

std::string render_metrics(const ServerStats& stats, const std::vector<TenantInfo>& tenants) {
  std::vector<prometheus::MetricFamily> families;
  families.reserve(std::size(kRows));
  for (const MetricRow& row : kRows) {
    const bool counter = row.kind == Kind::kCounter;
    prometheus::MetricFamily family;
    family.name = row.name;
    family.help = row.help;
    family.type = counter ? prometheus::MetricType::Counter : prometheus::MetricType::Gauge;
    Samples samples;
    if (row.collect_tenants != nullptr)
      row.collect_tenants(tenants, samples);
    else
      row.collect(stats, samples);
    for (Sample& sample : samples) {
      prometheus::ClientMetric metric;
      metric.label = std::move(sample.labels);
      (counter ? metric.counter.value : metric.gauge.value) = sample.value;
      family.metric.push_back(std::move(metric));
    }
    families.push_back(std::move(family));
  }
  return prometheus::TextSerializer().Serialize(families);
}

std::string metrics_markdown() {
  std::string text = "| metric | type | labels | meaning |\n|---|---|---|---|\n";
  for (const MetricRow& row : kRows) {
    text += "| `" + std::string(row.name) + "` | ";
    text += row.kind == Kind::kCounter ? "counter | " : "gauge | ";
    text +=
        std::string(row.labels.empty() ? "-" : row.labels) + " | " + std::string(row.help) + " |\n";
  }
  return text;
}

}  // namespace quire::server
