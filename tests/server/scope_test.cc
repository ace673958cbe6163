// Scopes inside a tenant, statistics, the cap on variants, feedback: by what clients see.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "codecs/statistics.h"
#include "tests/server/store_fixture.h"

namespace quire::server {
namespace {

constexpr uint32_t kTokens = 64;
constexpr uint32_t kDeadlineMs = kPatienceMs;

TestObject make_statistics(const ModelDescriptor& model, const TestObject& of,
                           const VariantContext& context, const TenantSalt& salt = {}) {
  const std::vector<uint16_t> received(of.tokens.size(), 0x3800);
  Statistics statistics;
  statistics.n_tokens = static_cast<uint32_t>(of.tokens.size());
  statistics.n_layers = static_cast<uint32_t>(model.layers.size());
  statistics.vectors = {{StatisticsType::kReceived,
                         StatisticsDtype::kF16,
                         {statistics.n_tokens, 1, 1},
                         std::as_bytes(std::span(received))}};
  RepresentationHeader header;
  header.tokens = of.tokens;
  header.context = context;
  TestObject out;
  out.tokens = of.tokens;
  out.bytes = *pack_statistics(header, salt, model, *encode_statistics(statistics));
  out.id = RepresentationView::parse(out.bytes)->header().representation;
  return out;
}

class ScopeTest : public ServerTest {
 protected:
  std::unique_ptr<TestClient> in_scope(const std::string& label, const std::string& tenant = "") {
    auto client = TestClient::connect(config_.socket_path, tenant);
    EXPECT_NE(client, nullptr);
    EXPECT_EQ(enter(*client, label)->code(), StatusCode::kOk);
    return client;
  }
  Expected<TestReply> enter(TestClient& client, const std::string& label) {
    wire::ScopeRequest request;
    request.label_bytes = static_cast<uint32_t>(label.size());
    std::copy_n(label.begin(), std::min(label.size(), request.label.size()), request.label.begin());
    return client.call(wire::Op::kScope, bytes_of(request));
  }
  TestObject synthetic(const std::string& label, uint64_t seed = 7, uint8_t neighbour = 1,
                       const TenantSalt& salt = {}) {
    return make_object(model_, seed, kTokens, salt, context(label, neighbour, salt));
  }
  static VariantContext context(const std::string& label, uint8_t neighbour = 1,
                                const TenantSalt& salt = {}) {
    return VariantContext::synthetic({Digest{{neighbour}}}, scope_id(salt, label));
  }
  std::vector<wire::ResolveEntry> find(TestClient& client, const TestObject& object,
                                       uint32_t flags = wire::kResolvePrefix |
                                                        wire::kResolveChunks) {
    wire::ResolveRequest request;
    request.model = model_id(model_).bytes;
    request.n_tokens = static_cast<uint32_t>(object.tokens.size());
    request.flags = flags;
    std::memcpy(client.staging().data(), object.tokens.data(),
                object.tokens.size() * sizeof(TokenId));
    const auto reply = client.call(wire::Op::kResolve, bytes_of(request));
    EXPECT_EQ(reply->code(), StatusCode::kOk);
    std::vector<wire::ResolveEntry> entries(reply->read<wire::ResolveReply>().n_entries);
    if (!entries.empty())
      std::memcpy(entries.data(), reply->body.data() + sizeof(wire::ResolveReply),
                  entries.size() * sizeof(wire::ResolveEntry));
    return entries;
  }
  bool finds(TestClient& client, const TestObject& object, uint32_t flags = 7) {
    for (const wire::ResolveEntry& entry : find(client, object, flags))
      if (Digest{entry.representation} == object.id) return true;
    return false;
  }
  void expect_unknown(TestClient& client, const TestObject& object) {
    EXPECT_FALSE(finds(client, object));
    EXPECT_EQ(client.acquire(object.id).status().code(), StatusCode::kNotFound);
    const auto window = client.reserve(object.id, object.bytes.size());
    ASSERT_TRUE(window.is_ok()) << window.status().to_string();
    const wire::AbortRequest abort{window->reservation_id};
    EXPECT_EQ(client.call(wire::Op::kAbort, bytes_of(abort))->code(), StatusCode::kOk);
    EXPECT_EQ(tell(client, object, wire::kFeedbackStrike).missing, 1u);
  }
  wire::FeedbackReply tell(TestClient& client, const TestObject& object, uint32_t flags,
                           float deviation = 0) {
    struct {
      wire::FeedbackRequest head{1, 0};
      wire::FeedbackItem item;
    } request;
    request.item = {object.id.bytes, deviation, flags};
    const auto reply = client.call(wire::Op::kFeedback, bytes_of(request));
    EXPECT_EQ(reply->code(), StatusCode::kOk) << reply->message();
    return reply->read<wire::FeedbackReply>();
  }
  Status put(TestClient& client, const TestObject& object) {
    return client.put(object.id, object.bytes, wire::AckLevel::kDurable);
  }
  // As a user of `label` sees it: by gRPC's Lookup.
  bool looked_up(const TestObject& object, const std::string& label) {
    const auto found =
        server_->admin().lookup(model_id(model_), object.tokens, "", label, kDeadlineMs);
    EXPECT_TRUE(found.is_ok());
    return std::ranges::any_of(*found, [&](const wire::ResolveEntry& entry) {
      return Digest{entry.representation} == object.id;
    });
  }
};

TEST_F(ScopeTest, SyntheticVariantsStayInTheirScope) {
  start();
  auto alice = in_scope("alice");
  auto bob = in_scope("bob");
  const TestObject isolated = make_object(model_, 7, kTokens);
  const TestObject own = synthetic("alice");
  const TestObject open = synthetic("");
  ASSERT_TRUE(put(*alice, isolated).is_ok());
  ASSERT_TRUE(put(*alice, own).is_ok());
  ASSERT_TRUE(put(*client_, open).is_ok());
  const TestObject statistics = make_statistics(model_, own, context("alice"));
  ASSERT_TRUE(put(*alice, statistics).is_ok());

  const auto check = [&] {
    for (TestClient* each : {alice.get(), bob.get(), client_.get()})
      EXPECT_TRUE(finds(*each, isolated));
    EXPECT_TRUE(finds(*alice, own));
    EXPECT_TRUE(finds(*alice, statistics));
    expect_stored(*alice, own);
    expect_stored(*alice, statistics);
    expect_unknown(*bob, own);
    expect_unknown(*bob, statistics);
    expect_unknown(*client_, own);
    // What was stored in no scope is the tenant's own: not of its scopes.
    EXPECT_TRUE(finds(*client_, open));
    expect_unknown(*bob, open);
    expect_unknown(*alice, open);
    EXPECT_TRUE(looked_up(own, "alice"));
    EXPECT_FALSE(looked_up(own, "bob"));
    EXPECT_FALSE(looked_up(own, ""));
    EXPECT_TRUE(looked_up(open, ""));
    EXPECT_FALSE(looked_up(open, "alice"));
  };
  check();
  // Bob may have a variant of the same text behind the same neighbours: another id.
  const TestObject other = synthetic("bob");
  EXPECT_NE(other.id, own.id);
  ASSERT_TRUE(put(*bob, other).is_ok());
  expect_unknown(*alice, other);
  // Alice comes back by another session, and leaves her scope.
  auto again = in_scope("alice");
  EXPECT_TRUE(finds(*again, own));
  ASSERT_EQ(enter(*again, "")->code(), StatusCode::kOk);
  expect_unknown(*again, own);

  alice.reset();
  bob.reset();
  again.reset();
  crash();
  start();
  alice = in_scope("alice");
  bob = in_scope("bob");
  check();
}

TEST_F(ScopeTest, ScopesSurviveTheLossOfRocksDb) {
  start();
  auto alice = in_scope("alice");
  const TestObject own = make_object(model_, 3, 1024, {}, context("alice"));  // large: in a segment
  const TestObject shared = make_object(model_, 4, 1024);
  ASSERT_TRUE(put(*alice, own).is_ok());
  ASSERT_TRUE(put(*alice, shared).is_ok());
  alice.reset();
  crash();
  std::filesystem::remove_all(config_.data_directory + "/meta");
  start();
  alice = in_scope("alice");
  auto bob = in_scope("bob");
  ASSERT_TRUE(eventually([&] { return finds(*alice, own) && finds(*bob, shared); }));
  expect_stored(*alice, own);
  expect_unknown(*bob, own);
  expect_unknown(*client_, own);
}

TEST_F(ScopeTest, CommitsOfAnotherScopeAreRefused) {
  start();
  auto bob = in_scope("bob");
  const TestObject alices = synthetic("alice");
  EXPECT_EQ(put(*bob, alices).code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(put(*client_, alices).code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(put(*bob, synthetic("")).code(), StatusCode::kPermissionDenied);
  EXPECT_TRUE(find(*bob, alices).empty());
  // Entering the scope while the window is open does not help: the reservation was made outside.
  const auto window = bob->reserve(alices.id, alices.bytes.size());
  ASSERT_TRUE(window.is_ok());
  ASSERT_EQ(enter(*bob, "alice")->code(), StatusCode::kOk);
  std::memcpy(bob->staging().data() + window->staging_offset, alices.bytes.data(),
              alices.bytes.size());
  EXPECT_EQ(bob->commit(window->reservation_id, alices.bytes).code(),
            StatusCode::kPermissionDenied);
  EXPECT_TRUE(put(*bob, alices).is_ok());
  EXPECT_EQ(bob->reserve(alices.id, 100).status().code(), StatusCode::kAlreadyExists);
}

// A scope around what every session of the tenant may find.
TEST_F(ScopeTest, IsolatedVariantsAreInNoScope) {
  start();
  auto alice = in_scope("alice");
  TestObject wrapped = synthetic("alice");
  // The inner context (kind 4, phase 0) becomes kind 0; the rest is put right again.
  const auto view = RepresentationView::parse(wrapped.bytes);
  ASSERT_TRUE(view.is_ok());
  const uint64_t context_at = 256 + 32 * view->sections().size() + 4 * wrapped.tokens.size();
  ASSERT_EQ(wrapped.bytes[context_at], std::byte{6});
  wrapped.bytes[context_at + 34] = std::byte{0};
  const uint64_t checksum_at = *RepresentationView::manifest_bytes(wrapped.bytes) - 8;
  const uint64_t checksum = xxh3_64(ByteSpan(wrapped.bytes).first(checksum_at));
  std::memcpy(wrapped.bytes.data() + checksum_at, &checksum, sizeof(checksum));
  EXPECT_EQ(put(*alice, wrapped).code(), StatusCode::kInvalidArgument);
}

TEST_F(ScopeTest, TenantsOfOneLabelShareNothing) {
  config_.tenants = {{"acme", {}, {}, {}}, {"zenith", {}, {}, {}}};
  start();
  auto acme = in_scope("alice", "acme");
  auto zenith = in_scope("alice", "zenith");
  ASSERT_TRUE(acme->register_model(model_).is_ok());
  const auto salt_of = [](const TestClient& client) {
    const auto bytes =
        std::as_bytes(std::span(client.hello_reply().salt)).first(client.hello_reply().salt_bytes);
    return TenantSalt(bytes.begin(), bytes.end());
  };
  const TestObject own = synthetic("alice", 7, 1, salt_of(*acme));
  ASSERT_TRUE(put(*acme, own).is_ok());
  EXPECT_TRUE(finds(*acme, own));
  expect_unknown(*zenith, own);
  // The id of a scope is the tenant's own, and the server says it.
  const auto reply = enter(*acme, "alice");
  EXPECT_EQ(Digest{reply->read<wire::ScopeReply>().scope}, scope_id(salt_of(*acme), "alice"));
  EXPECT_NE(scope_id(salt_of(*acme), "alice"), scope_id(salt_of(*zenith), "alice"));
}

// What an operator lists and removes by the label of a scope: never another scope's, nor tenant's.
TEST_F(ScopeTest, ListedAndClearedByLabel) {
  config_.tenants = {{"acme", {}, {}, {}}};
  start();
  auto alice = in_scope("alice");
  auto bob = in_scope("bob");
  auto acme = in_scope("alice", "acme");
  ASSERT_TRUE(alice->register_model(model_).is_ok());
  const auto bytes =
      std::as_bytes(std::span(acme->hello_reply().salt)).first(acme->hello_reply().salt_bytes);
  const TenantSalt salt(bytes.begin(), bytes.end());
  const TestObject of_alice = synthetic("alice", 7, 1), of_bob = synthetic("bob", 7, 1);
  const TestObject of_acme = synthetic("alice", 7, 1, salt);
  const TestObject isolated = make_object(model_, 9, kTokens);
  const TestObject unscoped = synthetic("", 7, 2);
  ASSERT_TRUE(put(*alice, of_alice).is_ok());
  ASSERT_TRUE(put(*bob, of_bob).is_ok());
  ASSERT_TRUE(put(*acme, of_acme).is_ok());
  ASSERT_TRUE(put(*alice, isolated).is_ok());
  ASSERT_EQ(enter(*bob, "")->code(), StatusCode::kOk);
  ASSERT_TRUE(put(*bob, unscoped).is_ok());
  ASSERT_EQ(enter(*bob, "bob")->code(), StatusCode::kOk);

  const auto listed = [&](const std::string& tenant, const std::string& label) {
    ObjectFilter filter;
    filter.tenant = tenant;
    filter.scope = label;
    const auto page = server_->admin().list(filter, 100, "", kDeadlineMs);
    EXPECT_TRUE(page.is_ok()) << page.status().to_string();
    std::vector<Digest> ids;
    const Digest wanted = scope_id(tenant.empty() ? TenantSalt{} : salt, label);
    EXPECT_EQ(page->scope, wanted);
    for (const ObjectInfo& object : page->objects) {
      ids.push_back(object.representation);
      EXPECT_EQ(object.scope, wanted);
      EXPECT_EQ(object.tenant, tenant);
    }
    return ids;
  };
  EXPECT_EQ(listed("", "alice"), std::vector{of_alice.id});
  EXPECT_EQ(listed("", "bob"), std::vector{of_bob.id});
  EXPECT_EQ(listed("", "carol"), std::vector<Digest>{});
  EXPECT_EQ(listed("acme", "alice"), std::vector{of_acme.id});
  EXPECT_EQ(listed("acme", "bob"), std::vector<Digest>{});
  std::vector<Digest> unbound = {isolated.id, unscoped.id};
  std::ranges::sort(unbound);
  EXPECT_EQ(listed("", ""), unbound);
  EXPECT_EQ(server_->admin().list({}, 100, "", kDeadlineMs)->objects.size(), 5u);
  EXPECT_FALSE(server_->admin().list({}, 100, "", kDeadlineMs)->scope.has_value());

  ObjectFilter filter;
  filter.scope = "alice";
  const auto code_of = [](const auto& result) { return result.status().code(); };
  EXPECT_EQ(code_of(server_->admin().list(filter, 100, "", kDeadlineMs)),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(code_of(server_->admin().clear(filter, kDeadlineMs)), StatusCode::kInvalidArgument);
  filter.tenant = "nobody";
  EXPECT_EQ(code_of(server_->admin().list(filter, 100, "", kDeadlineMs)), StatusCode::kNotFound);
  EXPECT_EQ(code_of(server_->admin().clear(filter, kDeadlineMs)), StatusCode::kNotFound);
  filter.tenant = "";
  EXPECT_EQ(server_->admin().clear(filter, kDeadlineMs).value(), 1u);
  EXPECT_EQ(listed("", "alice"), std::vector<Digest>{});
  EXPECT_TRUE(finds(*bob, of_bob));
  EXPECT_TRUE(finds(*acme, of_acme));
  for (auto* client : {&alice, &bob, &acme}) client->reset();
  crash();
  start();
  EXPECT_EQ(listed("", "bob"), std::vector{of_bob.id});
  EXPECT_EQ(listed("", "alice"), std::vector<Digest>{});
  EXPECT_EQ(listed("acme", "alice"), std::vector{of_acme.id});
}

TEST_F(ScopeTest, BadRequests) {
  start();
  wire::ScopeRequest request;
  request.label_bytes = 65;
  EXPECT_EQ(client_->call(wire::Op::kScope, bytes_of(request))->code(),
            StatusCode::kInvalidArgument);
  request.label_bytes = 2;
  request.label = {'a', 'b', 'c'};
  EXPECT_EQ(client_->call(wire::Op::kScope, bytes_of(request))->code(),
            StatusCode::kInvalidArgument);
  struct {
    wire::FeedbackRequest head{1, 0};
    wire::FeedbackItem item;
  } told;
  const auto refused = [&] {
    return client_->call(wire::Op::kFeedback, bytes_of(told))->code() ==
           StatusCode::kInvalidArgument;
  };
  told.item.flags = 0;
  EXPECT_TRUE(refused());
  told.item.flags = 4;
  EXPECT_TRUE(refused());
  told.item.flags = wire::kFeedbackDeviation;
  for (const float bad : {-1.0f, std::nanf(""), HUGE_VALF}) {
    told.item.deviation = bad;
    EXPECT_TRUE(refused()) << bad;
  }
}

TEST_F(ScopeTest, StatisticsAreListedWhereAskedFor) {
  start();
  const TestObject isolated = make_object(model_, 7, kTokens);
  const TestObject statistics = make_statistics(model_, isolated, VariantContext::isolated());
  ASSERT_TRUE(put(*client_, statistics).is_ok());
  // Nothing can be loaded for this text: statistics alone are no match.
  EXPECT_TRUE(find(*client_, isolated).empty());
  EXPECT_TRUE(find(*client_, isolated, 7).empty());
  ASSERT_TRUE(put(*client_, isolated).is_ok());
  EXPECT_EQ(find(*client_, isolated).size(), 1u);
  const auto all = find(*client_, isolated, 7);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(Digest{all[0].representation}, isolated.id);
  EXPECT_EQ(Digest{all[1].representation}, statistics.id);
  EXPECT_EQ(all[1].codec, static_cast<uint16_t>(CodecId::kStatistics));
  EXPECT_EQ(all[0].variant, all[1].variant);
  expect_stored(*client_, statistics);
  TestObject damaged = make_statistics(model_, make_object(model_, 8, kTokens), context(""));
  TestObject wrong = damaged;
  const auto view = RepresentationView::parse(damaged.bytes);
  wrong.bytes[view->sections()[0].offset] ^= std::byte{1};
  EXPECT_EQ(put(*client_, wrong).code(), StatusCode::kCorrupt);
  EXPECT_TRUE(put(*client_, damaged).is_ok());
}

TEST_F(ScopeTest, ANinthVariantTakesThePlaceOfTheLeastUsed) {
  start();
  auto alice = in_scope("alice");
  std::vector<TestObject> variants;
  for (uint8_t i = 0; i < 8; ++i) {
    variants.push_back(synthetic("alice", 7, static_cast<uint8_t>(i + 1)));
    ASSERT_TRUE(put(*alice, variants.back()).is_ok());
    for (int use = 0; use <= i % 4; ++use) expect_stored(*alice, variants.back());
  }
  const TestObject statistics = make_statistics(model_, variants[0], context("alice", 1));
  ASSERT_TRUE(put(*alice, statistics).is_ok());
  const TestObject isolated = make_object(model_, 7, kTokens);
  ASSERT_TRUE(put(*alice, isolated).is_ok());  // of another space: not counted with them
  // Uses: 1 2 3 4 1 2 3 4. The first is leased, so the fifth goes, statistics and all stay.
  const auto lease = alice->acquire(variants[0].id);
  ASSERT_TRUE(lease.is_ok());
  const TestObject ninth = synthetic("alice", 7, 100);
  ASSERT_TRUE(put(*alice, ninth).is_ok());
  EXPECT_EQ(alice->acquire(variants[4].id).status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(finds(*alice, variants[0]));
  EXPECT_TRUE(finds(*alice, statistics));
  EXPECT_TRUE(finds(*alice, isolated));
  EXPECT_TRUE(alice->release(lease->lease_id).is_ok());
  // The ninth was never used: it goes before all others, and what strikes make worse after it.
  const TestObject tenth = synthetic("alice", 7, 101);
  ASSERT_TRUE(put(*alice, tenth).is_ok());
  EXPECT_FALSE(finds(*alice, ninth));
  expect_stored(*alice, tenth);
  expect_stored(*alice, tenth);
  // (1 + 4) / (1 + 2) is less than (1 + 2) / 1.
  for (int i = 0; i < 2; ++i) tell(*alice, variants[3], wire::kFeedbackStrike);
  for (const TestObject& each : {variants[0], variants[1], variants[5]})
    for (int i = 0; i < 4; ++i) expect_stored(*alice, each);
  const TestObject eleventh = synthetic("alice", 7, 102);
  ASSERT_TRUE(put(*alice, eleventh).is_ok());
  EXPECT_FALSE(finds(*alice, variants[3]));
  // A pinned one stays, all representations of another go.
  for (uint8_t i = 0; i < 20; ++i) {
    ASSERT_TRUE(server_->admin().pin(variants[0].id, 0, kDeadlineMs).is_ok());
    ASSERT_TRUE(put(*alice, synthetic("alice", 7, static_cast<uint8_t>(120 + i))).is_ok());
  }
  EXPECT_TRUE(finds(*alice, variants[0]));
  uint32_t listed = 0;
  for (const wire::ResolveEntry& entry : find(*alice, isolated))
    listed += entry.context_kind == static_cast<uint8_t>(ContextKind::kSynthetic);
  EXPECT_EQ(listed, 8u);
}

TEST_F(ScopeTest, AllRepresentationsOfAVariantGo) {
  start();
  std::vector<TestObject> statistics;
  for (uint8_t i = 0; i < 9; ++i) {
    const TestObject object = synthetic("", 7, static_cast<uint8_t>(i + 1));
    ASSERT_TRUE(put(*client_, object).is_ok());
    statistics.push_back(make_statistics(model_, object, context("", static_cast<uint8_t>(i + 1))));
    if (i > 0) expect_stored(*client_, object);
    if (i < 8) {
      ASSERT_TRUE(put(*client_, statistics.back()).is_ok());
    }
  }
  EXPECT_EQ(client_->acquire(statistics[0].id).status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(client_->acquire(statistics[1].id).is_ok());
  EXPECT_EQ(stats().objects, 8u + 7u);
}

TEST_F(ScopeTest, StruckOutVariantsAreNoMatches) {
  start();
  const TestObject bad = synthetic("");
  const TestObject statistics = make_statistics(model_, bad, context(""));
  const TestObject isolated = make_object(model_, 7, kTokens);
  for (const TestObject& object : {bad, statistics, isolated})
    ASSERT_TRUE(put(*client_, object).is_ok());
  EXPECT_EQ(tell(*client_, bad, wire::kFeedbackDeviation, 0.25f).applied, 1u);
  EXPECT_EQ(tell(*client_, bad, wire::kFeedbackStrike).applied, 1u);
  // Told of its statistics it counts for the variant.
  EXPECT_EQ(tell(*client_, statistics, wire::kFeedbackStrike).applied, 1u);
  const auto two_strikes = [&] {
    for (const wire::ResolveEntry& entry : find(*client_, bad, 7)) {
      if (Digest{entry.representation} == isolated.id) {
        EXPECT_EQ(entry.strikes, 0u);
        EXPECT_EQ(entry.deviation, 0.0f);
      } else {
        EXPECT_EQ(entry.strikes, 2u);
        EXPECT_EQ(entry.deviation, 0.25f);
      }
    }
    EXPECT_EQ(find(*client_, bad, 7).size(), 3u);
  };
  two_strikes();
  stop();
  start();
  two_strikes();
  // By the third it is out, also after a restart.
  tell(*client_, bad, wire::kFeedbackStrike | wire::kFeedbackDeviation, 0.5f);
  EXPECT_EQ(find(*client_, bad, 7).size(), 1u);
  stop();
  start();
  EXPECT_EQ(find(*client_, bad, 7).size(), 1u);
  EXPECT_EQ(client_->reserve(isolated.id, 100).status().code(), StatusCode::kAlreadyExists);
  // It may be stored anew, and counts as new.
  ASSERT_TRUE(put(*client_, bad).is_ok());
  EXPECT_TRUE(finds(*client_, bad));
  EXPECT_FALSE(finds(*client_, statistics));
  for (const wire::ResolveEntry& entry : find(*client_, bad)) EXPECT_EQ(entry.strikes, 0u);
}

TEST_F(ScopeTest, StrikesSaturate) {
  start();
  const TestObject object = synthetic("");
  ASSERT_TRUE(put(*client_, object).is_ok());
  for (int i = 0; i < 300; ++i)
    ASSERT_EQ(tell(*client_, object, wire::kFeedbackStrike).applied, 1u);
  EXPECT_FALSE(finds(*client_, object));
  expect_stored(*client_, object);
}

TEST_F(ScopeTest, AVerdictTakesChunksAwayAndGivesThemBack) {
  start();
  const TestObject object = make_object(model_, 7, kTokens);
  const TestObject block = make_object(
      model_, 7, kTokens, {}, VariantContext::contextual(prefix_digest(model_id(model_), {}, {})));
  ASSERT_TRUE(put(*client_, object).is_ok());
  Verdict verdict;
  verdict.chunks = false;
  verdict.reason = "0.51 of the answers right";
  verdict.tool = "quire-eval 0.1";
  verdict.measured_wall_ms = 1'700'000'000'000;
  verdict.figures = {{"right", 0.51}};
  AdminApi* admin = &server_->admin();
  EXPECT_EQ(admin->set_verdict(Digest{}, verdict, kDeadlineMs).code(), StatusCode::kNotFound);
  Verdict bad = verdict;
  bad.budget = 2;
  EXPECT_EQ(admin->set_verdict(model_id(model_), bad, kDeadlineMs).code(),
            StatusCode::kInvalidArgument);
  EXPECT_TRUE(finds(*client_, object));
  const auto degraded = [&] {
    for (const std::string& line : stats().degraded)
      if (line.find("by its verdict: 0.51") != std::string::npos) return true;
    return false;
  };
  EXPECT_FALSE(degraded());
  ASSERT_TRUE(admin->set_verdict(model_id(model_), verdict, kDeadlineMs).is_ok());
  for (int round = 0; round < 2; ++round) {
    EXPECT_FALSE(finds(*client_, object));
    EXPECT_TRUE(degraded());
    const auto models = server_->admin().models(kDeadlineMs);
    ASSERT_EQ(models->size(), 1u);
    EXPECT_EQ(models->front().verdict, verdict);
    if (round == 0) {
      ASSERT_TRUE(put(*client_, block).is_ok());
    }
    EXPECT_TRUE(finds(*client_, block)) << "exact prefixes stay";
    if (round == 0) {
      crash();
      start();
    }
  }
  verdict.chunks = true;
  ASSERT_TRUE(server_->admin().set_verdict(model_id(model_), verdict, kDeadlineMs).is_ok());
  EXPECT_FALSE(degraded());
  const TestObject other = make_object(model_, 9, kTokens);
  ASSERT_TRUE(put(*client_, other).is_ok());
  EXPECT_TRUE(finds(*client_, other));
  verdict.chunks = false;
  ASSERT_TRUE(server_->admin().set_verdict(model_id(model_), verdict, kDeadlineMs).is_ok());
  EXPECT_FALSE(finds(*client_, other));
  ASSERT_TRUE(server_->admin().set_verdict(model_id(model_), std::nullopt, kDeadlineMs).is_ok());
  EXPECT_TRUE(finds(*client_, other));
  EXPECT_FALSE(server_->admin().models(kDeadlineMs)->front().verdict.has_value());
}

}  // namespace
}  // namespace quire::server
