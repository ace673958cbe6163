// The control API's messages as JSON (keys and meanings are stable: docs/ops/quirectl.md) and as
// tables.
#ifndef QUIRE_TOOLS_QUIRECTL_OUTPUT_H_
#define QUIRE_TOOLS_QUIRECTL_OUTPUT_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "proto/control.pb.h"

namespace quire::ctl {

namespace pb = quire::control::v1;

nlohmann::ordered_json to_json(const pb::Object& object);
nlohmann::ordered_json to_json(const pb::StatsResponse& stats);
nlohmann::ordered_json to_json(const pb::Model& model);
nlohmann::ordered_json to_json(const pb::Verdict& verdict);
nlohmann::ordered_json to_json(const pb::LookupResponse& lookup);
nlohmann::ordered_json to_json(const pb::Tenant& tenant);

// What works worse than it should and why: the server's sentences, and what the states of its tiers
// tell where it says nothing of them.
std::vector<std::string> degraded_reasons(const pb::StatsResponse& stats);
// Standard output is a terminal and NO_COLOR is not set.
bool colour_wanted();

std::string objects_table(const std::vector<pb::Object>& objects, uint64_t now_wall_ms);
std::string object_details(const pb::Object& object, uint64_t now_wall_ms);
// Begins with what is degraded.
std::string stats_text(const pb::StatsResponse& stats, bool colour);
std::string tenants_table(const pb::ListTenantsResponse& tenants);
std::string models_table(const pb::ListModelsResponse& models, uint64_t now_wall_ms);
std::string lookup_table(const pb::LookupResponse& lookup, uint64_t n_tokens);

}  // namespace quire::ctl

#endif  // QUIRE_TOOLS_QUIRECTL_OUTPUT_H_
