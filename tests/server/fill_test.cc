// Puts whose bytes are handed over while they are written, by good clients and by bad ones.
#include <gtest/gtest.h>

#include <atomic>
#include <random>

#include "client/client.h"
#include "tests/server/store_fixture.h"

namespace quire::server {
namespace {

class FillTest : public ServerTest {
 protected:
  void SetUp() override { start(); }
  void TearDown() override {
    if (server_ == nullptr) return;
    EXPECT_TRUE(eventually([&] { return stats().reservations == 0; }));
    // Whatever happened, others are served and no slot leaked.
    const TestObject other = make_object(model_, 999, 64);
    EXPECT_TRUE(put_patiently(*client_, other).is_ok());
    expect_stored(*client_, other);
    EXPECT_EQ(stats().leases, 0u);
  }

  StatusCode fill(TestClient& client, uint64_t reservation, uint64_t bytes) {
    const wire::FillRequest request{reservation, bytes};
    auto reply = client.call(wire::Op::kFill, bytes_of(request));
    return reply ? reply->code() : reply.status().code();
  }
  StatusCode abort(TestClient& client, uint64_t reservation) {
    const wire::AbortRequest request{reservation};
    auto reply = client.call(wire::Op::kAbort, bytes_of(request));
    return reply ? reply->code() : reply.status().code();
  }
  void write(TestClient& client, const wire::ReserveReply& window, const TestObject& object,
             uint64_t begin, uint64_t end) {
    std::memcpy(client.staging().data() + window.staging_offset + begin,
                object.bytes.data() + begin, end - begin);
  }
  std::unique_ptr<Client> connect_library() {
    ClientOptions options;
    options.socket_path = config_.socket_path;
    auto client = Client::connect(options);
    EXPECT_TRUE(client.is_ok()) << client.status().to_string();
    return client ? std::move(*client) : nullptr;
  }
  wire::FillProgress& progress(TestClient& client, const wire::ReserveReply& window,
                               uint64_t bytes) {
    return *reinterpret_cast<wire::FillProgress*>(client.staging().data() + window.staging_offset +
                                                  align_up(bytes, 64));
  }
};

TEST_F(FillTest, StreamedPutEqualsPlainPut) {
  const auto library = connect_library();
  // Less than a part, parts and a rest, many parts.
  for (const uint32_t n_tokens : {1u, 16u, 64u, 65u, 1000u, 1900u}) {
    const TestObject streamed = make_object(model_, n_tokens, n_tokens);
    const TestObject plain = make_object(model_, 50'000 + n_tokens, n_tokens);
    ASSERT_TRUE(library->put(streamed.id, streamed.bytes).is_ok()) << n_tokens;
    expect_stored(*client_, streamed);
    ASSERT_TRUE(client_->put(plain.id, plain.bytes).is_ok());
    expect_stored(*client_, plain);
    const TestObject window = make_object(model_, 90'000 + n_tokens, n_tokens);
    auto put = library->reserve(window.id, window.bytes.size());
    ASSERT_TRUE(put.is_ok());
    std::memcpy(put->bytes().data(), window.bytes.data(), window.bytes.size());
    ASSERT_TRUE(put->commit().is_ok());
    expect_stored(*client_, window);
  }
}

TEST_F(FillTest, WindowsThatAreFilledByHand) {
  const auto library = connect_library();
  const TestObject object = make_object(model_, 3, 1900);
  auto put = library->reserve(object.id, object.bytes.size());
  ASSERT_TRUE(put.is_ok());
  for (uint64_t at = 0; at < object.bytes.size();) {
    const uint64_t part = std::min<uint64_t>(object.bytes.size() - at, 100'000);
    std::memcpy(put->bytes().data() + at, object.bytes.data() + at, part);
    at += part;
    ASSERT_TRUE(put->fill(at).is_ok());
  }
  EXPECT_EQ(put->fill(1).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(put->fill(object.bytes.size() + 1).code(), StatusCode::kInvalidArgument);
  ASSERT_TRUE(put->commit().is_ok());
  EXPECT_EQ(put->fill(1).code(), StatusCode::kFailedPrecondition);
  expect_stored(*client_, object);
}

TEST_F(FillTest, NumbersThatBreakTheRules) {
  const TestObject object = make_object(model_, 4, 500);
  const uint64_t bytes = object.bytes.size();
  auto window = client_->reserve(object.id, bytes);
  ASSERT_TRUE(window.is_ok());
  const uint64_t id = window->reservation_id;
  EXPECT_EQ(fill(*client_, id + 1, 1), StatusCode::kNotFound);
  EXPECT_EQ(fill(*client_, id, bytes + 1), StatusCode::kInvalidArgument);
  EXPECT_EQ(fill(*client_, id, UINT64_MAX), StatusCode::kInvalidArgument);
  EXPECT_EQ(fill(*client_, id, 0), StatusCode::kOk);
  auto stranger = TestClient::connect(config_.socket_path);
  EXPECT_EQ(fill(*stranger, id, 1), StatusCode::kNotFound);
  EXPECT_EQ(abort(*stranger, id), StatusCode::kNotFound);
  write(*client_, *window, object, 0, bytes);
  EXPECT_EQ(fill(*client_, id, 1000), StatusCode::kOk);
  EXPECT_EQ(fill(*client_, id, 1000), StatusCode::kOk);
  EXPECT_EQ(fill(*client_, id, 999), StatusCode::kInvalidArgument);
  // Fewer bytes than were said to be filled.
  EXPECT_EQ(client_->commit(id, ByteSpan(object.bytes).first(500)).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(fill(*client_, id, bytes), StatusCode::kOk);
  EXPECT_TRUE(client_->commit(id, object.bytes).is_ok());
  EXPECT_EQ(fill(*client_, id, bytes), StatusCode::kNotFound);
  expect_stored(*client_, object);
}

TEST_F(FillTest, NoReplyWhereNoneIsWanted) {
  const wire::FillRequest request{12345, 1};
  ASSERT_TRUE(
      client_->send(make_frame(wire::Op::kFill, bytes_of(request), 9, 1000, wire::kFlagNoReply)));
  EXPECT_EQ(client_->call(wire::Op::kPing, {})->code(), StatusCode::kOk);
}

TEST_F(FillTest, RandomFillsThenCommitOrAbortOrDeath) {
  const uint64_t seed = 77;
  SCOPED_TRACE("seed " + std::to_string(seed) +
               ", replay: server_fill_test --gtest_filter=*RandomFills*");
  std::mt19937_64 random(seed);
  for (int round = 0; round < 120; ++round) {
    auto client = TestClient::connect(config_.socket_path, "", 16 << 20);
    ASSERT_NE(client, nullptr);
    const TestObject object = make_object(model_, 1000 + round, 1 + random() % 1900);
    const uint64_t bytes = object.bytes.size();
    auto window = client->reserve(object.id, bytes);
    ASSERT_TRUE(window.is_ok()) << window.status().to_string();
    uint64_t written = 0;
    for (uint64_t n = random() % 8; n > 0; --n) {
      const uint64_t end = written + random() % (bytes - written + 1);
      write(*client, *window, object, written, end);
      written = end;
      if (random() % 2 == 0) {
        progress(*client, *window, bytes).filled_bytes = written;
      } else {
        ASSERT_EQ(fill(*client, window->reservation_id, written), StatusCode::kOk);
      }
    }
    switch (random() % 4) {
      case 0:
        EXPECT_EQ(abort(*client, window->reservation_id), StatusCode::kOk);
        EXPECT_EQ(fill(*client, window->reservation_id, bytes), StatusCode::kNotFound);
        EXPECT_EQ(abort(*client, window->reservation_id), StatusCode::kNotFound);
        EXPECT_EQ(client->acquire(object.id).status().code(), StatusCode::kNotFound);
        break;
      case 1:
        client.reset();  // with a copy under way, perhaps
        break;
      case 2: {
        // The client and the server run on the same bytes; what counts is what the server copied.
        write(*client, *window, object, written, bytes);
        client->staging()[window->staging_offset + random() % bytes] ^= std::byte{0x10};
        const Status status = client->commit(window->reservation_id, object.bytes);
        if (status.is_ok()) {
          expect_stored(*client_, object);
        } else {
          EXPECT_EQ(status.code(), StatusCode::kCorrupt);
          EXPECT_EQ(client_->acquire(object.id).status().code(), StatusCode::kNotFound);
        }
        break;
      }
      default:
        write(*client, *window, object, written, bytes);
        ASSERT_TRUE(client->commit(window->reservation_id, object.bytes).is_ok());
        expect_stored(*client_, object);
    }
  }
}

// Bytes that change all the time while they are taken in: never anything but what was promised.
TEST_F(FillTest, AWindowThatKeepsChanging) {
  TestObject object = make_object(model_, 8, 1900);
  for (int round = 0; round < 20; ++round) {
    auto client = TestClient::connect(config_.socket_path, "", 16 << 20);
    auto window = client->reserve(object.id, object.bytes.size());
    if (!window && window.status().code() == StatusCode::kBusy) continue;
    // Stored by a round whose last byte was right just then: once more, of another number.
    if (!window) {
      object = make_object(model_, 8000 + round, 1900);
      window = client->reserve(object.id, object.bytes.size());
      ASSERT_TRUE(window.is_ok()) << window.status().to_string();
    }
    write(*client, *window, object, 0, object.bytes.size());
    std::atomic<bool> stop{false};
    std::byte& flickering = client->staging()[window->staging_offset + object.bytes.size() - 9];
    std::thread changer([&] {
      while (!stop.load()) {
        std::atomic_ref<std::byte>(flickering).store(std::byte{1});
        std::atomic_ref<std::byte>(flickering).store(object.bytes[object.bytes.size() - 9]);
      }
    });
    EXPECT_EQ(fill(*client, window->reservation_id, object.bytes.size()), StatusCode::kOk);
    const Status status = client->commit(window->reservation_id, object.bytes);
    stop.store(true);
    changer.join();
    if (status.is_ok()) {
      expect_stored(*client_, object);
    } else {
      EXPECT_EQ(status.code(), StatusCode::kCorrupt);
    }
  }
}

TEST_F(FillTest, AProgressWordThatLies) {
  const TestObject object = make_object(model_, 9, 1900);
  auto window = client_->reserve(object.id, object.bytes.size());
  ASSERT_TRUE(window.is_ok());
  wire::FillProgress& word = progress(*client_, *window, object.bytes.size());
  EXPECT_EQ(word.send_fill, 1u);
  write(*client_, *window, object, 0, object.bytes.size());
  EXPECT_EQ(fill(*client_, window->reservation_id, 10), StatusCode::kOk);
  for (const uint64_t lie : {uint64_t{0}, UINT64_MAX, uint64_t{5}, uint64_t{1} << 63}) {
    std::atomic_ref<uint64_t>(word.filled_bytes).store(lie);
    std::atomic_ref<uint32_t>(word.send_fill).store(static_cast<uint32_t>(lie));
    EXPECT_EQ(fill(*client_, window->reservation_id, 10), StatusCode::kOk);
  }
  EXPECT_TRUE(client_->commit(window->reservation_id, object.bytes).is_ok());
  expect_stored(*client_, object);
}

TEST_F(FillTest, ExpiryWithAPartCopied) {
  stop();
  config_.reservation_ms = 2000;  // long enough for the puts of a loaded machine
  start();
  const TestObject object = make_object(model_, 10, 500);
  auto window = client_->reserve(object.id, object.bytes.size());
  ASSERT_TRUE(window.is_ok());
  write(*client_, *window, object, 0, object.bytes.size());
  EXPECT_EQ(fill(*client_, window->reservation_id, 4096), StatusCode::kOk);
  EXPECT_TRUE(eventually([&] { return stats().reservations == 0; }));
  EXPECT_EQ(fill(*client_, window->reservation_id, 5000), StatusCode::kNotFound);
  EXPECT_TRUE(put_patiently(*client_, object).is_ok());
  expect_stored(*client_, object);
}

}  // namespace
}  // namespace quire::server
