// What the model is, learnt from the graph that libllama builds for it instead of from the many
// ways GGUF files say it: rope per layer, windows, heads, cache tensors.
#include <algorithm>
#include <cmath>
#include <filesystem>

#include "client/llama/engine_impl.h"
#include "client/llama/runtime.h"
#include "ggml-backend.h"
#include "ggml.h"
#include "llama.h"

namespace quire {

namespace {

constexpr uint32_t kProbeTokens = 4;
constexpr size_t kMetadataBytes = 256;

Status unsupported(std::string text) {
  return Status(StatusCode::kUnsupported, std::move(text));
}

bool visible(float mask_value) {
  return mask_value == 0.0f;
}

// The share of interpolation for pair j, as ggml's YaRN has it (rope_yarn_ramp).
double yarn_ramp(const LayerGraph& graph, uint32_t pair) {
  const auto correction = [&](double rotations) {
    return graph.rotary_dims * std::log(graph.original_context / (rotations * 2.0 * M_PI)) /
           (2.0 * std::log(double{graph.rope_base}));
  };
  const double low = std::max(0.0, std::floor(correction(graph.yarn_beta_fast)));
  const double high =
      std::min(graph.rotary_dims - 1.0, std::ceil(correction(graph.yarn_beta_slow)));
  const double y = (pair - low) / std::max(0.001, high - low);
  return 1.0 - std::clamp(y, 0.0, 1.0);
}

std::vector<float> inverse_frequencies(const LayerGraph& graph) {
  std::vector<float> result(graph.rotary_dims / 2);
  for (uint32_t j = 0; j < result.size(); ++j) {
    double frequency = std::pow(double{graph.rope_base}, -2.0 * j / graph.rotary_dims);
    if (!graph.rope_factors.empty()) frequency /= graph.rope_factors[j];
    double scale = graph.rope_scale;
    if (graph.yarn_ext_factor != 0.0f) {
      const double mix = yarn_ramp(graph, j) * graph.yarn_ext_factor;
      scale = scale * (1.0 - mix) + mix;
    }
    result[j] = static_cast<float>(frequency * scale);
  }
  return result;
}

void describe_rope(const LayerGraph& graph, LayerDescriptor& layer) {
  if (!graph.has_rope) return;
  layer.rotary_dims = graph.rotary_dims;
  layer.inverse_frequencies = inverse_frequencies(graph);
  layer.attention_factor = graph.attention_factor;
  if (graph.yarn_ext_factor != 0.0f) {
    layer.attention_factor *= 1.0f + 0.1f * std::log(1.0f / graph.rope_scale);
  }
  switch (graph.rope_mode) {
    case GGML_ROPE_TYPE_NEOX:
      layer.rope_style = RopeStyle::kNeox;
      break;
    case GGML_ROPE_TYPE_NORMAL:
      layer.rope_style = RopeStyle::kInterleaved;
      break;
    // Several position axes, of which a shift along one is not a move; or kRopeUnknown.
    default:
      layer.rope_style = RopeStyle::kNeox;
      layer.length_dependent = true;
  }
}

}  // namespace

Status LlamaEngine::Impl::learn_graph() {
  const auto n_layers = static_cast<uint32_t>(llama_model_n_layer(model));
  if (n_vocab <= kProbeTokens) return unsupported("a vocabulary of a few tokens");
  hooks.start_learning(n_layers);
  clear(true);
  std::vector<TokenId> tokens(kProbeTokens);
  for (uint32_t i = 0; i < kProbeTokens; ++i) tokens[i] = i + 1;
  QUIRE_RETURN_IF_ERROR(run_behind(tokens, false, false));

  // Which layers slide: move the last token a window away and look at the masks of one more. It
  // sees position 2 and not position 1 (position 0's cell may be its own by then).
  const auto window = static_cast<uint32_t>(std::max(0, llama_model_n_swa(model)));
  llama_memory_t memory = llama_get_memory(context);
  if (window > kProbeTokens) {
    if (!llama_memory_can_shift(memory)) return unsupported("a sliding window without rope");
    llama_memory_seq_add(memory, kLiveSequence, kProbeTokens - 1, kProbeTokens,
                         static_cast<llama_pos>(window - (kProbeTokens - 1)));
    const DecodeToken next{1, window + 1, kLiveSequence, false};
    QUIRE_RETURN_IF_ERROR(decode(std::span(&next, 1)));
    for (uint32_t il = 0; il < n_layers; ++il) {
      const std::vector<float>& row = hooks.mask_rows()[il];
      if (row.size() < kProbeTokens || visible(row[1])) continue;
      if (!visible(row[2]) || !visible(row[3])) {
        return unsupported("a sliding window of an unknown kind");
      }
      hooks.layers()[il].sliding = true;
      hooks.layers()[il].window_tokens = window;
    }
  }
  QUIRE_RETURN_IF_ERROR(hooks.stop());
  clear(true);
  return Status::ok();
}

Status LlamaEngine::Impl::make_descriptor() {
  std::vector<StateLayer> state_layers;
  const auto default_heads = static_cast<uint32_t>(std::max(1, llama_model_n_head_kv(model)));
  const ggml_type type = options.kv_type == LlamaKvType::kF32 ? GGML_TYPE_F32 : GGML_TYPE_F16;
  for (LayerGraph& graph : hooks.layers()) {
    const ggml_tensor* key = graph.cache_key;
    const ggml_tensor* value = graph.cache_value;
    if (key == nullptr || value == nullptr || key->type != type || value->type != type ||
        graph.mask == nullptr) {
      return unsupported("layers without a plain KV cache of their own");
    }
    if (!ggml_backend_buffer_is_host(key->buffer) || !ggml_backend_buffer_is_host(value->buffer)) {
      return unsupported("a KV cache that is not in host memory");
    }
    if (graph.kv_heads == 0) graph.kv_heads = default_heads;
    if (key->ne[0] % graph.kv_heads != 0 || value->ne[0] % graph.kv_heads != 0 ||
        (graph.has_rope && key->ne[0] != int64_t{graph.kv_heads} * graph.key_dims)) {
      return unsupported("a KV cache whose rows are not whole heads");
    }
    LayerDescriptor layer;
    layer.attention = graph.sliding ? AttentionKind::kSlidingWindow : AttentionKind::kFull;
    layer.window_tokens = graph.window_tokens;
    layer.kv_heads = graph.kv_heads;
    layer.key_dims = static_cast<uint32_t>(key->ne[0]) / layer.kv_heads;
    layer.value_dims = static_cast<uint32_t>(value->ne[0]) / layer.kv_heads;
    describe_rope(graph, layer);
    state_layers.push_back({layer.kv_heads, layer.key_dims, layer.value_dims, graph.sliding});
    descriptor.layers.push_back(std::move(layer));
  }
  if (!options.skip_digest) {
    const std::string directory =
        options.cache_directory.empty() ? default_cache_directory() : options.cache_directory;
    QUIRE_ASSIGN_OR_RETURN(descriptor.weights, file_digest(options.model_path, directory));
    descriptor.tokenizer = descriptor.weights;  // a GGUF carries its tokenizer
  }
  QUIRE_RETURN_IF_ERROR(descriptor.validate());
  model_digest = quire::model_id(descriptor);
  blob = std::make_unique<StateBlob>(std::move(state_layers),
                                     type == GGML_TYPE_F32 ? ElementType::kF32 : ElementType::kF16);
  return Status::ok();
}

std::string LlamaEngine::model_name() const {
  char text[kMetadataBytes];
  if (llama_model_meta_val_str(impl_->model, "general.name", text, sizeof(text)) > 0) return text;
  return std::filesystem::path(impl_->options.model_path).filename().string();
}

}  // namespace quire
