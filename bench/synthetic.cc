#include "bench/synthetic.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace quire::bench {
namespace {

// Token ids stay below this, so that they could be those of a real vocabulary.
constexpr uint64_t kVocabulary = 100'000;
constexpr uint64_t kNumberedBytes = 64;

// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

// f16 values between 1 and 2: finite, and every mantissa is used.
void fill_section(MutableByteSpan section, uint64_t seed, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes; at += sizeof(uint64_t)) {
    const uint64_t random = (mix(seed + at) & 0x03FF03FF03FF03FF) | 0x3C003C003C003C00;
    std::memcpy(section.data() + at, &random, std::min<uint64_t>(sizeof(random), bytes - at));
  }
}

}  // namespace

ModelDescriptor synthetic_model(const SyntheticShape& shape, uint64_t seed) {
  ModelDescriptor model;
  for (size_t i = 0; i < model.weights.bytes.size(); ++i) {
    model.weights.bytes[i] = static_cast<uint8_t>(mix(seed + i));
    model.tokenizer.bytes[i] = static_cast<uint8_t>(mix(seed + 1000 + i));
  }
  LayerDescriptor layer;
  layer.rope_style = RopeStyle::kNeox;
  layer.kv_heads = shape.kv_heads;
  layer.key_dims = layer.value_dims = layer.rotary_dims = shape.head_dims;
  for (uint32_t i = 0; i < shape.head_dims / 2; ++i)
    layer.inverse_frequencies.push_back(
        static_cast<float>(std::pow(10000.0, -2.0 * i / shape.head_dims)));
  model.layers.assign(shape.layers, layer);
  return model;
}

Expected<SyntheticObject> SyntheticObject::make(const SyntheticShape& shape, uint64_t model_seed,
                                                uint64_t payload_bytes) {
  SyntheticObject object;
  object.shape_ = shape;
  object.model_ = synthetic_model(shape, model_seed);
  QUIRE_RETURN_IF_ERROR(object.model_.validate());
  const uint64_t per_token = shape.bytes_per_token();
  const uint64_t n_tokens =
      std::max<uint64_t>(kMatchTokensMin, (payload_bytes + per_token - 1) / per_token);
  if (n_tokens > kChunkTokensMax)
    return Status(StatusCode::kInvalidArgument, "too many tokens; use a model with more layers");
  object.header_.model = model_id(object.model_);
  object.header_.coverage = {0, shape.layers, 0, shape.kv_heads};
  object.header_.tokens.resize(n_tokens);
  object.section_bytes_.assign(2ull * shape.layers,
                               2ull * n_tokens * shape.kv_heads * shape.head_dims);
  return object;
}

Status SyntheticObject::fill(uint64_t number, bool all_bytes) {
  const uint64_t seed = mix(number);
  for (size_t i = 0; i < header_.tokens.size(); ++i)
    header_.tokens[i] = static_cast<TokenId>(mix(seed + i) % kVocabulary);
  fill_ids(header_, {});
  QUIRE_ASSIGN_OR_RETURN(const RepresentationWriter writer,
                         RepresentationWriter::plan(header_, section_bytes_));
  const bool is_new = bytes_.size() != writer.total_bytes();
  bytes_.resize(writer.total_bytes());
  for (uint32_t layer = 0; layer < shape_.layers; ++layer) {
    for (const Plane plane : {Plane::kKey, Plane::kValue}) {
      const MutableByteSpan section = writer.section(bytes_, layer, plane);
      const uint64_t bytes =
          is_new || all_bytes ? section.size() : std::min<uint64_t>(kNumberedBytes, section.size());
      fill_section(section, mix(seed + 2 * layer + static_cast<uint64_t>(plane)), bytes);
    }
  }
  writer.finish(bytes_);
  return Status::ok();
}

}  // namespace quire::bench
