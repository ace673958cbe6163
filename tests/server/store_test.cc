// Put, resolve, acquire, release through a whole server.
#include <gtest/gtest.h>

#include <random>

#include "tests/server/store_fixture.h"

namespace quire::server {
namespace {

using StoreTest = ServerTest;

TEST_F(StoreTest, RoundTripIsByteExact) {
  start();
  for (const uint32_t n_tokens : {16u, 100u, 1000u, 1500u}) {
    const TestObject object = make_object(model_, n_tokens, n_tokens);
    EXPECT_EQ(client_->acquire(object.id).status().code(), StatusCode::kNotFound);
    const Status put = client_->put(object.id, object.bytes);
    ASSERT_TRUE(put.is_ok()) << put.to_string();
    expect_stored(*client_, object);
    EXPECT_EQ(client_->reserve(object.id, 100).status().code(), StatusCode::kAlreadyExists);
  }
}

TEST_F(StoreTest, ResolveFindsChunksAtAnyOffset) {
  start();
  const TestObject a = make_object(model_, 1, 100);
  const TestObject b = make_object(model_, 2, 200);
  ASSERT_TRUE(client_->put(a.id, a.bytes).is_ok());
  ASSERT_TRUE(client_->put(b.id, b.bytes).is_ok());
  std::vector<TokenId> prompt(37, 7);
  prompt.insert(prompt.end(), b.tokens.begin(), b.tokens.end());
  prompt.push_back(9);
  prompt.insert(prompt.end(), a.tokens.begin(), a.tokens.end());
  auto found = client_->resolve(model_id(model_), prompt);
  ASSERT_TRUE(found.is_ok()) << found.status().to_string();
  ASSERT_EQ(found->size(), 2u);
  EXPECT_EQ((*found)[0].representation, b.id.bytes);
  EXPECT_EQ((*found)[0].token_begin, 37u);
  EXPECT_EQ((*found)[0].n_tokens, 200u);
  EXPECT_EQ((*found)[0].tier, wire::TierId::kHost);
  EXPECT_EQ((*found)[0].kind, wire::MatchKind::kChunk);
  EXPECT_EQ((*found)[0].recompute_us, 20'000u);
  EXPECT_LT((*found)[0].load_us, 20'000u);
  EXPECT_EQ((*found)[1].representation, a.id.bytes);
  EXPECT_EQ((*found)[1].token_begin, 238u);
  // One token differs: no match.
  prompt[100] ^= 1;
  found = client_->resolve(model_id(model_), prompt);
  ASSERT_TRUE(found.is_ok());
  ASSERT_EQ(found->size(), 1u);
  EXPECT_EQ((*found)[0].representation, a.id.bytes);
  // Another model has nothing.
  EXPECT_TRUE(client_->resolve(model_id(test_model(2)), prompt)->empty());
}

TEST_F(StoreTest, ContextualVariantIsFoundOnlyBehindItsPrefix) {
  start();
  const Digest model = model_id(model_);
  const TestObject head =
      make_object(model_, 1, 64, {}, VariantContext::contextual(prefix_digest(model, {}, {})));
  const TestObject tail = make_object(
      model_, 2, 64, {}, VariantContext::contextual(prefix_digest(model, head.tokens, {})), 64);
  ASSERT_TRUE(client_->put(head.id, head.bytes).is_ok());
  ASSERT_TRUE(client_->put(tail.id, tail.bytes).is_ok());
  std::vector<TokenId> prompt = head.tokens;
  prompt.insert(prompt.end(), tail.tokens.begin(), tail.tokens.end());
  auto found = client_->resolve(model, prompt);
  ASSERT_EQ(found->size(), 2u);
  EXPECT_EQ((*found)[0].kind, wire::MatchKind::kPrefix);
  EXPECT_EQ((*found)[1].representation, tail.id.bytes);
  EXPECT_EQ((*found)[1].kind, wire::MatchKind::kPrefix);
  prompt.insert(prompt.begin(), 1);
  EXPECT_TRUE(client_->resolve(model, prompt)->empty());
}

TEST_F(StoreTest, UnknownModelAndWrongShapeAreRefused) {
  start();
  const ModelDescriptor other = test_model(7);
  const TestObject object = make_object(other, 1, 64);
  EXPECT_EQ(client_->put(object.id, object.bytes).code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(client_->acquire(object.id).status().code(), StatusCode::kNotFound);

  // Says it is of model_, but has sections for 32 dims.
  ModelDescriptor narrow = test_model();
  for (LayerDescriptor& layer : narrow.layers) {
    layer.key_dims = layer.value_dims = layer.rotary_dims = 32;
    layer.inverse_frequencies.resize(16);
  }
  TestObject lying = make_object(narrow, 1, 64);
  ASSERT_TRUE(client_->register_model(narrow, "narrow").is_ok());
  EXPECT_TRUE(client_->put(lying.id, lying.bytes).is_ok());
}

TEST_F(StoreTest, BytesThatAreNotTheReservedIdAreRefused) {
  start();
  const TestObject a = make_object(model_, 1, 64);
  const TestObject b = make_object(model_, 2, 64);
  EXPECT_EQ(client_->put(a.id, b.bytes).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(client_->acquire(a.id).status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(client_->put(a.id, a.bytes).is_ok());
}

TEST_F(StoreTest, EveryDamagedByteIsRefused) {
  start();
  const TestObject object = make_object(model_, 3, 32);
  std::mt19937_64 random(5);
  for (int round = 0; round < 60; ++round) {
    TestObject damaged = object;
    damaged.bytes[random() % damaged.bytes.size()] ^= static_cast<std::byte>(1 + random() % 255);
    // The client's checksum is that of the damaged bytes: manifest and sections must catch it.
    const Status status = client_->put(object.id, damaged.bytes);
    ASSERT_FALSE(status.is_ok());
    EXPECT_EQ(client_->acquire(object.id).status().code(), StatusCode::kNotFound);
  }
  EXPECT_TRUE(client_->put(object.id, object.bytes).is_ok());
  expect_stored(*client_, object);
}

TEST_F(StoreTest, StagingChangedAfterChecksumIsRefused) {
  start();
  const TestObject object = make_object(model_, 4, 512);
  auto window = client_->reserve(object.id, object.bytes.size());
  ASSERT_TRUE(window.is_ok());
  std::byte* staged = client_->staging().data() + window->staging_offset;
  std::memcpy(staged, object.bytes.data(), object.bytes.size());
  staged[object.bytes.size() / 2] ^= std::byte{1};
  EXPECT_EQ(client_->commit(window->reservation_id, object.bytes).code(), StatusCode::kCorrupt);
}

// A client that keeps writing while the server reads: accepted bytes are always the right ones.
TEST_F(StoreTest, StagingMutatedWhileCommittingNeverStoresWrongBytes) {
  start();
  const TestObject object = make_object(model_, 5, 1500);
  std::mt19937_64 random(6);
  int accepted = 0;
  for (int round = 0; round < 20 && accepted == 0; ++round) {
    auto window = client_->reserve(object.id, object.bytes.size());
    ASSERT_TRUE(window.is_ok()) << window.status().to_string();
    std::byte* staged = client_->staging().data() + window->staging_offset;
    std::memcpy(staged, object.bytes.data(), object.bytes.size());
    wire::CommitRequest request;
    request.reservation_id = window->reservation_id;
    request.bytes = object.bytes.size();
    const Hash128 checksum = xxh3_128(object.bytes);
    request.checksum_low = checksum.low;
    request.checksum_high = checksum.high;
    ASSERT_TRUE(client_->send(make_frame(wire::Op::kCommit, bytes_of(request))));
    const size_t at = random() % object.bytes.size();
    for (int i = 0; i < 200; ++i) staged[at] = static_cast<std::byte>(i);
    auto reply = client_->receive();
    ASSERT_TRUE(reply.is_ok());
    accepted += reply->code() == StatusCode::kOk;
    if (reply->code() != StatusCode::kOk) {
      EXPECT_EQ(reply->code(), StatusCode::kCorrupt);
    }
  }
  if (accepted != 0) expect_stored(*client_, object);
}

TEST_F(StoreTest, SecondWriterWaitsThenLearnsItIsStored) {
  start();
  const TestObject object = make_object(model_, 1, 300);
  auto second = TestClient::connect(config_.socket_path);
  auto window = client_->reserve(object.id, object.bytes.size());
  ASSERT_TRUE(window.is_ok());
  const Status busy = second->reserve(object.id, object.bytes.size()).status();
  EXPECT_EQ(busy.code(), StatusCode::kBusy);
  EXPECT_GT(busy.retry_after_ms(), 0u);
  EXPECT_EQ(second->acquire(object.id).status().code(), StatusCode::kNotFound);
  std::memcpy(client_->staging().data() + window->staging_offset, object.bytes.data(),
              object.bytes.size());
  // A reservation belongs to its session.
  EXPECT_EQ(second->commit(window->reservation_id, object.bytes).code(), StatusCode::kNotFound);
  ASSERT_TRUE(client_->commit(window->reservation_id, object.bytes).is_ok());
  EXPECT_EQ(second->reserve(object.id, object.bytes.size()).status().code(),
            StatusCode::kAlreadyExists);
  expect_stored(*second, object);
  // Committing again what is committed.
  EXPECT_EQ(client_->commit(window->reservation_id, object.bytes).code(), StatusCode::kNotFound);
}

TEST_F(StoreTest, AbortAndDeathFreeTheReservation) {
  start();
  const TestObject object = make_object(model_, 1, 300);
  auto window = client_->reserve(object.id, object.bytes.size());
  ASSERT_TRUE(window.is_ok());
  const wire::AbortRequest abort{window->reservation_id};
  EXPECT_EQ(client_->call(wire::Op::kAbort, bytes_of(abort))->code(), StatusCode::kOk);
  EXPECT_EQ(client_->call(wire::Op::kAbort, bytes_of(abort))->code(), StatusCode::kNotFound);
  ASSERT_TRUE(client_->reserve(object.id, object.bytes.size()).is_ok());
  client_.reset();
  client_ = TestClient::connect(config_.socket_path);
  const Status status = put_patiently(*client_, object);
  EXPECT_TRUE(status.is_ok()) << status.to_string();
  EXPECT_EQ(stats().reservations, 0u);
}

TEST_F(StoreTest, ReservationExpires) {
  config_.reservation_ms = 2000;  // long enough for the put of a loaded machine
  start();
  const TestObject object = make_object(model_, 1, 300);
  auto window = client_->reserve(object.id, object.bytes.size());
  ASSERT_TRUE(window.is_ok());
  EXPECT_TRUE(eventually([&] { return stats().reservations == 0; }));
  EXPECT_EQ(client_->commit(window->reservation_id, object.bytes).code(), StatusCode::kNotFound);
  EXPECT_TRUE(client_->put(object.id, object.bytes).is_ok());
}

TEST_F(StoreTest, TenantsDoNotSeeEachOther) {
  config_.tenants.push_back({"blue", {}, {}, {}});
  config_.tenants.push_back({"green", {}, {}, {}});
  start();
  auto blue = TestClient::connect(config_.socket_path, "blue");
  auto green = TestClient::connect(config_.socket_path, "green");
  ASSERT_NE(blue, nullptr);
  ASSERT_NE(green, nullptr);
  EXPECT_EQ(TestClient::connect(config_.socket_path, "red"), nullptr);
  const auto salt_of = [](const TestClient& client) {
    const auto* first = reinterpret_cast<const std::byte*>(client.hello_reply().salt.data());
    return TenantSalt(first, first + client.hello_reply().salt_bytes);
  };
  EXPECT_NE(salt_of(*blue), salt_of(*green));
  EXPECT_TRUE(salt_of(*client_).empty());
  const TestObject object = make_object(model_, 1, 100, salt_of(*blue));
  // Under another tenant's salt the ids do not fit.
  EXPECT_EQ(green->put(object.id, object.bytes).code(), StatusCode::kCorrupt);
  ASSERT_TRUE(blue->put(object.id, object.bytes).is_ok());
  expect_stored(*blue, object);
  EXPECT_EQ(green->acquire(object.id).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(blue->resolve(model_id(model_), object.tokens)->size(), 1u);
  EXPECT_TRUE(green->resolve(model_id(model_), object.tokens)->empty());
  EXPECT_TRUE(client_->resolve(model_id(model_), object.tokens)->empty());
}

TEST_F(StoreTest, ImmovableModelHasNoChunkMatches) {
  start();
  ModelDescriptor model = test_model(3);
  for (LayerDescriptor& layer : model.layers) layer.length_dependent = true;
  ASSERT_FALSE(model.movable().is_ok());
  ASSERT_TRUE(client_->register_model(model, "ntk").is_ok());
  const TestObject chunk = make_object(model, 1, 64);
  const TestObject prefix = make_object(
      model, 2, 64, {}, VariantContext::contextual(prefix_digest(model_id(model), {}, {})));
  ASSERT_TRUE(client_->put(chunk.id, chunk.bytes).is_ok());
  ASSERT_TRUE(client_->put(prefix.id, prefix.bytes).is_ok());
  EXPECT_TRUE(client_->resolve(model_id(model), chunk.tokens)->empty());
  EXPECT_EQ(client_->resolve(model_id(model), prefix.tokens)->size(), 1u);
}

TEST_F(StoreTest, ObjectsBeyondTheLimitsAreRefused) {
  start();
  const TestObject object = make_object(model_, 1, 16);
  EXPECT_EQ(client_->reserve(object.id, 0).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(
      client_->reserve(object.id, client_->hello_reply().object_bytes_max + 1).status().code(),
      StatusCode::kResourceExhausted);
  EXPECT_EQ(client_->reserve(object.id, UINT64_MAX).status().code(),
            StatusCode::kResourceExhausted);
  auto small = TestClient::connect(config_.socket_path, "", 5 << 20);
  EXPECT_EQ(small->reserve(object.id, 2 << 20).status().code(), StatusCode::kResourceExhausted);
  auto window = client_->reserve(object.id, 1000);
  ASSERT_TRUE(window.is_ok());
  EXPECT_EQ(client_->commit(window->reservation_id, object.bytes).code(),
            StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quire::server
