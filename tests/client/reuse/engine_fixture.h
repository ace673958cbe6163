// A toy engine for load and encode tests: f32 KV, K rows as [row][head][dim], V transposed as
// [head][dim][row], three layers that differ in rope.
#ifndef QUIRE_TESTS_CLIENT_REUSE_ENGINE_FIXTURE_H_
#define QUIRE_TESTS_CLIENT_REUSE_ENGINE_FIXTURE_H_

#include <cmath>
#include <random>
#include <vector>

#include "client/reuse/encode.h"
#include "client/reuse/load.h"

namespace quire::reuse {

inline ModelDescriptor toy_model() {
  ModelDescriptor model;
  model.weights.bytes.fill(1);
  LayerDescriptor layer;
  layer.kv_heads = 2;
  layer.key_dims = 8;
  layer.value_dims = 6;
  layer.rope_style = RopeStyle::kNeox;
  layer.rotary_dims = 8;
  layer.inverse_frequencies = {1.0f, 0.1f, 0.01f, 0.001f};
  model.layers.push_back(layer);
  layer.rope_style = RopeStyle::kInterleaved;  // another base, a part of the dims
  layer.rotary_dims = 4;
  layer.inverse_frequencies = {0.7f, 0.03f};
  layer.attention = AttentionKind::kSlidingWindow;
  layer.window_tokens = 512;
  model.layers.push_back(layer);
  layer.rope_style = RopeStyle::kNone;
  layer.rotary_dims = 0;
  layer.inverse_frequencies.clear();
  layer.attention = AttentionKind::kFull;
  layer.window_tokens = 0;
  model.layers.push_back(layer);
  return model;
}

class ToyEngine {
 public:
  ToyEngine(const ModelDescriptor& model, int64_t n_rows, float fill)
      : model_(model), n_rows_(n_rows) {
    for (const LayerDescriptor& layer : model.layers) {
      planes_.emplace_back(n_rows * layer.kv_heads * layer.key_dims, fill);
      planes_.emplace_back(n_rows * layer.kv_heads * layer.value_dims, fill);
    }
  }

  void randomize(uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (auto& plane : planes_)
      for (float& value : plane) value = normal(random);
  }

  EnginePlane plane(uint32_t layer, Plane which) {
    const LayerDescriptor& shape = model_.layers[layer];
    EnginePlane plane;
    plane.data = reinterpret_cast<std::byte*>(values(layer, which).data());
    plane.n_rows = n_rows_;
    plane.element = ElementType::kF32;
    if (which == Plane::kKey) {
      plane.token_stride = shape.kv_heads * shape.key_dims * 4;
      plane.head_stride = shape.key_dims * 4;
      plane.dim_stride = 4;
    } else {
      plane.token_stride = 4;
      plane.head_stride = shape.value_dims * n_rows_ * 4;
      plane.dim_stride = n_rows_ * 4;
    }
    return plane;
  }

  EnginePlaneOf planes() {
    return [this](uint32_t layer, Plane which) { return plane(layer, which); };
  }

  float& at(uint32_t layer, Plane which, int64_t row, uint32_t head, uint32_t dim) {
    const EnginePlane view = plane(layer, which);
    return *reinterpret_cast<float*>(view.data + row * view.token_stride + head * view.head_stride +
                                     dim * view.dim_stride);
  }

  std::vector<float>& values(uint32_t layer, Plane which) {
    return planes_[layer * 2 + static_cast<uint32_t>(which)];
  }

  uint32_t dims(uint32_t layer, Plane which) const {
    const LayerDescriptor& shape = model_.layers[layer];
    return which == Plane::kKey ? shape.key_dims : shape.value_dims;
  }

 private:
  ModelDescriptor model_;
  int64_t n_rows_;
  std::vector<std::vector<float>> planes_;
};

// One element of a key after a turn by `delta` positions, in double.
inline double rotated_key(ToyEngine& engine, const ModelDescriptor& model, uint32_t layer,
                          int64_t row, uint32_t head, uint32_t dim, double delta) {
  const LayerDescriptor& shape = model.layers[layer];
  if (dim >= shape.rotary_dims) return engine.at(layer, Plane::kKey, row, head, dim);
  const uint32_t half = shape.rotary_dims / 2;
  const bool neox = shape.rope_style == RopeStyle::kNeox;
  const uint32_t pair = neox ? dim % half : dim / 2;
  const bool second = neox ? dim >= half : dim % 2 == 1;
  const double x = engine.at(layer, Plane::kKey, row, head, neox ? pair : 2 * pair);
  const double y = engine.at(layer, Plane::kKey, row, head, neox ? pair + half : 2 * pair + 1);
  const double angle = delta * static_cast<double>(shape.inverse_frequencies[pair]);
  return second ? x * std::sin(angle) + y * std::cos(angle)
                : x * std::cos(angle) - y * std::sin(angle);
}

inline RepresentationHeader toy_header(const ModelDescriptor& model, uint32_t n_tokens,
                                       CodecId codec, PositionFrame frame, uint64_t base_position) {
  RepresentationHeader header;
  header.codec = codec;
  header.frame = frame;
  header.model = model_id(model);
  header.base_position = base_position;
  header.coverage = {0, static_cast<uint32_t>(model.layers.size()), 0, 2};
  for (uint32_t i = 0; i < n_tokens; ++i) header.tokens.push_back(1000 + i);
  fill_ids(header, {});
  return header;
}

}  // namespace quire::reuse

#endif  // QUIRE_TESTS_CLIENT_REUSE_ENGINE_FIXTURE_H_
