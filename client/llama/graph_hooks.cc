#include "client/llama/graph_hooks.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <numeric>

#include "ggml.h"

namespace quire {

namespace {

constexpr float kMasked = -INFINITY;
constexpr const char* kKeyCachePrefix = "cache_k_l";
constexpr const char* kValueCachePrefix = "cache_v_l";
constexpr const char* kSoftMaxPrefix = "kq_soft_max-";
constexpr const char* kProductPrefix = "kq-";
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

// What every machine can add at once.
using Floats [[gnu::vector_size(16)]] = float;
constexpr uint32_t kFloats = 4;

Floats load_floats(const float* from) {
  Floats values;
  std::memcpy(&values, from, sizeof(values));
  return values;
}

float sum_of(const float* values, uint32_t n) {
  Floats sums[4] = {};
  uint32_t i = 0;
  for (; i + 4 * kFloats <= n; i += 4 * kFloats) {
    for (uint32_t j = 0; j < 4; ++j) sums[j] += load_floats(values + i + j * kFloats);
  }
  float sum = 0;
  for (; i < n; ++i) sum += values[i];
  const Floats all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return sum + ((all[0] + all[1]) + (all[2] + all[3]));
}

void add_to(float* sums, const float* values, size_t n) {
  size_t i = 0;
  for (; i + kFloats <= n; i += kFloats) {
    const Floats added = load_floats(sums + i) + load_floats(values + i);
    std::memcpy(sums + i, &added, sizeof(added));
  }
  for (; i < n; ++i) sums[i] += values[i];
}

}  // namespace

int layer_of_name(const char* name, const char* prefix) {
  const size_t length = std::strlen(prefix);
  if (std::strncmp(name, prefix, length) != 0) return -1;
  const char* first = name + length;
  const char* last = first + std::strlen(first);
  int layer = -1;
  const auto result = std::from_chars(first, last, layer);
  return result.ec == std::errc() && result.ptr == last ? layer : -1;
}

bool GraphHooks::callback(ggml_tensor* tensor, bool ask, void* self) {
  auto* hooks = static_cast<GraphHooks*>(self);
  if (hooks->mode_ == Mode::kOff) return !ask;  // wants nothing; true goes on with the graph
  if (ask) return hooks->on_ask(tensor);
  hooks->on_done(tensor);
  hooks->ended_ = hooks->is_end(tensor);
  return !hooks->ended_;
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
  failure_ = nullptr;
}

void GraphHooks::start_plain() {
  start(Mode::kPlain);
}

void GraphHooks::start_rows(std::span<const uint32_t> positions, uint32_t n_cells) {
  start(Mode::kRows);
  positions_.assign(positions.begin(), positions.end());
  n_cells_ = n_cells;
}

void GraphHooks::start_mass() {
  start(Mode::kMass);
  mass_.clear();
  norms_ = nullptr;
  mass_layers_ = mass_heads_ = 0;
  attention_ = {};
}

void GraphHooks::start_value_mass(std::function<ValueNorms(uint32_t)> norms) {
  start_mass();
  norms_ = std::move(norms);
}

void GraphHooks::start_shares(std::span<const uint32_t> segments, uint32_t n_tokens) {
  start_mass();
  mode_ = Mode::kShares;
  shares_.segments.assign(segments.begin(), segments.end());
  shares_.received.assign(n_tokens, 0.0f);
  shares_.inter_of_segment.assign(segments.size() * n_tokens, 0.0f);
  shares_begin_ = std::accumulate(segments.begin(), segments.end(), 0u);
}

void GraphHooks::start_queries() {
  start(Mode::kQueries);
  queries_.layers.assign(layers_.size(), {});
}

Status GraphHooks::stop() {
  end_graph();
  const Mode mode = mode_;
  mode_ = Mode::kOff;
  in_graph_ = false;
  norms_ = nullptr;
  end_layers_ = 0;
  if (mode == Mode::kRows || mode == Mode::kMass || mode == Mode::kShares) {
    if (graphs_ == 0) fail("no graph was seen");
    if (mode != Mode::kRows && mass_heads_ == 0)
      fail("no softmax of a full-attention layer was seen");
  }
  if (mode == Mode::kQueries) {
    if (graphs_ != 1) fail("queries of more than one graph");
    for (const LlamaEngine::Queries::Layer& layer : queries_.layers)
      if (layer.values.empty() || layer.scale == 0) fail("a layer's queries were not seen");
  }
  if (failure_ == nullptr) return Status::ok();
  const std::string reason = failure_;
  failure_ = nullptr;
  return Status(StatusCode::kInternal, "libllama's graph is not as expected: " + reason);
}

void GraphHooks::fail(const char* what) {
  if (failure_ == nullptr) failure_ = what;
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
  if (ids != nullptr && std::strcmp(ids->name, "inp_tokens") == 0) begin_graph(ids->ne[0]);
  if (mode_ == Mode::kLearn) {
    learn(tensor);
    return false;
  }
  if (!in_graph_) return false;
  if (ended_) {
    fail("it went on behind its end");
    return false;
  }
  if (mode_ == Mode::kRows) {
    patch(tensor);
    return is_end(tensor);
  }
  if (mode_ == Mode::kPlain) return is_end(tensor);
  if (mode_ == Mode::kQueries) return wants_query(tensor);
  if (tensor->op != GGML_OP_SOFT_MAX) return false;
  return sees_prompt(layer_of_name(tensor->name, kSoftMaxPrefix)) || is_end(tensor);
}

bool GraphHooks::is_end(const ggml_tensor* tensor) const {
  return end_layers_ != 0 && tensor->op == GGML_OP_SOFT_MAX &&
         layer_of_name(tensor->name, kSoftMaxPrefix) == static_cast<int>(end_layers_) - 1;
}

bool GraphHooks::sees_prompt(int layer) const {
  if (layer < 0 || static_cast<size_t>(layer) >= layers_.size()) return false;
  return !layers_[layer].sliding ||
         std::all_of(layers_.begin(), layers_.end(),
                     [](const LayerGraph& other) { return other.sliding; });
}

bool GraphHooks::wants_query(ggml_tensor* tensor) {
  const auto in_range = [&](int layer) {
    return layer >= 0 && static_cast<size_t>(layer) < queries_.layers.size();
  };
  if (tensor->op == GGML_OP_SOFT_MAX) {
    const int layer = layer_of_name(tensor->name, kSoftMaxPrefix);
    if (!in_range(layer)) return false;
    // Between product and softmax there must be nothing but the scale: no cap, no bias, no sinks.
    float reals[2];
    std::memcpy(reals, tensor->op_params, sizeof(reals));
    if (layer_of_name(tensor->src[0]->name, kProductPrefix) != layer || reals[1] != 0 ||
        tensor->src[2] != nullptr)
      fail("attention is more than a scaled product");
    queries_.layers[static_cast<size_t>(layer)].scale = reals[0];
    return false;
  }
  return tensor->op == GGML_OP_MUL_MAT && in_range(layer_of_name(tensor->name, kProductPrefix));
}

// product: K q, whose second factor still lies where it was computed.
void GraphHooks::keep_query(const ggml_tensor* product) {
  const ggml_tensor* query = product->src[1];
  if (query->type != GGML_TYPE_F32 || query->data == nullptr || query->nb[0] != sizeof(float) ||
      query->ne[1] != graph_tokens_ || query->ne[3] != 1) {
    fail("queries have an unknown shape");
    return;
  }
  LlamaEngine::Queries::Layer& layer =
      queries_.layers[static_cast<size_t>(layer_of_name(product->name, kProductPrefix))];
  layer.dims = static_cast<uint32_t>(query->ne[0]);
  layer.heads = static_cast<uint32_t>(query->ne[2]);
  layer.values.clear();
  for (int64_t token = 0; token < query->ne[1]; ++token)
    for (int64_t head = 0; head < query->ne[2]; ++head) {
      const auto* row = reinterpret_cast<const float*>(static_cast<const std::byte*>(query->data) +
                                                       head * query->nb[2] + token * query->nb[1]);
      layer.values.insert(layer.values.end(), row, row + query->ne[0]);
    }
}

void GraphHooks::on_done(ggml_tensor* tensor) {
  if (mode_ == Mode::kQueries) keep_query(tensor);
  if (mode_ == Mode::kShares) add_shares(tensor);
  if (mode_ == Mode::kMass && sees_prompt(layer_of_name(tensor->name, kSoftMaxPrefix)))
    add_mass(tensor);
}

void GraphHooks::add_mass(const ggml_tensor* weights) {
  const auto cells = static_cast<uint32_t>(weights->ne[0]);
  const auto tokens = static_cast<uint32_t>(weights->ne[1]);
  const auto heads = static_cast<uint32_t>(weights->ne[2]);
  if (weights->type != GGML_TYPE_F32 || weights->data == nullptr ||
      weights->nb[0] != sizeof(float)) {
    fail("softmax is not plain fp32");
    return;
  }
  ValueNorms norms;
  if (norms_) {
    norms = norms_(static_cast<uint32_t>(layer_of_name(weights->name, kSoftMaxPrefix)));
    if (norms.heads == 0) {
      fail("a layer's cached values cannot be read");
      return;
    }
    if (heads % norms.heads != 0) {
      fail("query heads do not share the KV heads evenly");
      return;
    }
  }
  if (mass_.size() < cells) mass_.resize(cells);
  if (graphs_ == 1) ++mass_layers_;
  mass_heads_ = heads;
  const double scale = 1.0 / heads;
  for (uint32_t head = 0; head < heads; ++head) {
    columns_.assign(cells, 0.0);
    for (uint32_t token = 0; token < tokens; ++token) {
      const auto* row =
          reinterpret_cast<const float*>(static_cast<const std::byte*>(weights->data) +
                                         head * weights->nb[2] + token * weights->nb[1]);
      for (uint32_t cell = 0; cell < cells; ++cell) columns_[cell] += row[cell];
      if (keep_attention_ && graphs_ == 1) {
        attention_.values.insert(attention_.values.end(), row, row + cells);
      }
    }
    if (norms_) {
      // Cells without a norm hold nothing that was loaded.
      const std::span<const float> of_head = norms.of(head / (heads / norms.heads));
      for (uint32_t cell = 0; cell < cells; ++cell)
        columns_[cell] *= cell < of_head.size() ? of_head[cell] : 0.0f;
    }
    for (uint32_t cell = 0; cell < cells; ++cell) mass_[cell] += columns_[cell] * scale;
  }
  if (keep_attention_ && graphs_ == 1) {
    attention_.layers = mass_layers_;
    attention_.heads = heads;
    attention_.tokens = tokens;
    attention_.cells = cells;
  }
}

void GraphHooks::add_shares(const ggml_tensor* weights) {
  const size_t n_tokens = shares_.received.size();
  if (weights->type != GGML_TYPE_F32 || weights->data == nullptr ||
      weights->nb[0] != sizeof(float) || weights->ne[1] != graph_tokens_ ||
      weights->ne[0] < static_cast<int64_t>(shares_begin_ + tokens_before_ + graph_tokens_) ||
      tokens_before_ + graph_tokens_ > n_tokens) {
    fail("softmax has an unknown shape");
    return;
  }
  if (graphs_ == 1) ++mass_layers_;
  mass_heads_ = static_cast<uint32_t>(weights->ne[2]);
  for (int64_t head = 0; head < weights->ne[2]; ++head) {
    for (uint32_t i = 0; i < graph_tokens_; ++i) {
      const auto* row =
          reinterpret_cast<const float*>(static_cast<const std::byte*>(weights->data) +
                                         head * weights->nb[2] + i * weights->nb[1]);
      const size_t token = tokens_before_ + i;
      for (size_t segment = 0; segment < shares_.segments.size(); ++segment) {
        shares_.inter_of_segment[segment * n_tokens + token] +=
            sum_of(row, shares_.segments[segment]);
        row += shares_.segments[segment];
      }
      // Cells behind the row's own are zero.
      add_to(shares_.received.data(), row, token + 1);
    }
  }
}

reuse::AttentionShares GraphHooks::take_shares() {
  const size_t n_tokens = shares_.received.size();
  const float scale = 1.0f / (static_cast<float>(mass_layers_) * static_cast<float>(mass_heads_));
  for (float& value : shares_.inter_of_segment) value *= scale;
  for (size_t i = 0; i < n_tokens; ++i)
    shares_.received[i] *= scale / static_cast<float>(n_tokens - i);
  return std::move(shares_);
}

std::vector<float> GraphHooks::take_mass(uint32_t n_cells) const {
  std::vector<float> mass(n_cells, 0.0f);
  const double scale = 1.0 / mass_layers_;
  for (uint32_t i = 0; i < std::min<size_t>(n_cells, mass_.size()); ++i) {
    mass[i] = static_cast<float>(mass_[i] * scale);
  }
  return mass;
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
    auto* layer = at(layer_of_name(tensor->name, "Kcur-"));
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
    if (factors != nullptr && factors->data != nullptr && factors->type == GGML_TYPE_F32) {
      const auto* values = static_cast<const float*>(factors->data);
      layer->rope_factors.assign(values, values + layer->rotary_dims / 2);
    }
  } else if (tensor->op == GGML_OP_SOFT_MAX && tensor->src[1] != nullptr) {
    const int index = layer_of_name(tensor->name, kSoftMaxPrefix);
    auto* layer = at(index);
    const ggml_tensor* mask = tensor->src[1];
    if (layer == nullptr || mask->data == nullptr) return;
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
      if (layer_of_name(tensor->name, "Kcur-") >= 0) ++ropes_;
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
  if (positions->type != GGML_TYPE_I32 || positions->ne[0] != graph_tokens_) {
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
  const int64_t n_entries = indices->ne[0];
  if (indices->type != GGML_TYPE_I64 || n_entries % graph_tokens_ != 0) {
    fail("cache indices have an unknown shape");
    return;
  }
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
  if ((!is_f16 && mask->type != GGML_TYPE_F32) || mask->ne[1] < graph_tokens_ ||
      mask->ne[0] < n_cells_ || mask->ne[3] != 1) {
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
