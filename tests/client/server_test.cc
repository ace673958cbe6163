// The client against a real server in this process: put, find, plan, acquire, load.
#include <gtest/gtest.h>

#include "client/reuse/encode.h"
#include "client/reuse/load.h"
#include "client/reuse/plan.h"
#include "tests/client/reuse/engine_fixture.h"
#include "tests/server/server_fixture.h"

namespace quire::reuse {
namespace {

constexpr uint32_t kTokens = 32;

class ClientServerTest : public testing::Test {
 protected:
  ClientServerTest() : config_(server::test_config(directory_.path())) {
    source_.randomize(11);
    start();
  }

  void start() {
    server_ = std::make_unique<server::InProcessServer>(config_);
    ASSERT_TRUE(server_->status().is_ok()) << server_->status().to_string();
    ClientOptions options;
    options.socket_path = config_.socket_path;
    auto client = Client::connect(options);
    ASSERT_TRUE(client.is_ok()) << client.status().to_string();
    client_ = std::move(*client);
    ASSERT_TRUE(client_->register_model("toy", model_).is_ok());
  }

  Expected<PutResult> put(const RepresentationHeader& header, wire::AckLevel ack) {
    EncodeOptions encode;
    encode.rows.first_row = 0;
    PutOptions options;
    options.ack = ack;
    return put_representation(*client_, header, model_, source_.planes(), encode, options);
  }

  RepresentationHeader header() const {
    return toy_header(model_, kTokens, CodecId::kRawF32, PositionFrame::kLocal, 0);
  }

  // A prompt with the stored chunk at token 7.
  std::vector<TokenId> prompt() const {
    std::vector<TokenId> tokens(7, 5);
    for (const TokenId token : header().tokens) tokens.push_back(token);
    tokens.insert(tokens.end(), {8, 9});
    return tokens;
  }

  ModelDescriptor model_ = toy_model();
  ToyEngine source_{model_, kTokens, 0};
  server::TempDirectory directory_;
  server::Config config_;
  std::unique_ptr<server::InProcessServer> server_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<Client> old_client_;  // outlives the leases of a test
};

TEST_F(ClientServerTest, StoredChunkIsFoundPlannedAndLoadedElsewhere) {
  const auto stored = put(header(), wire::AckLevel::kMemory);
  ASSERT_TRUE(stored.is_ok()) << stored.status().to_string();
  EXPECT_EQ(*stored, PutResult::kStored);
  const auto again = put(header(), wire::AckLevel::kMemory);
  ASSERT_TRUE(again.is_ok()) << again.status().to_string();
  EXPECT_EQ(*again, PutResult::kAlreadyStored);

  const auto matches = client_->resolve(model_id(model_), prompt());
  ASSERT_TRUE(matches.is_ok()) << matches.status().to_string();
  const auto plan = make_plan(static_cast<uint32_t>(prompt().size()), *matches);
  ASSERT_TRUE(plan.is_ok());
  ASSERT_EQ(plan->segments.size(), 3u);
  const Segment& chunk = plan->segments[1];
  EXPECT_EQ(chunk.kind, SegmentKind::kChunk);
  EXPECT_EQ(chunk.token_begin, 7u);
  EXPECT_EQ(chunk.n_tokens, kTokens);
  EXPECT_EQ(chunk.match.representation, header().representation);

  const auto lease = client_->acquire(chunk.match.representation);
  ASSERT_TRUE(lease.is_ok()) << lease.status().to_string();
  const auto view = RepresentationView::parse(lease->bytes());
  ASSERT_TRUE(view.is_ok()) << view.status().to_string();
  ToyEngine target(model_, 64, 0);
  LoadOptions options;
  options.position = chunk.token_begin;
  options.rows.first_row = chunk.token_begin;
  ASSERT_TRUE(load_representation(*view, model_, target.planes(), options).is_ok());
  EXPECT_TRUE(lease->check().is_ok());
  for (uint32_t dim = 0; dim < 8; ++dim)
    EXPECT_NEAR(target.at(0, Plane::kKey, 7 + 20, 1, dim),
                rotated_key(source_, model_, 0, 20, 1, dim, 7), 2e-6);
  EXPECT_EQ(target.at(2, Plane::kValue, 7, 0, 3), source_.at(2, Plane::kValue, 0, 0, 3));
}

TEST_F(ClientServerTest, MissesAndBadObjectsAreTyped) {
  EXPECT_EQ(client_->acquire(Digest{}).status().code(), StatusCode::kNotFound);
  const Digest ids[] = {Digest{}, header().representation};
  ASSERT_TRUE(put(header(), wire::AckLevel::kMemory).is_ok());
  const auto leases = client_->acquire(ids);
  ASSERT_TRUE(leases.is_ok()) << leases.status().to_string();
  EXPECT_EQ((*leases)[0].status().code(), StatusCode::kNotFound);
  EXPECT_TRUE((*leases)[1].is_ok());
  const std::vector<std::byte> nonsense(4096, std::byte{1});
  EXPECT_FALSE(client_->put(Digest{}, nonsense).is_ok());
  EXPECT_TRUE(client_->ping().is_ok());
}

TEST_F(ClientServerTest, LeasesRenewAndReleasesCount) {
  ASSERT_TRUE(put(header(), wire::AckLevel::kMemory).is_ok());
  auto lease = client_->acquire(header().representation);
  ASSERT_TRUE(lease.is_ok());
  EXPECT_TRUE(lease->renew(60'000).is_ok());
  EXPECT_TRUE(lease->check().is_ok());
  lease->release();
  // One request later the release was handled.
  EXPECT_TRUE(client_->ping().is_ok());
  const auto stats = server_->admin().stats(5000);
  ASSERT_TRUE(stats.is_ok());
  EXPECT_EQ(stats->leases, 0u);
}

TEST_F(ClientServerTest, DurableObjectsSurviveAStopAndOldLeasesDoNot) {
  ASSERT_TRUE(put(header(), wire::AckLevel::kDurable).is_ok());
  const auto lease = client_->acquire(header().representation);
  ASSERT_TRUE(lease.is_ok());
  server_->stop_fast();
  server_.reset();
  EXPECT_EQ(lease->check().code(), StatusCode::kUnavailable);
  EXPECT_EQ(client_->ping().code(), StatusCode::kUnavailable);
  old_client_ = std::move(client_);
  start();
  const auto fresh = client_->acquire(header().representation);
  ASSERT_TRUE(fresh.is_ok()) << fresh.status().to_string();
  const auto view = RepresentationView::parse(fresh->bytes());
  ASSERT_TRUE(view.is_ok());
  EXPECT_TRUE(view->verify_sections().is_ok());
  EXPECT_EQ(lease->check().code(), StatusCode::kUnavailable);
}

}  // namespace
}  // namespace quire::reuse
