// Exactness of the connector on F32 weights and fp32 KV, where libllama itself is exact: what is
// left are errors of ours. Each gate is shown to catch a deliberate fault.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "tests/client/llama/support.h"

namespace quire::llama_test {
namespace {

constexpr uint32_t kSystemTokens = 14;
constexpr uint32_t kChunkTokens = 48;
constexpr uint32_t kChunks = 3;
constexpr uint32_t kSeed = 7;
constexpr double kLogitsMax = 1e-5;
constexpr double kLayerZeroMax = 1e-7;
constexpr double kFaultMin = 1e-2;

// A prompt and what a full prefill makes of it, once per model: F32 prefills take seconds.
struct Reference {
  std::unique_ptr<LlamaEngine> engine;
  std::vector<TokenId> system;
  std::vector<std::vector<TokenId>> chunks;
  std::vector<TokenId> context;  // system and chunks
  std::vector<TokenId> question;
  std::vector<float> logits;                      // full prefill
  std::vector<std::byte> exact;                   // its KV of the context, raw fp32
  std::vector<float> layer0_keys, layer0_values;  // of the last chunk
};

Reference* make_reference(const std::string& name) {
  const auto path = f32_model_path(name);
  if (!path) return nullptr;
  LlamaOptions options;
  options.model_path = *path;
  options.n_ctx = 1024;
  options.kv_type = LlamaKvType::kF32;
  options.n_threads = 1;       // threads of libllama spin: on a busy machine one is faster than two
  options.skip_digest = true;  // hashing 2.5 GB proves nothing here
  auto engine = LlamaEngine::open(options);
  if (!engine) {
    ADD_FAILURE() << engine.status().to_string();
    return nullptr;
  }
  auto* reference = new Reference;
  reference->engine = std::move(*engine);
  LlamaEngine& e = *reference->engine;
  reference->system = chunk_of(e, 4, kSystemTokens);
  reference->context = reference->system;
  for (uint32_t i = 0; i < kChunks; ++i) {
    reference->chunks.push_back(chunk_of(e, i, kChunkTokens));
    reference->context.insert(reference->context.end(), reference->chunks[i].begin(),
                              reference->chunks[i].end());
  }
  reference->question = tokens_of(e, "\nQuestion: which daemon runs a command a single time?\n");
  const auto n = static_cast<uint32_t>(reference->context.size());
  Status status = e.append(reference->context, false);
  if (status.is_ok()) status = e.append(reference->question, true);
  EXPECT_TRUE(status.is_ok()) << status.to_string();
  const auto logits = e.logits();
  reference->logits.assign(logits->begin(), logits->end());
  reference->exact =
      encode(e, *e.view(0, n), reference->context,
             VariantContext::contextual(prefix_digest(e.model_id(), {}, {})), CodecId::kRawF32);
  reference->layer0_keys = read_plane(e, 0, Plane::kKey, n - kChunkTokens, kChunkTokens);
  reference->layer0_values = read_plane(e, 0, Plane::kValue, n - kChunkTokens, kChunkTokens);
  return reference;
}

class Gates : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    static std::map<std::string, Reference*> references;
    const std::string name = GetParam();
    if (!references.contains(name)) {
      // One F32 model in memory at a time.
      for (auto& [other, held] : references) {
        delete held;
        held = nullptr;
      }
      references[name] = make_reference(name);
    }
    reference_ = references[name];
    if (reference_ == nullptr) GTEST_SKIP() << "model " << name << " is not here";
    engine_ = reference_->engine.get();
    engine_->clear();
  }

  uint32_t n_context() const { return static_cast<uint32_t>(reference_->context.size()); }

  std::vector<uint32_t> scattered_rows(double share) const {
    std::vector<uint32_t> rows(n_context());
    for (uint32_t i = 0; i < rows.size(); ++i) rows[i] = i;
    std::mt19937 random(kSeed);
    std::shuffle(rows.begin(), rows.end(), random);
    rows.resize(static_cast<size_t>(share * n_context()));
    std::sort(rows.begin(), rows.end());
    return rows;
  }

  uint32_t n_prompt() const {
    return n_context() + static_cast<uint32_t>(reference_->question.size());
  }

  // With room for the question, which is recomputed as rows.
  Status place_exact() {
    const KvPiece piece{reference_->exact, 0, n_context(), 0};
    return engine_->place(n_prompt(), std::span(&piece, 1));
  }

  Status recompute_with_question(std::vector<uint32_t> rows) {
    std::vector<TokenId> tokens;
    for (const uint32_t row : rows) tokens.push_back(reference_->context[row]);
    for (uint32_t i = n_context(); i < n_prompt(); ++i) rows.push_back(i);
    tokens.insert(tokens.end(), reference_->question.begin(), reference_->question.end());
    return engine_->recompute(rows, tokens, true);
  }

  double logits_moved() const {
    const auto logits = engine_->logits();
    return logits ? max_difference(*logits, reference_->logits) : INFINITY;
  }

  bool context_bits_kept() const {
    const auto view = engine_->view(0, n_context());
    return view && encode(*engine_, *view, reference_->context,
                          VariantContext::contextual(prefix_digest(engine_->model_id(), {}, {})),
                          CodecId::kRawF32) == reference_->exact;
  }

  std::vector<std::byte> isolated_chunk(uint32_t i, bool swap_planes = false) {
    const auto capture = engine_->capture({}, reference_->chunks[i]);
    EXPECT_TRUE(capture.is_ok()) << capture.status().to_string();
    return encode(*engine_, *capture, reference_->chunks[i], VariantContext::isolated(),
                  CodecId::kRawF32, swap_planes);
  }

  // G2's measure: layer 0 of the last chunk, computed alone and moved, against the full prefill's.
  std::pair<double, double> moved_layer0(const std::vector<std::byte>& bytes) {
    const uint32_t position = n_context() - kChunkTokens;
    const KvPiece piece{bytes, 0, kChunkTokens, position};
    const Status status = engine_->place(n_context(), std::span(&piece, 1));
    EXPECT_TRUE(status.is_ok()) << status.to_string();
    return {relative(read_plane(*engine_, 0, Plane::kKey, position, kChunkTokens),
                     reference_->layer0_keys),
            relative(read_plane(*engine_, 0, Plane::kValue, position, kChunkTokens),
                     reference_->layer0_values)};
  }

  Reference* reference_ = nullptr;
  LlamaEngine* engine_ = nullptr;
};

TEST_P(Gates, SelfTestHolds) {
  const SelfTestReport& report = engine_->self_test();
  RecordProperty("rope_error", std::to_string(report.rope_error));
  EXPECT_TRUE(report.ran);
  EXPECT_TRUE(report.one_pass);
  EXPECT_TRUE(report.bit_equal) << report.row_error;
  EXPECT_GT(report.leaked_error, 0.1);
  EXPECT_LT(report.rope_error, 1e-2);
}

TEST_P(Gates, LayerZeroOfAMovedChunkIsAsComputedThere) {
  const auto bytes = isolated_chunk(kChunks - 1);
  engine_->set_angle_mode(reuse::AngleMode::kEngineTable);
  const auto [key, value] = moved_layer0(bytes);
  engine_->set_angle_mode(reuse::AngleMode::kExact);
  const auto [exact_key, exact_value] = moved_layer0(bytes);
  std::cout << "layer 0 moved: engine table " << key << ", exact angles " << exact_key << "\n";
  EXPECT_LE(key, kLayerZeroMax);
  EXPECT_LE(exact_key, 1e-4);
  EXPECT_EQ(value, 0);
  EXPECT_EQ(exact_value, 0);
}

TEST_P(Gates, WrongRopeBaseIsCaught) {
  const auto bytes = isolated_chunk(kChunks - 1);
  LayerGraph& layer = LlamaEngineTestPeer::impl(*engine_).hooks.layers()[0];
  const float base = layer.rope_base;
  layer.rope_base = base == 1e6f ? 1e4f : 1e6f;
  engine_->set_angle_mode(reuse::AngleMode::kEngineTable);
  const auto [key, value] = moved_layer0(bytes);
  engine_->set_angle_mode(reuse::AngleMode::kExact);
  layer.rope_base = base;
  EXPECT_GT(key, kFaultMin);
}

TEST_P(Gates, SwappedPlanesAreCaught) {
  const auto [key, value] = moved_layer0(isolated_chunk(kChunks - 1, true));
  EXPECT_GT(key, kFaultMin);
  EXPECT_GT(value, kFaultMin);
}

TEST_P(Gates, ExactCacheInNothingMoves) {
  const auto rows = scattered_rows(0.15);
  QUIRE_ASSERT_OK(place_exact());
  QUIRE_ASSERT_OK(recompute_with_question(rows));
  std::cout << rows.size() << " rows: logits moved by " << logits_moved() << "\n";
  EXPECT_LE(logits_moved(), kLogitsMax);
  EXPECT_TRUE(context_bits_kept());
}

TEST_P(Gates, ExactCacheInNothingMovesInSequence) {
  const std::vector<uint32_t> rows = {0, 1, 2, 20, 21, 57, 58, 59, 60, n_context() - 1};
  QUIRE_ASSERT_OK(place_exact());
  engine_->force_sequential(true);
  const Status status = recompute_with_question(rows);
  engine_->force_sequential(false);
  QUIRE_ASSERT_OK(status);
  std::cout << "in sequence: logits moved by " << logits_moved() << "\n";
  EXPECT_LE(logits_moved(), kLogitsMax);
}

TEST_P(Gates, LeakedMaskRowIsCaught) {
  const auto rows = scattered_rows(0.15);
  QUIRE_ASSERT_OK(place_exact());
  LlamaEngineTestPeer::impl(*engine_).hooks.set_leak(true);
  const Status status = recompute_with_question(rows);
  LlamaEngineTestPeer::impl(*engine_).hooks.set_leak(false);
  QUIRE_ASSERT_OK(status);
  EXPECT_GT(logits_moved(), kFaultMin);
  EXPECT_FALSE(context_bits_kept());
}

TEST_P(Gates, AllRowsRecomputedAreAFullPrefill) {
  // The wrong chunk everywhere, and nothing at all in between.
  const auto bytes = isolated_chunk(0);
  std::vector<KvPiece> pieces;
  for (uint32_t i = 1; i < kChunks; ++i) {
    pieces.push_back({bytes, 0, kChunkTokens, kSystemTokens + i * kChunkTokens});
  }
  QUIRE_ASSERT_OK(engine_->place(n_prompt(), pieces));
  const auto all = scattered_rows(1.0);
  ASSERT_EQ(all.size(), n_context());
  QUIRE_ASSERT_OK(recompute_with_question(all));
  std::cout << "all rows: logits moved by " << logits_moved() << "\n";
  EXPECT_LE(logits_moved(), kLogitsMax);
}

TEST_P(Gates, ReuseWithoutRecomputeDiffersFromFullPrefill) {
  std::vector<std::vector<std::byte>> stored;
  std::vector<KvPiece> pieces;
  for (uint32_t i = 0; i < kChunks; ++i) stored.push_back(isolated_chunk(i));
  for (uint32_t i = 0; i < kChunks; ++i) {
    pieces.push_back({stored[i], 0, kChunkTokens, kSystemTokens + i * kChunkTokens});
  }
  QUIRE_ASSERT_OK(engine_->place(n_prompt(), pieces));
  std::vector<uint32_t> system(kSystemTokens);
  for (uint32_t i = 0; i < kSystemTokens; ++i) system[i] = i;
  QUIRE_ASSERT_OK(recompute_with_question(system));
  // The measure of the gates can see what reuse costs.
  EXPECT_GT(logits_moved(), kFaultMin);
}

INSTANTIATE_TEST_SUITE_P(Qwen, Gates, testing::Values(kQwen));
INSTANTIATE_TEST_SUITE_P(Gemma, Gates, testing::Values(kGemma));

}  // namespace
}  // namespace quire::llama_test
