// The control server against hostile input, deadlines, too many callers; its start, stop, health
// and reflection.
#include <grpcpp/generic/generic_stub.h>

#include <atomic>
#include <thread>

#include "server/control/control_server.h"
#include "tests/server/control/control_test.h"

namespace quire::server {
namespace {

constexpr char kServiceName[] = "quire.control.v1.CacheControl";
constexpr uint8_t kServing = 1;
constexpr uint8_t kNotServing = 2;

// Sends already encoded bytes to any method: for the health and reflection services (whose
// generated code is not installed) and for requests that no generated code would build.
grpc::Status call_raw(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                      const std::string& request, std::string& response) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  grpc::CompletionQueue queue;
  const grpc::Slice slice(request);
  const grpc::ByteBuffer buffer(&slice, 1);
  grpc::ByteBuffer answer;
  grpc::Status status;
  auto stream = stub.PrepareCall(&context, method, &queue);
  int step = 0;
  const auto wait = [&] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  stream->StartCall(&step);
  if (wait()) {
    stream->WriteLast(buffer, {}, &step);
    if (wait()) {
      stream->Read(&answer, &step);
      if (wait()) {
        std::vector<grpc::Slice> slices;
        if (answer.Dump(&slices).ok())
          for (const grpc::Slice& part : slices)
            response.append(reinterpret_cast<const char*>(part.begin()), part.size());
      }
    }
  }
  stream->Finish(&status, &step);
  wait();
  queue.Shutdown();
  return status;
}

// The answer of the health service for a name.
uint8_t health(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  // HealthCheckRequest { string service = 1 }, HealthCheckResponse { enum status = 1 }.
  std::string request = service;
  if (!service.empty()) request = "\x0a" + std::string(1, char(service.size())) + service;
  std::string response;
  const auto status = call_raw(channel, "/grpc.health.v1.Health/Check", request, response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.size() == 2 && response[0] == 0x08 ? uint8_t(response[1]) : 0xff;
}

TEST_F(ControlServerTest, WrongIdLengthsNeverReachTheStore) {
  for (const size_t length : {0, 1, 31, 33, 4096}) {
    const std::string id(length, 'x');
    pb::StatRequest stat;
    stat.set_representation(id);
    pb::StatResponse stat_response;
    EXPECT_EQ(call(&Stub::Stat, stat, stat_response).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
    pb::PinRequest pin;
    pin.set_representation(id);
    pb::PinResponse pin_response;
    EXPECT_EQ(call(&Stub::Pin, pin, pin_response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    pb::UnpinRequest unpin;
    unpin.set_representation(id);
    pb::UnpinResponse unpin_response;
    EXPECT_EQ(call(&Stub::Unpin, unpin, unpin_response).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
    pb::DeleteRequest remove;
    remove.set_representation(id);
    pb::DeleteResponse remove_response;
    EXPECT_EQ(call(&Stub::Delete, remove, remove_response).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
    pb::PrefetchRequest prefetch;
    prefetch.add_representations(bytes_of(test_id({1})));
    prefetch.add_representations(id);
    pb::PrefetchResponse prefetch_response;
    EXPECT_EQ(call(&Stub::Prefetch, prefetch, prefetch_response).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
    pb::LookupRequest lookup;
    lookup.set_model(id);
    lookup.add_tokens(1);
    pb::LookupResponse lookup_response;
    EXPECT_EQ(call(&Stub::Lookup, lookup, lookup_response).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
  }
  EXPECT_EQ(admin_.calls(), 0);
}

TEST_F(ControlServerTest, HugeRequestsAreRefused) {
  pb::LookupRequest request;
  request.set_model(bytes_of(test_id({3})));
  for (uint32_t i = 0; i <= kPromptTokensMax; ++i) request.add_tokens(1);
  pb::LookupResponse response;
  EXPECT_EQ(call(&Stub::Lookup, request, response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  for (uint32_t i = 0; i < 4 * kPromptTokensMax; ++i) request.add_tokens(1);
  EXPECT_EQ(call(&Stub::Lookup, request, response).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(admin_.calls(), 0);
  admin_.add_object(test_id({1}));
  pb::ListResponse list;
  EXPECT_TRUE(call(&Stub::List, pb::ListRequest(), list).ok());
}

TEST_F(ControlServerTest, GarbageIsAnErrorAndTheServerLives) {
  std::string garbage;
  for (int i = 0; i < 1000; ++i) garbage += char(i * 37);
  for (const char* method : {"Stat", "List", "Lookup", "Clear", "RegisterModel", "Prefetch", "Hint",
                             "SetQuota", "Checkpoint"}) {
    std::string response;
    const auto status =
        call_raw(channel_, "/" + std::string(kServiceName) + "/" + method, garbage, response);
    EXPECT_FALSE(status.ok()) << method;
  }
  EXPECT_EQ(admin_.calls(), 0);
  pb::StatsResponse stats;
  EXPECT_TRUE(call(&Stub::Stats, pb::StatsRequest(), stats).ok());
}

TEST_F(ControlServerTest, RequestsThatCannotBeReadWriteNoLog) {
  // SetQuotaRequest { string tenant = 1 }, its text not UTF-8.
  const std::string request("\x0a\x01\xff", 3);
  std::string response;
  testing::internal::CaptureStderr();
  const auto status =
      call_raw(channel_, "/" + std::string(kServiceName) + "/SetQuota", request, response);
  const std::string written = testing::internal::GetCapturedStderr();
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(written, "");
  EXPECT_EQ(admin_.calls(), 0);
}

TEST_F(ControlServerTest, TheClientsDeadlineReachesTheStore) {
  pb::StatsResponse response;
  ASSERT_TRUE(call(&Stub::Stats, pb::StatsRequest(), response, 5'000).ok());
  EXPECT_LE(admin_.last_deadline_ms(), 5'500u);  // gRPC rounds what it sends up
  EXPECT_GT(admin_.last_deadline_ms(), 1'000u);
  ASSERT_TRUE(call(&Stub::Stats, pb::StatsRequest(), response, 0).ok());
  EXPECT_LE(admin_.last_deadline_ms(), kControlDeadlineMsDefault);
  ASSERT_TRUE(call(&Stub::Stats, pb::StatsRequest(), response, 3'600'000).ok());
  EXPECT_LE(admin_.last_deadline_ms(), kControlDeadlineMsMax);
  pb::DrainResponse drain;
  ASSERT_TRUE(call(&Stub::Drain, pb::DrainRequest(), drain, 3'600'000).ok());
  EXPECT_GT(admin_.last_deadline_ms(), kControlDeadlineMsMax);
  EXPECT_LE(admin_.last_deadline_ms(), kControlLongDeadlineMsMax);

  admin_.close_gate();
  EXPECT_EQ(call(&Stub::Stats, pb::StatsRequest(), response, 100).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  admin_.open_gate();
  EXPECT_TRUE(call(&Stub::Stats, pb::StatsRequest(), response).ok());
}

TEST_F(ControlServerTest, TooManyCallsAtOnceAreTurnedAway) {
  admin_.close_gate();
  constexpr int kCalls = 4 * kControlThreadsMax;
  std::atomic<int> answered = 0;
  std::atomic<int> refused = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < kCalls; ++i)
    threads.emplace_back([&] {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
      pb::StatsResponse response;
      const auto status = stub_->Stats(&context, pb::StatsRequest(), &response);
      if (status.ok()) ++answered;
      if (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) ++refused;
    });
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (refused == 0 && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
  admin_.open_gate();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(answered + refused, kCalls);
  EXPECT_GT(answered, 0);
  EXPECT_GT(refused, 0);
  pb::StatsResponse response;
  EXPECT_TRUE(call(&Stub::Stats, pb::StatsRequest(), response).ok());
}

TEST_F(ControlServerTest, HealthFollowsServingAndDrain) {
  EXPECT_EQ(health(channel_, ""), kServing);
  EXPECT_EQ(health(channel_, kServiceName), kServing);
  server_->set_serving(false);
  EXPECT_EQ(health(channel_, ""), kNotServing);
  EXPECT_EQ(health(channel_, kServiceName), kNotServing);
  server_->set_serving(true);
  EXPECT_EQ(health(channel_, ""), kServing);
  pb::DrainRequest request;
  request.set_exit_after(true);
  pb::DrainResponse response;
  ASSERT_TRUE(call(&Stub::Drain, request, response).ok());
  EXPECT_TRUE(admin_.drained_with_exit());
  EXPECT_EQ(health(channel_, kServiceName), kNotServing);
}

TEST_F(ControlServerTest, AFailedDrainKeepsServing) {
  admin_.fail_with({StatusCode::kIoError, "disk"});
  pb::DrainResponse response;
  EXPECT_FALSE(call(&Stub::Drain, pb::DrainRequest(), response).ok());
  EXPECT_EQ(health(channel_, ""), kServing);
}

TEST_F(ControlServerTest, ReflectionNamesTheService) {
  // ServerReflectionRequest { string list_services = 7 } = "".
  std::string response;
  const auto status =
      call_raw(channel_, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
               std::string("\x3a\x00", 2), response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_NE(response.find(kServiceName), std::string::npos);
  EXPECT_NE(response.find("grpc.health.v1.Health"), std::string::npos);
}

TEST_F(ControlServerTest, StopIsIdempotentAndRefusesFurtherCalls) {
  server_->stop();
  server_->stop();
  server_->set_serving(true);
  pb::StatsResponse response;
  EXPECT_EQ(call(&Stub::Stats, pb::StatsRequest(), response).error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ControlServerTest, StopLetsARunningCallFinish) {
  admin_.close_gate();
  grpc::Status status;
  std::thread caller([&] {
    pb::StatsResponse response;
    status = call(&Stub::Stats, pb::StatsRequest(), response);
  });
  admin_.wait_for_calls_inside(1);
  std::thread stopper([&] { server_->stop(); });
  admin_.open_gate();
  caller.join();
  stopper.join();
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST(ControlServerStart, RefusesWhatItCannotOrMustNotServe) {
  FakeAdmin admin;
  const auto code = [&](const std::string& address, ControlOptions options = {}) {
    return ControlServer::start(admin, address, options).status().code();
  };
  for (const char* bad : {"", "127.0.0.1", "127.0.0.1:", ":1", "127.0.0.1:65536", "127.0.0.1:-1",
                          "127.0.0.1:1x", "::1:7766"})
    EXPECT_EQ(code(bad), StatusCode::kInvalidArgument) << bad;
  for (const char* remote : {"0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.org:0"})
    EXPECT_EQ(code(remote), StatusCode::kPermissionDenied) << remote;
  EXPECT_EQ(code("0.0.0.0:0", {.allow_remote = true}), StatusCode::kOk);
  EXPECT_EQ(code("localhost:0"), StatusCode::kOk);

  auto first = ControlServer::start(admin, "127.0.0.1:0");
  ASSERT_TRUE(first.is_ok());
  EXPECT_EQ(code("127.0.0.1:" + std::to_string((*first)->port())), StatusCode::kUnavailable);
}

}  // namespace
}  // namespace quire::server
