// A control server on a free loopback port over a fake store, and a client of it.
#ifndef QUIRE_TESTS_SERVER_CONTROL_CONTROL_TEST_H_
#define QUIRE_TESTS_SERVER_CONTROL_CONTROL_TEST_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>

#include "proto/control.grpc.pb.h"
#include "server/control/control_server.h"
#include "tests/server/control/fake_admin.h"

namespace quire::server {

namespace pb = quire::control::v1;
using Stub = pb::CacheControl::Stub;

inline std::string bytes_of(const Digest& id) {
  return {id.bytes.begin(), id.bytes.end()};
}

class ControlServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto started = ControlServer::start(admin_, "127.0.0.1:0");
    ASSERT_TRUE(started.is_ok()) << started.status().to_string();
    server_ = std::move(started).value();
    grpc::ChannelArguments arguments;
    arguments.SetMaxSendMessageSize(-1);  // the server must refuse what is too large
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    channel_ = grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->port()),
                                         grpc::InsecureChannelCredentials(), arguments);
    stub_ = pb::CacheControl::NewStub(channel_);
  }

  void TearDown() override { admin_.open_gate(); }

  template <typename Request, typename Response>
  grpc::Status call(grpc::Status (pb::CacheControl::Stub::*method)(grpc::ClientContext*,
                                                                   const Request&, Response*),
                    const Request& request, Response& response, int timeout_ms = 10'000) {
    context_ = std::make_unique<grpc::ClientContext>();
    if (timeout_ms != 0)
      context_->set_deadline(std::chrono::system_clock::now() +
                             std::chrono::milliseconds(timeout_ms));
    return (*stub_.*method)(context_.get(), request, &response);
  }

  std::string trailing(const char* key) {
    const auto& metadata = context_->GetServerTrailingMetadata();
    const auto found = metadata.find(key);
    return found == metadata.end() ? "" : std::string(found->second.data(), found->second.size());
  }

  FakeAdmin admin_;
  std::unique_ptr<ControlServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<pb::CacheControl::Stub> stub_;
  std::unique_ptr<grpc::ClientContext> context_;
};

}  // namespace quire::server

#endif  // QUIRE_TESTS_SERVER_CONTROL_CONTROL_TEST_H_
