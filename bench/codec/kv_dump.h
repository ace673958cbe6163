// Real KV of a model over real text, with queries that look at it: what the codec report is made
// from. In a file: safetensors "layers.N.key" (before rope), ".value" [token][head][dim], ".query"
// (after rope, as they enter the dot product) [query][head][dim], ".inverse_frequencies"; the
// metadata holds the rest.
#ifndef QUIRE_BENCH_CODEC_KV_DUMP_H_
#define QUIRE_BENCH_CODEC_KV_DUMP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/ids.h"
#include "base/status.h"

namespace quire::bench {

inline constexpr uint32_t kDumpTokensMax = 1u << 16;

struct DumpLayer {
  LayerDescriptor shape;  // heads, dims, rope, window
  uint32_t query_heads = 0;
  float attention_scale = 0;  // of q k before the softmax
  std::vector<float> keys;
  std::vector<float> values;
  std::vector<float> queries;

  const float* key(uint32_t token, uint32_t head) const {
    return keys.data() + (size_t{token} * shape.kv_heads + head) * shape.key_dims;
  }
};

// Token t is at position t; query i is that of token first_query + i and sees tokens up to its own.
struct KvDump {
  std::string model;
  uint32_t n_tokens = 0;
  uint32_t first_query = 0;
  uint32_t n_queries = 0;
  std::vector<DumpLayer> layers;

  // OK, or which limit or size does not hold; kNonFinite for NaN and infinity.
  Status validate() const;
};

std::vector<std::byte> encode_dump(const KvDump& dump);
// kCorrupt and the errors of SafetensorsView::parse().
Expected<KvDump> parse_dump(ByteSpan bytes);

}  // namespace quire::bench

#endif  // QUIRE_BENCH_CODEC_KV_DUMP_H_
