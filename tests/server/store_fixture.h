// A fixture for tests of one whole server in this process with one client.
#ifndef QUIRE_TESTS_SERVER_STORE_FIXTURE_H_
#define QUIRE_TESTS_SERVER_STORE_FIXTURE_H_

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <thread>

#include "tests/server/server_fixture.h"

namespace quire::server {

class ServerTest : public testing::Test {
 protected:
  void start() {
    server_ = std::make_unique<InProcessServer>(config_);
    ASSERT_TRUE(server_->status().is_ok()) << server_->status().to_string();
    client_ = TestClient::connect(config_.socket_path);
    ASSERT_NE(client_, nullptr);
    const Status registered = client_->register_model(model_);
    ASSERT_TRUE(registered.is_ok()) << registered.to_string();
  }
  void stop() {
    client_.reset();
    server_.reset();
  }
  // As a crash: nothing is flushed.
  void crash() {
    server_->stop_fast();
    stop();
  }
  void expect_stored(TestClient& client, const TestObject& object) {
    auto lease = client.acquire_patiently(object.id);
    ASSERT_TRUE(lease.is_ok()) << lease.status().to_string();
    ASSERT_EQ(lease->bytes, object.bytes.size());
    EXPECT_EQ(std::memcmp(client.leased(*lease).data(), object.bytes.data(), object.bytes.size()),
              0);
    EXPECT_TRUE(client.release(lease->lease_id).is_ok());
  }
  // put with retries while BUSY.
  Status put_patiently(TestClient& client, const TestObject& object,
                       wire::AckLevel ack = wire::AckLevel::kMemory) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(kPatienceMs);
    Status status = client.put(object.id, object.bytes, ack);
    while (status.code() == StatusCode::kBusy && std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(std::chrono::milliseconds(status.retry_after_ms()));
      status = client.put(object.id, object.bytes, ack);
    }
    return status;
  }
  ServerStats stats() { return *server_->admin().stats(kPatienceMs); }
  uint64_t tier_objects(wire::TierId tier) {
    for (const TierStats& row : stats().tiers) {
      if (row.tier == tier) return row.objects;
    }
    return 0;
  }
  template <typename Condition>
  bool eventually(Condition condition, int timeout_ms = kPatienceMs) {
    for (int waited = 0; waited < timeout_ms; waited += 5) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
  }

  TempDirectory directory_;
  Config config_ = test_config(directory_.path());
  ModelDescriptor model_ = test_model();
  std::unique_ptr<InProcessServer> server_;
  std::unique_ptr<TestClient> client_;
};

}  // namespace quire::server

#endif  // QUIRE_TESTS_SERVER_STORE_FIXTURE_H_
