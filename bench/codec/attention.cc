#include "bench/codec/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace quire::bench {
namespace {

struct TokenRange {
  uint32_t begin = 0;
  uint32_t end = 0;
};

TokenRange seen_tokens(const KvDump& dump, const DumpLayer& layer, uint32_t query) {
  TokenRange range{0, dump.first_query + query + 1};
  const uint32_t window = layer.shape.window_tokens;
  if (window != 0 && range.end > window) range.begin = range.end - window;
  return range;
}

// One head's plane as [dim][token], so that sums over dims run along tokens.
std::vector<float> by_dim(std::span<const float> plane, uint32_t n_tokens, uint32_t heads,
                          uint32_t head, uint32_t dims) {
  std::vector<float> result(size_t{n_tokens} * dims);
  for (uint32_t token = 0; token < n_tokens; ++token)
    for (uint32_t dim = 0; dim < dims; ++dim)
      result[size_t{dim} * n_tokens + token] = plane[(size_t{token} * heads + head) * dims + dim];
  return result;
}

// The log of the softmax into weights[range]; scores is scratch of n_tokens.
void log_softmax(const DumpLayer& layer, const float* query, const std::vector<float>& keys,
                 uint32_t n_tokens, TokenRange range, std::vector<double>& scores) {
  std::fill(scores.begin(), scores.end(), 0.0);
  for (uint32_t dim = 0; dim < layer.shape.key_dims; ++dim) {
    const double factor = double{query[dim]} * layer.attention_scale;
    const float* row = keys.data() + size_t{dim} * n_tokens;
    double* const sums = scores.data();
    for (uint32_t token = range.begin; token < range.end; ++token)
      sums[token] += factor * double{row[token]};
  }
  const double most = *std::max_element(scores.begin() + range.begin, scores.begin() + range.end);
  double sum = 0;
  for (uint32_t token = range.begin; token < range.end; ++token)
    sum += std::exp(scores[token] - most);
  const double log_sum = most + std::log(sum);
  for (uint32_t token = range.begin; token < range.end; ++token) scores[token] -= log_sum;
}

// log_weights become weights; output [dim] over the range.
void weigh(const std::vector<double>& log_weights, std::span<const float> values, uint32_t heads,
           uint32_t head, uint32_t dims, TokenRange range, std::vector<double>& output) {
  output.assign(dims, 0.0);
  for (uint32_t token = range.begin; token < range.end; ++token) {
    const double weight = std::exp(log_weights[token]);
    const float* row = values.data() + (size_t{token} * heads + head) * dims;
    for (uint32_t dim = 0; dim < dims; ++dim) output[dim] += weight * double{row[dim]};
  }
}

}  // namespace

void AttentionDistance::add(const AttentionDistance& other) {
  kl_sum += other.kl_sum;
  rows += other.rows;
  output_error += other.output_error;
  output_norm += other.output_norm;
}

double AttentionDistance::output_relative() const {
  return output_norm > 0 ? std::sqrt(output_error / output_norm) : 0;
}

LayerAttention::LayerAttention(const KvDump& dump, const DumpLayer& layer, uint32_t query_begin,
                               std::span<const float> keys, std::span<const float> values)
    : dump_(dump), layer_(layer), query_begin_(query_begin) {
  const LayerDescriptor& shape = layer.shape;
  const uint32_t per_kv_head = layer.query_heads / shape.kv_heads;
  std::vector<double> scores(dump.n_tokens);
  std::vector<double> output;
  for (uint32_t kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
    const auto columns = by_dim(keys, dump.n_tokens, shape.kv_heads, kv_head, shape.key_dims);
    for (uint32_t head = kv_head * per_kv_head; head < (kv_head + 1) * per_kv_head; ++head)
      for (uint32_t query = query_begin; query < dump.n_queries; ++query) {
        const TokenRange range = seen_tokens(dump, layer, query);
        const float* q =
            layer.queries.data() + (size_t{query} * layer.query_heads + head) * shape.key_dims;
        log_softmax(layer, q, columns, dump.n_tokens, range, scores);
        for (uint32_t token = 0; token < dump.n_tokens; ++token)
          log_weights_.push_back(token >= range.begin && token < range.end
                                     ? static_cast<float>(scores[token])
                                     : -std::numeric_limits<float>::infinity());
        weigh(scores, values, shape.kv_heads, kv_head, shape.value_dims, range, output);
        outputs_.insert(outputs_.end(), output.begin(), output.end());
      }
  }
}

AttentionDistance LayerAttention::distance(std::span<const float> keys,
                                           std::span<const float> values) const {
  const LayerDescriptor& shape = layer_.shape;
  const uint32_t per_kv_head = layer_.query_heads / shape.kv_heads;
  AttentionDistance result;
  std::vector<double> scores(dump_.n_tokens);
  std::vector<double> output;
  const float* exact = log_weights_.data();
  const double* exact_output = outputs_.data();
  for (uint32_t kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
    const auto columns = by_dim(keys, dump_.n_tokens, shape.kv_heads, kv_head, shape.key_dims);
    for (uint32_t head = kv_head * per_kv_head; head < (kv_head + 1) * per_kv_head; ++head)
      for (uint32_t query = query_begin_; query < dump_.n_queries; ++query) {
        const TokenRange range = seen_tokens(dump_, layer_, query);
        const float* q =
            layer_.queries.data() + (size_t{query} * layer_.query_heads + head) * shape.key_dims;
        log_softmax(layer_, q, columns, dump_.n_tokens, range, scores);
        double kl = 0;
        for (uint32_t token = range.begin; token < range.end; ++token)
          kl += std::exp(double{exact[token]}) * (double{exact[token]} - scores[token]);
        result.kl_sum += std::max(kl, 0.0);
        ++result.rows;
        weigh(scores, values, shape.kv_heads, kv_head, shape.value_dims, range, output);
        for (uint32_t dim = 0; dim < shape.value_dims; ++dim) {
          const double error = output[dim] - exact_output[dim];
          result.output_error += error * error;
          result.output_norm += exact_output[dim] * exact_output[dim];
        }
        exact += dump_.n_tokens;
        exact_output += shape.value_dims;
      }
  }
  return result;
}

void LayerAttention::add_mass(const KvDump& dump, const DumpLayer& layer, uint32_t query_end,
                              std::span<const float> keys, std::vector<double>& mass) {
  const LayerDescriptor& shape = layer.shape;
  const uint32_t per_kv_head = layer.query_heads / shape.kv_heads;
  std::vector<double> scores(dump.n_tokens);
  for (uint32_t kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
    const auto columns = by_dim(keys, dump.n_tokens, shape.kv_heads, kv_head, shape.key_dims);
    for (uint32_t head = kv_head * per_kv_head; head < (kv_head + 1) * per_kv_head; ++head)
      for (uint32_t query = 0; query < query_end; ++query) {
        const TokenRange range = seen_tokens(dump, layer, query);
        const float* q =
            layer.queries.data() + (size_t{query} * layer.query_heads + head) * shape.key_dims;
        log_softmax(layer, q, columns, dump.n_tokens, range, scores);
        for (uint32_t token = range.begin; token < range.end; ++token)
          mass[token] += std::exp(scores[token]);
      }
  }
}

}  // namespace quire::bench
