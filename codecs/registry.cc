#include "codecs/registry.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>

#include "codecs/coverage.h"
#include "codecs/statistics.h"
#include "codecs/wrapped.h"

namespace quire {
namespace {

constexpr CodecInfo lossless(CodecId id, std::string_view name, ElementType element,
                             bool variable_size) {
  return {id, name, element, true, true, true, false, variable_size};
}
constexpr CodecInfo lossy(CodecId id, std::string_view name, ElementType element,
                          bool variable_size = false) {
  return {id, name, element, false, true, true, true, variable_size};
}

constexpr auto kCodecs = std::to_array<CodecInfo>({
    lossless(CodecId::kRawF16, "raw-f16", ElementType::kF16, false),
    lossless(CodecId::kRawBf16, "raw-bf16", ElementType::kBf16, false),
    lossless(CodecId::kRawF32, "raw-f32", ElementType::kF32, false),
    lossless(CodecId::kBf16Exp4, "bf16-exp4", ElementType::kBf16, true),
    lossless(CodecId::kBf16Window3, "bf16-window3", ElementType::kBf16, true),
    lossless(CodecId::kBf16ShuffleLz4, "bf16-shuffle-lz4", ElementType::kBf16, true),
    lossless(CodecId::kBf16SplitZstd, "bf16-split-zstd", ElementType::kBf16, true),
    lossy(CodecId::kInt8Channel, "int8-channel", ElementType::kInt8),
    lossy(CodecId::kFp8Token, "fp8-token", ElementType::kFp8),
    lossy(CodecId::kInt4Channel64, "int4-channel64", ElementType::kInt4),
    lossy(CodecId::kInt4Channel128, "int4-channel128", ElementType::kInt4),
    lossy(CodecId::kInt4Kivi, "int4-kivi", ElementType::kInt4),
    lossy(CodecId::kInt4Hadamard, "int4-hadamard", ElementType::kInt4),
    lossy(CodecId::kInt4Centred, "int4-centred", ElementType::kInt4),
    lossy(CodecId::kInt4Rans, "int4-rans", ElementType::kInt4, true),
    lossy(CodecId::kInt3Channel64, "int3-channel64", ElementType::kInt3),
    lossy(CodecId::kInt2Channel32, "int2-channel32", ElementType::kInt2),
    lossy(CodecId::kInt2Kivi, "int2-kivi", ElementType::kInt2),
    lossy(CodecId::kMixedInt8Int4, "mixed-int8-int4", ElementType::kMixed, true),
    lossy(CodecId::kMixedInt8Int2, "mixed-int8-int2", ElementType::kMixed, true),
});
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

// The size that the section's own header demands.
Status check_variable_section(const RepresentationView& representation,
                              const ModelDescriptor& model, const SectionEntry& entry) {
  const RepresentationHeader& header = representation.header();
  QUIRE_ASSIGN_OR_RETURN(const ByteSpan bytes, representation.section(entry.layer, entry.plane));
  const LayerDescriptor& layer = model.layers[entry.layer];
  const SectionShape shape{entry.plane, static_cast<uint32_t>(header.tokens.size()),
                           covered_heads(layer, header.coverage),
                           entry.plane == Plane::kKey ? layer.key_dims : layer.value_dims};
  if (base_codec(header.codec).has_value()) return check_wrapped(header.codec, shape, bytes);
  const int code = quire_section_check(static_cast<int32_t>(header.codec),
                                       static_cast<int32_t>(shape.plane), shape.n_tokens,
                                       shape.n_heads, shape.head_dim, bytes.data(), bytes.size());
  if (code == QUIRE_KERNEL_OK) return Status::ok();
  return {StatusCode::kCorrupt,
          "layer " + std::to_string(entry.layer) + ": the section contradicts its own header"};
}

}  // namespace

std::span<const CodecInfo> codecs() {
  return kCodecs;
}

Expected<const CodecInfo*> find_codec(CodecId id) {
  for (const CodecInfo& codec : kCodecs)
    if (codec.id == id) return &codec;
  if (id == CodecId::kStatistics)
    return Status{StatusCode::kUnsupported, "codec 128 (statistics) holds no keys and values"};
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

std::string_view codec_name(CodecId id) {
  if (id == CodecId::kStatistics) return "statistics";
  for (const CodecInfo& codec : kCodecs)
    if (codec.id == id) return codec.name;
  return {};
}

Expected<uint64_t> section_bytes(CodecId codec, Plane plane, uint32_t n_tokens, uint32_t n_heads,
                                 uint32_t head_dim) {
  QUIRE_RETURN_IF_ERROR(find_codec(codec).status());
  if (n_tokens == 0 || n_tokens > kChunkTokensMax || n_heads > kHeadsMax || head_dim > kHeadDimMax)
    return Status{StatusCode::kInvalidArgument, "section shape out of limits"};
  if (n_heads == 0 || head_dim == 0) return uint64_t{0};
  const std::optional<CodecId> base = base_codec(codec);
  const uint64_t bytes =
      quire_section_bytes_max(static_cast<int32_t>(base.value_or(codec)),
                              static_cast<int32_t>(plane), n_tokens, n_heads, head_dim);
  if (bytes == 0) return Status{StatusCode::kInvalidArgument, "unknown plane"};
  return base.has_value() ? wrapped_bytes_max(bytes) : bytes;
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
  if (header.codec == CodecId::kStatistics) return check_statistics(representation, model);
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
  for (size_t i = 0; i < sizes.size(); ++i) {
    const SectionEntry& section = sections[i];
    const bool size_fits = codec->variable_size && sizes[i] != 0 ? section.bytes <= sizes[i]
                                                                 : section.bytes == sizes[i];
    if (!size_fits)
      return {StatusCode::kCorrupt, "layer " + std::to_string(section.layer) + ": section of " +
                                        std::to_string(section.bytes) + " bytes, " +
                                        (codec->variable_size ? "at most " : "") +
                                        std::to_string(sizes[i]) + " expected"};
    if (codec->variable_size && sizes[i] != 0)
      QUIRE_RETURN_IF_ERROR(check_variable_section(representation, model, section));
  }
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
    case QUIRE_KERNEL_CORRUPT:
      status = StatusCode::kCorrupt;
      break;
    default:
      break;
  }
  return {status, std::string(what) + ": " + quire_kernel_status_name(code)};
}

namespace {

CodecId codec_of(int32_t codec) {
  return static_cast<CodecId>(static_cast<uint16_t>(codec));
}

template <typename Params>
SectionShape shape_of(const Params& params) {
  return {static_cast<Plane>(params.plane), params.n_tokens, params.n_heads, params.head_dim};
}

// Null where the shape or plane is out of limits; the kernels then say what is wrong with it.
std::vector<std::byte> base_section(CodecId base, const SectionShape& shape) {
  const uint64_t bytes =
      quire_section_bytes(static_cast<int32_t>(base), static_cast<int32_t>(shape.plane),
                          shape.n_tokens, shape.n_heads, shape.head_dim);
  return std::vector<std::byte>(bytes);
}

// One section at a time through one scratch buffer each.
Status decode_wrapped(std::span<const quire_load_params> params) {
  for (const quire_load_params& outer : params) {
    quire_load_params inner = outer;
    std::vector<std::byte> scratch;
    if (const auto base = base_codec(codec_of(outer.codec))) {
      if (outer.struct_bytes != sizeof(outer))
        return kernel_status(QUIRE_KERNEL_BAD_STRUCT, "load of a section");
      const SectionShape shape = shape_of(outer);
      scratch = base_section(*base, shape);
      if (scratch.empty() || outer.src == nullptr)
        return kernel_status(QUIRE_KERNEL_INVALID_ARGUMENT, "load of a section");
      QUIRE_RETURN_IF_ERROR(expand_section(
          codec_of(outer.codec), shape,
          {static_cast<const std::byte*>(outer.src), static_cast<size_t>(outer.src_bytes)},
          scratch));
      inner.codec = static_cast<int32_t>(*base);
      inner.src = scratch.data();
      inner.src_bytes = scratch.size();
    }
    QUIRE_RETURN_IF_ERROR(kernel_status(quire_load(&inner), "load of a section"));
  }
  return Status::ok();
}

Status encode_wrapped(const quire_store_params& outer) {
  if (outer.struct_bytes != sizeof(outer))
    return kernel_status(QUIRE_KERNEL_BAD_STRUCT, "store of a section");
  const CodecId codec = codec_of(outer.codec);
  const CodecId base = *base_codec(codec);
  const SectionShape shape = shape_of(outer);
  std::vector<std::byte> scratch = base_section(base, shape);
  if (scratch.empty() || outer.dst == nullptr || outer.dst_written == nullptr ||
      outer.dst_bytes != wrapped_bytes_max(scratch.size()))
    return kernel_status(QUIRE_KERNEL_INVALID_ARGUMENT, "store of a section");
  quire_store_params inner = outer;
  inner.codec = static_cast<int32_t>(base);
  inner.dst = scratch.data();
  inner.dst_bytes = scratch.size();
  inner.dst_written = nullptr;
  QUIRE_RETURN_IF_ERROR(kernel_status(quire_store(&inner), "store of a section"));
  QUIRE_ASSIGN_OR_RETURN(*outer.dst_written, wrap_section(codec, shape, scratch,
                                                          {static_cast<std::byte*>(outer.dst),
                                                           static_cast<size_t>(outer.dst_bytes)}));
  return Status::ok();
}

}  // namespace

Status decode_section(const quire_load_params& params) {
  return decode_sections({&params, 1});
}

Status decode_sections(std::span<const quire_load_params> params) {
  const bool wrapped = std::any_of(params.begin(), params.end(), [](const quire_load_params& p) {
    return base_codec(codec_of(p.codec)).has_value();
  });
  if (wrapped) return decode_wrapped(params);
  size_t failed = 0;
  const int code = quire_load_batch(params.data(), params.size(), &failed);
  if (code == QUIRE_KERNEL_OK) return Status::ok();
  return kernel_status(code, "load of section " + std::to_string(failed));
}

Status encode_section(const quire_store_params& params) {
  if (base_codec(codec_of(params.codec)).has_value()) return encode_wrapped(params);
  return kernel_status(quire_store(&params), "store of a section");
}

Status make_rope_table(const quire_rope_params& params) {
  return kernel_status(quire_rope_table(&params), "rope table");
}

}  // namespace quire
