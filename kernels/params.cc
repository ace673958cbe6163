#include "kernels/params.h"

#include "kernels/math/layout.h"

namespace quire_kernels {
namespace {

// Engine memory as both directions see it.
struct EngineShape {
  uint32_t n_heads;
  uint32_t head_dim;
  uint32_t element;
  int64_t tokens;
  int64_t token_stride;
  int64_t head_stride;
  int64_t dim_stride;
};

bool add_extent(int64_t stride, int64_t count, int64_t* total) {
  if (count <= 1) return true;
  int64_t extent = 0;
  if (stride == 0 || stride == INT64_MIN) return false;
  if (__builtin_mul_overflow(stride < 0 ? -stride : stride, count - 1, &extent)) return false;
  return !__builtin_add_overflow(*total, extent, total);
}

int check_engine(const EngineShape& shape) {
  if (shape.tokens <= 0) return QUIRE_KERNEL_INVALID_ARGUMENT;
  const int64_t element = shape.element;
  if (shape.head_dim > 1 && shape.dim_stride < element && shape.dim_stride > -element)
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  int64_t total = element;
  if (!add_extent(shape.dim_stride, shape.head_dim, &total) ||
      !add_extent(shape.head_stride, shape.n_heads, &total) ||
      !add_extent(shape.token_stride, shape.tokens, &total))
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  return QUIRE_KERNEL_OK;
}

int check_rotation(const quire_rotation& rotation, int32_t plane, uint32_t head_dim) {
  if (rotation.style == QUIRE_ROPE_STYLE_NONE) return QUIRE_KERNEL_OK;
  if (rotation.style != QUIRE_ROPE_STYLE_NEOX && rotation.style != QUIRE_ROPE_STYLE_INTERLEAVED)
    return QUIRE_KERNEL_UNSUPPORTED;
  if (plane != QUIRE_PLANE_KEY) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (rotation.table == nullptr) return QUIRE_KERNEL_OK;
  if (rotation.rotary_dims == 0 || rotation.rotary_dims % 2 != 0 ||
      rotation.rotary_dims > head_dim || reinterpret_cast<uintptr_t>(rotation.table) % 4 != 0)
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  const int64_t stride = rotation.table_token_stride;
  const int64_t row_bytes = int64_t{rotation.rotary_dims} * 4;
  if (stride == 0) return QUIRE_KERNEL_OK;
  return stride >= row_bytes && stride % 4 == 0 && stride < INT64_C(1) << 32
             ? QUIRE_KERNEL_OK
             : QUIRE_KERNEL_INVALID_ARGUMENT;
}

int check_rows(const int64_t* rows, const uint8_t* mask, uint32_t begin, uint32_t end,
               int64_t capacity) {
  for (uint32_t token = begin; token < end; ++token) {
    if (mask != nullptr && mask[token] == 0) continue;
    const int64_t row = rows != nullptr ? rows[token] : token;
    if (row < 0 || row >= capacity) return QUIRE_KERNEL_INVALID_ARGUMENT;
  }
  return QUIRE_KERNEL_OK;
}

}  // namespace

int check_section(int32_t codec, int32_t plane, uint32_t n_tokens, uint32_t n_heads,
                  uint32_t head_dim, const void* bytes, uint64_t n_bytes) {
  if (plane_spec(codec, QUIRE_PLANE_KEY).kind == SectionKind::kUnknown)
    return QUIRE_KERNEL_UNSUPPORTED;
  if (plane != QUIRE_PLANE_KEY && plane != QUIRE_PLANE_VALUE) return QUIRE_KERNEL_UNSUPPORTED;
  const uint64_t expected = quire_section_bytes(codec, plane, n_tokens, n_heads, head_dim);
  if (expected == 0 || expected != n_bytes || bytes == nullptr ||
      reinterpret_cast<uintptr_t>(bytes) % 4 != 0)
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  return QUIRE_KERNEL_OK;
}

int check_load(const quire_load_params* params) {
  if (params == nullptr) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (params->struct_bytes != sizeof(*params)) return QUIRE_KERNEL_BAD_STRUCT;
  const quire_load_params& p = *params;
  if (!is_raw(p.codec) && p.codec != QUIRE_CODEC_INT8_CHANNEL) return QUIRE_KERNEL_UNSUPPORTED;
  if (int status =
          check_section(p.codec, p.plane, p.n_tokens, p.n_heads, p.head_dim, p.src, p.src_bytes))
    return status;
  if (element_bytes(p.dst_dtype) == 0) return QUIRE_KERNEL_UNSUPPORTED;
  if (p.dst == nullptr || p.token_begin > p.token_end || p.token_end > p.n_tokens)
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  const EngineShape shape{p.n_heads,       p.head_dim,         element_bytes(p.dst_dtype),
                          p.dst_tokens,    p.dst_token_stride, p.dst_head_stride,
                          p.dst_dim_stride};
  if (int status = check_engine(shape)) return status;
  if (int status = check_rotation(p.rotation, p.plane, p.head_dim)) return status;
  return check_rows(p.dst_token, p.row_mask, p.token_begin, p.token_end, p.dst_tokens);
}

int check_store(const quire_store_params* params) {
  if (params == nullptr) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (params->struct_bytes != sizeof(*params)) return QUIRE_KERNEL_BAD_STRUCT;
  const quire_store_params& p = *params;
  if (!is_raw(p.codec) && p.codec != QUIRE_CODEC_INT8_CHANNEL) return QUIRE_KERNEL_UNSUPPORTED;
  if (int status =
          check_section(p.codec, p.plane, p.n_tokens, p.n_heads, p.head_dim, p.dst, p.dst_bytes))
    return status;
  if (element_bytes(p.src_dtype) == 0) return QUIRE_KERNEL_UNSUPPORTED;
  if (p.src == nullptr) return QUIRE_KERNEL_INVALID_ARGUMENT;
  const EngineShape shape{p.n_heads,       p.head_dim,         element_bytes(p.src_dtype),
                          p.src_tokens,    p.src_token_stride, p.src_head_stride,
                          p.src_dim_stride};
  if (int status = check_engine(shape)) return status;
  if (int status = check_rotation(p.rotation, p.plane, p.head_dim)) return status;
  return check_rows(p.src_token, nullptr, 0, p.n_tokens, p.src_tokens);
}

}  // namespace quire_kernels
