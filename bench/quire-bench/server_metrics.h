// Figures that a quired of our own tells by HTTP.
#ifndef QUIRE_BENCH_QUIRE_BENCH_SERVER_METRICS_H_
#define QUIRE_BENCH_QUIRE_BENCH_SERVER_METRICS_H_

#include <cstdint>
#include <map>
#include <string>

#include "base/status.h"

namespace quire::bench {

// By name; rows with labels have them in the name, as in "quire_tier_objects{tier=\"nvme\"}".
using ServerMetrics = std::map<std::string, double, std::less<>>;

// GET /metrics of 127.0.0.1:port, bounded by kMetricsTimeoutMs.
Expected<ServerMetrics> read_server_metrics(uint16_t port);
inline constexpr uint32_t kMetricsTimeoutMs = 10'000;
inline constexpr uint64_t kMetricsBytesMax = 4 << 20;

// The value of a metric; kNotFound where there is none.
Expected<double> metric(const ServerMetrics& metrics, std::string_view name);

// A port of 127.0.0.1 that nobody used a moment ago.
Expected<uint16_t> free_port();

}  // namespace quire::bench

#endif  // QUIRE_BENCH_QUIRE_BENCH_SERVER_METRICS_H_
