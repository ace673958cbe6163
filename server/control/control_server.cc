#include "server/control/control_server.h"

#include <google/protobuf/stubs/logging.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <cstdio>
#include <mutex>
#include <utility>

#include "proto/control_metadata.h"
#include "server/control/service.h"
#include "server/http/listen_address.h"

namespace quire::server {
namespace {

constexpr int kPollersMin = 1;
constexpr int kPollersMax = 2;
constexpr int kConnectionIdleMs = 300'000;

// By default protobuf writes a line for each request whose text is not UTF-8: callers would fill
// the log. They get an error as it is; what ends the process is still said.
void log_protobuf(google::protobuf::LogLevel level, const char* file, int line,
                  const std::string& message) {
  if (level == google::protobuf::LOGLEVEL_FATAL)
    std::fprintf(stderr, "%s:%d: %s\n", file, line, message.c_str());
}

// Process-wide switches of gRPC and protobuf, thrown once before the first server.
void prepare_libraries() {
  static const bool once = [] {
    google::protobuf::SetLogHandler(log_protobuf);
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  (void)once;
}

}  // namespace

struct ControlServer::State {
  explicit State(AdminApi& admin) : service(admin, [this] { set_serving(false); }) {}

  void set_serving(bool serving) {
    std::lock_guard lock(mutex);
    if (server == nullptr || stopped) return;
    // Every registered name: the whole server ("") and the service itself.
    if (auto* health = server->GetHealthCheckService()) health->SetServingStatus(serving);
  }

  CacheControlService service;
  std::mutex mutex;  // over server and stopped
  std::unique_ptr<grpc::Server> server;
  bool stopped = false;
  int port = 0;
};

ControlServer::ControlServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

ControlServer::~ControlServer() {
  stop();
}

Expected<std::unique_ptr<ControlServer>> ControlServer::start(AdminApi& admin,
                                                              const std::string& listen_address,
                                                              ControlOptions options) {
  QUIRE_ASSIGN_OR_RETURN(const ListenAddress address, parse_listen_address(listen_address));
  if (!address.loopback && !options.allow_remote)
    return Status(StatusCode::kPermissionDenied,
                  "control address " + address.to_string() +
                      " is reachable from other machines, and the control API has no "
                      "authentication: use 127.0.0.1, or allow remote access explicitly");
  prepare_libraries();

  auto state = std::make_unique<State>(admin);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address.to_string(), grpc::InsecureServerCredentials(), &state->port);
  builder.RegisterService(&state->service);
  builder.SetMaxReceiveMessageSize(control::kControlMessageBytesMax);
  builder.SetMaxSendMessageSize(control::kControlMessageBytesMax);
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, kPollersMin);
  builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, kPollersMax);
  builder.SetResourceQuota(grpc::ResourceQuota("quire control")
                               .Resize(kControlMemoryBytesMax)
                               .SetMaxThreads(kControlThreadsMax));
  // Without this a second server could share the port unnoticed.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kConnectionIdleMs);
  state->server = builder.BuildAndStart();
  if (state->server == nullptr || state->port == 0)
    return Status(StatusCode::kUnavailable,
                  "cannot listen on " + address.to_string() +
                      ": the port is taken or the address is not this machine's");
  if (auto* health = state->server->GetHealthCheckService())
    health->SetServingStatus(control::v1::CacheControl::service_full_name(), true);
  return std::unique_ptr<ControlServer>(new ControlServer(std::move(state)));
}

int ControlServer::port() const {
  return state_->port;
}

void ControlServer::set_serving(bool serving) {
  state_->set_serving(serving);
}

void ControlServer::stop() {
  {
    std::lock_guard lock(state_->mutex);
    if (std::exchange(state_->stopped, true)) return;
  }
  state_->server->Shutdown(std::chrono::system_clock::now() +
                           std::chrono::milliseconds(kControlStopMs));
  state_->server->Wait();
}

}  // namespace quire::server
