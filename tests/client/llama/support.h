// Models, texts and comparisons for the engine tests.
#ifndef QUIRE_TESTS_CLIENT_LLAMA_SUPPORT_H_
#define QUIRE_TESTS_CLIENT_LLAMA_SUPPORT_H_

#include <gtest/gtest.h>

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "client/llama/engine.h"
#include "client/llama/engine_impl.h"
#include "client/llama/kv_source.h"

namespace quire {

class LlamaEngineTestPeer {
 public:
  static LlamaEngine::Impl& impl(LlamaEngine& engine) { return *engine.impl_; }
};

namespace llama_test {

inline constexpr const char* kQwen = "qwen2.5-coder-0.5b-instruct-q4_k_m";
inline constexpr const char* kGemma = "gemma-3-270m-q4_k_m";

// $QUIRE_MODELS, else the cache directory's models.
std::string models_directory();
// Nothing where the model file is missing; says how to get it.
std::optional<std::string> model_path(const std::string& name);
// The model's F32 copy, made on first use (needs room on the disk).
std::optional<std::string> f32_model_path(const std::string& name);

// An engine over the model as it is, shared by the tests of a program and cleared; one at a time is
// held. Null where the model is missing. One thread: those of libllama spin, and on a busy machine
// one is faster than two.
LlamaEngine* shared_engine(const std::string& name, uint32_t n_ctx, const std::atomic<bool>* abort);

// Paragraph i of a fixed text, and a question over it.
std::string paragraph(uint32_t i);
std::vector<TokenId> tokens_of(const LlamaEngine& engine, std::string_view text);
// Exactly n tokens of the fixed text from paragraph i on.
std::vector<TokenId> chunk_of(const LlamaEngine& engine, uint32_t i, uint32_t n);

// K or V of one layer of live tokens, [token][head][dim].
std::vector<float> read_plane(const LlamaEngine& engine, uint32_t layer, Plane plane,
                              uint32_t begin, uint32_t n_tokens);
// ||a - b|| / ||b||.
double relative(std::span<const float> a, std::span<const float> b);
double max_difference(std::span<const float> a, std::span<const float> b);

// A softmax as a split graph leaves it that goes on behind its end: no numbers.
void spoil(ggml_tensor* softmax);

// What the live tokens are, as a stored representation. swap_planes: the deliberate fault.
std::vector<std::byte> encode(const LlamaEngine& engine, const KvCapture& capture,
                              std::span<const TokenId> tokens, const VariantContext& context,
                              CodecId codec, bool swap_planes = false);

// ASSERT-friendly: the status's text in the failure.
#define QUIRE_ASSERT_OK(expression)                                          \
  do {                                                                       \
    const ::quire::Status quire_test_status = (expression);                  \
    ASSERT_TRUE(quire_test_status.is_ok()) << quire_test_status.to_string(); \
  } while (false)

}  // namespace llama_test
}  // namespace quire

#endif  // QUIRE_TESTS_CLIENT_LLAMA_SUPPORT_H_
