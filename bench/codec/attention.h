// What a codec does to attention: the softmax of the dump's queries over decoded K against that
// over exact K, and the output over decoded V. All in double, from fp32 values.
#ifndef QUIRE_BENCH_CODEC_ATTENTION_H_
#define QUIRE_BENCH_CODEC_ATTENTION_H_

#include <cstdint>
#include <span>
#include <vector>

#include "bench/codec/kv_dump.h"

namespace quire::bench {

struct AttentionDistance {
  double kl_sum = 0;  // KL(exact || decoded) in nats, over heads and queries
  uint64_t rows = 0;
  double output_error = 0;  // squared, of softmax(q K) V
  double output_norm = 0;

  void add(const AttentionDistance& other);
  double kl_mean() const { return rows == 0 ? 0 : kl_sum / static_cast<double>(rows); }
  double output_relative() const;
};

// One layer's exact attention of queries [query_begin, n_queries) of the dump. Tokens behind a
// query's own, or a window away, are not seen.
class LayerAttention {
 public:
  // keys, values: [token][head][dim], K at its positions; they, layer and dump outlive the object.
  LayerAttention(const KvDump& dump, const DumpLayer& layer, uint32_t query_begin,
                 std::span<const float> keys, std::span<const float> values);

  AttentionDistance distance(std::span<const float> keys, std::span<const float> values) const;

  // Attention that each token receives from queries [0, query_end), for choosing salient tokens.
  static void add_mass(const KvDump& dump, const DumpLayer& layer, uint32_t query_end,
                       std::span<const float> keys, std::vector<double>& mass);

 private:
  const KvDump& dump_;
  const DumpLayer& layer_;
  uint32_t query_begin_;
  // [head][query][token], log of the softmax; tokens not seen: -inf.
  std::vector<float> log_weights_;
  std::vector<double> outputs_;  // [head][query][dim]
};

}  // namespace quire::bench

#endif  // QUIRE_BENCH_CODEC_ATTENTION_H_
