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
nlohmann::ordered_json to_json(const pb::LookupResponse& lookup);

std::string objects_table(const std::vector<pb::Object>& objects, uint64_t now_wall_ms);
std::string object_details(const pb::Object& object, uint64_t now_wall_ms);
std::string stats_text(const pb::StatsResponse& stats);
std::string models_table(const pb::ListModelsResponse& models);
std::string lookup_table(const pb::LookupResponse& lookup, uint64_t n_tokens);

}  // namespace quire::ctl

#endif  // QUIRE_TOOLS_QUIRECTL_OUTPUT_H_
