// Greeting, frames, deadlines and the end of a session.
#include "client/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <thread>

#include "base/clock.h"
#include "tests/client/scripts.h"

namespace quire {
namespace {

using wire::Op;
using Request = FakeServer::Request;

TEST(Connect, NoServerSaysHowToStartOne) {
  ClientOptions options;
  options.socket_path = "/tmp/quire-test-no-such-directory/quired.sock";
  const auto client = Client::connect(options);
  ASSERT_FALSE(client.is_ok());
  EXPECT_EQ(client.status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(client.status().message(),
            "no quired at " + options.socket_path + ": start it with `quired`");
}

TEST(Connect, StaleSocketFileIsNoServer) {
  const std::string path = testing::TempDir() + "quire-stale-" + std::to_string(getpid());
  const int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  close(fd);
  ClientOptions options;
  options.socket_path = path;
  EXPECT_EQ(Client::connect(options).status().code(), StatusCode::kUnavailable);
  std::filesystem::remove(path);
}

TEST(Connect, PathTooLongIsRefused) {
  ClientOptions options;
  options.socket_path = std::string(200, 'x');
  EXPECT_EQ(Client::connect(options).status().code(), StatusCode::kInvalidArgument);
}

TEST(Connect, ServerThatNeverAnswersIsGivenUpInTime) {
  FakeServer server(no_requests);
  server.on_hello = [](FakeServer&, const Request&) {};
  const uint64_t before_ns = system_clock().now_ns();
  const auto client = server.connect(50);
  EXPECT_EQ(client.status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_LT(system_clock().now_ns() - before_ns, 5'000'000'000u);
}

TEST(Connect, GreetingCarriesNamesAndDeadline) {
  FakeServer server(no_requests);
  std::string tenant;
  uint32_t deadline_ms = 0;
  server.on_hello = [&](FakeServer& self, const Request& request) {
    tenant = request.as<wire::HelloRequest>().tenant.data();
    deadline_ms = request.header.deadline_ms;
    self.reply_error(request, StatusCode::kPermissionDenied, "unknown tenant");
  };
  ClientOptions options;
  options.tenant = "acme";
  options.timeout_ms = 3000;
  const auto client = ClientTestPeer::connect(server.client_socket(), options);
  EXPECT_EQ(client.status().code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(client.status().message(), "unknown tenant");
  EXPECT_EQ(tenant, "acme");
  EXPECT_THAT(deadline_ms, testing::AllOf(testing::Gt(0u), testing::Le(3000u)));
}

TEST(Connect, BadGreetingsAreRefused) {
  struct Case {
    const char* what;
    std::function<void(wire::HelloReply&)> change;
    size_t n_fds;
  };
  const Case cases[] = {
      {"no descriptors", [](auto&) {}, 0},
      {"one descriptor", [](auto&) {}, 1},
      {"three descriptors", [](auto&) {}, 3},
      {"slab longer than its file", [](auto& reply) { reply.slab_bytes += 4096; }, 2},
      {"no slab", [](auto& reply) { reply.slab_bytes = 0; }, 2},
      {"staging longer than its file", [](auto& reply) { reply.staging_bytes += 4096; }, 2},
      {"staging without scratch",
       [](auto& reply) { reply.staging_bytes = wire::kPromptScratchBytes - 1; }, 2},
      {"salt too long", [](auto& reply) { reply.salt_bytes = 65; }, 2},
  };
  for (const Case& test : cases) {
    FakeServer server(no_requests);
    server.on_hello = [&](FakeServer& self, const Request& request) {
      wire::HelloReply reply = self.hello_reply;
      test.change(reply);
      const int fds[] = {self.slab_fd(), self.staging_fd(), self.slab_fd()};
      self.send_hello(request, std::as_bytes(std::span(&reply, 1)),
                      std::span(fds).first(test.n_fds));
    };
    EXPECT_EQ(server.connect().status().code(), StatusCode::kCorrupt) << test.what;
  }
}

TEST(Connect, SessionFactsComeFromTheGreeting) {
  FakeServer server(no_requests);
  server.hello_reply.salt_bytes = 16;
  server.hello_reply.salt.fill(3);
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok()) << client.status().to_string();
  EXPECT_EQ((*client)->server_epoch(), FakeServer::kEpoch);
  EXPECT_EQ((*client)->object_bytes_max(), 1u << 20);
  EXPECT_EQ((*client)->tenant_salt(), TenantSalt(16, std::byte{3}));
}

TEST(Call, EveryDamagedFrameEndsTheSession) {
  wire::FrameHeader header;
  header.op = static_cast<uint16_t>(Op::kPing);
  header.flags = wire::kFlagReply;
  header.request_id = 2;  // the greeting was 1
  header.server_epoch = FakeServer::kEpoch;
  const std::vector<std::byte> good = encode_frame(header, {});
  for (size_t i = 0; i < good.size() + 2; ++i) {
    std::vector<std::byte> bad = good;
    if (i < good.size()) {
      bad[i] ^= std::byte{0x41};
    } else if (i == good.size()) {
      bad.resize(63);
    } else {
      bad.push_back(std::byte{0});
    }
    FakeServer server([&](FakeServer& self, const Request&) { self.send_raw(bad); });
    const auto client = server.connect();
    ASSERT_TRUE(client.is_ok());
    const StatusCode code = (*client)->ping().code();
    EXPECT_THAT(code, testing::AnyOf(StatusCode::kCorrupt, StatusCode::kVersionMismatch)) << i;
    EXPECT_EQ((*client)->ping().code(), StatusCode::kUnavailable) << i;
  }
}

TEST(Call, EveryTruncatedFrameIsRefused) {
  wire::FrameHeader header;
  header.op = static_cast<uint16_t>(Op::kPing);
  header.flags = wire::kFlagReply;
  const std::string_view text = "some body";
  const std::vector<std::byte> good = encode_frame(header, std::as_bytes(std::span(text)));
  ASSERT_TRUE(parse_frame(good).is_ok());
  for (size_t size = 0; size < good.size(); ++size)
    EXPECT_FALSE(parse_frame(ByteSpan(good).first(size)).is_ok()) << size;
  for (size_t i = 0; i < good.size(); ++i) {
    std::vector<std::byte> bad = good;
    bad[i] ^= std::byte{1};
    EXPECT_FALSE(parse_frame(bad).is_ok()) << i;
  }
}

TEST(Call, WrongEnvelopesEndTheSession) {
  const std::pair<const char*, std::function<void(wire::FrameHeader&)>> cases[] = {
      {"no reply flag", [](auto& header) { header.flags = 0; }},
      {"another op", [](auto& header) { header.op = static_cast<uint16_t>(Op::kRenew); }},
      {"a request never made", [](auto& header) { header.request_id += 1000; }},
      {"more replies announced", [](auto& header) { header.flags |= wire::kFlagMore; }},
  };
  for (const auto& [what, change] : cases) {
    FakeServer server(
        [&](FakeServer& self, const Request& request) { self.reply(request, {}, 0, change); });
    const auto client = server.connect();
    ASSERT_TRUE(client.is_ok());
    EXPECT_EQ((*client)->ping().code(), StatusCode::kCorrupt) << what;
    EXPECT_EQ((*client)->ping().code(), StatusCode::kUnavailable) << what;
  }
}

TEST(Call, AnotherEpochMeansTheServerWasRestarted) {
  FakeServer server([](FakeServer& self, const Request& request) {
    if (request.op() == Op::kAcquire) return grant_leases(self, request);
    self.reply(request, {}, 0, [](wire::FrameHeader& header) { header.server_epoch = 78; });
  });
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  const auto lease = (*client)->acquire(id_of(1));
  ASSERT_TRUE(lease.is_ok());
  EXPECT_TRUE(lease->check().is_ok());
  const Status status = (*client)->ping();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), testing::HasSubstr("restarted"));
  EXPECT_EQ(lease->check().code(), StatusCode::kUnavailable);
}

TEST(Call, ErrorsArriveTyped) {
  FakeServer server([](FakeServer& self, const Request& request) {
    self.reply_error(request, StatusCode::kBusy, "no room", 123);
  });
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  const Status status = (*client)->ping();
  EXPECT_EQ(status.code(), StatusCode::kBusy);
  EXPECT_EQ(status.message(), "no room");
  EXPECT_EQ(status.retry_after_ms(), 123u);
}

TEST(Call, UnknownStatusIsAnError) {
  FakeServer server([](FakeServer& self, const Request& request) {
    self.reply(request, {}, 0, [](wire::FrameHeader& header) { header.status = 4711; });
  });
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  EXPECT_EQ((*client)->ping().code(), StatusCode::kInternal);
}

TEST(Call, ClosedSocketIsNoticedByCallsAndLeases) {
  FakeServer server([](FakeServer& self, const Request& request) {
    if (request.op() == Op::kAcquire) return grant_leases(self, request);
    self.hang_up();
  });
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  const auto lease = (*client)->acquire(id_of(1));
  ASSERT_TRUE(lease.is_ok());
  EXPECT_EQ((*client)->ping().code(), StatusCode::kUnavailable);
  EXPECT_EQ(lease->check().code(), StatusCode::kUnavailable);
  EXPECT_EQ((*client)->acquire(id_of(2)).status().code(), StatusCode::kUnavailable);
}

TEST(Call, LeaseNoticesAServerThatWentAwayWithoutACall) {
  FakeServer server(grant_leases);
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  const auto lease = (*client)->acquire(id_of(1));
  ASSERT_TRUE(lease.is_ok());
  server.hang_up();
  EXPECT_EQ(lease->check().code(), StatusCode::kUnavailable);
}

// The first ping is answered only when the second arrives, so it times out; its late reply must not
// be taken for the second's.
TEST(Call, LateRepliesAreToldApart) {
  std::vector<Request> held;
  FakeServer server([&](FakeServer& self, const Request& request) {
    held.push_back(request);
    if (held.size() == 1) return;
    self.reply_error(held[0], StatusCode::kInternal, "late");
    self.reply(request, {});
  });
  const auto client = server.connect(100);
  ASSERT_TRUE(client.is_ok());
  EXPECT_EQ((*client)->ping().code(), StatusCode::kDeadlineExceeded);
  EXPECT_TRUE((*client)->ping().is_ok());
}

TEST(Call, LateGrantsAreGivenBack) {
  std::vector<Request> held;
  std::atomic<uint64_t> released{0};
  std::atomic<uint64_t> aborted{0};
  FakeServer server([&](FakeServer& self, const Request& request) {
    switch (request.op()) {
      case Op::kAcquire:
      case Op::kReserve:
        held.push_back(request);
        return;
      case Op::kRelease:
        EXPECT_EQ(request.header.flags, uint32_t{wire::kFlagNoReply});
        released = ByteReader(ByteSpan(request.body).subspan(sizeof(wire::ReleaseRequest)))
                       .read<uint64_t>();
        return;
      case Op::kAbort:
        aborted = request.as<wire::AbortRequest>().reservation_id;
        return self.reply(request, {});
      default:
        self.reply_with(held.at(0), lease_reply(0));
        self.reply_with(held.at(1), wire::ReserveReply{42, wire::kPromptScratchBytes});
        self.reply(request, {});
    }
  });
  const auto client = server.connect(100);
  ASSERT_TRUE(client.is_ok());
  EXPECT_EQ((*client)->acquire(id_of(1)).status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ((*client)->reserve(id_of(1), 64).status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_TRUE((*client)->ping().is_ok());
  ASSERT_TRUE(server.wait_seen(6));
  EXPECT_TRUE((*client)->ping().is_ok());
  EXPECT_EQ(released, 100u);
  EXPECT_EQ(aborted, 42u);
}

TEST(Call, ThreadsTakeTurns) {
  FakeServer server([](FakeServer& self, const Request& request) { self.reply(request, {}); });
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int n = 0; n < 50; ++n) good += (*client)->ping().is_ok() ? 1 : 0;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 200);
}

}  // namespace
}  // namespace quire
