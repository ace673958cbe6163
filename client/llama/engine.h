// llama.cpp as an engine of Quire: one model and one context, on the public C API of libllama.
//
// The engine holds one live sequence. Its cell i always holds position i, so KV can be read in
// place, written by one state restore, and recomputed at any scattered positions (README.md here
// tells how). Calls build on each other: place() or append() fill positions [0, n), recompute()
// renews scattered rows, generate() goes on from the last token.
//
// Threads: an engine belongs to one thread at a time; several engines may run in several threads.
// The abort flag may be set from anywhere, also from a signal handler. libllama's log goes into
// error messages instead of stderr (process-wide). Errors: kInvalidArgument (ranges, token ids,
// options), kResourceExhausted (context too small), kCorrupt / kNonFinite (payloads), kUnsupported
// (models or ropes this engine cannot move), kCancelled (abort flag), kIoError (model file),
// kInternal (libllama refused). After an error of place(), or of a call that had begun to compute,
// the live sequence is empty; a call that refuses its arguments, or the room they need, leaves it
// as it was.
#ifndef QUIRE_CLIENT_LLAMA_ENGINE_H_
#define QUIRE_CLIENT_LLAMA_ENGINE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/ids.h"
#include "base/status.h"
#include "client/reuse/chunk_statistics.h"
#include "client/reuse/engine_memory.h"
#include "codecs/codec_ids.h"

namespace quire {

enum class LlamaKvType : uint8_t { kF16 = 0, kF32 = 1 };

struct LlamaOptions {
  std::string model_path;
  uint32_t n_ctx = 8192;    // cells: prompt + recomputed rows + answer must fit
  uint32_t n_ubatch = 512;  // tokens per graph
  uint32_t n_threads = 0;   // 0: min(2, cores)
  LlamaKvType kv_type = LlamaKvType::kF16;
  // Runs the engine's own check of recompute, rope and early ends (1 to 2 s); without it
  // recompute() trusts the library's graph, and a pass finds out itself that it does not end.
  bool self_test = true;
  // Where digests of model files are remembered by (path, size, mtime); empty: the user's cache
  // directory.
  std::string cache_directory;
  // Leaves the weights digest zero and saves hashing the file; such a model cannot be registered.
  bool skip_digest = false;
  const std::atomic<bool>* abort_flag = nullptr;  // set to true: running calls end with kCancelled
  // Takes what an operator should know, a line each, from the engine's thread; empty: stderr.
  std::function<void(std::string_view line)> log;
};

// What capture() or view() shows: engine rows first_row .. first_row + n_tokens of every layer and
// plane, in the engine's cache, ready for reuse::encode_representation(). Read it before the next
// call.
struct KvCapture {
  uint32_t n_tokens = 0;
  int64_t first_row = 0;
  uint64_t base_position = 0;  // K of token i is rotated for base_position + i
  reuse::EnginePlaneOf plane_of;
  // One per token where the capture was made for a mixed codec, else empty:
  // reuse::salient_tokens().
  std::vector<uint8_t> salient;
};

// A slice of a stored representation and where it goes in the prompt.
struct KvPiece {
  ByteSpan representation;    // readable for the duration of the call
  uint32_t source_begin = 0;  // first token of the representation that is used
  uint32_t n_tokens = 0;
  uint32_t position = 0;  // of the first used token in the prompt
};

struct PlaceTimes {
  uint64_t check_us = 0;  // parse and verify
  uint64_t load_us = 0;   // decode, rotate, scatter
  uint64_t state_us = 0;  // hand over to libllama
};

struct SelfTestReport {
  bool ran = false;
  bool one_pass = false;    // scattered rows in one decode work; else recompute() runs in sequence
  double row_error = 0;     // relative distance of recomputed rows to the exact cache
  double leaked_error = 0;  // the same with a mask that shows every future cell
  double rope_error = 0;    // worst layer of a moved chunk against one computed there
  bool bit_equal = false;
  bool early_end = false;      // passes end where they are told to
  double early_end_error = 0;  // relative distance of such a pass to a whole one
};

class LlamaEngine {
 public:
  class Impl;

  static Expected<std::unique_ptr<LlamaEngine>> open(const LlamaOptions& options);
  ~LlamaEngine();
  LlamaEngine(const LlamaEngine&) = delete;
  LlamaEngine& operator=(const LlamaEngine&) = delete;

  // --- the model ---
  const ModelDescriptor& descriptor() const;
  const Digest& model_id() const;  // of the descriptor
  std::string model_name() const;  // general.name of the GGUF, else the file name
  uint32_t n_ctx() const;
  uint32_t trained_tokens() const;  // the longest prompt the model was trained on; 0: not said
  uint32_t n_threads() const;
  uint32_t n_layers() const;
  // Layers that see the whole prompt, ascending; all of them where every layer has a window.
  std::vector<uint32_t> full_layers() const;
  uint32_t n_vocab() const;
  LlamaKvType kv_type() const;
  const SelfTestReport& self_test() const;
  // Bytes of raw KV per token, all layers.
  uint64_t kv_bytes_per_token() const;

  // --- text ---
  // add_special: BOS where the model wants one. parse_special: "<|im_end|>" becomes its token;
  // never for text from outside.
  Expected<std::vector<TokenId>> tokenize(std::string_view text, bool add_special,
                                          bool parse_special) const;
  std::string detokenize(std::span<const TokenId> tokens) const;
  bool is_end_of_generation(TokenId token) const;
  // The model's chat template over one system and one user message, up to where the assistant
  // speaks; kNotFound where the model has no template that libllama knows.
  Expected<std::string> apply_chat_template(std::string_view system, std::string_view user) const;

  // --- computing and storing ---
  // Runs prefix + chunk from an empty sequence and shows the chunk's KV. What a prefix has in
  // common with the tokens that the last capture left in place is not computed again. No prefix:
  // the isolated variant; dummy tokens as prefix: dummy_sink.
  Expected<KvCapture> capture(std::span<const TokenId> prefix, std::span<const TokenId> chunk);
  // The same, and salient marks `share` of the chunk's tokens: the first ones, and those to which
  // the chunk's own tokens pay most attention, for each token that can see them (ZipCache).
  Expected<KvCapture> capture_salient(std::span<const TokenId> prefix,
                                      std::span<const TokenId> chunk, double share);
  // The same, and what the chunk's rows attended to, told apart by the runs of tokens that make up
  // the prefix (their lengths; all of them together are the prefix).
  Expected<KvCapture> capture_with_shares(std::span<const TokenId> prefix,
                                          std::span<const TokenId> chunk,
                                          std::span<const uint32_t> runs,
                                          reuse::AttentionShares* shares);
  // The KV of the live sequence, as it is.
  Expected<KvCapture> view(uint32_t token_begin, uint32_t n_tokens) const;

  // --- reusing ---
  void clear();
  // Positions of the live sequence that hold tokens.
  uint32_t size() const;
  // Replaces the live sequence by positions [0, n_tokens): pieces are checked (ids fit this model,
  // checksums, finite values), decoded, rotated to their positions and written; positions no piece
  // covers and those in skip_rows (ascending) are zero and must be recomputed before they mean
  // anything.
  Status place(uint32_t n_tokens, std::span<const KvPiece> pieces,
               std::span<const uint32_t> skip_rows = {}, PlaceTimes* times = nullptr);
  // kExact unless set: kEngineTable for bit parity with K computed in place.
  void set_angle_mode(reuse::AngleMode mode);
  // Runs tokens behind the live sequence.
  Status append(std::span<const TokenId> tokens, bool want_logits);
  // The same; column_mass gets one value per position [0, size() after): attention the tokens pay
  // to it, softmax column sums over the tokens, mean over heads, mean over full-attention layers
  // only.
  Status append_with_mass(std::span<const TokenId> tokens, bool want_logits,
                          std::vector<float>* column_mass);
  struct MassOptions {
    // Each head's column sums count times the L2 norm of the cell's value in its KV head; cells of
    // the tokens themselves count nothing.
    bool by_values = false;
    // Full layers below n_layers are meant, and the pass ends behind the attention of layer
    // n_layers - 1 where ends_early(); 0: all. The tokens have no KV above: they must be recomputed
    // before anything else.
    uint32_t n_layers = 0;
    // What the mean over sliding-window layers of the pass, up to its last full layer, counts
    // beside the mean over full layers.
    double window_weight = 0;
  };
  // layers_run, if any: how many layers were computed of each token, those of an attempt that had
  // to be repeated counted too.
  Status append_with_mass(std::span<const TokenId> tokens, const MassOptions& wanted,
                          std::vector<float>* column_mass, uint32_t* layers_run = nullptr);
  // False where libllama was seen not to end a pass where it was told to (a graph split over
  // several backends), by the self test or by a pass: passes then run through all layers. The mass
  // is the same.
  bool ends_early() const;
  // Forgets positions from n on.
  Status truncate(uint32_t n);
  // Computes rows (ascending positions < size(); row_tokens: their ids) again in one decode, each
  // seeing positions up to its own. Tokens computed for the first time are rows too: place() makes
  // room for them. want_logits: of the last row, which should then be the prompt's last token.
  // Afterwards everything lies where a prefill would have put it, so an exact cache stays exact to
  // the bit. Needs rows.size() free cells beyond size().
  Status recompute(std::span<const uint32_t> rows, std::span<const TokenId> row_tokens,
                   bool want_logits);
  // The same up to the attention of layer n_layers - 1; above it the rows stay as they were (where
  // ends_early(); else they are computed too), and must be recomputed before anything but
  // append_with_mass() of no more layers. layers_run: as there.
  Status recompute_below(uint32_t n_layers, std::span<const uint32_t> rows,
                         std::span<const TokenId> row_tokens, uint32_t* layers_run = nullptr);
  // Forces recompute() to run its rows in sequence (the fallback), for tests and comparison.
  void force_sequential(bool sequential);

  // --- answering ---
  // Logits behind the last token run with logits; n_vocab values, until the next call.
  Expected<std::span<const float>> logits() const;
  // Greedy from the current logits, at most max_tokens, without the end token. on_token may be
  // empty; returns false to stop.
  Expected<std::vector<TokenId>> generate(uint32_t max_tokens,
                                          const std::function<bool(TokenId)>& on_token = {});
  // The softmax of the last append_with_mass(), of its first n_ubatch tokens (one graph), for
  // checks against other tools: the layers whose mass it took, values [layer][head][token][cell].
  struct Attention {
    uint32_t layers = 0, heads = 0, tokens = 0, cells = 0;
    std::vector<float> values;
  };
  void keep_attention(bool keep);
  const Attention& attention() const;
  // Queries as they enter the dot product with K (after rope), of a full layer or a sliding one.
  struct Queries {
    struct Layer {
      uint32_t heads = 0, dims = 0;
      float scale = 0;            // of the product before the softmax
      std::vector<float> values;  // [token][head][dim]
    };
    std::vector<Layer> layers;
  };
  // Runs tokens behind the live sequence, at most n_ubatch, and keeps their queries; kUnsupported
  // where attention is more than a scaled product.
  Status append_with_queries(std::span<const TokenId> tokens, Queries* queries);
  // Runs tokens behind the live sequence and gives the logits after each of them (row i: after
  // token i).
  Expected<std::vector<std::vector<float>>> force(std::span<const TokenId> tokens);

 private:
  friend class LlamaEngineTestPeer;
  Status start_capture(std::span<const TokenId> prefix, std::span<const TokenId> chunk);
  explicit LlamaEngine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Writes an F32 copy of a model (exactness tests; 2.5 GB for 0.5B parameters).
Status llama_convert_to_f32(const std::string& model_path, const std::string& target_path);

// ${QUIRE_CACHE}, else ${XDG_CACHE_HOME}/quire, else ~/.cache/quire.
std::string default_cache_directory();

}  // namespace quire

#endif  // QUIRE_CLIENT_LLAMA_ENGINE_H_
