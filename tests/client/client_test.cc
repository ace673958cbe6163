// What the calls send, and how answers that lie are refused.
#include "client/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>

#include "base/hash.h"
#include "tests/client/scripts.h"

namespace quire {
namespace {

using wire::Op;
using Request = FakeServer::Request;

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

TEST(Acquire, WhatIsLateDoesNotCostTheRest) {
  std::atomic<int> released{0};
  FakeServer server([&](FakeServer& self, const Request& request) {
    if (request.op() == Op::kRelease) ++released;
    if (request.op() == Op::kPing) self.reply(request, {});
    if (request.op() != Op::kAcquire) return;
    self.reply_with(request, lease_reply(1), wire::kFlagMore);
  });
  const auto client = server.connect(100);
  ASSERT_TRUE(client.is_ok());
  const Digest ids[] = {id_of(1), id_of(2), id_of(3)};
  {
    const auto leases = (*client)->acquire(ids);
    ASSERT_TRUE(leases.is_ok()) << leases.status().to_string();
    EXPECT_EQ((*leases)[0].status().code(), StatusCode::kDeadlineExceeded);
    EXPECT_TRUE((*leases)[1].is_ok());
    EXPECT_EQ((*leases)[2].status().code(), StatusCode::kDeadlineExceeded);
    EXPECT_EQ(released, 0);
  }
  EXPECT_TRUE((*client)->ping().is_ok());
  EXPECT_EQ(released, 1);
}

TEST(Acquire, APageThatIsLateOrRefusedDoesNotCostThoseBefore) {
  for (const StatusCode code : {StatusCode::kDeadlineExceeded, StatusCode::kBusy}) {
    std::atomic<int> requests{0};
    FakeServer server([&](FakeServer& self, const Request& request) {
      if (request.op() != Op::kAcquire) return;
      if (++requests == 1) return grant_leases(self, request);
      if (code == StatusCode::kBusy) self.reply_error(request, code, "too many wait");
    });
    // The deadline is to pass behind the first page, not before: 256 leases take their time.
    const auto client = server.connect(code == StatusCode::kBusy ? 60'000 : 2000);
    ASSERT_TRUE(client.is_ok());
    const std::vector<Digest> ids(2 * wire::kAcquireIdsMax + 1, id_of(1));
    const auto leases = (*client)->acquire(ids);
    ASSERT_TRUE(leases.is_ok()) << leases.status().to_string();
    ASSERT_EQ(leases->size(), ids.size());
    for (size_t i = 0; i < ids.size(); ++i)
      EXPECT_EQ((*leases)[i].status().code(), i < wire::kAcquireIdsMax ? StatusCode::kOk : code)
          << i;
    // All pages share one deadline: nothing is asked for behind it.
    EXPECT_EQ(requests, code == StatusCode::kBusy ? 3 : 2);
  }
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
