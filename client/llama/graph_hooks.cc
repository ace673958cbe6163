#include "client/llama/graph_hooks.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "client/llama/graph_nodes.h"
#include "ggml.h"

namespace quire {

namespace {

constexpr float kMasked = -INFINITY;
// op_params of ggml_rope_ext, in 32-bit words.
enum RopeWord { kRopeDims = 1, kRopeMode = 2, kRopeOriginalContext = 4, kRopeBase = 5 };

const ggml_tensor* root_of(const ggml_tensor* tensor) {
  while (tensor->view_src != nullptr) tensor = tensor->view_src;
  return tensor;
}

void set_mask_value(std::byte* element, bool is_f16, bool visible) {
  const float value = visible ? 0.0f : kMasked;
  if (is_f16) {
    const ggml_fp16_t half = ggml_fp32_to_fp16(value);
    std::memcpy(element, &half, sizeof(half));
  } else {
    std::memcpy(element, &value, sizeof(value));
  }
}

}  // namespace

bool GraphHooks::callback(ggml_tensor* tensor, bool ask, void* self) {
  auto* hooks = static_cast<GraphHooks*>(self);
  if (hooks->mode_ == Mode::kOff) return !ask;  // wants nothing; true goes on with the graph
  if (ask) return hooks->on_ask(tensor);
  return hooks->on_done(tensor);
}

void GraphHooks::start_learning(uint32_t n_layers) {
  mode_ = Mode::kLearn;
  layers_.assign(n_layers, {});
  mask_rows_.assign(n_layers, {});
}

void GraphHooks::start(Mode mode) {
  mode_ = mode;
  tokens_before_ = graph_tokens_ = graphs_ = 0;
  in_graph_ = ended_ = false;
  gathering_ = nullptr;
  failure_.clear();
}

void GraphHooks::start_plain() {
  start(Mode::kPlain);
}

void GraphHooks::start_rows(std::span<const uint32_t> positions, uint32_t n_cells) {
  start(Mode::kRows);
  positions_.assign(positions.begin(), positions.end());
  n_cells_ = n_cells;
}

void GraphHooks::start_gathering(AttentionGathering& gathering) {
  start(Mode::kGather);
  gathering_ = &gathering;
}

Status GraphHooks::stop() {
  end_graph();
  const bool needs_graph = mode_ == Mode::kRows || end_layers_ != 0;
  mode_ = Mode::kOff;
  in_graph_ = false;
  end_layers_ = 0;
  if (needs_graph && graphs_ == 0) fail("no graph was seen");
  if (gathering_ != nullptr) {
    const std::string missing = gathering_->finish();
    gathering_ = nullptr;
    if (!missing.empty()) fail(missing);
  }
  if (failure_.empty()) return Status::ok();
  const std::string reason = std::exchange(failure_, {});
  return Status(StatusCode::kInternal, "libllama's graph is not as expected: " + reason);
}

void GraphHooks::fail(const std::string& what) {
  if (failure_.empty()) failure_ = what;
}

uint32_t GraphHooks::rows_in_graph() const {
  if (tokens_before_ >= positions_.size()) return 0;
  return std::min<uint32_t>(graph_tokens_,
                            static_cast<uint32_t>(positions_.size()) - tokens_before_);
}

void GraphHooks::begin_graph(int64_t n_tokens) {
  end_graph();
  ended_ = false;
  tokens_before_ += graph_tokens_;
  graph_tokens_ = static_cast<uint32_t>(n_tokens);
  in_graph_ = true;
  ++graphs_;
  key_writes_ = value_writes_ = masks_ = ropes_ = 0;
  patched_.clear();
  if (gathering_ != nullptr) gathering_->begin_graph(graph_tokens_);
}

void GraphHooks::end_graph() {
  if (!in_graph_) return;
  if (end_layers_ != 0 && !ended_) fail("it did not end where it was told to");
  if (mode_ != Mode::kRows) return;
  const auto n_layers = end_layers_ != 0 ? end_layers_ : static_cast<uint32_t>(layers_.size());
  const auto n_rotated = static_cast<uint32_t>(
      std::count_if(layers_.begin(), layers_.begin() + std::min<size_t>(n_layers, layers_.size()),
                    [](const LayerGraph& layer) { return layer.has_rope; }));
  if (ropes_ < n_rotated) fail("a rope is missing");
  if (key_writes_ != n_layers || value_writes_ != n_layers) fail("a cache write is missing");
  if (masks_ != n_layers) fail("an attention mask is missing");
}

bool GraphHooks::on_ask(ggml_tensor* tensor) {
  const ggml_tensor* ids =
      tensor->src[1] != nullptr && tensor->op == GGML_OP_GET_ROWS ? tensor->src[1] : nullptr;
  if (ids != nullptr && std::strcmp(ids->name, kTokenIdsName) == 0) begin_graph(ids->ne[0]);
  if (mode_ == Mode::kLearn) {
    learn(tensor);
    return false;
  }
  if (!in_graph_) return false;
  // Rows are patched behind the end too: what should not be computed should not lie anywhere else.
  if (mode_ == Mode::kRows) patch(tensor);
  if (ended_) {
    fail("it went on behind its end");
    return false;
  }
  return is_end(tensor) || (gathering_ != nullptr && gathering_->wants(tensor));
}

bool GraphHooks::on_done(ggml_tensor* tensor) {
  if (gathering_ != nullptr && gathering_->wants(tensor)) gathering_->add(tensor);
  ended_ = is_end(tensor);
  if (!ended_) return true;
  return end_fault_ && !end_fault_(tensor);
}

bool GraphHooks::is_end(const ggml_tensor* tensor) const {
  return end_layers_ != 0 && tensor->op == GGML_OP_SOFT_MAX &&
         layer_of_name(tensor->name, kSoftMaxPrefix) == static_cast<int>(end_layers_) - 1;
}

void GraphHooks::learn(ggml_tensor* tensor) {
  const auto at = [&](int layer) {
    return layer >= 0 && static_cast<size_t>(layer) < layers_.size() ? &layers_[layer] : nullptr;
  };
  if (tensor->op == GGML_OP_SET_ROWS) {
    auto* cache = const_cast<ggml_tensor*>(root_of(tensor));
    if (auto* layer = at(layer_of_name(cache->name, kKeyCachePrefix))) layer->cache_key = cache;
    if (auto* layer = at(layer_of_name(cache->name, kValueCachePrefix))) layer->cache_value = cache;
  } else if (tensor->op == GGML_OP_ROPE) {
    auto* layer = at(layer_of_name(tensor->name, kKeyPrefix));
    if (layer == nullptr) return;
    const int32_t* words = tensor->op_params;
    layer->has_rope = true;
    layer->key_dims = static_cast<uint32_t>(tensor->ne[0]);
    layer->kv_heads = static_cast<uint32_t>(tensor->ne[1]);
    layer->rotary_dims = static_cast<uint32_t>(words[kRopeDims]);
    layer->rope_mode = words[kRopeMode];
    layer->original_context = static_cast<uint32_t>(words[kRopeOriginalContext]);
    float reals[6];
    std::memcpy(reals, words + kRopeBase, sizeof(reals));
    layer->rope_base = reals[0];
    layer->rope_scale = reals[1];
    layer->yarn_ext_factor = reals[2];
    layer->attention_factor = reals[3];
    layer->yarn_beta_fast = reals[4];
    layer->yarn_beta_slow = reals[5];
    const ggml_tensor* factors = tensor->src[2];
    if (factors == nullptr) return;
    if (!in_host_memory(factors) || factors->type != GGML_TYPE_F32 ||
        factors->ne[0] < layer->rotary_dims / 2) {
      layer->rope_mode = kRopeUnknown;
      return;
    }
    const auto* values = static_cast<const float*>(factors->data);
    layer->rope_factors.assign(values, values + layer->rotary_dims / 2);
  } else if (tensor->op == GGML_OP_MUL_MAT_ID) {
    has_experts_ = true;
  } else if (tensor->op == GGML_OP_SOFT_MAX && tensor->src[1] != nullptr) {
    const int index = layer_of_name(tensor->name, kSoftMaxPrefix);
    auto* layer = at(index);
    const ggml_tensor* mask = tensor->src[1];
    if (layer == nullptr || !in_host_memory(mask)) return;
    layer->mask = mask;
    std::vector<float>& row = mask_rows_[static_cast<size_t>(index)];
    row.resize(static_cast<size_t>(mask->ne[0]));
    if (mask->type == GGML_TYPE_F16) {
      ggml_fp16_to_fp32_row(static_cast<const ggml_fp16_t*>(mask->data), row.data(), mask->ne[0]);
    } else {
      std::memcpy(row.data(), mask->data, row.size() * sizeof(float));
    }
  }
}

bool GraphHooks::once(const ggml_tensor* tensor) {
  if (std::find(patched_.begin(), patched_.end(), tensor) != patched_.end()) return false;
  patched_.push_back(tensor);
  return true;
}

void GraphHooks::patch(ggml_tensor* tensor) {
  switch (tensor->op) {
    case GGML_OP_ROPE:
      if (layer_of_name(tensor->name, kKeyPrefix) >= 0) ++ropes_;
      patch_positions(tensor->src[1]);
      break;
    case GGML_OP_SET_ROWS: {
      const ggml_tensor* cache = root_of(tensor);
      const bool key = layer_of_name(cache->name, kKeyCachePrefix) >= 0;
      if (!key && layer_of_name(cache->name, kValueCachePrefix) < 0) {
        fail("a write to an unknown cache");
        break;
      }
      ++(key ? key_writes_ : value_writes_);
      patch_destinations(tensor->src[1], cache, key);
      break;
    }
    case GGML_OP_SOFT_MAX: {
      const int layer = layer_of_name(tensor->name, kSoftMaxPrefix);
      if (layer < 0) break;  // a router of experts, not attention
      if (static_cast<size_t>(layer) >= layers_.size() || tensor->src[1] == nullptr) {
        fail("an attention without mask");
        break;
      }
      ++masks_;
      patch_mask(tensor->src[1], static_cast<uint32_t>(layer));
      break;
    }
    case GGML_OP_FLASH_ATTN_EXT:
      fail("flash attention is on");
      break;
    default:
      break;
  }
}

void GraphHooks::patch_positions(ggml_tensor* positions) {
  if (!once(positions)) return;
  if (positions == nullptr || !in_host_memory(positions) || positions->type != GGML_TYPE_I32 ||
      positions->ne[0] != graph_tokens_) {
    fail("positions have an unknown shape");
    return;
  }
  auto* values = static_cast<int32_t*>(positions->data);
  for (uint32_t i = 0; i < rows_in_graph(); ++i) {
    values[i] = static_cast<int32_t>(positions_[tokens_before_ + i]);
  }
}

void GraphHooks::patch_destinations(ggml_tensor* indices, const ggml_tensor* cache, bool key) {
  if (!once(indices)) return;
  if (indices == nullptr || !in_host_memory(indices) || indices->type != GGML_TYPE_I64 ||
      indices->ne[0] % graph_tokens_ != 0) {
    fail("cache indices have an unknown shape");
    return;
  }
  const int64_t n_entries = indices->ne[0];
  const int64_t per_token = n_entries / graph_tokens_;
  const bool transposed = per_token > 1;
  if (transposed && (key || per_token != cache->ne[0])) {
    fail("cache indices do not fit the cache");
    return;
  }
  auto* values = static_cast<int64_t*>(indices->data);
  const int64_t cells = cache->ne[1];
  for (uint32_t i = 0; i < rows_in_graph(); ++i) {
    const auto cell = static_cast<int64_t>(positions_[tokens_before_ + i]);
    for (int64_t j = 0; j < per_token; ++j) values[i * per_token + j] = j * cells + cell;
  }
}

void GraphHooks::patch_mask(ggml_tensor* mask, uint32_t layer) {
  if (!once(mask)) return;
  const bool is_f16 = mask->type == GGML_TYPE_F16;
  if (!in_host_memory(mask) || (!is_f16 && mask->type != GGML_TYPE_F32) ||
      mask->ne[1] < graph_tokens_ || mask->ne[0] < n_cells_ || mask->ne[3] != 1) {
    fail("the attention mask has an unknown shape");
    return;
  }
  const LayerGraph& shape = layers_[layer];
  for (uint32_t i = 0; i < rows_in_graph(); ++i) {
    const uint32_t own = positions_[tokens_before_ + i];
    auto* element = static_cast<std::byte*>(mask->data) + i * mask->nb[1];
    for (uint32_t cell = 0; cell < static_cast<uint32_t>(mask->ne[0]); ++cell) {
      bool visible = cell <= own && cell < n_cells_;
      if (visible && shape.sliding) visible = own - cell < shape.window_tokens;
      if (leak_) visible = cell < n_cells_;
      set_mask_value(element, is_f16, visible);
      element += mask->nb[0];
    }
  }
}

}  // namespace quire
