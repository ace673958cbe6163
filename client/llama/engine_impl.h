// Inside of LlamaEngine; for client/llama and its tests only.
#ifndef QUIRE_CLIENT_LLAMA_ENGINE_IMPL_H_
#define QUIRE_CLIENT_LLAMA_ENGINE_IMPL_H_

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "client/llama/attention_gathering.h"
#include "client/llama/engine.h"
#include "client/llama/graph_hooks.h"
#include "client/llama/state_blob.h"

struct llama_context;
struct llama_model;
struct llama_vocab;

namespace quire {

// Sequences of the context: the live one, and one for scattered rows and sequential runs.
inline constexpr int kLiveSequence = 0;
inline constexpr int kScratchSequence = 1;
inline constexpr uint32_t kContextTokensMax = 1u << 20;

// Tokens of one decode.
struct DecodeToken {
  TokenId token = 0;
  uint32_t position = 0;
  int sequence = kLiveSequence;
  bool logits = false;
};

class LlamaEngine::Impl {
 public:
  Impl() = default;
  ~Impl();
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  Status open(const LlamaOptions& wanted);
  // model_probe.cc
  Status learn_graph();
  Status make_descriptor();
  // self_test.cc
  Status run_self_test();

  Status check_tokens(std::span<const TokenId> tokens) const;
  Status check_room(uint64_t n_more) const;
  Status decode(std::span<const DecodeToken> tokens);
  Status run_behind(std::span<const TokenId> tokens, bool want_logits, bool all_logits);
  // The same without checks; an error leaves what was there before, and cells behind it undefined.
  Status extend(std::span<const TokenId> tokens, bool want_logits, bool all_logits);
  Status forget_from(uint32_t n);
  // Leaves the engine empty and hands the error on.
  Status fail(Status status);
  void clear(bool zero_memory);

  Status place(uint32_t n_tokens, std::span<const KvPiece> pieces,
               std::span<const uint32_t> skip_rows, PlaceTimes* times);
  Status load_pieces(std::span<const KvPiece> pieces, std::span<const uint32_t> skip_rows);
  Status load_piece(const KvPiece& piece, std::span<const uint32_t> skip_rows);
  Status check_piece(const KvPiece& piece, uint32_t n_tokens) const;
  Status check_rows(std::span<const uint32_t> rows, size_t n_row_tokens) const;
  // n_layers: as recompute_below() has it; 0: all.
  Status recompute(std::span<const uint32_t> rows, std::span<const TokenId> row_tokens,
                   bool want_logits, uint32_t n_layers, uint32_t* layers_run);
  // One attempt, either way; end: libllama's graph ends behind the attention of layer end - 1; 0:
  // whole. An error leaves the rows zero or as they were, and the others as they were.
  Status try_recompute(std::span<const uint32_t> rows, std::span<const TokenId> row_tokens,
                       bool want_logits, uint32_t end);
  Status recompute_one_pass(std::span<const uint32_t> rows, std::span<const TokenId> row_tokens,
                            bool want_logits, uint32_t end);
  Status recompute_in_sequence(std::span<const uint32_t> rows, std::span<const TokenId> row_tokens,
                               bool want_logits, uint32_t end);
  // capture.cc
  reuse::EnginePlane cache_plane(uint32_t layer, Plane plane) const;
  // As LlamaEngine has them, of the layers below n_below; 0: all.
  std::vector<uint32_t> full_layers(uint32_t n_below) const;
  std::vector<MassGathering::Layer> mass_layers(const MassOptions& wanted) const;

  // question_pass.cc
  Status append_with_mass(std::span<const TokenId> tokens, const MassOptions& wanted,
                          bool want_logits, std::vector<float>* mass, uint32_t* layers_run);
  // One attempt; an error leaves what was there before, and nothing behind it.
  Status try_mass(std::span<const TokenId> tokens, const MassOptions& wanted, bool want_logits,
                  uint32_t end, std::vector<float>* mass);
  // Takes away what an attempt left in these cells, in all layers. To mask it is not enough: there
  // may be values that are no numbers.
  void zero_cells(std::span<const uint32_t> cells);
  // Calls run(end): n_layers where passes end early here, and once more with 0 where that fails;
  // 0 from then on. layers_run, if any: layers that were computed of each token.
  Status run_to_depth(uint32_t n_layers, uint32_t* layers_run,
                      const std::function<Status(uint32_t end)>& run);
  void check_early_end_is_safe();
  void give_up_early_end(const std::string& reason);

  LlamaOptions options;
  llama_model* model = nullptr;
  llama_context* context = nullptr;
  const llama_vocab* vocab = nullptr;
  uint32_t n_vocab = 0;
  uint32_t n_ctx = 0;
  uint32_t n_threads = 1;
  GraphHooks hooks;
  ModelDescriptor descriptor;
  Digest model_digest;
  std::unique_ptr<StateBlob> blob;
  SelfTestReport report;
  bool ropes_hold = true;  // the self test found K movable as the descriptor says
  bool sequential = false;
  bool ends_early = true;  // graphs end where they are told to
  bool early_end_reported = false;
  bool keep_attention = false;
  Attention attention;  // kept of the last pass for its mass
  reuse::AngleMode angle_mode = reuse::AngleMode::kExact;

  uint32_t size = 0;  // positions [0, size) of the live sequence hold tokens, position i in cell i
  // The live sequence's first tokens, as far as they were computed here one behind the other
  // through all layers.
  std::vector<TokenId> exact_tokens;
  int32_t logits_row = -1;  // batch index of the last logits; -1: none
};

}  // namespace quire

#endif  // QUIRE_CLIENT_LLAMA_ENGINE_IMPL_H_
