// A made-up dump: a layer with and one without a window, K with channels that are large constants,
// as real keys have them.
#ifndef QUIRE_TESTS_TOOLS_CODEC_TOY_DUMP_H_
#define QUIRE_TESTS_TOOLS_CODEC_TOY_DUMP_H_

#include <random>

#include "bench/codec/kv_dump.h"

namespace quire::bench {

inline KvDump toy_dump(uint32_t seed, uint32_t n_tokens, uint32_t n_queries) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  KvDump dump;
  dump.model = "toy";
  dump.n_tokens = n_tokens;
  dump.n_queries = n_queries;
  dump.first_query = n_tokens - n_queries;
  for (const uint32_t window : {0u, 5u}) {
    DumpLayer layer;
    layer.shape.kv_heads = 2;
    layer.shape.key_dims = 16;
    layer.shape.value_dims = 8;
    layer.shape.rope_style = RopeStyle::kNeox;
    layer.shape.rotary_dims = 8;
    layer.shape.inverse_frequencies = {1.0f, 0.1f, 0.01f, 0.001f};
    layer.shape.window_tokens = window;
    if (window != 0) layer.shape.attention = AttentionKind::kSlidingWindow;
    layer.query_heads = 4;
    layer.attention_scale = 0.25f;
    for (uint32_t token = 0; token < n_tokens; ++token)
      for (uint32_t head = 0; head < 2; ++head) {
        for (uint32_t dim = 0; dim < 16; ++dim)
          layer.keys.push_back(normal(random) + (dim == 3 ? 50.0f : 0.0f));
        for (uint32_t dim = 0; dim < 8; ++dim) layer.values.push_back(normal(random));
      }
    for (uint32_t i = 0; i < n_queries * 4 * 16; ++i) layer.queries.push_back(normal(random));
    dump.layers.push_back(std::move(layer));
  }
  return dump;
}

}  // namespace quire::bench

#endif  // QUIRE_TESTS_TOOLS_CODEC_TOY_DUMP_H_
