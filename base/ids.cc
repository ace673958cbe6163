#include "base/ids.h"

#include <cmath>

namespace quire {
namespace {

constexpr std::string_view kModelDomain{"quire.model.v1\0", 15};
constexpr std::string_view kObjectDomain{"quire.object.v1\0", 16};
constexpr std::string_view kPrefixDomain{"quire.prefix.v1\0", 16};
constexpr std::string_view kVariantDomain{"quire.variant.v1\0", 17};
constexpr std::string_view kRepresentationDomain{"quire.repr.v1\0", 14};
constexpr std::string_view kScopeDomain{"quire.scope.v1\0", 15};

Status invalid(std::string message) {
  return {StatusCode::kInvalidArgument, std::move(message)};
}

void write_digest(ByteWriter& writer, const Digest& digest) {
  writer.write(digest.bytes);
}

Digest read_digest(ByteReader& reader) {
  Digest digest;
  digest.bytes = reader.read<std::array<uint8_t, 32>>();
  return digest;
}

void encode_layer(ByteWriter& writer, const LayerDescriptor& layer) {
  writer.write(static_cast<uint8_t>(layer.attention));
  writer.write(static_cast<uint8_t>(layer.rope_style));
  writer.write(static_cast<uint8_t>(layer.length_dependent ? 1 : 0));
  writer.write(uint8_t{0});
  writer.write(layer.window_tokens);
  writer.write(layer.kv_heads);
  writer.write(layer.key_dims);
  writer.write(layer.value_dims);
  writer.write(layer.rotary_dims);
  writer.write(layer.attention_factor);
  writer.write(static_cast<uint32_t>(layer.inverse_frequencies.size()));
  for (const float value : layer.inverse_frequencies) writer.write(value);
}

Expected<LayerDescriptor> parse_layer(ByteReader& reader) {
  LayerDescriptor layer;
  const auto attention = reader.read<uint8_t>();
  const auto style = reader.read<uint8_t>();
  const auto length_dependent = reader.read<uint8_t>();
  const auto reserved = reader.read<uint8_t>();
  if (attention > 3 || style > 2 || length_dependent > 1 || reserved != 0)
    return invalid("model descriptor: unknown attention kind or rope style");
  layer.attention = static_cast<AttentionKind>(attention);
  layer.rope_style = static_cast<RopeStyle>(style);
  layer.length_dependent = length_dependent == 1;
  layer.window_tokens = reader.read<uint32_t>();
  layer.kv_heads = reader.read<uint32_t>();
  layer.key_dims = reader.read<uint32_t>();
  layer.value_dims = reader.read<uint32_t>();
  layer.rotary_dims = reader.read<uint32_t>();
  layer.attention_factor = reader.read<float>();
  const auto count = reader.read<uint32_t>();
  if (!reader.ok() || count > kHeadDimMax / 2) return invalid("model descriptor: truncated layer");
  layer.inverse_frequencies.resize(count);
  for (float& value : layer.inverse_frequencies) value = reader.read<float>();
  if (!reader.ok()) return invalid("model descriptor: truncated layer");
  return layer;
}

Status validate_layer(const LayerDescriptor& layer) {
  if (layer.attention == AttentionKind::kNone) return Status::ok();
  if (layer.kv_heads == 0 || layer.kv_heads > kHeadsMax) return invalid("kv_heads out of range");
  if (layer.key_dims == 0 || layer.key_dims > kHeadDimMax) return invalid("key_dims out of range");
  if (layer.value_dims > kHeadDimMax) return invalid("value_dims out of range");
  if (layer.rotary_dims > layer.key_dims || layer.rotary_dims % 2 != 0)
    return invalid("rotary_dims must be even and at most key_dims");
  if ((layer.rope_style == RopeStyle::kNone) != (layer.rotary_dims == 0))
    return invalid("rotary_dims and rope_style disagree");
  if (layer.inverse_frequencies.size() != layer.rotary_dims / 2)
    return invalid("inverse_frequencies must have rotary_dims / 2 values");
  for (const float value : layer.inverse_frequencies)
    if (!std::isfinite(value) || value < 0) return invalid("inverse_frequencies must be finite");
  if (!std::isfinite(layer.attention_factor)) return invalid("attention_factor must be finite");
  if ((layer.attention == AttentionKind::kSlidingWindow) != (layer.window_tokens != 0))
    return invalid("window_tokens and attention kind disagree");
  return Status::ok();
}

void hash_tokens(Sha256& stream, std::span<const TokenId> tokens) {
  stream.update(std::as_bytes(tokens));
}

}  // namespace

Status ModelDescriptor::validate() const {
  if (layers.empty() || layers.size() > kLayersMax) return invalid("layer count out of range");
  for (size_t i = 0; i < layers.size(); ++i) {
    const Status status = validate_layer(layers[i]);
    if (!status.is_ok()) return invalid("layer " + std::to_string(i) + ": " + status.message());
  }
  return Status::ok();
}

Status ModelDescriptor::movable() const {
  for (size_t i = 0; i < layers.size(); ++i) {
    const std::string where = "layer " + std::to_string(i) + ": ";
    if (layers[i].length_dependent)
      return {StatusCode::kUnsupported,
              where +
                  "its rope depends on the length of the prompt, so stored K cannot be moved; "
                  "only exact prefixes are reused"};
    if (layers[i].attention == AttentionKind::kLatent)
      return {StatusCode::kUnsupported, where + "latent attention is not supported yet"};
  }
  return Status::ok();
}

std::vector<std::byte> ModelDescriptor::encode() const {
  ByteWriter writer;
  write_digest(writer, weights);
  write_digest(writer, tokenizer);
  write_digest(writer, lora);
  writer.write(static_cast<uint32_t>(layers.size()));
  for (const LayerDescriptor& layer : layers) encode_layer(writer, layer);
  return writer.take();
}

Expected<ModelDescriptor> ModelDescriptor::parse(ByteSpan bytes) {
  ByteReader reader(bytes);
  ModelDescriptor model;
  model.weights = read_digest(reader);
  model.tokenizer = read_digest(reader);
  model.lora = read_digest(reader);
  const auto count = reader.read<uint32_t>();
  if (!reader.ok() || count > kLayersMax) return invalid("model descriptor: truncated or too long");
  for (uint32_t i = 0; i < count; ++i) {
    QUIRE_ASSIGN_OR_RETURN(LayerDescriptor layer, parse_layer(reader));
    model.layers.push_back(std::move(layer));
  }
  if (!reader.at_end()) return invalid("model descriptor: bytes after its end");
  QUIRE_RETURN_IF_ERROR(model.validate());
  return model;
}

Digest model_id(const ModelDescriptor& model) {
  Sha256 stream;
  stream.update(kModelDomain);
  stream.update(model.encode());
  return stream.digest();
}

Digest object_id(const Digest& model, std::span<const TokenId> tokens, ByteSpan tenant_salt) {
  Sha256 stream(tenant_salt);
  stream.update(kObjectDomain);
  stream.update_value(model.bytes);
  hash_tokens(stream, tokens);
  return stream.digest();
}

PrefixDigester::PrefixDigester(const Digest& model, ByteSpan tenant_salt) : stream_(tenant_salt) {
  stream_.update(kPrefixDomain);
  stream_.update_value(model.bytes);
}

void PrefixDigester::extend(std::span<const TokenId> tokens) {
  hash_tokens(stream_, tokens);
}

Digest PrefixDigester::digest() const {
  return stream_.digest();
}

Digest prefix_digest(const Digest& model, std::span<const TokenId> tokens, ByteSpan tenant_salt) {
  PrefixDigester digester(model, tenant_salt);
  digester.extend(tokens);
  return digester.digest();
}

VariantContext VariantContext::fixed_prefix(const Digest& prefix) {
  VariantContext context;
  context.kind = ContextKind::kFixedPrefix;
  context.reference = prefix;
  return context;
}

VariantContext VariantContext::contextual(const Digest& prefix) {
  VariantContext context;
  context.kind = ContextKind::kContextual;
  context.reference = prefix;
  return context;
}

VariantContext VariantContext::dummy_sink(std::vector<TokenId> tokens, uint32_t dropped) {
  VariantContext context;
  context.kind = ContextKind::kDummySink;
  context.dummy_tokens = std::move(tokens);
  context.dropped_tokens = dropped;
  return context;
}

VariantContext VariantContext::synthetic(std::vector<Digest> neighbours, const Digest& scope) {
  VariantContext context;
  context.kind = ContextKind::kSynthetic;
  context.neighbours = std::move(neighbours);
  context.scope = scope;
  return context;
}

std::vector<std::byte> VariantContext::encode() const {
  ByteWriter writer;
  if (scope != Digest{}) {
    writer.write(kScopedContextKind);
    writer.write(static_cast<uint8_t>(phase));
    write_digest(writer, scope);
  }
  writer.write(static_cast<uint8_t>(kind));
  writer.write(static_cast<uint8_t>(phase));
  switch (kind) {
    case ContextKind::kIsolated:
      break;
    case ContextKind::kFixedPrefix:
    case ContextKind::kContextual:
    case ContextKind::kDeltaOf:
      write_digest(writer, reference);
      break;
    case ContextKind::kDummySink:
      writer.write(static_cast<uint32_t>(dummy_tokens.size()));
      for (const TokenId token : dummy_tokens) writer.write(token);
      writer.write(dropped_tokens);
      break;
    case ContextKind::kSynthetic:
      writer.write(static_cast<uint32_t>(neighbours.size()));
      for (const Digest& neighbour : neighbours) write_digest(writer, neighbour);
      break;
  }
  return writer.take();
}

Expected<VariantContext> VariantContext::parse(ByteSpan bytes) {
  ByteReader reader(bytes);
  VariantContext context;
  auto kind = reader.read<uint8_t>();
  auto phase = reader.read<uint8_t>();
  const bool scoped = kind == kScopedContextKind;
  if (scoped) {
    const uint8_t phase_outside = phase;
    context.scope = read_digest(reader);
    kind = reader.read<uint8_t>();
    phase = reader.read<uint8_t>();
    if (reader.ok() && (phase != phase_outside || context.scope == Digest{}))
      return invalid("variant context: two phases, or a scope of zeros");
  }
  if (!reader.ok() || kind >= kContextKindCount || phase > 1)
    return invalid("variant context: unknown kind or phase");
  context.kind = static_cast<ContextKind>(kind);
  context.phase = static_cast<Phase>(phase);
  switch (context.kind) {
    case ContextKind::kIsolated:
      break;
    case ContextKind::kFixedPrefix:
    case ContextKind::kContextual:
    case ContextKind::kDeltaOf:
      context.reference = read_digest(reader);
      break;
    case ContextKind::kDummySink: {
      const auto count = reader.read<uint32_t>();
      if (count > kContextIdsMax) return invalid("variant context: too many dummy tokens");
      for (uint32_t i = 0; i < count; ++i) context.dummy_tokens.push_back(reader.read<TokenId>());
      context.dropped_tokens = reader.read<uint32_t>();
      break;
    }
    case ContextKind::kSynthetic: {
      const auto count = reader.read<uint32_t>();
      if (count > kContextIdsMax) return invalid("variant context: too many neighbours");
      for (uint32_t i = 0; i < count; ++i) context.neighbours.push_back(read_digest(reader));
      break;
    }
  }
  if (!reader.at_end()) return invalid("variant context: wrong length");
  if (scoped && !is_bound(context))
    return invalid(
        "variant context: only synthetic, delta_of and decode variants belong to a scope");
  return context;
}

bool is_bound(ContextKind kind, Phase phase) {
  return phase == Phase::kDecode || kind == ContextKind::kSynthetic ||
         kind == ContextKind::kDeltaOf;
}

Digest scope_id(ByteSpan tenant_salt, std::string_view label) {
  if (label.empty()) return {};
  Sha256 stream(tenant_salt);
  stream.update(kScopeDomain);
  stream.update(label);
  return stream.digest();
}

bool crosses_trust_domains(const VariantContext& context) {
  if (context.phase != Phase::kPrefill) return false;
  return context.kind == ContextKind::kIsolated || context.kind == ContextKind::kFixedPrefix ||
         context.kind == ContextKind::kDummySink;
}

Digest variant_id(const Digest& object, const VariantContext& context) {
  Sha256 stream;
  stream.update(kVariantDomain);
  stream.update_value(object.bytes);
  stream.update(context.encode());
  return stream.digest();
}

Digest representation_id(const Digest& variant, uint16_t codec, PositionFrame frame,
                         const Coverage& coverage) {
  Sha256 stream;
  stream.update(kRepresentationDomain);
  stream.update_value(variant.bytes);
  stream.update_value(codec);
  stream.update_value(static_cast<uint8_t>(frame));
  stream.update_value(coverage.layer_begin);
  stream.update_value(coverage.layer_end);
  stream.update_value(coverage.head_begin);
  stream.update_value(coverage.head_end);
  return stream.digest();
}

}  // namespace quire
