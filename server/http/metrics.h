// The metrics of /metrics, from one table. docs/ops/metrics.md holds the same table, checked by a
// test.
#ifndef QUIRE_SERVER_HTTP_METRICS_H_
#define QUIRE_SERVER_HTTP_METRICS_H_

#include <string>
#include <vector>

#include "server/admin.h"

namespace quire::server {

// "gpu", "host", "nvme", "rocks"; "none" for anything else.
const char* tier_name(wire::TierId tier);

// Prometheus text exposition format 0.0.4. Without tenants (a store that cannot list them) their
// families are empty.
std::string render_metrics(const ServerStats& stats, const std::vector<TenantInfo>& tenants);

// The table as Markdown, a row per metric: name, type, labels, meaning.
std::string metrics_markdown();

}  // namespace quire::server

#endif  // QUIRE_SERVER_HTTP_METRICS_H_
