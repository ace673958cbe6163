// What the connector does inside libllama's graphs, through the public evaluation callback: learn
// the graph, put scattered rows where they belong, end it early, and show nodes to an
// AttentionGathering. Node names and source order are not API of libllama, so everything here is
// checked at start by the engine's self test, and after every use by counting what was touched.
#ifndef QUIRE_CLIENT_LLAMA_GRAPH_HOOKS_H_
#define QUIRE_CLIENT_LLAMA_GRAPH_HOOKS_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "client/llama/attention_gathering.h"

struct ggml_tensor;

namespace quire {

// A rope whose factors cannot be read: K of such a layer cannot be moved.
inline constexpr int32_t kRopeUnknown = -1;

// What a graph tells about one layer. Cache tensors live as long as the context.
struct LayerGraph {
  ggml_tensor* cache_key = nullptr;
  ggml_tensor* cache_value = nullptr;
  const ggml_tensor* mask = nullptr;  // of the graph seen last
  uint32_t kv_heads = 0;
  uint32_t key_dims = 0;
  bool has_rope = false;
  int32_t rope_mode = 0;  // ggml's, or kRopeUnknown
  uint32_t rotary_dims = 0;
  uint32_t original_context = 0;
  float rope_base = 0;
  float rope_scale = 1;
  float yarn_ext_factor = 0;
  float attention_factor = 1;
  float yarn_beta_fast = 0;
  float yarn_beta_slow = 0;
  std::vector<float> rope_factors;  // per pair; empty where there are none
  bool sliding = false;
  uint32_t window_tokens = 0;
};

class GraphHooks {
 public:
  // The callback for llama_context_params::cb_eval; self is a GraphHooks.
  static bool callback(ggml_tensor* tensor, bool ask, void* self);

  // Learning: layers() grows with what the next graphs show; mask_rows: the first row of each
  // layer's mask is kept, for finding out which layers slide.
  void start_learning(uint32_t n_layers);
  std::vector<LayerGraph>& layers() { return layers_; }
  const std::vector<std::vector<float>>& mask_rows() const { return mask_rows_; }
  // A mixture of experts: what a node is given as indices picks memory.
  bool has_experts() const { return has_experts_; }

  // Scattered rows: the first positions.size() tokens of the next decode are rows that belong at
  // these positions (ascending; cell = position) of n_cells cells; the rest of the batch is left
  // alone.
  void start_rows(std::span<const uint32_t> positions, uint32_t n_cells);
  // Shows every row all n_cells cells: the deliberate fault of the self test.
  void set_leak(bool leak) { leak_ = leak; }

  // The next decode ends behind the softmax of layer n_layers - 1: that layer has its K and V, what
  // is above it is left as it was. Set before a start_...(), holds until stop(); 0: no end. Where
  // libllama goes on nevertheless (a graph split over backends only leaves the split), stop() says
  // so, and what is above is worth nothing.
  void end_behind(uint32_t n_layers) { end_layers_ = n_layers; }
  // Nothing but that end.
  void start_plain();
  // For tests: asked where a graph is about to end early, with the softmax that it ends behind;
  // false: it goes on, as a split one would.
  using EndFault = std::function<bool(ggml_tensor* softmax)>;
  void set_end_fault(EndFault fault) { end_fault_ = std::move(fault); }

  // The next decode's nodes go to `gathering`, which lives until stop().
  void start_gathering(AttentionGathering& gathering);

  // Ends any of these; kInternal where a graph lacked something that should have been touched or
  // seen.
  Status stop();

 private:
  enum class Mode : uint8_t { kOff, kLearn, kRows, kGather, kPlain };

  bool on_ask(ggml_tensor* tensor);
  // False: the graph ends here.
  bool on_done(ggml_tensor* tensor);
  void start(Mode mode);
  bool is_end(const ggml_tensor* tensor) const;
  void begin_graph(int64_t n_tokens);
  void end_graph();
  void learn(ggml_tensor* tensor);
  void patch(ggml_tensor* tensor);
  void patch_positions(ggml_tensor* positions);
  void patch_destinations(ggml_tensor* indices, const ggml_tensor* cache, bool key);
  void patch_mask(ggml_tensor* mask, uint32_t layer);
  bool once(const ggml_tensor* tensor);
  uint32_t rows_in_graph() const;
  void fail(const std::string& what);

  Mode mode_ = Mode::kOff;
  bool leak_ = false;
  bool has_experts_ = false;
  EndFault end_fault_;
  AttentionGathering* gathering_ = nullptr;
  std::vector<LayerGraph> layers_;
  std::vector<std::vector<float>> mask_rows_;
  std::vector<uint32_t> positions_;
  uint32_t n_cells_ = 0;

  // The graph being evaluated.
  bool in_graph_ = false;
  bool ended_ = false;  // end_layers_ made an end of it
  uint32_t end_layers_ = 0;
  uint32_t graph_tokens_ = 0;
  uint32_t tokens_before_ = 0;
  uint32_t graphs_ = 0;
  uint32_t key_writes_ = 0, value_writes_ = 0, masks_ = 0, ropes_ = 0;
  std::vector<const ggml_tensor*> patched_;

  std::string failure_;
};

}  // namespace quire

#endif  // QUIRE_CLIENT_LLAMA_GRAPH_HOOKS_H_
