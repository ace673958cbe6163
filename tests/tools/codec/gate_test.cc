// What codecs may cost a real model, on a small set: a subset of quire-codec-kl. Bounds leave room
// over what was measured (docs/benchmarks.md); the negative control shows that the gate can fail.
// On F32 weights: libllama rounds activations for quantised ones, which answers the least change of
// KV with a KL of 3e-3.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "bench/codec/attention.h"
#include "bench/codec/capture_dump.h"
#include "bench/codec/codec_run.h"
#include "bench/codec/end_to_end.h"
#include "bench/codec/handbook_prompts.h"
#include "tests/client/llama/support.h"

namespace quire::bench {
namespace {

using llama_test::kGemma;
using llama_test::kQwen;

constexpr double kInt8Max = 5e-4;
constexpr double kInt4Max = 0.03;
constexpr double kControlRatioMin = 5;

// Null where the model is missing.
std::unique_ptr<LlamaEngine> open_engine(const std::optional<std::string>& path, uint32_t n_ctx) {
  if (!path) return nullptr;
  LlamaOptions options;
  options.model_path = *path;
  options.n_ctx = n_ctx;
  options.n_threads = 1;
  options.kv_type = LlamaKvType::kF32;
  options.self_test = false;
  options.skip_digest = true;
  auto engine = LlamaEngine::open(options);
  EXPECT_TRUE(engine.is_ok()) << engine.status().to_string();
  return engine ? std::move(*engine) : nullptr;
}

class DumpOfModel : public testing::TestWithParam<const char*> {};

// Queries, scale and K before rope are what the engine itself multiplies.
TEST_P(DumpOfModel, AttentionIsTheEngines) {
  constexpr uint32_t kTokens = 200;
  constexpr uint32_t kQueries = 8;
  const auto engine = open_engine(llama_test::model_path(GetParam()), 512);
  if (engine == nullptr) GTEST_SKIP() << "model " << GetParam() << " is not here";
  const auto tokens = llama_test::chunk_of(*engine, 0, kTokens);
  const auto dump = capture_dump(*engine, tokens, kQueries);
  ASSERT_TRUE(dump.is_ok()) << dump.status().to_string();
  std::vector<double> mass(kTokens, 0.0);
  uint32_t layers = 0;
  for (const DumpLayer& layer : dump->layers) {
    if (layer.shape.window_tokens != 0) continue;
    const auto keys = exact_plane(Plane::kKey, layer, kTokens);
    ASSERT_TRUE(keys.is_ok()) << keys.status().to_string();
    LayerAttention::add_mass(*dump, layer, kQueries, *keys, mass);
    ++layers;
  }
  std::vector<float> engines;
  QUIRE_ASSERT_OK(engine->truncate(kTokens - kQueries));
  QUIRE_ASSERT_OK(engine->append_with_mass(std::span(tokens).last(kQueries), false, &engines));
  ASSERT_EQ(engines.size(), mass.size());
  double difference = 0;
  for (uint32_t i = 0; i < kTokens; ++i)
    difference += std::abs(mass[i] / (layers * dump->layers[0].query_heads) - engines[i]);
  EXPECT_LT(difference / kQueries, 1e-3);
}

INSTANTIATE_TEST_SUITE_P(Qwen, DumpOfModel, testing::Values(kQwen));
INSTANTIATE_TEST_SUITE_P(Gemma, DumpOfModel, testing::Values(kGemma));

TEST(CodecGate, OutputOverStoredKvStaysClose) {
  if (!std::filesystem::is_directory(answers::kHandbookDirectory))
    GTEST_SKIP() << "no documents: the package debian-handbook is not installed";
  const auto engine = open_engine(llama_test::f32_model_path(kQwen), 1024);
  if (engine == nullptr) GTEST_SKIP() << "model " << kQwen << " (F32 copy) is not here";
  KlOptions options;
  for (const CodecId id :
       {CodecId::kInt8Channel, CodecId::kInt4Channel64, CodecId::kInt4Hadamard}) {
    const auto codec = find_codec(id);
    ASSERT_TRUE(codec.is_ok()) << codec.status().to_string();
    options.codecs.push_back(*codec);
  }
  HandbookPromptOptions wanted;
  wanted.questions_path = QUIRE_SOURCE_DIR "/bench/answers/questions.json";
  wanted.prompts_max = 2;
  wanted.context_tokens = 560;
  wanted.questions_per_prompt = 1;
  const auto prompts = handbook_prompts(*engine, wanted);
  ASSERT_TRUE(prompts.is_ok()) << prompts.status().to_string();
  std::vector<std::vector<PromptDistance>> of_codec(options.codecs.size());
  for (const KlPrompt& prompt : *prompts) {
    const auto distances = compare_prompt(*engine, prompt, options);
    ASSERT_TRUE(distances.is_ok()) << distances.status().to_string();
    for (size_t i = 0; i < of_codec.size(); ++i) of_codec[i].push_back((*distances)[i]);
  }
  const KlSummary int8 = summarize(of_codec[0], 1);
  const KlSummary int4 = summarize(of_codec[1], 1);
  const KlSummary control = summarize(of_codec[2], 1);
  std::cout << int8.positions << " positions: int8-channel " << int8.kl << ", int4-channel64 "
            << int4.kl << ", int4-hadamard " << control.kl << "\n";
  EXPECT_GE(int8.positions, 64u);
  EXPECT_LT(int8.kl, kInt8Max);
  EXPECT_LT(int4.kl, kInt4Max);
  EXPECT_GT(control.kl, kControlRatioMin * int4.kl);
  EXPECT_GT(int4.kl, int8.kl);
}

}  // namespace
}  // namespace quire::bench
