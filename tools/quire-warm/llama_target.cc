#include "tools/quire-warm/llama_target.h"

#include <algorithm>

#include "base/clock.h"
#include "client/llama/kv_source.h"
#include "client/llama/prompt.h"
#include "client/reuse/encode.h"
#include "codecs/registry.h"
#include "tools/quire-warm/filler.h"

namespace quire::warm {
namespace {

constexpr uint32_t kBusyRetriesMax = 64;  // a warm-up can wait; each wait is at most a second

// Marks beginnings or ends of texts in vocabularies without BOS.
constexpr std::string_view kNeutralToken = "<|endoftext|>";

}  // namespace

Expected<std::unique_ptr<LlamaTarget>> LlamaTarget::make(LlamaEngine& engine, Client* client,
                                                         const LlamaTargetOptions& options) {
  std::unique_ptr<LlamaTarget> target(new LlamaTarget(engine, client, options));
  QUIRE_RETURN_IF_ERROR(target->prepare());
  return target;
}

Status LlamaTarget::prepare() {
  QUIRE_RETURN_IF_ERROR(engine_.descriptor().movable());
  QUIRE_RETURN_IF_ERROR(check_codec(engine_, options_.codec));
  QUIRE_ASSIGN_OR_RETURN(system_prefix_, prompt_system_prefix(engine_, options_.system_text));
  switch (options_.variant) {
    case WarmVariant::kFixedPrefix:
      prefix_ = system_prefix_;
      break;
    case WarmVariant::kFixedPrefixFiller: {
      prefix_ = system_prefix_;
      QUIRE_ASSIGN_OR_RETURN(const auto filler, prompt_chunk(engine_, kFillerText));
      prefix_.insert(prefix_.end(), filler.begin(), filler.end());
      break;
    }
    case WarmVariant::kIsolated:
      context_ = VariantContext::isolated();
      return Status::ok();
    case WarmVariant::kDummySink: {
      QUIRE_ASSIGN_OR_RETURN(prefix_, dummy_tokens());
      context_ = VariantContext::dummy_sink(prefix_, kDummySinkTokens);
      return Status::ok();
    }
  }
  context_ = VariantContext::fixed_prefix(prefix_digest(engine_.model_id(), prefix_, salt()));
  return Status::ok();
}

Expected<std::vector<TokenId>> LlamaTarget::dummy_tokens() const {
  QUIRE_ASSIGN_OR_RETURN(std::vector<TokenId> token, engine_.tokenize("", true, false));
  if (token.size() != 1) {
    QUIRE_ASSIGN_OR_RETURN(token, engine_.tokenize(kNeutralToken, false, true));
  }
  if (token.size() != 1) {
    QUIRE_ASSIGN_OR_RETURN(token, engine_.tokenize("\n", false, false));
  }
  if (token.empty())
    return Status(StatusCode::kUnsupported, "the model has no token fit for dummy_sink");
  return std::vector<TokenId>(kDummySinkTokens, token[0]);
}

ByteSpan LlamaTarget::salt() const {
  return client_ == nullptr ? ByteSpan{} : ByteSpan(client_->tenant_salt());
}

RepresentationHeader LlamaTarget::header_of(std::span<const TokenId> tokens,
                                            const VariantContext& context, CodecId codec,
                                            uint64_t base_position) const {
  RepresentationHeader header;
  header.codec = codec;
  header.frame = PositionFrame::kLocal;
  header.context = context;
  header.model = engine_.model_id();
  header.base_position = base_position;
  header.coverage.layer_end = engine_.n_layers();
  for (const LayerDescriptor& layer : engine_.descriptor().layers)
    header.coverage.head_end = std::max(header.coverage.head_end, layer.kv_heads);
  header.tokens.assign(tokens.begin(), tokens.end());
  fill_ids(header, salt());
  return header;
}

Expected<std::vector<TokenId>> LlamaTarget::tokenize(std::string_view text) {
  return prompt_chunk(engine_, text);
}

Expected<ChunkIds> LlamaTarget::identify(std::span<const TokenId> tokens) {
  const RepresentationHeader header = header_of(tokens, context_, options_.codec, prefix_.size());
  QUIRE_ASSIGN_OR_RETURN(const RepresentationWriter writer,
                         reuse::plan_representation(header, engine_.descriptor()));
  return ChunkIds{header.object, header.variant, header.representation, writer.total_bytes()};
}

Expected<std::optional<uint64_t>> LlamaTarget::find_stored(std::span<const TokenId> tokens,
                                                           const ChunkIds& ids) {
  QUIRE_ASSIGN_OR_RETURN(const bool stored, is_stored(ids));
  if (!stored) return std::optional<uint64_t>();
  QUIRE_ASSIGN_OR_RETURN(const CodecInfo* codec, find_codec(options_.codec));
  if (!codec->variable_size) return std::optional(ids.bytes_max);
  QUIRE_ASSIGN_OR_RETURN(const uint64_t bytes, stored_bytes(tokens, ids.representation));
  return std::optional(bytes);
}

Expected<uint64_t> LlamaTarget::stored_bytes(std::span<const TokenId> tokens,
                                             const Digest& representation) {
  ResolveOptions options;
  options.prefix = false;
  QUIRE_ASSIGN_OR_RETURN(const std::vector<Match> matches,
                         client_->resolve(engine_.model_id(), tokens, options));
  for (const Match& match : matches)
    if (match.representation == representation) return match.bytes;
  return uint64_t{0};
}

Expected<bool> LlamaTarget::is_stored(const ChunkIds& ids) {
  // The window is given back at once: computing the chunk may take longer than a reservation lives.
  const auto window = client_->reserve(ids.representation, ids.bytes_max);
  if (window) return false;
  const StatusCode code = window.status().code();
  if (code == StatusCode::kAlreadyExists) return true;
  if (code == StatusCode::kBusy) return false;  // no room this moment says nothing about the id
  return window.status();
}

Expected<StoreResult> LlamaTarget::store(std::span<const TokenId> tokens, const ChunkIds& ids) {
  const RepresentationHeader header = header_of(tokens, context_, options_.codec, prefix_.size());
  if (header.representation != ids.representation)
    return Status(StatusCode::kInternal, "ids of another chunk");
  QUIRE_ASSIGN_OR_RETURN(StoreResult result, put(header, prefix_));
  if (!result.already_stored) return result;
  QUIRE_ASSIGN_OR_RETURN(const std::optional<uint64_t> stored, find_stored(tokens, ids));
  result.bytes = stored.value_or(0);
  return result;
}

Expected<StoreResult> LlamaTarget::put(const RepresentationHeader& header,
                                       std::span<const TokenId> prefix) {
  const uint64_t began_ns = system_clock().now_ns();
  QUIRE_ASSIGN_OR_RETURN(
      const KvCapture capture,
      capture_for(engine_, prefix, header.tokens, header.codec, options_.salient_share));
  StoreResult result;
  result.compute_us = std::max<uint64_t>(1, (system_clock().now_ns() - began_ns) / 1000);
  if (capture.base_position != header.base_position || capture.n_tokens != header.tokens.size())
    return Status(StatusCode::kInternal, "the engine computed other positions than asked for");
  const reuse::EncodeOptions encode = encode_options(capture);
  reuse::PutOptions put;
  put.ack = options_.ack;
  put.busy_retries_max = kBusyRetriesMax;
  QUIRE_ASSIGN_OR_RETURN(const reuse::PutResult stored,
                         reuse::put_representation(*client_, header, engine_.descriptor(),
                                                   capture.plane_of, encode, put, &result.bytes));
  result.already_stored = stored == reuse::PutResult::kAlreadyStored;
  return result;
}

Status LlamaTarget::register_model() {
  QUIRE_ASSIGN_OR_RETURN(const Digest model,
                         client_->register_model(engine_.model_name(), engine_.descriptor()));
  if (model != engine_.model_id())
    return {StatusCode::kModelMismatch, "the server knows this model by another id"};
  return Status::ok();
}

Status LlamaTarget::store_system_prefix() {
  const VariantContext exact =
      VariantContext::contextual(prefix_digest(engine_.model_id(), {}, salt()));
  const RepresentationHeader header = header_of(system_prefix_, exact, exact_codec(engine_), 0);
  QUIRE_ASSIGN_OR_RETURN(const RepresentationWriter writer,
                         reuse::plan_representation(header, engine_.descriptor()));
  QUIRE_ASSIGN_OR_RETURN(
      const bool stored,
      is_stored({header.object, header.variant, header.representation, writer.total_bytes()}));
  if (stored) return Status::ok();
  return put(header, {}).status();
}

Expected<double> LlamaTarget::measure_tokens_per_second(uint32_t chunk_tokens) {
  // Text repeated to the wanted length; what it says does not change the time.
  QUIRE_ASSIGN_OR_RETURN(const auto text, prompt_chunk(engine_, kFillerText));
  std::vector<TokenId> tokens;
  while (tokens.size() < chunk_tokens)
    tokens.insert(tokens.end(), text.begin(),
                  text.begin() + static_cast<int64_t>(
                                     std::min<size_t>(text.size(), chunk_tokens - tokens.size())));
  // The first run computes the prefix, too, and touches the weights; the second one counts.
  double seconds = 0;
  for (int attempt = 0; attempt < 2; ++attempt) {
    std::rotate(tokens.begin(), tokens.begin() + 1, tokens.end());
    const uint64_t began_ns = system_clock().now_ns();
    QUIRE_RETURN_IF_ERROR(engine_.capture(prefix_, tokens).status());
    seconds = static_cast<double>(system_clock().now_ns() - began_ns) / 1e9;
  }
  if (seconds <= 0) return Status(StatusCode::kInternal, "the engine takes no time");
  return static_cast<double>(tokens.size()) / seconds;
}

}  // namespace quire::warm
