// Errors, life cycle and the exact prefix of LlamaEngine, on the quantised models themselves.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "codecs/representation.h"
#include "tests/client/llama/support.h"

namespace quire::llama_test {
namespace {

constexpr uint32_t kContext = 1024;

std::atomic<bool> abort_flag{false};

class Engine : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    engine_ = shared_engine(GetParam(), kContext, &abort_flag);
    if (engine_ == nullptr) GTEST_SKIP() << "model " << GetParam() << " is not here";
  }

  VariantContext at_start() const {
    return VariantContext::contextual(prefix_digest(engine_->model_id(), {}, {}));
  }
  std::vector<float> logits() const {
    const auto values = engine_->logits();
    return values ? std::vector<float>(values->begin(), values->end()) : std::vector<float>{};
  }

  LlamaEngine* engine_ = nullptr;
};

TEST_P(Engine, ExactPrefixRestoresLogitsBitForBit) {
  const auto prefix = chunk_of(*engine_, 0, 90);
  const auto question = chunk_of(*engine_, 3, 17);
  QUIRE_ASSERT_OK(engine_->append(prefix, false));
  QUIRE_ASSERT_OK(engine_->append(question, true));
  const std::vector<float> wanted = logits();
  const auto capture = engine_->capture({}, prefix);
  ASSERT_TRUE(capture.is_ok());
  const auto stored = encode(*engine_, *capture, prefix, at_start(), CodecId::kRawF16);
  engine_->clear();
  const KvPiece piece{stored, 0, 90, 0};
  QUIRE_ASSERT_OK(engine_->place(90, std::span(&piece, 1)));
  QUIRE_ASSERT_OK(engine_->append(question, true));
  const std::vector<float> got = logits();
  ASSERT_EQ(wanted.size(), got.size());
  EXPECT_EQ(std::memcmp(wanted.data(), got.data(), wanted.size() * sizeof(float)), 0);
}

TEST_P(Engine, CaptureBehindAPrefixComputesThePrefixOnce) {
  const auto prefix = chunk_of(*engine_, 4, 30);
  const auto chunk = chunk_of(*engine_, 1, 40);
  const auto context = VariantContext::fixed_prefix(prefix_digest(engine_->model_id(), prefix, {}));
  const auto first = engine_->capture(prefix, chunk);
  ASSERT_TRUE(first.is_ok());
  EXPECT_EQ(first->base_position, 30u);
  const auto once = encode(*engine_, *first, chunk, context, CodecId::kRawF16);
  // Another chunk in between must leave no trace behind the prefix that stays in place.
  ASSERT_TRUE(engine_->capture(prefix, chunk_of(*engine_, 2, 64)).is_ok());
  const auto second = engine_->capture(prefix, chunk);
  ASSERT_TRUE(second.is_ok());
  EXPECT_EQ(once, encode(*engine_, *second, chunk, context, CodecId::kRawF16));
}

// What capture() keeps of the tokens in place is the longest prefix in common, and changes nothing.
TEST_P(Engine, CaptureBehindAPartlyEqualPrefix) {
  const auto head = chunk_of(*engine_, 4, 30);
  const auto chunk = chunk_of(*engine_, 1, 40);
  auto other = head;
  auto front = head;
  for (const TokenId token : chunk_of(*engine_, 2, 50)) other.push_back(token);
  for (const TokenId token : chunk_of(*engine_, 3, 20)) front.push_back(token);
  ASSERT_TRUE(engine_->capture(front, chunk).is_ok());
  const auto fresh = read_plane(*engine_, 3, Plane::kValue, 50, 40);
  ASSERT_TRUE(engine_->capture(other, chunk).is_ok());
  EXPECT_GT(relative(read_plane(*engine_, 3, Plane::kValue, 80, 40), fresh), 1e-2)
      << "another context";
  const auto again = engine_->capture(front, chunk);
  ASSERT_TRUE(again.is_ok());
  EXPECT_EQ(again->base_position, 50u);
  EXPECT_LT(relative(read_plane(*engine_, 3, Plane::kValue, 50, 40), fresh), 2e-3);
}

TEST_P(Engine, SharesAreTheSoftmaxByRuns) {
  const auto prefix = chunk_of(*engine_, 0, 70);
  const auto chunk = chunk_of(*engine_, 3, 19);
  const std::vector<uint32_t> runs{30, 40};
  reuse::AttentionShares shares;
  const auto capture = engine_->capture_with_shares(prefix, chunk, runs, &shares);
  ASSERT_TRUE(capture.is_ok()) << capture.status().to_string();
  EXPECT_EQ(capture->base_position, 70u);
  EXPECT_EQ(shares.segments, runs);
  ASSERT_EQ(shares.received.size(), 19u);
  ASSERT_EQ(shares.inter_of_segment.size(), 38u);
  // The same tokens again, with all of the softmax kept.
  engine_->clear();
  QUIRE_ASSERT_OK(engine_->append(prefix, false));
  engine_->keep_attention(true);
  std::vector<float> mass;
  QUIRE_ASSERT_OK(engine_->append_with_mass(chunk, false, &mass));
  engine_->keep_attention(false);
  const LlamaEngine::Attention& seen = engine_->attention();
  ASSERT_EQ(seen.tokens, 19u);
  std::vector<double> received(19), inter(38);
  const double scale = 1.0 / (seen.layers * seen.heads);
  for (size_t row = 0; row < size_t{seen.layers} * seen.heads * 19; ++row) {
    const size_t token = row % 19;
    const float* const weights = seen.values.data() + row * seen.cells;
    for (size_t cell = 0; cell < 70; ++cell)
      inter[(cell < 30 ? 0 : 19) + token] += weights[cell] * scale;
    for (size_t cell = 0; cell < 19; ++cell)
      received[cell] += weights[70 + cell] * scale / static_cast<double>(19 - cell);
  }
  for (size_t i = 0; i < 19; ++i) EXPECT_NEAR(shares.received[i], received[i], 1e-5) << i;
  for (size_t i = 0; i < 38; ++i) EXPECT_NEAR(shares.inter_of_segment[i], inter[i], 1e-5) << i;
  const std::vector<uint32_t> wrong{30, 41};
  EXPECT_EQ(engine_->capture_with_shares(prefix, chunk, wrong, &shares).status().code(),
            StatusCode::kInvalidArgument);
}

// A chunk of more than one graph.
TEST_P(Engine, SharesOfALongChunkSumUp) {
  const auto prefix = chunk_of(*engine_, 0, 10);
  // The second graph's cells, padded, are more than the first one's.
  constexpr uint32_t kTokens = 1000;
  const auto chunk = chunk_of(*engine_, 1, kTokens);
  const std::vector<uint32_t> runs{10};
  reuse::AttentionShares shares;
  const auto view = engine_->capture_with_shares(prefix, chunk, runs, &shares);
  ASSERT_TRUE(view.is_ok()) << view.status().message();
  double sum = 0;
  for (size_t i = 0; i < kTokens; ++i) {
    sum += shares.inter_of_segment[i] + shares.received[i] * static_cast<double>(kTokens - i);
  }
  // Sums of 1,000 rows x 336 heads in fp32.
  EXPECT_NEAR(sum, kTokens, 5e-4 * kTokens) << "each row gives 1";
}

// Longer than Gemma's window of 512: a sequence state would have lost the first rows of sliding
// layers.
TEST_P(Engine, RowsBeforeTheWindowStayExact) {
  const auto tokens = chunk_of(*engine_, 0, 560);
  QUIRE_ASSERT_OK(engine_->append(tokens, false));
  const auto before =
      encode(*engine_, *engine_->view(0, 560), tokens, at_start(), CodecId::kRawF16);
  const KvPiece piece{before, 0, 560, 0};
  QUIRE_ASSERT_OK(engine_->place(560, std::span(&piece, 1)));
  const std::vector<uint32_t> rows = {1, 5, 40, 300, 511, 512, 558};
  std::vector<TokenId> row_tokens;
  for (const uint32_t row : rows) row_tokens.push_back(tokens[row]);
  QUIRE_ASSERT_OK(engine_->recompute(rows, row_tokens, false));
  const auto after = encode(*engine_, *engine_->view(0, 560), tokens, at_start(), CodecId::kRawF16);
  const uint32_t last = engine_->n_layers() - 1;
  const auto a = read_plane(*engine_, last, Plane::kKey, 0, 560);
  QUIRE_ASSERT_OK(engine_->place(560, std::span(&piece, 1)));
  EXPECT_LT(relative(a, read_plane(*engine_, last, Plane::kKey, 0, 560)), 0.05);
  EXPECT_EQ(before.size(), after.size());
}

TEST_P(Engine, ColumnMassIsTheMeanOfTheSoftmax) {
  const auto context = chunk_of(*engine_, 0, 70);
  const auto question = chunk_of(*engine_, 3, 9);
  QUIRE_ASSERT_OK(engine_->append(context, false));
  engine_->keep_attention(true);
  std::vector<float> mass;
  QUIRE_ASSERT_OK(engine_->append_with_mass(question, false, &mass));
  ASSERT_EQ(mass.size(), 79u);
  double sum = 0;
  for (const float m : mass) sum += m;
  EXPECT_NEAR(sum, 9.0, 1e-3);  // each question token pays 1
  uint32_t full_layers = 0;
  for (const LayerDescriptor& layer : engine_->descriptor().layers) {
    full_layers += layer.attention == AttentionKind::kFull ? 1 : 0;
  }
  const LlamaEngine::Attention& seen = engine_->attention();
  ASSERT_EQ(seen.layers, full_layers);
  ASSERT_EQ(seen.tokens, 9u);
  std::vector<double> columns(mass.size(), 0.0);
  const size_t rows = size_t{seen.layers} * seen.heads * seen.tokens;
  for (size_t row = 0; row < rows; ++row) {
    for (size_t cell = 0; cell < columns.size(); ++cell) {
      columns[cell] += seen.values[row * seen.cells + cell];
    }
  }
  for (size_t cell = 0; cell < columns.size(); ++cell) {
    EXPECT_NEAR(mass[cell], columns[cell] / (seen.layers * seen.heads), 1e-6);
  }
}

TEST_P(Engine, DamagedPayloadsAreRefusedAndNothingIsPoisoned) {
  const auto tokens = chunk_of(*engine_, 0, 40);
  QUIRE_ASSERT_OK(engine_->append(tokens, true));
  const std::vector<float> wanted = logits();
  auto stored = encode(*engine_, *engine_->view(0, 40), tokens, at_start(), CodecId::kRawF16);
  const auto place = [&](const std::vector<std::byte>& bytes) {
    const KvPiece piece{bytes, 0, 40, 0};
    return engine_->place(40, std::span(&piece, 1));
  };
  auto flipped = stored;
  flipped[flipped.size() / 2] ^= std::byte{0x10};
  EXPECT_EQ(place(flipped).code(), StatusCode::kCorrupt);
  EXPECT_FALSE(place(std::vector<std::byte>(stored.begin(), stored.end() - 1)).is_ok());
  EXPECT_FALSE(place({}).is_ok());
  // A NaN under a right checksum.
  QUIRE_ASSERT_OK(engine_->append(tokens, false));
  auto capture = engine_->view(0, 40);
  const reuse::EnginePlane plane = capture->plane_of(0, Plane::kValue);
  std::byte* at = plane.data + 7 * plane.token_stride;
  const uint16_t nan = 0x7e00;
  uint16_t kept;
  std::memcpy(&kept, at, sizeof(kept));
  const auto header = capture_header(*engine_, *capture, tokens, at_start(), CodecId::kRawF16, {});
  const auto writer = reuse::plan_representation(header, engine_->descriptor());
  std::vector<std::byte> poisoned(writer->total_bytes());
  QUIRE_ASSERT_OK(reuse::encode_representation(*writer, header, engine_->descriptor(),
                                               capture->plane_of, {}, poisoned));
  const MutableByteSpan section = writer->section(poisoned, 0, Plane::kValue);
  std::memcpy(section.data(), &nan, sizeof(nan));
  writer->finish(poisoned);
  EXPECT_EQ(place(poisoned).code(), StatusCode::kNonFinite);
  engine_->clear();
  QUIRE_ASSERT_OK(engine_->append(tokens, true));
  EXPECT_EQ(logits(), wanted);
}

TEST_P(Engine, WrongArgumentsAreTypedErrors) {
  const std::vector<TokenId> bad = {1, engine_->n_vocab()};
  EXPECT_EQ(engine_->append(bad, false).code(), StatusCode::kInvalidArgument);
  const std::vector<TokenId> many(kContext + 1, 5);
  EXPECT_EQ(engine_->append(many, false).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(engine_->capture({}, {}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(engine_->view(0, 1).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(engine_->logits().status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(engine_->truncate(1).code(), StatusCode::kInvalidArgument);
  const auto tokens = chunk_of(*engine_, 0, 20);
  QUIRE_ASSERT_OK(engine_->append(tokens, false));
  const std::vector<uint32_t> descending = {5, 4};
  const std::vector<TokenId> two = {1, 1};
  EXPECT_EQ(engine_->recompute(descending, two, false).code(), StatusCode::kInvalidArgument);
  const std::vector<uint32_t> behind = {5, 20};
  EXPECT_EQ(engine_->recompute(behind, two, false).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(engine_->size(), 20u);  // refused before anything was touched
}

TEST_P(Engine, ForeignModelIsRefused) {
  const auto tokens = chunk_of(*engine_, 0, 20);
  QUIRE_ASSERT_OK(engine_->append(tokens, false));
  const auto capture = engine_->view(0, 20);
  RepresentationHeader header =
      capture_header(*engine_, *capture, tokens, at_start(), CodecId::kRawF16, {});
  ModelDescriptor other = engine_->descriptor();
  other.weights.bytes[0] ^= 1;
  header.model = model_id(other);
  fill_ids(header, {});
  const auto writer = reuse::plan_representation(header, other);
  ASSERT_TRUE(writer.is_ok());
  std::vector<std::byte> bytes(writer->total_bytes());
  QUIRE_ASSERT_OK(
      reuse::encode_representation(*writer, header, other, capture->plane_of, {}, bytes));
  const KvPiece piece{bytes, 0, 20, 0};
  EXPECT_EQ(engine_->place(20, std::span(&piece, 1)).code(), StatusCode::kModelMismatch);
}

TEST_P(Engine, AbortFlagEndsACallAndTheEngineGoesOn) {
  const auto tokens = chunk_of(*engine_, 0, 60);
  abort_flag = true;
  EXPECT_EQ(engine_->append(tokens, true).code(), StatusCode::kCancelled);
  abort_flag = false;
  EXPECT_EQ(engine_->size(), 0u);
  QUIRE_ASSERT_OK(engine_->append(tokens, true));
  EXPECT_TRUE(engine_->logits().is_ok());
}

INSTANTIATE_TEST_SUITE_P(Qwen, Engine, testing::Values(kQwen));
INSTANTIATE_TEST_SUITE_P(Gemma, Engine, testing::Values(kGemma));

TEST(EngineFiles, BrokenModelFilesAreErrors) {
  const std::string directory = testing::TempDir();
  const auto open_error = [](const std::string& path) {
    LlamaOptions options;
    options.model_path = path;
    return LlamaEngine::open(options).status();
  };
  EXPECT_EQ(open_error(directory + "/nothing-here.gguf").code(), StatusCode::kIoError);
  EXPECT_EQ(open_error(directory).code(), StatusCode::kIoError);
  const std::string garbage = directory + "/garbage.gguf";
  {
    std::mt19937 random(3);
    std::ofstream out(garbage, std::ios::binary);
    for (int i = 0; i < 5000; ++i) out.put(static_cast<char>(random()));
  }
  EXPECT_EQ(open_error(garbage).code(), StatusCode::kIoError);
  if (const auto path = model_path(kGemma)) {
    const std::string cut = directory + "/cut.gguf";
    std::filesystem::copy_file(*path, cut, std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(cut, std::filesystem::file_size(*path) * 2 / 3);
    const Status status = open_error(cut);
    EXPECT_EQ(status.code(), StatusCode::kIoError);
    EXPECT_NE(status.message().find("incomplete"), std::string::npos) << status.message();
    std::filesystem::remove(cut);
  }
  std::filesystem::remove(garbage);
}

}  // namespace
}  // namespace quire::llama_test
