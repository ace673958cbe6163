// Hints, tenants, quotas, checkpoints.
#include <algorithm>
#include <iostream>

#include "tools/quirectl/command_support.h"
#include "tools/quirectl/format.h"
#include "tools/quirectl/output.h"

namespace quire::ctl {

Status run_hint(const GlobalOptions& global, const std::vector<std::string>& texts,
                const HintOptions& hint) {
  ControlClient client = connect(global);
  QUIRE_ASSIGN_OR_RETURN(const std::vector<std::string> ids, resolve_objects(client, texts));
  uint64_t applied = 0;
  uint64_t missing = 0;
  for (size_t begin = 0; begin < ids.size(); begin += kBatchIds) {
    pb::HintRequest request;
    for (size_t i = begin; i < std::min(ids.size(), begin + kBatchIds); ++i)
      request.add_representations(ids[i]);
    if (hint.steps) request.set_steps_to_next_use(*hint.steps);
    if (hint.next_use_ms) request.set_next_use_ms(*hint.next_use_ms);
    if (hint.priority) request.set_priority(*hint.priority);
    request.set_finished(hint.finished);
    QUIRE_ASSIGN_OR_RETURN(const pb::HintResponse response, client.call(request));
    applied += response.applied();
    missing += response.missing();
  }
  if (global.json)
    print(Json::object({{"applied", applied}, {"missing", missing}}));
  else
    std::cout << applied << " taken, " << missing << " missing\n";
  if (missing != 0) return {StatusCode::kNotFound, std::to_string(missing) + " are not stored"};
  return Status::ok();
}

Status run_tenant_ls(const GlobalOptions& global) {
  ControlClient client = connect(global);
  QUIRE_ASSIGN_OR_RETURN(const pb::ListTenantsResponse tenants,
                         client.call(pb::ListTenantsRequest()));
  if (!global.json) {
    std::cout << tenants_table(tenants);
    return Status::ok();
  }
  Json list = Json::array();
  for (const pb::Tenant& tenant : tenants.tenants()) list.push_back(to_json(tenant));
  print(Json::object({{"tenants", std::move(list)}}));
  return Status::ok();
}

Status run_set_quota(const GlobalOptions& global, const std::string& tenant,
                     std::optional<uint64_t> soft_bytes, std::optional<uint64_t> hard_bytes) {
  ControlClient client = connect(global);
  pb::SetQuotaRequest request;
  request.set_tenant(tenant);
  if (soft_bytes) request.set_soft_bytes(*soft_bytes);
  if (hard_bytes) request.set_hard_bytes(*hard_bytes);
  QUIRE_ASSIGN_OR_RETURN(const pb::SetQuotaResponse response, client.call(request));
  if (global.json) {
    print(Json::object({{"tenant", tenant},
                        {"soft_bytes", response.soft_bytes()},
                        {"hard_bytes", response.hard_bytes()}}));
    return Status::ok();
  }
  const auto limit = [](uint64_t bytes) { return bytes == 0 ? "none" : format_bytes(bytes); };
  std::cout << "tenant \"" << tenant << "\": soft " << limit(response.soft_bytes()) << ", hard "
            << limit(response.hard_bytes()) << "\n";
  return Status::ok();
}

Status run_checkpoint(const GlobalOptions& global, const std::string& directory) {
  ControlClient client = connect(global, kLongTimeoutMs);
  pb::CheckpointRequest request;
  request.set_directory(directory);
  QUIRE_ASSIGN_OR_RETURN(const pb::CheckpointResponse response, client.call(request));
  if (global.json) {
    Json paths = Json::array();
    for (const std::string& path : response.nvme_paths()) paths.push_back(path);
    print(Json::object({{"directory", response.directory()},
                        {"objects", response.objects()},
                        {"metadata_bytes", response.metadata_bytes()},
                        {"nvme_paths", std::move(paths)}}));
    return Status::ok();
  }
  std::cout << "checkpoint of " << response.objects() << " objects ("
            << format_bytes(response.metadata_bytes()) << ") in " << response.directory() << "\n";
  for (const std::string& path : response.nvme_paths())
    std::cout << "copy next to it: " << path << "\n";
  return Status::ok();
}

}  // namespace quire::ctl
