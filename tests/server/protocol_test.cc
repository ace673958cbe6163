// Clients that break the rules: the server answers, drops them, and goes on serving the others.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <random>

#include "tests/server/store_fixture.h"

namespace quire::server {
namespace {

class ProtocolTest : public ServerTest {
 protected:
  void SetUp() override {
    start();
    object_ = make_object(model_, 1, 64);
    ASSERT_TRUE(client_->put(object_.id, object_.bytes).is_ok());
  }
  void TearDown() override {
    // Whatever happened: the others are served and nothing leaked.
    expect_stored(*client_, object_);
    EXPECT_TRUE(eventually([&] { return stats().sessions == 1; }));
    EXPECT_EQ(stats().leases, 0u);
    EXPECT_TRUE(eventually([&] { return stats().reservations == 0; }));
  }
  TestObject object_;
};

TEST_F(ProtocolTest, SocketIsPrivate) {
  struct stat info {};
  ASSERT_EQ(::stat(config_.socket_path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(ProtocolTest, FirstFrameMustBeASoundHello) {
  auto client = TestClient::open(config_.socket_path);
  ASSERT_TRUE(client->send(make_frame(wire::Op::kPing, {})));
  EXPECT_EQ(client->receive()->code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(client->receive().status().code(), StatusCode::kUnavailable);

  client = TestClient::open(config_.socket_path);
  const std::vector<std::byte> noise(100, std::byte{0x5a});
  ASSERT_TRUE(client->send(noise));
  EXPECT_EQ(client->receive()->code(), StatusCode::kCorrupt);
  EXPECT_EQ(client->receive().status().code(), StatusCode::kUnavailable);
}

TEST_F(ProtocolTest, ViolationsAreCountedThenFatal) {
  auto client = TestClient::connect(config_.socket_path);
  for (uint32_t i = 0; i < kViolationsMax; ++i) {
    auto frame = make_frame(wire::Op::kPing, {});
    frame[i] ^= std::byte{0x80};
    ASSERT_TRUE(client->send(frame));
    EXPECT_EQ(client->receive()->code(), StatusCode::kCorrupt);
  }
  EXPECT_EQ(client->receive().status().code(), StatusCode::kUnavailable);
  EXPECT_GE(stats().protocol_errors, kViolationsMax);
}

TEST_F(ProtocolTest, OversizedAndEmptyMessages) {
  auto client = TestClient::connect(config_.socket_path);
  const std::vector<std::byte> huge(100'000);
  ASSERT_TRUE(client->send(huge));
  EXPECT_EQ(client->receive()->code(), StatusCode::kCorrupt);
  EXPECT_EQ(client->call(wire::Op::kPing, {})->code(), StatusCode::kOk);
  ::send(client->fd(), "", 0, MSG_NOSIGNAL);
  EXPECT_EQ(client->receive().status().code(), StatusCode::kUnavailable);
}

TEST_F(ProtocolTest, BodiesOfEveryWrongSizeAreRefused) {
  std::mt19937_64 random(1);
  for (uint16_t op = 1; op <= wire::kOpMax; ++op) {
    if (op == static_cast<uint16_t>(wire::Op::kPing)) continue;
    for (const size_t size : {0u, 1u, 7u, 8u, 9u, 15u, 17u, 47u, 49u, 200u, 5000u}) {
      auto client = TestClient::connect(config_.socket_path, "", 8 << 20);
      ASSERT_NE(client, nullptr);
      std::vector<std::byte> body(size);
      for (std::byte& b : body) b = static_cast<std::byte>(random());
      auto reply = client->call(static_cast<wire::Op>(op), body);
      ASSERT_TRUE(reply.is_ok()) << op << ' ' << size;
      EXPECT_NE(reply->code(), StatusCode::kOk) << op << ' ' << size;
    }
  }
}

// Sound frames with random contents: every field of every request takes every kind of value.
TEST_F(ProtocolTest, RandomRequestsAreAnsweredAndHarmless) {
  std::mt19937_64 random(2);
  auto client = TestClient::connect(config_.socket_path, "", 8 << 20);
  const size_t sizes[] = {0, 144, 48, 40, 16, 16, 48, 40, 8, 0, 104, 16, 56, 8, 40, 72, 48};
  static_assert(std::size(sizes) == wire::kOpMax + 1);
  for (int round = 0; round < 3000; ++round) {
    const uint16_t op = static_cast<uint16_t>(2 + random() % (wire::kOpMax - 1));
    std::vector<std::byte> body(sizes[op]);
    for (std::byte& b : body) b = random() % 2 ? std::byte{0} : static_cast<std::byte>(random());
    if (op == 3 || op == 4 || op == 5 || op == 12 || op == 14 || op == 16) {
      const uint32_t one = 1;
      std::memcpy(body.data(), &one, 4);
    }
    auto reply = client == nullptr ? Expected<TestReply>(Status(StatusCode::kUnavailable, ""))
                                   : client->call(static_cast<wire::Op>(op), body, 2000);
    if (!reply) {
      client = TestClient::connect(config_.socket_path, "", 8 << 20);
      ASSERT_NE(client, nullptr);
    }
  }
}

TEST_F(ProtocolTest, RandomBytesAndFlippedFrames) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 100; ++round) {
    auto client = TestClient::open(config_.socket_path);
    ASSERT_NE(client, nullptr);
    for (int i = 0; i < 20; ++i) {
      std::vector<std::byte> noise(1 + random() % 300);
      for (std::byte& b : noise) b = static_cast<std::byte>(random());
      if (!client->send(noise)) break;
    }
  }
}

TEST_F(ProtocolTest, ReplayedIdsAreNotFound) {
  auto client = TestClient::connect(config_.socket_path);
  const TestObject object = make_object(model_, 9, 64);
  auto window = client->reserve(object.id, object.bytes.size());
  ASSERT_TRUE(window.is_ok());
  const wire::AbortRequest abort{window->reservation_id};
  const auto frame = make_frame(wire::Op::kAbort, bytes_of(abort), 77);
  ASSERT_TRUE(client->send(frame));
  EXPECT_EQ(client->receive()->code(), StatusCode::kOk);
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(client->send(frame));
    EXPECT_EQ(client->receive()->code(), StatusCode::kNotFound);
  }
}

TEST_F(ProtocolTest, TwoHundredConnections) {
  std::vector<std::unique_ptr<TestClient>> clients;
  int served = 0;
  for (int i = 0; i < 200; ++i) {
    clients.push_back(TestClient::connect(config_.socket_path, "", 8 << 20));
    served += clients.back() != nullptr;
  }
  EXPECT_EQ(served, static_cast<int>(config_.sessions_max) - 1);
  for (auto& client : clients) {
    if (client != nullptr) {
      EXPECT_EQ(client->call(wire::Op::kPing, {})->code(), StatusCode::kOk);
    }
  }
}

// A client that never reads is dropped when its replies fill their queue; pipelined pings keep
// order.
TEST_F(ProtocolTest, SlowReaderIsDropped) {
  auto client = TestClient::connect(config_.socket_path);
  bool dropped = false;
  for (int i = 0; i < 2'000'000 && !dropped; ++i) {
    dropped = !client->send(make_frame(wire::Op::kPing, {}, static_cast<uint64_t>(i)));
  }
  EXPECT_TRUE(dropped);
}

TEST_F(ProtocolTest, HintsAreChecked) {
  auto client = TestClient::connect(config_.socket_path);
  const auto ask = [&](wire::HintRequest request, uint32_t n_ids) {
    std::vector<std::byte> body(sizeof(request) + n_ids * sizeof(wire::Id));
    std::memcpy(body.data(), &request, sizeof(request));
    if (n_ids > 0) std::memcpy(body.data() + sizeof(request), object_.id.bytes.data(), 32);
    return client->call(wire::Op::kHint, body);
  };
  wire::HintRequest request;
  request.n_ids = 2;  // the second is all zero: nobody's
  request.flags = wire::kHintPriority | wire::kHintNextUse;
  request.priority = 200;
  request.next_use_ms = UINT64_MAX;
  auto reply = ask(request, 2);
  ASSERT_EQ(reply->code(), StatusCode::kOk) << reply->message();
  EXPECT_EQ(reply->read<wire::HintReply>().applied, 1u);
  EXPECT_EQ(reply->read<wire::HintReply>().missing, 1u);
  request.n_ids = 1;
  for (const uint32_t flags : {0u, 16u, uint32_t{wire::kHintFinished | wire::kHintSteps}}) {
    request.flags = flags;
    EXPECT_EQ(ask(request, 1)->code(), StatusCode::kInvalidArgument);
  }
  request.flags = wire::kHintPriority;
  request.priority = 256;
  EXPECT_EQ(ask(request, 1)->code(), StatusCode::kInvalidArgument);
  request.n_ids = 3;
  EXPECT_NE(ask(request, 1)->code(), StatusCode::kOk);
  request.n_ids = wire::kHintIdsMax + 1;
  EXPECT_NE(ask(request, wire::kHintIdsMax + 1)->code(), StatusCode::kOk);
}

TEST_F(ProtocolTest, PipelinedRequestsAreAnsweredInOrder) {
  auto client = TestClient::connect(config_.socket_path);
  for (uint64_t i = 0; i < 200; ++i) {
    ASSERT_TRUE(client->send(make_frame(wire::Op::kPing, {}, i)));
  }
  for (uint64_t i = 0; i < 200; ++i) {
    auto reply = client->receive();
    ASSERT_TRUE(reply.is_ok());
    EXPECT_EQ(reply->header.request_id, i);
  }
}

TEST_F(ProtocolTest, DeathInTheMiddleOfACommit) {
  for (int i = 0; i < 20; ++i) {
    auto client = TestClient::connect(config_.socket_path);
    const TestObject object = make_object(model_, 100 + i, 1024);
    auto window = client->reserve(object.id, object.bytes.size());
    ASSERT_TRUE(window.is_ok()) << window.status().to_string();
    std::memcpy(client->staging().data() + window->staging_offset, object.bytes.data(),
                object.bytes.size());
    wire::CommitRequest request;
    request.reservation_id = window->reservation_id;
    request.bytes = object.bytes.size();
    const Hash128 checksum = xxh3_128(object.bytes);
    request.checksum_low = checksum.low;
    request.checksum_high = checksum.high;
    request.ack = wire::AckLevel::kDurable;
    ASSERT_TRUE(client->send(make_frame(wire::Op::kCommit, bytes_of(request))));
  }
}

}  // namespace
}  // namespace quire::server
