// The RPCs of proto/control.proto: validate, call the AdminApi with the time that is left, convert.
#ifndef QUIRE_SERVER_CONTROL_SERVICE_H_
#define QUIRE_SERVER_CONTROL_SERVICE_H_

#include <functional>

#include "proto/control.grpc.pb.h"
#include "server/admin.h"

namespace quire::server {

// Stateless apart from its references; gRPC calls it from many threads.
class CacheControlService final : public quire::control::v1::CacheControl::Service {
 public:
  // on_drained is called after each successful Drain.
  CacheControlService(AdminApi& admin, std::function<void()> on_drained)
      : admin_(admin), on_drained_(std::move(on_drained)) {}

  template <typename Message>
  using In = const Message*;
  using Context = grpc::ServerContext;

  grpc::Status Lookup(Context* context, In<control::v1::LookupRequest> request,
                      control::v1::LookupResponse* response) override;
  grpc::Status List(Context* context, In<control::v1::ListRequest> request,
                    control::v1::ListResponse* response) override;
  grpc::Status Stat(Context* context, In<control::v1::StatRequest> request,
                    control::v1::StatResponse* response) override;
  grpc::Status Pin(Context* context, In<control::v1::PinRequest> request,
                   control::v1::PinResponse* response) override;
  grpc::Status Unpin(Context* context, In<control::v1::UnpinRequest> request,
                     control::v1::UnpinResponse* response) override;
  grpc::Status Delete(Context* context, In<control::v1::DeleteRequest> request,
                      control::v1::DeleteResponse* response) override;
  grpc::Status Clear(Context* context, In<control::v1::ClearRequest> request,
                     control::v1::ClearResponse* response) override;
  grpc::Status Prefetch(Context* context, In<control::v1::PrefetchRequest> request,
                        control::v1::PrefetchResponse* response) override;
  grpc::Status Stats(Context* context, In<control::v1::StatsRequest> request,
                     control::v1::StatsResponse* response) override;
  grpc::Status Drain(Context* context, In<control::v1::DrainRequest> request,
                     control::v1::DrainResponse* response) override;
  grpc::Status RegisterModel(Context* context, In<control::v1::RegisterModelRequest> request,
                             control::v1::RegisterModelResponse* response) override;
  grpc::Status ListModels(Context* context, In<control::v1::ListModelsRequest> request,
                          control::v1::ListModelsResponse* response) override;
  grpc::Status SetVerdict(Context* context, In<control::v1::SetVerdictRequest> request,
                          control::v1::SetVerdictResponse* response) override;
  grpc::Status Hint(Context* context, In<control::v1::HintRequest> request,
                    control::v1::HintResponse* response) override;
  grpc::Status ListTenants(Context* context, In<control::v1::ListTenantsRequest> request,
                           control::v1::ListTenantsResponse* response) override;
  grpc::Status SetQuota(Context* context, In<control::v1::SetQuotaRequest> request,
                        control::v1::SetQuotaResponse* response) override;
  grpc::Status Checkpoint(Context* context, In<control::v1::CheckpointRequest> request,
                          control::v1::CheckpointResponse* response) override;

 private:
  AdminApi& admin_;
  std::function<void()> on_drained_;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_CONTROL_SERVICE_H_
