#include "client/llama/attention_gathering.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "client/llama/graph_nodes.h"
#include "ggml.h"

namespace quire {

namespace {

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

std::vector<uint32_t> layers_of(const std::vector<MassGathering::Layer>& layers) {
  std::vector<uint32_t> numbers;
  for (const MassGathering::Layer& layer : layers) numbers.push_back(layer.layer);
  return numbers;
}

}  // namespace

void AttentionGathering::begin_graph(uint32_t n_tokens) {
  if (graphs_ > 0) end_graph();
  tokens_before_ += graph_tokens_;
  graph_tokens_ = n_tokens;
  ++graphs_;
}

std::string AttentionGathering::finish() {
  if (graphs_ == 0) fail("no graph was seen");
  if (graphs_ > 0) end_graph();
  end_decode();
  return failure_;
}

void AttentionGathering::fail(const char* what) {
  if (failure_.empty()) failure_ = what;
}

bool SoftmaxGathering::wants(const ggml_tensor* node) {
  if (node->op != GGML_OP_SOFT_MAX) return false;
  const int layer = layer_of_name(node->name, kSoftMaxPrefix);
  return layer >= 0 &&
         std::binary_search(layers_.begin(), layers_.end(), static_cast<uint32_t>(layer));
}

void SoftmaxGathering::end_graph() {
  if (layers_in_graph_ != layers_.size()) fail("a layer's softmax was not seen");
  layers_in_graph_ = 0;
}

bool SoftmaxGathering::enter(const ggml_tensor* weights) {
  ++layers_in_graph_;
  if (weights->type != GGML_TYPE_F32 || !in_host_memory(weights) ||
      weights->nb[0] != sizeof(float) || weights->ne[1] != graph_tokens_ || weights->ne[3] != 1) {
    fail("softmax is not plain fp32 of the graph's tokens");
    return false;
  }
  heads_ = static_cast<uint32_t>(weights->ne[2]);
  return true;
}

const float* SoftmaxGathering::row_of(const ggml_tensor* weights, uint32_t head,
                                      uint32_t token) const {
  return reinterpret_cast<const float*>(static_cast<const std::byte*>(weights->data) +
                                        head * weights->nb[2] + token * weights->nb[1]);
}

MassGathering::MassGathering(const std::vector<Layer>& layers, NormsOf norms_of,
                             LlamaEngine::Attention* kept)
    : SoftmaxGathering(layers_of(layers)), norms_of_(std::move(norms_of)), kept_(kept) {
  for (const Layer& layer : layers) weights_.push_back(layer.weight);
}

void MassGathering::add(const ggml_tensor* node) {
  if (!enter(node)) return;
  const auto cells = static_cast<uint32_t>(node->ne[0]);
  const auto layer = static_cast<uint32_t>(layer_of_name(node->name, kSoftMaxPrefix));
  const auto found = std::lower_bound(layers_.begin(), layers_.end(), layer);
  const double weight = weights_[static_cast<size_t>(found - layers_.begin())];
  ValueNorms norms;
  if (norms_of_) {
    norms = norms_of_(layer);
    if (norms.heads == 0) {
      fail("a layer's cached values cannot be read");
      return;
    }
    if (heads_ % norms.heads != 0) {
      fail("query heads do not share the KV heads evenly");
      return;
    }
  }
  if (mass_.size() < cells) mass_.resize(cells);
  const bool keeps = kept_ != nullptr && graphs_ == 1;
  const double scale = weight / heads_;
  for (uint32_t head = 0; head < heads_; ++head) {
    columns_.assign(cells, 0.0);
    for (uint32_t token = 0; token < graph_tokens_; ++token) {
      const float* row = row_of(node, head, token);
      for (uint32_t cell = 0; cell < cells; ++cell) columns_[cell] += row[cell];
      if (keeps) kept_->values.insert(kept_->values.end(), row, row + cells);
    }
    if (norms_of_) {
      // Cells without a norm hold nothing that was loaded.
      const std::span<const float> of_head = norms.of(head / (heads_ / norms.heads));
      for (uint32_t cell = 0; cell < cells; ++cell)
        columns_[cell] *= cell < of_head.size() ? of_head[cell] : 0.0f;
    }
    for (uint32_t cell = 0; cell < cells; ++cell) mass_[cell] += columns_[cell] * scale;
  }
  if (!keeps) return;
  ++kept_->layers;
  kept_->heads = heads_;
  kept_->tokens = graph_tokens_;
  kept_->cells = cells;
}

std::vector<float> MassGathering::take(uint32_t n_cells) const {
  std::vector<float> mass(n_cells, 0.0f);
  for (uint32_t i = 0; i < std::min<size_t>(n_cells, mass_.size()); ++i) {
    mass[i] = static_cast<float>(mass_[i]);
  }
  return mass;
}

ShareGathering::ShareGathering(std::vector<uint32_t> layers, std::span<const uint32_t> runs,
                               uint32_t n_tokens)
    : SoftmaxGathering(std::move(layers)), begin_(std::accumulate(runs.begin(), runs.end(), 0u)) {
  shares_.segments.assign(runs.begin(), runs.end());
  shares_.received.assign(n_tokens, 0.0f);
  shares_.inter_of_segment.assign(runs.size() * n_tokens, 0.0f);
}

void ShareGathering::add(const ggml_tensor* node) {
  const uint32_t heads_before = heads_;
  if (!enter(node)) return;
  if (heads_before != 0 && heads_before != heads_) {
    fail("layers have different numbers of heads");
    return;
  }
  const size_t n_tokens = shares_.received.size();
  if (node->ne[0] < int64_t{begin_} + tokens_before_ + graph_tokens_ ||
      tokens_before_ + graph_tokens_ > n_tokens) {
    fail("softmax has an unknown shape");
    return;
  }
  for (uint32_t head = 0; head < heads_; ++head) {
    for (uint32_t i = 0; i < graph_tokens_; ++i) {
      const float* row = row_of(node, head, i);
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

reuse::AttentionShares ShareGathering::take() {
  const size_t n_tokens = shares_.received.size();
  const float scale = 1.0f / (static_cast<float>(layers_.size()) * static_cast<float>(heads_));
  for (float& value : shares_.inter_of_segment) value *= scale;
  for (size_t i = 0; i < n_tokens; ++i)
    shares_.received[i] *= scale / static_cast<float>(n_tokens - i);
  return std::move(shares_);
}

bool QueryGathering::wants(const ggml_tensor* node) {
  const auto in_range = [&](int layer) {
    return layer >= 0 && static_cast<size_t>(layer) < queries_.layers.size();
  };
  if (node->op == GGML_OP_SOFT_MAX) {
    const int layer = layer_of_name(node->name, kSoftMaxPrefix);
    if (!in_range(layer)) return false;
    // Between product and softmax there must be nothing but the scale: no cap, no bias, no sinks.
    float reals[2];
    std::memcpy(reals, node->op_params, sizeof(reals));
    if (layer_of_name(node->src[0]->name, kProductPrefix) != layer || reals[1] != 0 ||
        node->src[2] != nullptr)
      fail("attention is more than a scaled product");
    queries_.layers[static_cast<size_t>(layer)].scale = reals[0];
    return false;
  }
  return node->op == GGML_OP_MUL_MAT && in_range(layer_of_name(node->name, kProductPrefix));
}

// node: K q, whose second factor still lies where it was computed.
void QueryGathering::add(const ggml_tensor* node) {
  const ggml_tensor* query = node->src[1];
  if (query->type != GGML_TYPE_F32 || !in_host_memory(query) || query->nb[0] != sizeof(float) ||
      query->ne[1] != graph_tokens_ || query->ne[3] != 1) {
    fail("queries have an unknown shape");
    return;
  }
  LlamaEngine::Queries::Layer& layer =
      queries_.layers[static_cast<size_t>(layer_of_name(node->name, kProductPrefix))];
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

void QueryGathering::end_graph() {
  for (const LlamaEngine::Queries::Layer& layer : queries_.layers)
    if (layer.values.empty() || layer.scale == 0) fail("a layer's queries were not seen");
}

void QueryGathering::end_decode() {
  if (graphs_ > 1) fail("queries of more than one graph");
}

}  // namespace quire
