#include "client/client.h"

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
#include "base/hash.h"
#include "tests/client/fake_server.h"

namespace quire {
namespace {

using wire::Op;
using Request = FakeServer::Request;

Digest id_of(uint8_t seed) {
  Digest digest;
  digest.bytes.fill(seed);
  return digest;
}

void no_requests(FakeServer&, const Request& request) {
  ADD_FAILURE() << "unexpected request " << request.header.op;
}

wire::AcquireReply lease_reply(uint32_t index) {
  wire::AcquireReply reply;
  reply.index = index;
  reply.lease_ms = 30'000;
  reply.lease_id = 100 + index;
  reply.generation = 5;
  reply.slab_offset = 4096 * index;
  reply.bytes = 1000;
  return reply;
}

// Answers every acquire with leases, the last reply first (any order is allowed).
void grant_leases(FakeServer& server, const Request& request) {
  if (request.op() != Op::kAcquire) return;
  const uint32_t n_ids = request.as<wire::AcquireRequest>().n_ids;
  for (uint32_t i = n_ids; i-- > 0;)
    server.reply_with(request, lease_reply(i), i == 0 ? 0 : uint32_t{wire::kFlagMore});
}

wire::ResolveEntry entry_at(uint32_t token_begin, uint32_t n_tokens) {
  wire::ResolveEntry entry;
  entry.token_begin = token_begin;
  entry.n_tokens = n_tokens;
  entry.representation.fill(9);
  entry.codec = 16;
  entry.tier = wire::TierId::kHost;
  entry.load_us = 7;
  return entry;
}

std::vector<std::byte> resolve_body(uint32_t next_token,
                                    const std::vector<wire::ResolveEntry>& entries) {
  ByteWriter writer;
  writer.write(wire::ResolveReply{static_cast<uint32_t>(entries.size()), next_token});
  for (const auto& entry : entries) writer.write(entry);
  return writer.take();
}

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

TEST(Acquire, ReadsTheSlabAndReleases) {
  FakeServer server(grant_leases);
  server.slab()[4096] = std::byte{0xab};
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  {
    const Digest ids[] = {id_of(1), id_of(2), id_of(3)};
    const auto leases = (*client)->acquire(ids);
    ASSERT_TRUE(leases.is_ok()) << leases.status().to_string();
    ASSERT_EQ(leases->size(), 3u);
    const Lease& second = *(*leases)[1];
    EXPECT_EQ(second.id(), 101u);
    EXPECT_EQ(second.generation(), 5u);
    EXPECT_EQ(second.bytes().size(), 1000u);
    EXPECT_EQ(second.bytes()[0], std::byte{0xab});
    EXPECT_TRUE(second.check().is_ok());
  }
  ASSERT_TRUE(server.wait_seen(5));
  EXPECT_EQ(server.seen().back(), Op::kRelease);
}

TEST(Acquire, MoreIdsThanOneRequestTakes) {
  FakeServer server(grant_leases);
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  const std::vector<Digest> ids(wire::kAcquireIdsMax - 10, id_of(1));
  std::vector<Digest> many(ids);
  many.insert(many.end(), 20, id_of(2));
  // The fake slab has room for 256 leases at 4,096 bytes apart.
  const auto leases = (*client)->acquire(many);
  ASSERT_TRUE(leases.is_ok()) << leases.status().to_string();
  EXPECT_EQ(leases->size(), many.size());
  for (const auto& lease : *leases) EXPECT_TRUE(lease.is_ok());
}

TEST(Acquire, EachIdHasItsOwnError) {
  FakeServer server([](FakeServer& self, const Request& request) {
    if (request.op() != Op::kAcquire) return;
    self.reply_with(request, lease_reply(1), wire::kFlagMore);
    ByteWriter body;
    body.write(wire::AcquireReply{});
    body.write_text("no such object, whose message is longer than an acquire reply is");
    self.reply(request, body.bytes(), 0, [](wire::FrameHeader& header) {
      header.status = static_cast<uint32_t>(StatusCode::kNotFound);
    });
  });
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  const Digest ids[] = {id_of(1), id_of(2)};
  const auto leases = (*client)->acquire(ids);
  ASSERT_TRUE(leases.is_ok()) << leases.status().to_string();
  EXPECT_EQ((*leases)[0].status().code(), StatusCode::kNotFound);
  EXPECT_THAT((*leases)[0].status().message(), testing::StartsWith("no such object"));
  EXPECT_TRUE((*leases)[1].is_ok());
}

TEST(Acquire, RefusalOfTheWholeRequest) {
  FakeServer server([](FakeServer& self, const Request& request) {
    self.reply_error(request, StatusCode::kUnavailable,
                     "the server is draining and takes no more requests of this kind");
  });
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  const Digest ids[] = {id_of(1), id_of(2)};
  const auto leases = (*client)->acquire(ids);
  EXPECT_EQ(leases.status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(leases.status().message(), testing::StartsWith("the server is draining"));
}

TEST(Acquire, LeasesOutsideTheSlabAreRefused) {
  const std::pair<const char*, std::function<void(wire::AcquireReply&)>> cases[] = {
      {"offset behind the end", [](auto& r) { r.slab_offset = FakeServer::kSlabBytes; }},
      {"end behind the end", [](auto& r) { r.slab_offset = FakeServer::kSlabBytes - 64; }},
      {"length behind the end", [](auto& r) { r.bytes = FakeServer::kSlabBytes + 1; }},
      {"sum overflows", [](auto& r) { r.slab_offset = UINT64_MAX - 63; }},
      {"no bytes", [](auto& r) { r.bytes = 0; }},
      {"not aligned", [](auto& r) { r.slab_offset = 8; }},
      {"index not asked for", [](auto& r) { r.index = 1; }},
  };
  for (const auto& [what, change] : cases) {
    FakeServer server([&](FakeServer& self, const Request& request) {
      wire::AcquireReply reply = lease_reply(0);
      change(reply);
      self.reply_with(request, reply);
    });
    const auto client = server.connect();
    ASSERT_TRUE(client.is_ok());
    EXPECT_EQ((*client)->acquire(id_of(1)).status().code(), StatusCode::kCorrupt) << what;
    EXPECT_EQ((*client)->ping().code(), StatusCode::kUnavailable) << what;
  }
}

TEST(Acquire, MissingAndDoubledAnswersAreRefused) {
  for (const bool doubled : {false, true}) {
    FakeServer server([&](FakeServer& self, const Request& request) {
      if (request.op() != Op::kAcquire) return;
      self.reply_with(request, lease_reply(0), doubled ? uint32_t{wire::kFlagMore} : 0u);
      if (doubled) self.reply_with(request, lease_reply(0));
    });
    const auto client = server.connect();
    ASSERT_TRUE(client.is_ok());
    const Digest ids[] = {id_of(1), id_of(2)};
    EXPECT_EQ((*client)->acquire(ids).status().code(), StatusCode::kCorrupt);
  }
}

TEST(Acquire, LeasesExpireAndAreRenewed) {
  FakeServer server([](FakeServer& self, const Request& request) {
    if (request.op() == Op::kAcquire) {
      wire::AcquireReply reply = lease_reply(0);
      reply.lease_ms = 0;
      self.reply_with(request, reply);
    } else if (request.op() == Op::kRenew) {
      EXPECT_EQ(request.as<wire::ReleaseRequest>().lease_ms, 5000u);
      self.reply(request, {});
    }
  });
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  auto expired = (*client)->acquire(id_of(1));
  ASSERT_TRUE(expired.is_ok());
  EXPECT_EQ(expired->check().code(), StatusCode::kStaleLease);
  EXPECT_EQ(expired->renew(5000).code(), StatusCode::kStaleLease);
}

TEST(Acquire, MovedAndReleasedLeases) {
  FakeServer server(grant_leases);
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  auto first = (*client)->acquire(id_of(1));
  ASSERT_TRUE(first.is_ok());
  Lease second = std::move(*first);
  EXPECT_FALSE(first->valid());
  EXPECT_TRUE(second.valid());
  second.release();
  second.release();
  EXPECT_FALSE(second.valid());
  EXPECT_TRUE(second.bytes().empty());
  EXPECT_EQ(second.check().code(), StatusCode::kStaleLease);
  ASSERT_TRUE(server.wait_seen(3));
  EXPECT_EQ(server.seen().size(), 3u);
}

TEST(Resolve, SendsTokensThroughTheScratchAndReadsPages) {
  std::vector<uint32_t> pages;
  FakeServer server([&](FakeServer& self, const Request& request) {
    const auto asked = request.as<wire::ResolveRequest>();
    EXPECT_EQ(asked.n_tokens, 100u);
    EXPECT_EQ(asked.recompute_us_per_token, 2.5f);
    TokenId token;
    std::memcpy(&token, self.staging().data() + 99 * 4, 4);
    EXPECT_EQ(token, 1099u);
    pages.push_back(asked.start_token);
    const bool first = pages.size() == 1;
    EXPECT_EQ(asked.flags,
              first ? wire::kResolvePrefix | wire::kResolveChunks : uint32_t{wire::kResolveChunks});
    self.reply(request, first ? resolve_body(50, {entry_at(0, 16), entry_at(20, 30)})
                              : resolve_body(100, {entry_at(60, 40)}));
  });
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  std::vector<TokenId> tokens(100);
  for (uint32_t i = 0; i < 100; ++i) tokens[i] = 1000 + i;
  ResolveOptions options;
  options.recompute_us_per_token = 2.5f;
  const auto matches = (*client)->resolve(id_of(1), tokens, options);
  ASSERT_TRUE(matches.is_ok()) << matches.status().to_string();
  ASSERT_EQ(matches->size(), 3u);
  EXPECT_EQ((*matches)[2].token_begin, 60u);
  EXPECT_EQ((*matches)[2].n_tokens, 40u);
  EXPECT_EQ((*matches)[2].representation, id_of(9));
  EXPECT_EQ((*matches)[2].load_us, 7u);
  EXPECT_EQ(pages, (std::vector<uint32_t>{0, 50}));
}

TEST(Resolve, HostileAnswersAreRefused) {
  const auto changed = [](const std::function<void(wire::ResolveEntry&)>& change) {
    wire::ResolveEntry entry = entry_at(10, 20);
    change(entry);
    return resolve_body(100, {entry});
  };
  auto cut = resolve_body(100, {entry_at(0, 16)});
  cut.pop_back();
  const std::pair<const char*, std::vector<std::byte>> cases[] = {
      {"empty body", {}},
      {"cut", cut},
      {"no progress", resolve_body(0, {})},
      {"beyond the prompt", resolve_body(101, {})},
      {"range behind the prompt", changed([](auto& e) { e.token_begin = 100; })},
      {"range ends behind the prompt", changed([](auto& e) { e.n_tokens = 91; })},
      {"range overflows", changed([](auto& e) { e.n_tokens = UINT32_MAX; })},
      {"empty range", changed([](auto& e) { e.n_tokens = 0; })},
      {"unknown kind", changed([](auto& e) { e.kind = static_cast<wire::MatchKind>(2); })},
      {"unknown context", changed([](auto& e) { e.context_kind = 6; })},
      {"unknown phase", changed([](auto& e) { e.phase = 2; })},
      {"unknown frame", changed([](auto& e) { e.frame = 2; })},
  };
  const std::vector<TokenId> tokens(100, 7);
  for (const auto& [what, body] : cases) {
    FakeServer server([&](FakeServer& self, const Request& request) { self.reply(request, body); });
    const auto client = server.connect();
    ASSERT_TRUE(client.is_ok());
    EXPECT_EQ((*client)->resolve(id_of(1), tokens).status().code(), StatusCode::kCorrupt) << what;
    EXPECT_EQ((*client)->ping().code(), StatusCode::kUnavailable) << what;
  }
}

TEST(Resolve, ArgumentsAreChecked) {
  FakeServer server(no_requests);
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  EXPECT_EQ((*client)->resolve(id_of(1), {}).status().code(), StatusCode::kInvalidArgument);
  const std::vector<TokenId> too_many(kPromptTokensMax + 1);
  EXPECT_EQ((*client)->resolve(id_of(1), too_many).status().code(), StatusCode::kInvalidArgument);
}

// A server that stores one object and refuses what its checksum does not fit.
struct StoringScript {
  std::atomic<uint32_t> busy_left{0};
  std::vector<std::byte> stored;
  std::atomic<uint32_t> commits{0};

  void operator()(FakeServer& self, const Request& request) {
    switch (request.op()) {
      case Op::kReserve:
        if (busy_left > 0) {
          --busy_left;
          return self.reply_error(request, StatusCode::kBusy, "full", 1);
        }
        return self.reply_with(request, wire::ReserveReply{42, wire::kPromptScratchBytes + 64});
      case Op::kCommit: {
        ++commits;
        const auto commit = request.as<wire::CommitRequest>();
        const ByteSpan window =
            self.staging().subspan(wire::kPromptScratchBytes + 64, commit.bytes);
        const Hash128 hash = xxh3_128(window);
        if (hash.low != commit.checksum_low || hash.high != commit.checksum_high)
          return self.reply_error(request, StatusCode::kCorrupt, "checksum");
        stored.assign(window.begin(), window.end());
        return self.reply(request, {});
      }
      default:
        return self.reply(request, {});
    }
  }
};

TEST(Put, CopiesChecksumsAndCommits) {
  StoringScript script;
  FakeServer server(std::ref(script));
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  const std::vector<std::byte> data(5000, std::byte{0x5a});
  EXPECT_TRUE((*client)->put(id_of(1), data).is_ok());
  EXPECT_EQ(script.stored, data);
  EXPECT_EQ(server.seen(), (std::vector<Op>{Op::kHello, Op::kReserve, Op::kCommit}));
}

TEST(Put, RetriesWhileBusyAndThenGivesUp) {
  StoringScript script;
  script.busy_left = 3;
  FakeServer server(std::ref(script));
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  const std::vector<std::byte> data(100);
  EXPECT_TRUE((*client)->put(id_of(1), data).is_ok());
  script.busy_left = 1000;
  const Status status = (*client)->put(id_of(2), data);
  EXPECT_EQ(status.code(), StatusCode::kBusy);
  EXPECT_GT(script.busy_left, 900u);
}

TEST(Put, StoredAlreadyIsSuccess) {
  FakeServer server([](FakeServer& self, const Request& request) {
    self.reply_error(request, StatusCode::kAlreadyExists, "have it");
  });
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  const std::vector<std::byte> data(100);
  EXPECT_TRUE((*client)->put(id_of(1), data).is_ok());
  EXPECT_EQ((*client)->reserve(id_of(1), 100).status().code(), StatusCode::kAlreadyExists);
}

TEST(Put, WindowsAreAbortedUnlessCommitted) {
  StoringScript script;
  FakeServer server(std::ref(script));
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  {
    auto window = (*client)->reserve(id_of(1), 100);
    ASSERT_TRUE(window.is_ok());
    EXPECT_EQ(window->bytes().size(), 100u);
  }
  ASSERT_TRUE(server.wait_seen(3));
  EXPECT_EQ(server.seen().back(), Op::kAbort);
  auto window = (*client)->reserve(id_of(1), 100);
  ASSERT_TRUE(window.is_ok());
  EXPECT_TRUE(window->commit().is_ok());
  EXPECT_EQ(window->commit().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(script.commits, 1u);
}

TEST(Put, WindowsOutsideTheStagingAreaAreRefused) {
  const uint64_t offsets[] = {0,
                              wire::kPromptScratchBytes - 64,
                              wire::kPromptScratchBytes + 1,
                              FakeServer::kStagingBytes,
                              FakeServer::kStagingBytes - 64,
                              UINT64_MAX - 63};
  for (const uint64_t offset : offsets) {
    FakeServer server([&](FakeServer& self, const Request& request) {
      self.reply_with(request, wire::ReserveReply{42, offset});
    });
    const auto client = server.connect();
    ASSERT_TRUE(client.is_ok());
    EXPECT_EQ((*client)->reserve(id_of(1), 100).status().code(), StatusCode::kCorrupt) << offset;
  }
}

TEST(Put, SizesAreCheckedBeforeAsking) {
  FakeServer server(no_requests);
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  EXPECT_EQ((*client)->reserve(id_of(1), 0).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ((*client)->reserve(id_of(1), (1 << 20) + 1).status().code(),
            StatusCode::kResourceExhausted);
}

TEST(RegisterModel, SendsTheDescriptor) {
  ModelDescriptor model;
  model.layers.resize(1);
  model.layers[0].kv_heads = 2;
  model.layers[0].key_dims = model.layers[0].value_dims = 4;
  FakeServer server([&](FakeServer& self, const Request& request) {
    const auto asked = request.as<wire::RegisterModelRequest>();
    EXPECT_STREQ(asked.name.data(), "tiny");
    const auto parsed =
        ModelDescriptor::parse(ByteSpan(self.staging()).first(asked.descriptor_bytes));
    ASSERT_TRUE(parsed.is_ok());
    EXPECT_EQ(*parsed, model);
    EXPECT_EQ(asked.model, model_id(model).bytes);
    self.reply(request, {});
  });
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  const auto id = (*client)->register_model("tiny", model);
  ASSERT_TRUE(id.is_ok()) << id.status().to_string();
  EXPECT_EQ(*id, model_id(model));
  model.layers.clear();
  EXPECT_EQ((*client)->register_model("tiny", model).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quire
