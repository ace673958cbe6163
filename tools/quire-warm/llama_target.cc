#include "tools/quire-warm/llama_target.h"

#include <algorithm>

#include "base/clock.h"
#include "client/llama/kv_source.h"
#include "client/llama/prompt.h"
#include "client/reuse/encode.h"
#include "client/reuse/salient.h"
#include "codecs/registry.h"
#include "codecs/statistics.h"
#include "tools/quire-warm/filler.h"

namespace quire::warm {
namespace {

constexpr uint32_t kBusyRetriesMax = 64;  // a warm-up can wait; each wait is at most a second

// Marks beginnings or ends of texts in vocabularies without BOS.
constexpr std::string_view kNeutralToken = "<|endoftext|>";

// Asks whether statistics are stored: the reservation is given back whatever its size.
constexpr uint64_t kStatisticsProbeBytes = 4096;

Digest statistics_id(const Digest& variant) {
  return representation_id(variant, static_cast<uint16_t>(CodecId::kStatistics),
                           PositionFrame::kPreRope, kStatisticsCoverage);
}

Status check_statistics(const ModelDescriptor& model) {
  const bool measurable = std::any_of(
      model.layers.begin(), model.layers.end(),
      [](const LayerDescriptor& layer) { return layer.attention == AttentionKind::kFull; });
  if (measurable) return Status::ok();
  return {
      StatusCode::kUnsupported,
      "statistics are means over the layers that see the whole prompt, and this model has none: "
      "leave --stats out"};
}

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
  if (options_.statistics) QUIRE_RETURN_IF_ERROR(check_statistics(engine_.descriptor()));
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
  return identify_in(tokens, context_, prefix_.size());
}

Expected<ChunkIds> LlamaTarget::identify_behind(std::span<const TokenId> tokens,
                                                std::span<const Digest> neighbours) {
  // Where the chunk began does not enter its ids.
  return identify_in(tokens, context_behind(neighbours), prefix_.size());
}

Expected<ChunkIds> LlamaTarget::identify_in(std::span<const TokenId> tokens,
                                            const VariantContext& context, uint64_t base_position) {
  const RepresentationHeader header = header_of(tokens, context, options_.codec, base_position);
  QUIRE_ASSIGN_OR_RETURN(const RepresentationWriter writer,
                         reuse::plan_representation(header, engine_.descriptor()));
  return ChunkIds{header.object, header.variant, header.representation, writer.total_bytes()};
}

// Named as quire.transformers names it: the fixed text first, then the neighbours.
VariantContext LlamaTarget::context_behind(std::span<const Digest> neighbours) const {
  std::vector<Digest> names;
  if (!prefix_.empty()) names.push_back(object_id(engine_.model_id(), prefix_, salt()));
  names.insert(names.end(), neighbours.begin(), neighbours.end());
  return VariantContext::synthetic(std::move(names),
                                   client_ == nullptr ? Digest{} : client_->scope());
}

LlamaTarget::Front LlamaTarget::fixed_front() const {
  Front front{prefix_, {}};
  if (!prefix_.empty()) front.runs.push_back(static_cast<uint32_t>(prefix_.size()));
  return front;
}

Expected<std::optional<uint64_t>> LlamaTarget::find_stored(std::span<const TokenId> tokens,
                                                           const ChunkIds& ids) {
  QUIRE_ASSIGN_OR_RETURN(bool stored, is_stored(ids));
  if (stored && options_.statistics) {
    QUIRE_ASSIGN_OR_RETURN(stored, is_stored(statistics_id(ids.variant), kStatisticsProbeBytes));
  }
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
  return is_stored(ids.representation, ids.bytes_max);
}

Expected<bool> LlamaTarget::is_stored(const Digest& representation, uint64_t bytes) {
  // The window is given back at once: computing the chunk may take longer than a reservation lives.
  const auto window = client_->reserve(representation, bytes);
  if (window) return false;
  const StatusCode code = window.status().code();
  if (code == StatusCode::kAlreadyExists) return true;
  if (code == StatusCode::kBusy) return false;  // no room this moment says nothing about the id
  return window.status();
}

Expected<StoreResult> LlamaTarget::store(std::span<const TokenId> tokens, const ChunkIds& ids) {
  return store_in(tokens, context_, fixed_front(), ids);
}

Expected<StoreResult> LlamaTarget::store_behind(std::span<const TokenId> tokens,
                                                std::span<const WarmNeighbour> neighbours,
                                                const ChunkIds& ids) {
  Front front = fixed_front();
  std::vector<Digest> names;
  for (const WarmNeighbour& neighbour : neighbours) {
    names.push_back(neighbour.object);
    front.runs.push_back(static_cast<uint32_t>(neighbour.tokens.size()));
    front.tokens.insert(front.tokens.end(), neighbour.tokens.begin(), neighbour.tokens.end());
  }
  return store_in(tokens, context_behind(names), front, ids);
}

Expected<StoreResult> LlamaTarget::store_in(std::span<const TokenId> tokens,
                                            const VariantContext& context, const Front& front,
                                            const ChunkIds& ids) {
  const RepresentationHeader header =
      header_of(tokens, context, options_.codec, front.tokens.size());
  if (header.representation != ids.representation)
    return Status(StatusCode::kInternal, "ids of another chunk");
  QUIRE_ASSIGN_OR_RETURN(StoreResult result, put(header, front, options_.statistics));
  if (!result.already_stored) return result;
  QUIRE_ASSIGN_OR_RETURN(const std::optional<uint64_t> stored, find_stored(tokens, ids));
  result.bytes = stored.value_or(0);
  return result;
}

Expected<KvCapture> LlamaTarget::capture(const RepresentationHeader& header, const Front& front,
                                         reuse::AttentionShares* shares) {
  if (shares == nullptr)
    return capture_for(engine_, front.tokens, header.tokens, header.codec, options_.salient_share);
  QUIRE_ASSIGN_OR_RETURN(const CodecInfo* codec, find_codec(header.codec));
  QUIRE_ASSIGN_OR_RETURN(KvCapture capture, engine_.capture_with_shares(front.tokens, header.tokens,
                                                                        front.runs, shares));
  if (codec->element == ElementType::kMixed)
    capture.salient = reuse::salient_tokens(shares->received, options_.salient_share);
  return capture;
}

Expected<StoreResult> LlamaTarget::put(const RepresentationHeader& header, const Front& front,
                                       bool statistics) {
  const uint64_t began_ns = system_clock().now_ns();
  reuse::AttentionShares shares;
  QUIRE_ASSIGN_OR_RETURN(const KvCapture capture,
                         this->capture(header, front, statistics ? &shares : nullptr));
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
  if (statistics) QUIRE_RETURN_IF_ERROR(put_statistics(header, shares));
  return result;
}

Status LlamaTarget::put_statistics(const RepresentationHeader& header,
                                   const reuse::AttentionShares& shares) {
  QUIRE_ASSIGN_OR_RETURN(const std::vector<std::byte> block,
                         reuse::encode_shares(shares, engine_.n_layers()));
  QUIRE_ASSIGN_OR_RETURN(const std::vector<std::byte> packed,
                         pack_statistics(header, salt(), engine_.descriptor(), block));
  return client_->put(statistics_id(header.variant), packed, options_.ack);
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
  return put(header, {}, false).status();
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
