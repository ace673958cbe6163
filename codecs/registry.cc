#include "codecs/registry.h"

#include <algorithm>
#include <array>
#include <string>

namespace quire {
namespace {

constexpr std::array<CodecInfo, 4> kCodecs = {{
    {CodecId::kRawF16, "raw-f16", ElementType::kF16, true, true, true, false},
    {CodecId::kRawBf16, "raw-bf16", ElementType::kBf16, true, true, true, false},
    {CodecId::kRawF32, "raw-f32", ElementType::kF32, true, true, true, false},
    {CodecId::kInt8Channel, "int8-channel", ElementType::kInt8, false, true, true, true},
}};
static_assert(static_cast<int>(CodecId::kRawF16) == QUIRE_CODEC_RAW_F16 &&
              static_cast<int>(CodecId::kRawBf16) == QUIRE_CODEC_RAW_BF16 &&
              static_cast<int>(CodecId::kRawF32) == QUIRE_CODEC_RAW_F32 &&
              static_cast<int>(CodecId::kInt8Channel) == QUIRE_CODEC_INT8_CHANNEL &&
              static_cast<int>(Plane::kKey) == QUIRE_PLANE_KEY &&
              static_cast<int>(Plane::kValue) == QUIRE_PLANE_VALUE);
static_assert(kChunkTokensMax <= QUIRE_KERNEL_TOKENS_MAX && kHeadsMax <= QUIRE_KERNEL_HEADS_MAX &&
              kHeadDimMax <= QUIRE_KERNEL_DIMS_MAX);
static_assert(static_cast<int>(RopeStyle::kNeox) == QUIRE_ROPE_STYLE_NEOX &&
              static_cast<int>(RopeStyle::kInterleaved) == QUIRE_ROPE_STYLE_INTERLEAVED);

std::string known_codecs() {
  std::string names;
  for (const CodecInfo& codec : kCodecs) {
    if (!names.empty()) names += ", ";
    names += codec.name;
  }
  return names;
}

// KV heads of the layer inside the coverage; layers without attention have none, layers with fewer
// heads than others only theirs.
uint32_t covered_heads(const LayerDescriptor& layer, const Coverage& coverage) {
  if (layer.attention == AttentionKind::kNone) return 0;
  const uint32_t end = std::min(coverage.head_end, layer.kv_heads);
  return end > coverage.head_begin ? end - coverage.head_begin : 0;
}

Status check_coverage(const ModelDescriptor& model, const Coverage& coverage) {
  if (coverage.layer_begin >= coverage.layer_end || coverage.layer_end > model.layers.size())
    return {StatusCode::kModelMismatch, "layers up to " + std::to_string(coverage.layer_end) +
                                            " of a model with " +
                                            std::to_string(model.layers.size())};
  uint32_t heads = 0;
  for (uint32_t i = coverage.layer_begin; i < coverage.layer_end; ++i)
    if (model.layers[i].attention != AttentionKind::kNone)
      heads = std::max(heads, model.layers[i].kv_heads);
  if (coverage.head_begin >= coverage.head_end || coverage.head_end > std::max(heads, 1u))
    return {StatusCode::kModelMismatch,
            "KV heads up to " + std::to_string(coverage.head_end) + " of " + std::to_string(heads)};
  return Status::ok();
}

}  // namespace

std::span<const CodecInfo> codecs() {
  return kCodecs;
}

Expected<const CodecInfo*> find_codec(CodecId id) {
  for (const CodecInfo& codec : kCodecs)
    if (codec.id == id) return &codec;
  return Status{StatusCode::kUnsupported, "codec " + std::to_string(static_cast<uint16_t>(id)) +
                                              " is unknown to this build; it has " +
                                              known_codecs()};
}

Expected<const CodecInfo*> find_codec(std::string_view name) {
  for (const CodecInfo& codec : kCodecs)
    if (codec.name == name) return &codec;
  return Status{StatusCode::kNotFound,
                "no codec \"" + std::string(name) + "\"; there are " + known_codecs()};
}

Expected<uint64_t> section_bytes(CodecId codec, Plane plane, uint32_t n_tokens, uint32_t n_heads,
                                 uint32_t head_dim) {
  QUIRE_RETURN_IF_ERROR(find_codec(codec).status());
  if (n_tokens == 0 || n_tokens > kChunkTokensMax || n_heads > kHeadsMax || head_dim > kHeadDimMax)
    return Status{StatusCode::kInvalidArgument, "section shape out of limits"};
  if (n_heads == 0 || head_dim == 0) return uint64_t{0};
  const uint64_t bytes = quire_section_bytes(
      static_cast<int32_t>(codec), static_cast<int32_t>(plane), n_tokens, n_heads, head_dim);
  if (bytes == 0) return Status{StatusCode::kInvalidArgument, "unknown plane"};
  return bytes;
}

Expected<std::vector<uint64_t>> section_sizes(CodecId codec, const ModelDescriptor& model,
                                              const Coverage& coverage, uint32_t n_tokens) {
  QUIRE_RETURN_IF_ERROR(check_coverage(model, coverage));
  std::vector<uint64_t> sizes;
  sizes.reserve(2 * (coverage.layer_end - coverage.layer_begin));
  for (uint32_t i = coverage.layer_begin; i < coverage.layer_end; ++i) {
    const LayerDescriptor& layer = model.layers[i];
    const uint32_t heads = covered_heads(layer, coverage);
    for (const Plane plane : {Plane::kKey, Plane::kValue}) {
      const uint32_t dims = plane == Plane::kKey ? layer.key_dims : layer.value_dims;
      QUIRE_ASSIGN_OR_RETURN(const uint64_t bytes,
                             section_bytes(codec, plane, n_tokens, heads, heads == 0 ? 0 : dims));
      sizes.push_back(bytes);
    }
  }
  return sizes;
}

Status check_sections(const RepresentationView& representation, const ModelDescriptor& model) {
  const RepresentationHeader& header = representation.header();
  QUIRE_ASSIGN_OR_RETURN(const CodecInfo* codec, find_codec(header.codec));
  const bool frame_allowed =
      header.frame == PositionFrame::kPreRope ? codec->allows_pre_rope : codec->allows_local;
  if (!frame_allowed)
    return {StatusCode::kUnsupported,
            "codec " + std::string(codec->name) + " does not allow this position frame"};
  const Digest id = model_id(model);
  if (header.model != id)
    return {StatusCode::kModelMismatch,
            "the representation is of model " + header.model.to_hex() + ", not of " + id.to_hex()};
  QUIRE_ASSIGN_OR_RETURN(const std::vector<uint64_t> sizes,
                         section_sizes(header.codec, model, header.coverage,
                                       static_cast<uint32_t>(header.tokens.size())));
  const auto sections = representation.sections();
  if (sections.size() != sizes.size()) return {StatusCode::kCorrupt, "wrong number of sections"};
  for (size_t i = 0; i < sizes.size(); ++i)
    if (sections[i].bytes != sizes[i])
      return {StatusCode::kCorrupt, "layer " + std::to_string(sections[i].layer) + ": section of " +
                                        std::to_string(sections[i].bytes) + " bytes, " +
                                        std::to_string(sizes[i]) + " expected"};
  return Status::ok();
}

Status kernel_status(int code, std::string_view what) {
  StatusCode status = StatusCode::kInternal;
  switch (code) {
    case QUIRE_KERNEL_OK:
      return Status::ok();
    case QUIRE_KERNEL_INVALID_ARGUMENT:
    case QUIRE_KERNEL_BAD_STRUCT:
      status = StatusCode::kInvalidArgument;
      break;
    case QUIRE_KERNEL_UNSUPPORTED:
    case QUIRE_KERNEL_OUT_OF_RANGE:
      status = StatusCode::kUnsupported;
      break;
    case QUIRE_KERNEL_NON_FINITE:
      status = StatusCode::kNonFinite;
      break;
    default:
      break;
  }
  return {status, std::string(what) + ": " + quire_kernel_status_name(code)};
}

Status decode_section(const quire_load_params& params) {
  return kernel_status(quire_load(&params), "load of a section");
}

Status decode_sections(std::span<const quire_load_params> params) {
  size_t failed = 0;
  const int code = quire_load_batch(params.data(), params.size(), &failed);
  if (code == QUIRE_KERNEL_OK) return Status::ok();
  return kernel_status(code, "load of section " + std::to_string(failed));
}

Status encode_section(const quire_store_params& params) {
  return kernel_status(quire_store(&params), "store of a section");
}

Status make_rope_table(const quire_rope_params& params) {
  return kernel_status(quire_rope_table(&params), "rope table");
}

}  // namespace quire
