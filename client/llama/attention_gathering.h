// What the attention of one decode tells, gathered from the nodes of libllama's graphs as they are
// computed: column mass, shares by runs of tokens, queries. GraphHooks::start_gathering() feeds one
// of these for a decode; what it gathered is taken when hooks.stop() found nothing missing. One
// thread; no node is kept beyond the call it comes in.
#ifndef QUIRE_CLIENT_LLAMA_ATTENTION_GATHERING_H_
#define QUIRE_CLIENT_LLAMA_ATTENTION_GATHERING_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "client/llama/engine.h"
#include "client/llama/value_norms.h"
#include "client/reuse/chunk_statistics.h"

struct ggml_tensor;

namespace quire {

class AttentionGathering {
 public:
  virtual ~AttentionGathering() = default;

  // A decode is one graph after another; n_tokens: of the one that begins.
  void begin_graph(uint32_t n_tokens);
  // Asked of every node before it is computed: whether add() wants its values.
  virtual bool wants(const ggml_tensor* node) = 0;
  // A node that was wanted, computed.
  virtual void add(const ggml_tensor* node) = 0;
  // The decode is over. Why what was gathered cannot be used; empty: it can.
  std::string finish();

 protected:
  // All nodes of a graph were seen: what is missing?
  virtual void end_graph() = 0;
  virtual void end_decode() {}
  void fail(const char* what);

  uint32_t graphs_ = 0;
  uint32_t graph_tokens_ = 0;   // of this graph
  uint32_t tokens_before_ = 0;  // of the graphs before it

 private:
  std::string failure_;
};

// From the softmax of the given layers (ascending), mean over heads. A layer that does not show its
// softmax in each graph is a failure.
class SoftmaxGathering : public AttentionGathering {
 public:
  bool wants(const ggml_tensor* node) override;

 protected:
  explicit SoftmaxGathering(std::vector<uint32_t> layers) : layers_(std::move(layers)) {}
  void end_graph() override;
  // Counts the layer, or fails: false.
  bool enter(const ggml_tensor* weights);
  const float* row_of(const ggml_tensor* weights, uint32_t head, uint32_t token) const;

  std::vector<uint32_t> layers_;
  uint32_t heads_ = 0;

 private:
  uint32_t layers_in_graph_ = 0;
};

// Attention columns: softmax columns summed over all tokens of the decode, weighed over layers.
class MassGathering final : public SoftmaxGathering {
 public:
  // Of a layer's cached values, asked once per layer and graph, when they lie in the cache.
  using NormsOf = std::function<ValueNorms(uint32_t layer)>;
  // layers: ascending, with what the mean over a layer's heads counts.
  // norms_of: each head's columns count times the norm of the cell's value; empty: as they are.
  // kept: takes every softmax of the decode's first graph, [layer][head][token][cell]; may be null.
  struct Layer {
    uint32_t layer = 0;
    double weight = 0;
  };
  MassGathering(const std::vector<Layer>& layers, NormsOf norms_of, LlamaEngine::Attention* kept);
  void add(const ggml_tensor* node) override;
  // One value per cell; those beyond what the graphs saw are 0.
  std::vector<float> take(uint32_t n_cells) const;

 private:
  NormsOf norms_of_;
  LlamaEngine::Attention* kept_;
  std::vector<double> weights_;  // of layers_
  std::vector<double> mass_;     // mean over heads, weighed sum over layers
  std::vector<double> columns_;
};

// Shares of a chunk's attention; the chunk stands behind runs of tokens.
class ShareGathering final : public SoftmaxGathering {
 public:
  // runs: their lengths; n_tokens: of the chunk, which is all that the decode runs.
  ShareGathering(std::vector<uint32_t> layers, std::span<const uint32_t> runs, uint32_t n_tokens);
  void add(const ggml_tensor* node) override;
  reuse::AttentionShares take();

 private:
  reuse::AttentionShares shares_;  // sums until take()
  uint32_t begin_ = 0;             // the chunk's first cell
};

// Queries as they enter the dot product with K, of a decode that fits one graph, and each layer's
// scale.
class QueryGathering final : public AttentionGathering {
 public:
  explicit QueryGathering(uint32_t n_layers) { queries_.layers.resize(n_layers); }
  bool wants(const ggml_tensor* node) override;
  void add(const ggml_tensor* node) override;
  LlamaEngine::Queries take() { return std::move(queries_); }

 protected:
  void end_graph() override;
  void end_decode() override;

 private:
  LlamaEngine::Queries queries_;
};

}  // namespace quire

#endif  // QUIRE_CLIENT_LLAMA_ATTENTION_GATHERING_H_
