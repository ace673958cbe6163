#include "tools/quirectl/control_client.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <charconv>
#include <chrono>
#include <string_view>
#include <utility>

#include "proto/control.grpc.pb.h"
#include "proto/control_metadata.h"

namespace quire::ctl {
namespace {

using Metadata = std::multimap<grpc::string_ref, grpc::string_ref>;

std::string_view metadata_value(const Metadata& metadata, const char* key) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) return {};
  return {found->second.data(), found->second.size()};
}

// For errors that did not come from a quired's own code: the transport's, or another server's.
StatusCode code_of(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::OUT_OF_RANGE:
      return StatusCode::kInvalidArgument;
    case grpc::StatusCode::NOT_FOUND:
      return StatusCode::kNotFound;
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return StatusCode::kDeadlineExceeded;
    case grpc::StatusCode::UNAVAILABLE:
      return StatusCode::kUnavailable;
    case grpc::StatusCode::CANCELLED:
      return StatusCode::kCancelled;
    case grpc::StatusCode::UNIMPLEMENTED:
      return StatusCode::kUnsupported;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return StatusCode::kResourceExhausted;
    default:
      return StatusCode::kInternal;
  }
}

Status error_of(const grpc::Status& error, const grpc::ClientContext& context,
                const std::string& server) {
  const Metadata& metadata = context.GetServerTrailingMetadata();
  const std::string_view name = metadata_value(metadata, control::kStatusMetadataKey);
  uint32_t retry_after_ms = 0;
  const std::string_view hint = metadata_value(metadata, control::kRetryAfterMetadataKey);
  std::from_chars(hint.data(), hint.data() + hint.size(), retry_after_ms);
  for (uint32_t i = 1; i < kStatusCodeCount; ++i) {
    const auto code = static_cast<StatusCode>(i);
    if (status_code_name(code) == name && code != StatusCode::kDeadlineExceeded)
      return {code, error.error_message(), retry_after_ms};
  }
  const StatusCode code = code_of(error.error_code());
  if (code == StatusCode::kUnavailable)
    return {code, "no quired control server at " + server + ": start quired, or give --server"};
  if (code == StatusCode::kDeadlineExceeded)
    return {code,
            "no answer from " + server + " in time: is it overloaded? give a longer --timeout"};
  if (code == StatusCode::kUnsupported)
    return {code, "the server at " + server +
                      " is not a quired, or too old for this call: " + error.error_message()};
  return {code, error.error_message()};
}

grpc::ChannelArguments channel_arguments() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(control::kControlMessageBytesMax);
  // The server is named directly; a proxy from the environment must not stand between.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return arguments;
}

}  // namespace

struct ControlClient::State {
  using Stub = pb::CacheControl::Stub;

  template <typename Request, typename Response>
  Expected<Response> call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                       Response*),
                          const Request& request) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(timeout_ms));
    Response response;
    const grpc::Status status = (*stub.*method)(&context, request, &response);
    if (!status.ok()) return error_of(status, context, server);
    return response;
  }

  std::string server;
  uint64_t timeout_ms = 0;
  std::unique_ptr<Stub> stub;
};

ControlClient::ControlClient(std::string server, uint64_t timeout_ms)
    : state_(std::make_unique<State>()) {
  state_->server = std::move(server);
  state_->timeout_ms = timeout_ms;
  state_->stub = pb::CacheControl::NewStub(grpc::CreateCustomChannel(
      state_->server, grpc::InsecureChannelCredentials(), channel_arguments()));
}

ControlClient::~ControlClient() = default;

Expected<pb::LookupResponse> ControlClient::call(const pb::LookupRequest& request) {
  return state_->call(&State::Stub::Lookup, request);
}
Expected<pb::ListResponse> ControlClient::call(const pb::ListRequest& request) {
  return state_->call(&State::Stub::List, request);
}
Expected<pb::StatResponse> ControlClient::call(const pb::StatRequest& request) {
  return state_->call(&State::Stub::Stat, request);
}
Expected<pb::PinResponse> ControlClient::call(const pb::PinRequest& request) {
  return state_->call(&State::Stub::Pin, request);
}
Expected<pb::UnpinResponse> ControlClient::call(const pb::UnpinRequest& request) {
  return state_->call(&State::Stub::Unpin, request);
}
Expected<pb::DeleteResponse> ControlClient::call(const pb::DeleteRequest& request) {
  return state_->call(&State::Stub::Delete, request);
}
Expected<pb::ClearResponse> ControlClient::call(const pb::ClearRequest& request) {
  return state_->call(&State::Stub::Clear, request);
}
Expected<pb::PrefetchResponse> ControlClient::call(const pb::PrefetchRequest& request) {
  return state_->call(&State::Stub::Prefetch, request);
}
Expected<pb::StatsResponse> ControlClient::call(const pb::StatsRequest& request) {
  return state_->call(&State::Stub::Stats, request);
}
Expected<pb::DrainResponse> ControlClient::call(const pb::DrainRequest& request) {
  return state_->call(&State::Stub::Drain, request);
}
Expected<pb::SetVerdictResponse> ControlClient::call(const pb::SetVerdictRequest& request) {
  return state_->call(&State::Stub::SetVerdict, request);
}

Expected<pb::ListModelsResponse> ControlClient::call(const pb::ListModelsRequest& request) {
  return state_->call(&State::Stub::ListModels, request);
}
Expected<pb::HintResponse> ControlClient::call(const pb::HintRequest& request) {
  return state_->call(&State::Stub::Hint, request);
}
Expected<pb::ListTenantsResponse> ControlClient::call(const pb::ListTenantsRequest& request) {
  return state_->call(&State::Stub::ListTenants, request);
}
Expected<pb::SetQuotaResponse> ControlClient::call(const pb::SetQuotaRequest& request) {
  return state_->call(&State::Stub::SetQuota, request);
}
Expected<pb::CheckpointResponse> ControlClient::call(const pb::CheckpointRequest& request) {
  return state_->call(&State::Stub::Checkpoint, request);
}

}  // namespace quire::ctl
