#include "client/llama/engine.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "client/llama/engine_impl.h"
#include "client/llama/runtime.h"
#include "ggml.h"
#include "llama.h"

namespace quire {

namespace {

constexpr uint32_t kDefaultThreadsMax = 2;
// Cells of a context are padded to this by libllama.
constexpr uint32_t kContextTokensMin = 256;

std::string with_log(const std::string& text) {
  const std::string log = llama_log_text();
  return log.empty() ? text : text + ": " + log;
}

bool abort_wanted(void* flag) {
  const auto* wanted = static_cast<const std::atomic<bool>*>(flag);
  return wanted != nullptr && wanted->load(std::memory_order_relaxed);
}

Expected<llama_model*> load_model(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return Status(StatusCode::kIoError, "no model file at '" + path + "'");
  }
  llama_runtime_start();
  llama_log_reset();
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  llama_model* model = nullptr;
  try {
    model = llama_model_load_from_file(path.c_str(), params);
  } catch (const std::exception& exception) {
    return Status(StatusCode::kIoError, "cannot load " + path + ": " + exception.what());
  }
  if (model == nullptr) {
    return Status(StatusCode::kIoError,
                  with_log("cannot load '" + path +
                           "' (not a GGUF of a known model, or not complete; fetch it again)"));
  }
  return model;
}

}  // namespace

LlamaEngine::Impl::~Impl() {
  if (context != nullptr) llama_free(context);
  if (model != nullptr) llama_model_free(model);
}

Status LlamaEngine::Impl::open(const LlamaOptions& wanted) {
  options = wanted;
  if (options.n_ctx == 0 || options.n_ctx > kContextTokensMax || options.n_ubatch == 0) {
    return Status(
        StatusCode::kInvalidArgument,
        "n_ctx must be 1.." + std::to_string(kContextTokensMax) + " and n_ubatch at least 1");
  }
  QUIRE_ASSIGN_OR_RETURN(model, load_model(options.model_path));
  if (llama_model_has_encoder(model) || llama_model_is_recurrent(model) ||
      llama_model_is_hybrid(model) || llama_model_is_diffusion(model)) {
    return Status(StatusCode::kUnsupported, "only plain decoder models with a KV cache are known");
  }
  vocab = llama_model_get_vocab(model);
  n_vocab = static_cast<uint32_t>(llama_vocab_n_tokens(vocab));
  n_threads = options.n_threads != 0
                  ? options.n_threads
                  : std::clamp(std::thread::hardware_concurrency(), 1u, kDefaultThreadsMax);

  llama_context_params params = llama_context_default_params();
  params.n_ctx = std::max(options.n_ctx, kContextTokensMin);
  params.n_batch = params.n_ctx;
  params.n_ubatch = std::min(options.n_ubatch, params.n_ctx);
  params.n_seq_max = 2;
  params.n_threads = static_cast<int32_t>(n_threads);
  params.n_threads_batch = static_cast<int32_t>(n_threads);
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  params.type_k = options.kv_type == LlamaKvType::kF32 ? GGML_TYPE_F32 : GGML_TYPE_F16;
  params.type_v = params.type_k;
  params.cb_eval = GraphHooks::callback;
  params.cb_eval_user_data = &hooks;
  params.swa_full = true;
  params.kv_unified = true;
  params.no_perf = true;
  llama_log_reset();
  context = llama_init_from_model(model, params);
  if (context == nullptr) {
    return Status(StatusCode::kResourceExhausted,
                  with_log("cannot make a context of " + std::to_string(params.n_ctx) + " tokens"));
  }
  n_ctx = llama_n_ctx(context);
  llama_set_abort_callback(context, abort_wanted,
                           const_cast<std::atomic<bool>*>(options.abort_flag));
  QUIRE_RETURN_IF_ERROR(learn_graph());
  QUIRE_RETURN_IF_ERROR(make_descriptor());
  check_early_end_is_safe();
  if (options.self_test) QUIRE_RETURN_IF_ERROR(run_self_test());
  clear(false);
  return Status::ok();
}

void LlamaEngine::Impl::clear(bool zero_memory) {
  llama_memory_clear(llama_get_memory(context), zero_memory);
  size = 0;
  exact_tokens.clear();
  logits_row = -1;
}

Status LlamaEngine::Impl::forget_from(uint32_t n) {
  if (!llama_memory_seq_rm(llama_get_memory(context), kLiveSequence, static_cast<llama_pos>(n),
                           -1)) {
    return fail(Status(StatusCode::kInternal, "libllama cannot cut its cache"));
  }
  size = n;
  if (exact_tokens.size() > n) exact_tokens.resize(n);
  logits_row = -1;
  return Status::ok();
}

Status LlamaEngine::Impl::fail(Status status) {
  // Zeroing heals a cache that saw a non-finite value; masked cells of it would poison every
  // sequence.
  clear(true);
  return status;
}

Status LlamaEngine::Impl::check_tokens(std::span<const TokenId> tokens) const {
  for (const TokenId token : tokens) {
    if (token >= n_vocab) {
      return Status(StatusCode::kInvalidArgument, "token id " + std::to_string(token) +
                                                      " is outside the model's vocabulary of " +
                                                      std::to_string(n_vocab));
    }
  }
  return Status::ok();
}

Status LlamaEngine::Impl::check_room(uint64_t n_more) const {
  if (size + n_more <= n_ctx) return Status::ok();
  return Status(StatusCode::kResourceExhausted,
                std::to_string(size + n_more) + " tokens do not fit the context of " +
                    std::to_string(n_ctx) + "; open the engine with a larger n_ctx");
}

Status LlamaEngine::Impl::decode(std::span<const DecodeToken> tokens) {
  if (tokens.empty()) return Status::ok();
  const auto n = static_cast<int32_t>(tokens.size());
  std::vector<llama_token> ids(tokens.size());
  std::vector<llama_pos> positions(tokens.size());
  std::vector<int32_t> n_sequences(tokens.size(), 1);
  std::vector<llama_seq_id> sequences(tokens.size());
  std::vector<llama_seq_id*> sequence_lists(tokens.size());
  std::vector<int8_t> wants(tokens.size());
  int32_t last_wanted = -1;
  for (int32_t i = 0; i < n; ++i) {
    ids[i] = static_cast<llama_token>(tokens[i].token);
    positions[i] = static_cast<llama_pos>(tokens[i].position);
    sequences[i] = tokens[i].sequence;
    sequence_lists[i] = &sequences[i];
    wants[i] = tokens[i].logits ? 1 : 0;
    if (tokens[i].logits) last_wanted = i;
  }
  llama_batch batch{};
  batch.n_tokens = n;
  batch.token = ids.data();
  batch.pos = positions.data();
  batch.n_seq_id = n_sequences.data();
  batch.seq_id = sequence_lists.data();
  batch.logits = wants.data();
  llama_log_reset();
  logits_row = -1;
  int32_t code = -1;
  try {
    code = llama_decode(context, batch);
  } catch (const std::exception& exception) {
    return Status(StatusCode::kInternal, std::string("llama_decode: ") + exception.what());
  }
  // 2: libllama saw the flag, which may be down again.
  if (code == 2 || abort_wanted(const_cast<std::atomic<bool>*>(options.abort_flag))) {
    return Status(StatusCode::kCancelled, "interrupted");
  }
  if (code == 1) {
    return Status(StatusCode::kResourceExhausted, "no free cells in the context");
  }
  if (code != 0) {
    return Status(StatusCode::kInternal,
                  with_log("llama_decode refused (" + std::to_string(code) + ")"));
  }
  logits_row = last_wanted;
  return Status::ok();
}

Status LlamaEngine::Impl::run_behind(std::span<const TokenId> tokens, bool want_logits,
                                     bool all_logits) {
  QUIRE_RETURN_IF_ERROR(check_tokens(tokens));
  QUIRE_RETURN_IF_ERROR(check_room(tokens.size()));
  Status status = extend(tokens, want_logits, all_logits);
  return status.is_ok() ? status : fail(std::move(status));
}

Status LlamaEngine::Impl::extend(std::span<const TokenId> tokens, bool want_logits,
                                 bool all_logits) {
  std::vector<DecodeToken> batch(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    batch[i].token = tokens[i];
    batch[i].position = size + static_cast<uint32_t>(i);
    batch[i].logits = all_logits || (want_logits && i + 1 == tokens.size());
  }
  QUIRE_RETURN_IF_ERROR(decode(batch));
  if (exact_tokens.size() == size) {
    exact_tokens.insert(exact_tokens.end(), tokens.begin(), tokens.end());
  }
  size += static_cast<uint32_t>(tokens.size());
  return Status::ok();
}

std::vector<uint32_t> LlamaEngine::Impl::full_layers(uint32_t n_below) const {
  std::vector<uint32_t> full, all;
  for (uint32_t layer = 0; layer < descriptor.layers.size(); ++layer) {
    if (n_below != 0 && layer >= n_below) break;
    all.push_back(layer);
    if (descriptor.layers[layer].attention == AttentionKind::kFull) full.push_back(layer);
  }
  const bool has_full = std::any_of(
      descriptor.layers.begin(), descriptor.layers.end(),
      [](const LayerDescriptor& layer) { return layer.attention == AttentionKind::kFull; });
  return has_full ? full : all;
}

// --- the public face ---

LlamaEngine::LlamaEngine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LlamaEngine::~LlamaEngine() = default;

Expected<std::unique_ptr<LlamaEngine>> LlamaEngine::open(const LlamaOptions& options) {
  auto impl = std::make_unique<Impl>();
  QUIRE_RETURN_IF_ERROR(impl->open(options));
  return std::unique_ptr<LlamaEngine>(new LlamaEngine(std::move(impl)));
}

const ModelDescriptor& LlamaEngine::descriptor() const {
  return impl_->descriptor;
}
const Digest& LlamaEngine::model_id() const {
  return impl_->model_digest;
}
uint32_t LlamaEngine::n_ctx() const {
  return impl_->n_ctx;
}
uint32_t LlamaEngine::trained_tokens() const {
  return static_cast<uint32_t>(std::max(llama_model_n_ctx_train(impl_->model), 0));
}
uint32_t LlamaEngine::n_threads() const {
  return impl_->n_threads;
}
uint32_t LlamaEngine::n_vocab() const {
  return impl_->n_vocab;
}
LlamaKvType LlamaEngine::kv_type() const {
  return impl_->options.kv_type;
}
const SelfTestReport& LlamaEngine::self_test() const {
  return impl_->report;
}
uint32_t LlamaEngine::size() const {
  return impl_->size;
}
void LlamaEngine::clear() {
  impl_->clear(false);
}
void LlamaEngine::set_angle_mode(reuse::AngleMode mode) {
  impl_->angle_mode = mode;
}
void LlamaEngine::force_sequential(bool sequential) {
  impl_->sequential = sequential;
}

void LlamaEngine::keep_attention(bool keep) {
  impl_->keep_attention = keep;
}
const LlamaEngine::Attention& LlamaEngine::attention() const {
  return impl_->attention;
}

uint32_t LlamaEngine::n_layers() const {
  return static_cast<uint32_t>(impl_->descriptor.layers.size());
}

std::vector<uint32_t> LlamaEngine::full_layers() const {
  return impl_->full_layers(0);
}

uint64_t LlamaEngine::kv_bytes_per_token() const {
  uint64_t elements = 0;
  for (const LayerDescriptor& layer : impl_->descriptor.layers) {
    elements += uint64_t{layer.kv_heads} * (layer.key_dims + layer.value_dims);
  }
  return elements * (impl_->options.kv_type == LlamaKvType::kF32 ? 4 : 2);
}

Status LlamaEngine::append(std::span<const TokenId> tokens, bool want_logits) {
  return impl_->run_behind(tokens, want_logits, false);
}

Status LlamaEngine::truncate(uint32_t n) {
  if (n > impl_->size) return Status(StatusCode::kInvalidArgument, "nothing to cut there");
  return impl_->forget_from(n);
}

Expected<std::span<const float>> LlamaEngine::logits() const {
  if (impl_->logits_row < 0) {
    return Status(StatusCode::kFailedPrecondition, "no logits were asked for");
  }
  const float* values = llama_get_logits_ith(impl_->context, impl_->logits_row);
  if (values == nullptr) return Status(StatusCode::kInternal, "libllama has no logits");
  return std::span<const float>(values, impl_->n_vocab);
}

Expected<std::vector<TokenId>> LlamaEngine::generate(uint32_t max_tokens,
                                                     const std::function<bool(TokenId)>& on_token) {
  std::vector<TokenId> answer;
  while (answer.size() < max_tokens) {
    QUIRE_ASSIGN_OR_RETURN(const std::span<const float> values, logits());
    const auto best =
        static_cast<TokenId>(std::max_element(values.begin(), values.end()) - values.begin());
    if (!std::isfinite(values[best])) {
      return impl_->fail(Status(StatusCode::kNonFinite, "the model's output is not finite"));
    }
    if (is_end_of_generation(best)) break;
    answer.push_back(best);
    if (on_token && !on_token(best)) break;
    if (answer.size() == max_tokens) break;
    QUIRE_RETURN_IF_ERROR(append(std::span(&answer.back(), 1), true));
  }
  return answer;
}

Expected<std::vector<std::vector<float>>> LlamaEngine::force(std::span<const TokenId> tokens) {
  QUIRE_RETURN_IF_ERROR(impl_->run_behind(tokens, true, true));
  std::vector<std::vector<float>> rows;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const float* values = llama_get_logits_ith(impl_->context, static_cast<int32_t>(i));
    if (values == nullptr)
      return impl_->fail(Status(StatusCode::kInternal, "libllama has no logits"));
    rows.emplace_back(values, values + impl_->n_vocab);
  }
  return rows;
}

Status llama_convert_to_f32(const std::string& model_path, const std::string& target_path) {
  llama_runtime_start();
  llama_log_reset();
  llama_model_quantize_params params = llama_model_quantize_default_params();
  params.ftype = LLAMA_FTYPE_ALL_F32;
  params.allow_requantize = true;
  const std::string partial = target_path + ".partial";
  uint32_t code = 1;
  try {
    code = llama_model_quantize(model_path.c_str(), partial.c_str(), &params);
  } catch (const std::exception&) {
    code = 1;
  }
  std::error_code error;
  if (code == 0) std::filesystem::rename(partial, target_path, error);
  if (code == 0 && !error) return Status::ok();
  std::filesystem::remove(partial, error);
  return Status(StatusCode::kIoError, with_log("cannot write an F32 copy to " + target_path));
}

std::string default_cache_directory() {
  if (const char* cache = std::getenv("QUIRE_CACHE"); cache != nullptr && *cache != '\0') {
    return cache;
  }
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg != nullptr && *xdg != '\0') {
    return std::string(xdg) + "/quire";
  }
  const char* home = std::getenv("HOME");
  return std::string(home != nullptr ? home : "/tmp") + "/.cache/quire";
}

}  // namespace quire
