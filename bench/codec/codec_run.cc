#include "bench/codec/codec_run.h"

#include <algorithm>
#include <cstring>

#include "client/reuse/engine_memory.h"
#include "kernels/math/bits.h"

namespace quire::bench {
namespace {

uint32_t dims_of(Plane plane, const LayerDescriptor& shape) {
  return plane == Plane::kKey ? shape.key_dims : shape.value_dims;
}

std::span<const float> plane_values(Plane plane, const DumpLayer& layer) {
  return plane == Plane::kKey ? layer.keys : layer.values;
}

// Turns for one slice that begins at `begin`.
struct SliceTurns {
  reuse::Angles angles;
  reuse::RopeTables encode;
  reuse::RopeTables decode;
  bool turns_before = false;

  SliceTurns(PositionFrame frame, uint32_t begin, uint32_t n_tokens)
      : encode(QUIRE_ROPE_TO_DST, 0, 0, n_tokens, angles),
        decode(frame == PositionFrame::kLocal ? QUIRE_ROPE_FROM_SRC | QUIRE_ROPE_TO_DST
                                              : static_cast<uint32_t>(QUIRE_ROPE_TO_DST),
               0, begin, n_tokens, angles),
        turns_before(frame == PositionFrame::kLocal) {}
};

}  // namespace

SectionBuffer::SectionBuffer(uint64_t bytes)
    : bytes_(bytes),
      data_(static_cast<std::byte*>(
          ::operator new (std::max<uint64_t>(bytes, 1), std::align_val_t{64}))) {}

ElementType engine_element(const CodecInfo& codec) {
  const bool raw = codec.element == ElementType::kF16 || codec.element == ElementType::kF32;
  return raw ? codec.element : ElementType::kBf16;
}

uint32_t element_bytes(ElementType element) {
  return element == ElementType::kF32 ? 4 : 2;
}

std::vector<std::byte> to_elements(std::span<const float> values, ElementType element) {
  std::vector<std::byte> bytes(values.size() * element_bytes(element));
  if (element == ElementType::kF32) {
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t bits = element == ElementType::kBf16 ? quire_kernels::float_to_bf16(values[i])
                                                        : quire_kernels::float_to_half(values[i]);
    std::memcpy(bytes.data() + 2 * i, &bits, 2);
  }
  return bytes;
}

quire_store_params store_params(CodecId codec, Plane plane, const LayerDescriptor& shape,
                                const std::byte* plane_data, ElementType element, uint32_t begin,
                                uint32_t n_tokens) {
  const uint32_t dims = dims_of(plane, shape);
  const int64_t bytes = element_bytes(element);
  quire_store_params params{};
  params.struct_bytes = sizeof(params);
  params.codec = static_cast<int32_t>(codec);
  params.plane = static_cast<int32_t>(plane);
  params.n_tokens = n_tokens;
  params.n_heads = shape.kv_heads;
  params.head_dim = dims;
  params.src_dtype = static_cast<int32_t>(element);
  params.src_tokens = n_tokens;
  params.src_token_stride = bytes * shape.kv_heads * dims;
  params.src_head_stride = bytes * dims;
  params.src_dim_stride = bytes;
  params.src = plane_data + begin * params.src_token_stride;
  return params;
}

quire_load_params load_params(CodecId codec, Plane plane, const LayerDescriptor& shape,
                              std::byte* plane_data, ElementType element, uint32_t begin,
                              uint32_t n_tokens) {
  const uint32_t dims = dims_of(plane, shape);
  const int64_t bytes = element_bytes(element);
  quire_load_params params{};
  params.struct_bytes = sizeof(params);
  params.codec = static_cast<int32_t>(codec);
  params.plane = static_cast<int32_t>(plane);
  params.n_tokens = n_tokens;
  params.n_heads = shape.kv_heads;
  params.head_dim = dims;
  params.token_end = n_tokens;
  params.dst_dtype = static_cast<int32_t>(element);
  params.dst_tokens = n_tokens;
  params.dst_token_stride = bytes * shape.kv_heads * dims;
  params.dst_head_stride = bytes * dims;
  params.dst_dim_stride = bytes;
  params.dst = plane_data + begin * params.dst_token_stride;
  return params;
}

Expected<PlaneResult> run_plane(CodecId codec, Plane plane, const DumpLayer& layer,
                                uint32_t n_tokens, const SliceOptions& options,
                                std::span<const uint8_t> salient) {
  const LayerDescriptor& shape = layer.shape;
  const std::span<const float> source = plane_values(plane, layer);
  PlaneResult result;
  result.values.resize(source.size());
  auto* out = reinterpret_cast<std::byte*>(result.values.data());
  const auto* in = reinterpret_cast<const std::byte*>(source.data());
  const uint32_t most = std::min(options.slice_tokens, n_tokens);
  QUIRE_ASSIGN_OR_RETURN(const uint64_t bytes_max,
                         section_bytes(codec, plane, most, shape.kv_heads, dims_of(plane, shape)));
  SectionBuffer section(bytes_max);
  for (uint32_t begin = 0; begin < n_tokens; begin += most) {
    const uint32_t count = std::min(most, n_tokens - begin);
    QUIRE_ASSIGN_OR_RETURN(const uint64_t bound, section_bytes(codec, plane, count, shape.kv_heads,
                                                               dims_of(plane, shape)));
    SliceTurns turns(options.frame, begin, count);
    quire_store_params store =
        store_params(codec, plane, shape, in, ElementType::kF32, begin, count);
    uint64_t written = bound;
    store.dst = section.data();
    store.dst_bytes = bound;
    store.dst_written = &written;
    if (!salient.empty()) store.salient = salient.data() + begin;
    quire_load_params load = load_params(codec, plane, shape, out, ElementType::kF32, begin, count);
    if (plane == Plane::kKey) {
      if (turns.turns_before) {
        QUIRE_ASSIGN_OR_RETURN(store.rotation, turns.encode.rotation(0, shape));
      }
      QUIRE_ASSIGN_OR_RETURN(load.rotation, turns.decode.rotation(0, shape));
    }
    QUIRE_RETURN_IF_ERROR(encode_section(store));
    load.src = section.data();
    load.src_bytes = written;
    QUIRE_RETURN_IF_ERROR(decode_section(load));
    result.section_bytes += written;
  }
  return result;
}

Expected<std::vector<float>> exact_plane(Plane plane, const DumpLayer& layer, uint32_t n_tokens) {
  QUIRE_ASSIGN_OR_RETURN(PlaneResult result,
                         run_plane(CodecId::kRawF32, plane, layer, n_tokens, {}, {}));
  return std::move(result.values);
}

Expected<bool> keeps_bits(const CodecInfo& codec, Plane plane, const DumpLayer& layer,
                          uint32_t n_tokens, uint32_t slice_tokens) {
  const ElementType element = engine_element(codec);
  const std::vector<std::byte> in = to_elements(plane_values(plane, layer), element);
  std::vector<std::byte> out(in.size());
  const LayerDescriptor& shape = layer.shape;
  for (uint32_t begin = 0; begin < n_tokens; begin += slice_tokens) {
    const uint32_t count = std::min(slice_tokens, n_tokens - begin);
    quire_store_params store =
        store_params(codec.id, plane, shape, in.data(), element, begin, count);
    QUIRE_ASSIGN_OR_RETURN(
        const uint64_t bound,
        section_bytes(codec.id, plane, count, shape.kv_heads, dims_of(plane, shape)));
    SectionBuffer section(bound);
    uint64_t written = bound;
    store.dst = section.data();
    store.dst_bytes = bound;
    store.dst_written = &written;
    QUIRE_RETURN_IF_ERROR(encode_section(store));
    quire_load_params load = load_params(codec.id, plane, shape, out.data(), element, begin, count);
    load.src = section.data();
    load.src_bytes = written;
    QUIRE_RETURN_IF_ERROR(decode_section(load));
  }
  return in == out;
}

}  // namespace quire::bench
