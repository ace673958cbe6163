#include "server/control/service.h"

#include <algorithm>
#include <chrono>
#include <exception>

#include "server/control/control_server.h"
#include "server/control/grpc_status.h"
#include "server/control/messages.h"

namespace quire::server {
namespace {

// Pages of the store that one List call with an id prefix looks through at most; the client goes on
// with the page token, so no call holds the store for long.
constexpr int kPrefixScanPagesMax = 16;

Status invalid(std::string message) {
  return {StatusCode::kInvalidArgument, std::move(message)};
}

class Deadline {
 public:
  Deadline(const grpc::ServerContext& context, uint32_t max_ms) {
    const auto now = Clock::now();
    const auto given = context.deadline();
    if (given == Clock::time_point::max())
      end_ = now + std::chrono::milliseconds(kControlDeadlineMsDefault);
    else
      end_ = std::min(given, now + std::chrono::milliseconds(max_ms));
  }

  // Milliseconds left, at least 1; kDeadlineExceeded where none are.
  Expected<uint32_t> left_ms() const {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(end_ - Clock::now()).count();
    if (left <= 0) return Status(StatusCode::kDeadlineExceeded, "no time left");
    return static_cast<uint32_t>(left);
  }

 private:
  using Clock = std::chrono::system_clock;  // gRPC's
  Clock::time_point end_;
};

// Runs a handler body and turns its Status into gRPC's. Only the standard library and protobuf can
// throw here (out of memory); the server answers instead of ending.
template <typename Body>
grpc::Status answer(grpc::ServerContext& context, uint32_t deadline_ms_max, Body&& body) {
  try {
    return to_grpc(context, body(Deadline(context, deadline_ms_max)));
  } catch (const std::exception& error) {
    return to_grpc(context, {StatusCode::kInternal, error.what()});
  }
}

// The store knows no prefixes, but lists in the order of ids: looks through full pages until the
// first one with matches, and ends behind the last id that can match.
Status scan_prefix(AdminApi& admin, const pb::ListRequest& request, const ObjectFilter& filter,
                   const Deadline& deadline, pb::ListResponse& response) {
  QUIRE_ASSIGN_OR_RETURN(const IdRange range, parse_id_prefix(request.id_prefix()));
  std::string token = request.page_token();
  for (int i = 0; i < kPrefixScanPagesMax; ++i) {
    QUIRE_ASSIGN_OR_RETURN(const uint32_t left_ms, deadline.left_ms());
    QUIRE_ASSIGN_OR_RETURN(const ListPage page, admin.list(filter, kListLimitMax, token, left_ms));
    if (page.scope) response.set_scope(page.scope->bytes.data(), page.scope->bytes.size());
    for (const ObjectInfo& object : page.objects)
      if (range.contains(object.representation)) fill(object, *response.add_objects());
    token = page.next_page_token;
    if (!page.objects.empty() && range.last < page.objects.back().representation) token.clear();
    if (token.empty() || response.objects_size() > 0) break;
  }
  response.set_next_page_token(token);
  return Status::ok();
}

Status list_page(AdminApi& admin, const pb::ListRequest& request, const Deadline& deadline,
                 pb::ListResponse& response) {
  if (request.limit() > kListLimitMax)
    return invalid("limit: at most " + std::to_string(kListLimitMax));
  if (request.page_token().size() > kPageTokenBytesMax) return invalid("page_token: too long");
  const uint32_t limit = request.limit() == 0 ? kListLimitDefault : request.limit();
  QUIRE_ASSIGN_OR_RETURN(const ObjectFilter filter, parse_filter(request.filter()));
  if (!request.id_prefix().empty()) return scan_prefix(admin, request, filter, deadline, response);
  QUIRE_ASSIGN_OR_RETURN(const uint32_t left_ms, deadline.left_ms());
  QUIRE_ASSIGN_OR_RETURN(const ListPage page,
                         admin.list(filter, limit, request.page_token(), left_ms));
  fill(page, response);
  return Status::ok();
}

// Limits left out are taken from the tenant as it is.
Status set_quota(AdminApi& admin, const pb::SetQuotaRequest& request, const Deadline& deadline,
                 pb::SetQuotaResponse& response) {
  QUIRE_ASSIGN_OR_RETURN(const std::string tenant, parse_tenant(request.tenant()));
  if (!request.has_soft_bytes() && !request.has_hard_bytes())
    return invalid("give soft_bytes, hard_bytes or both");
  uint64_t soft_bytes = request.soft_bytes();
  uint64_t hard_bytes = request.hard_bytes();
  if (!request.has_soft_bytes() || !request.has_hard_bytes()) {
    QUIRE_ASSIGN_OR_RETURN(const uint32_t left_ms, deadline.left_ms());
    QUIRE_ASSIGN_OR_RETURN(const std::vector<TenantInfo> tenants, admin.tenants(left_ms));
    const auto found = std::find_if(tenants.begin(), tenants.end(),
                                    [&](const TenantInfo& info) { return info.name == tenant; });
    if (found == tenants.end())
      return {StatusCode::kNotFound, "tenant: there is no \"" + tenant + "\""};
    if (!request.has_soft_bytes()) soft_bytes = found->soft_bytes;
    if (!request.has_hard_bytes()) hard_bytes = found->hard_bytes;
  }
  QUIRE_RETURN_IF_ERROR(check_quota(soft_bytes, hard_bytes));
  QUIRE_ASSIGN_OR_RETURN(const uint32_t left_ms, deadline.left_ms());
  QUIRE_RETURN_IF_ERROR(admin.set_quota(tenant, soft_bytes, hard_bytes, left_ms));
  response.set_soft_bytes(soft_bytes);
  response.set_hard_bytes(hard_bytes);
  return Status::ok();
}

}  // namespace

grpc::Status CacheControlService::Lookup(Context* context, In<pb::LookupRequest> request,
                                         pb::LookupResponse* response) {
  return answer(*context, kControlDeadlineMsMax, [&](const Deadline& deadline) -> Status {
    QUIRE_ASSIGN_OR_RETURN(const Digest model, parse_id(request->model(), "model"));
    QUIRE_ASSIGN_OR_RETURN(const std::string tenant, parse_tenant(request->tenant()));
    QUIRE_ASSIGN_OR_RETURN(const std::vector<TokenId> tokens, parse_tokens(*request));
    QUIRE_ASSIGN_OR_RETURN(const uint32_t left_ms, deadline.left_ms());
    QUIRE_ASSIGN_OR_RETURN(const std::string scope, parse_scope(request->scope()));
    QUIRE_ASSIGN_OR_RETURN(const auto entries,
                           admin_.lookup(model, tokens, tenant, scope, left_ms));
    fill(entries, *response);
    return Status::ok();
  });
}

grpc::Status CacheControlService::List(Context* context, In<pb::ListRequest> request,
                                       pb::ListResponse* response) {
  return answer(*context, kControlDeadlineMsMax, [&](const Deadline& deadline) {
    return list_page(admin_, *request, deadline, *response);
  });
}

grpc::Status CacheControlService::Stat(Context* context, In<pb::StatRequest> request,
                                       pb::StatResponse* response) {
  return answer(*context, kControlDeadlineMsMax, [&](const Deadline& deadline) -> Status {
    QUIRE_ASSIGN_OR_RETURN(const Digest id, parse_id(request->representation(), "representation"));
    QUIRE_ASSIGN_OR_RETURN(const uint32_t left_ms, deadline.left_ms());
    QUIRE_ASSIGN_OR_RETURN(const ObjectInfo object, admin_.stat(id, left_ms));
    fill(object, *response->mutable_object());
    return Status::ok();
  });
}

grpc::Status CacheControlService::Pin(Context* context, In<pb::PinRequest> request,
                                      pb::PinResponse*) {
  return answer(*context, kControlDeadlineMsMax, [&](const Deadline& deadline) -> Status {
    QUIRE_ASSIGN_OR_RETURN(const Digest id, parse_id(request->representation(), "representation"));
    if (request->ttl_ms() > kPinTtlMsMax)
      return invalid("ttl_ms: at most 100 years; 0 pins until unpinned");
    QUIRE_ASSIGN_OR_RETURN(const uint32_t left_ms, deadline.left_ms());
    return admin_.pin(id, request->ttl_ms(), left_ms);
  });
}

grpc::Status CacheControlService::Unpin(Context* context, In<pb::UnpinRequest> request,
                                        pb::UnpinResponse*) {
  return answer(*context, kControlDeadlineMsMax, [&](const Deadline& deadline) -> Status {
    QUIRE_ASSIGN_OR_RETURN(const Digest id, parse_id(request->representation(), "representation"));
    QUIRE_ASSIGN_OR_RETURN(const uint32_t left_ms, deadline.left_ms());
    return admin_.unpin(id, left_ms);
  });
}

grpc::Status CacheControlService::Delete(Context* context, In<pb::DeleteRequest> request,
                                         pb::DeleteResponse*) {
  return answer(*context, kControlDeadlineMsMax, [&](const Deadline& deadline) -> Status {
    QUIRE_ASSIGN_OR_RETURN(const Digest id, parse_id(request->representation(), "representation"));
    QUIRE_ASSIGN_OR_RETURN(const uint32_t left_ms, deadline.left_ms());
    return admin_.remove(id, request->force(), left_ms);
  });
}

grpc::Status CacheControlService::Clear(Context* context, In<pb::ClearRequest> request,
                                        pb::ClearResponse* response) {
  return answer(*context, kControlLongDeadlineMsMax, [&](const Deadline& deadline) -> Status {
    QUIRE_ASSIGN_OR_RETURN(const ObjectFilter filter, parse_filter(request->filter()));
    const bool empty = !filter.model && !filter.tier && !filter.tenant;
    if (empty && !request->all())
      return invalid("the filter is empty: set `all` to remove every object");
    if (!empty && request->all()) return invalid("give a filter or `all`, not both");
    QUIRE_ASSIGN_OR_RETURN(const uint32_t left_ms, deadline.left_ms());
    QUIRE_ASSIGN_OR_RETURN(const uint64_t removed, admin_.clear(filter, left_ms));
    response->set_removed(removed);
    return Status::ok();
  });
}

grpc::Status CacheControlService::Prefetch(Context* context, In<pb::PrefetchRequest> request,
                                           pb::PrefetchResponse* response) {
  return answer(*context, kControlLongDeadlineMsMax, [&](const Deadline& deadline) -> Status {
    QUIRE_ASSIGN_OR_RETURN(const std::vector<Digest> ids, parse_prefetch_ids(*request));
    QUIRE_ASSIGN_OR_RETURN(uint32_t left_ms, deadline.left_ms());
    if (request->deadline_ms() != 0) left_ms = std::min(left_ms, request->deadline_ms());
    QUIRE_ASSIGN_OR_RETURN(const PrefetchResult result, admin_.prefetch(ids, left_ms));
    response->set_ready(result.ready);
    response->set_missing(result.missing);
    response->set_failed(result.failed);
    return Status::ok();
  });
}

grpc::Status CacheControlService::Stats(Context* context, In<pb::StatsRequest>,
                                        pb::StatsResponse* response) {
  return answer(*context, kControlDeadlineMsMax, [&](const Deadline& deadline) -> Status {
    QUIRE_ASSIGN_OR_RETURN(const uint32_t left_ms, deadline.left_ms());
    QUIRE_ASSIGN_OR_RETURN(const ServerStats stats, admin_.stats(left_ms));
    fill(stats, *response);
    return Status::ok();
  });
}

grpc::Status CacheControlService::Drain(Context* context, In<pb::DrainRequest> request,
                                        pb::DrainResponse*) {
  return answer(*context, kControlLongDeadlineMsMax, [&](const Deadline& deadline) -> Status {
    QUIRE_ASSIGN_OR_RETURN(const uint32_t left_ms, deadline.left_ms());
    QUIRE_RETURN_IF_ERROR(admin_.drain(request->exit_after(), left_ms));
    on_drained_();
    return Status::ok();
  });
}

grpc::Status CacheControlService::RegisterModel(Context* context,
                                                In<pb::RegisterModelRequest> request,
                                                pb::RegisterModelResponse* response) {
  return answer(*context, kControlDeadlineMsMax, [&](const Deadline& deadline) -> Status {
    const std::string& name = request->name();
    if (name.empty() || name.size() >= wire::kNameBytesMax || printable_text(name) != name)
      return invalid("name: 1 to " + std::to_string(wire::kNameBytesMax - 1) +
                     " bytes of printable text");
    QUIRE_ASSIGN_OR_RETURN(
        const ModelDescriptor model,
        ModelDescriptor::parse(std::as_bytes(std::span(request->model_descriptor()))));
    QUIRE_ASSIGN_OR_RETURN(const uint32_t left_ms, deadline.left_ms());
    QUIRE_ASSIGN_OR_RETURN(const Digest id, admin_.register_model(name, model, left_ms));
    response->set_model(id.bytes.data(), id.bytes.size());
    return Status::ok();
  });
}

grpc::Status CacheControlService::ListModels(Context* context, In<pb::ListModelsRequest>,
                                             pb::ListModelsResponse* response) {
  return answer(*context, kControlDeadlineMsMax, [&](const Deadline& deadline) -> Status {
    QUIRE_ASSIGN_OR_RETURN(const uint32_t left_ms, deadline.left_ms());
    QUIRE_ASSIGN_OR_RETURN(const std::vector<ModelInfo> models, admin_.models(left_ms));
    for (const ModelInfo& model : models) fill(model, *response->add_models());
    return Status::ok();
  });
}

grpc::Status CacheControlService::SetVerdict(Context* context, In<pb::SetVerdictRequest> request,
                                             pb::SetVerdictResponse*) {
  return answer(*context, kControlDeadlineMsMax, [&](const Deadline& deadline) -> Status {
    QUIRE_ASSIGN_OR_RETURN(const Digest model, parse_id(request->model(), "model"));
    std::optional<Verdict> verdict;
    if (request->has_verdict()) verdict = parse_verdict(request->verdict());
    QUIRE_ASSIGN_OR_RETURN(const uint32_t left_ms, deadline.left_ms());
    return admin_.set_verdict(model, verdict, left_ms);
  });
}

grpc::Status CacheControlService::Hint(Context* context, In<pb::HintRequest> request,
                                       pb::HintResponse* response) {
  return answer(*context, kControlDeadlineMsMax, [&](const Deadline& deadline) -> Status {
    QUIRE_ASSIGN_OR_RETURN(const std::vector<Digest> ids, parse_hint_ids(*request));
    QUIRE_ASSIGN_OR_RETURN(const UseHint hint, parse_hint(*request));
    QUIRE_ASSIGN_OR_RETURN(const uint32_t left_ms, deadline.left_ms());
    QUIRE_ASSIGN_OR_RETURN(const HintResult result, admin_.hint(ids, hint, left_ms));
    response->set_applied(result.applied);
    response->set_missing(result.missing);
    return Status::ok();
  });
}

grpc::Status CacheControlService::ListTenants(Context* context, In<pb::ListTenantsRequest>,
                                              pb::ListTenantsResponse* response) {
  return answer(*context, kControlDeadlineMsMax, [&](const Deadline& deadline) -> Status {
    QUIRE_ASSIGN_OR_RETURN(const uint32_t left_ms, deadline.left_ms());
    QUIRE_ASSIGN_OR_RETURN(const std::vector<TenantInfo> tenants, admin_.tenants(left_ms));
    for (const TenantInfo& tenant : tenants) fill(tenant, *response->add_tenants());
    return Status::ok();
  });
}

grpc::Status CacheControlService::SetQuota(Context* context, In<pb::SetQuotaRequest> request,
                                           pb::SetQuotaResponse* response) {
  return answer(*context, kControlDeadlineMsMax, [&](const Deadline& deadline) {
    return set_quota(admin_, *request, deadline, *response);
  });
}

grpc::Status CacheControlService::Checkpoint(Context* context, In<pb::CheckpointRequest> request,
                                             pb::CheckpointResponse* response) {
  return answer(*context, kControlLongDeadlineMsMax, [&](const Deadline& deadline) -> Status {
    QUIRE_ASSIGN_OR_RETURN(const std::string directory,
                           parse_directory(request->directory(), "directory"));
    QUIRE_ASSIGN_OR_RETURN(const uint32_t left_ms, deadline.left_ms());
    QUIRE_ASSIGN_OR_RETURN(const CheckpointInfo info, admin_.checkpoint(directory, left_ms));
    fill(info, *response);
    return Status::ok();
  });
}

}  // namespace quire::server
