// Model descriptors and variant contexts: canonical encodings that are hashed into identities, so
// exactly one sequence of bytes may stand for each value.
#include "base/ids.h"
#include "tests/fuzz/fuzz_target.h"

namespace {

using quire::ByteSpan;
using quire::fuzz::expect;

bool same_bytes(ByteSpan a, ByteSpan b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

bool check_model(ByteSpan bytes) {
  const auto model = quire::ModelDescriptor::parse(bytes);
  if (!model) return false;
  expect(same_bytes(model->encode(), bytes), "a descriptor has one encoding");
  if (model->validate().is_ok()) (void)model->movable();
  (void)quire::model_id(*model);
  return true;
}

bool check_context(ByteSpan bytes) {
  const auto context = quire::VariantContext::parse(bytes);
  if (!context) return false;
  expect(same_bytes(context->encode(), bytes), "a context has one encoding");
  (void)quire::crosses_trust_domains(*context);
  (void)quire::variant_id({}, *context);
  return true;
}

quire::ModelDescriptor sample_model() {
  quire::ModelDescriptor model;
  model.weights.bytes.fill(1);
  model.tokenizer.bytes.fill(2);
  quire::LayerDescriptor layer;
  layer.rope_style = quire::RopeStyle::kNeox;
  layer.kv_heads = 2;
  layer.key_dims = layer.value_dims = layer.rotary_dims = 8;
  layer.inverse_frequencies = {1.0f, 0.1f, 0.01f, 0.001f};
  model.layers = {layer, layer};
  model.layers[1].attention = quire::AttentionKind::kSlidingWindow;
  model.layers[1].window_tokens = 512;
  return model;
}

std::vector<std::byte> tagged(uint8_t tag, std::vector<std::byte> bytes) {
  bytes.insert(bytes.begin(), std::byte{tag});
  return bytes;
}

}  // namespace

QUIRE_FUZZ_SEEDS(model) {
  quire::VariantContext synthetic;
  synthetic.kind = quire::ContextKind::kSynthetic;
  synthetic.neighbours.resize(2);
  return {
      {"descriptor", tagged(0, sample_model().encode())},
      {"isolated", tagged(1, quire::VariantContext::isolated().encode())},
      {"fixed_prefix", tagged(1, quire::VariantContext::fixed_prefix({}).encode())},
      {"dummy_sink", tagged(1, quire::VariantContext::dummy_sink({1, 2, 3}, 2).encode())},
      {"synthetic", tagged(1, synthetic.encode())},
      {"scoped", tagged(1, quire::VariantContext::synthetic({{}}, quire::Digest{{1}}).encode())}};
}

QUIRE_FUZZ_TARGET(model) {
  if (input.empty()) return false;
  const ByteSpan bytes = input.subspan(1);
  return input[0] == std::byte{0} ? check_model(bytes) : check_context(bytes);
}
