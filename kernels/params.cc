#include "kernels/params.h"

#include "kernels/overlap.h"
#include "kernels/section.h"

namespace quire_kernels {
namespace {

bool add_extent(int64_t stride, int64_t count, int64_t* total) {
  if (count <= 1) return true;
  int64_t extent = 0;
  if (stride == 0 || stride == INT64_MIN) return false;
  if (__builtin_mul_overflow(stride < 0 ? -stride : stride, count - 1, &extent)) return false;
  return !__builtin_add_overflow(*total, extent, total);
}

int check_engine(const EngineRows& shape) {
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

int check_rows(const EngineRows& rows) {
  for (uint32_t token = rows.token_begin; token < rows.token_end; ++token) {
    if (rows.mask != nullptr && rows.mask[token] == 0) continue;
    const int64_t row = rows.token_rows != nullptr ? rows.token_rows[token] : token;
    if (row < 0 || row >= rows.tokens) return QUIRE_KERNEL_INVALID_ARGUMENT;
  }
  return QUIRE_KERNEL_OK;
}

bool supported(int32_t codec) {
  const SectionKind kind = plane_spec(codec, QUIRE_PLANE_KEY).kind;
  return kind != SectionKind::kUnknown;
}

int check_shape(int32_t codec, int32_t plane, uint32_t n_tokens, uint32_t n_heads,
                uint32_t head_dim, const void* bytes) {
  if (!supported(codec)) return QUIRE_KERNEL_UNSUPPORTED;
  if (plane != QUIRE_PLANE_KEY && plane != QUIRE_PLANE_VALUE) return QUIRE_KERNEL_UNSUPPORTED;
  if (quire_section_bytes_max(codec, plane, n_tokens, n_heads, head_dim) == 0 || bytes == nullptr ||
      reinterpret_cast<uintptr_t>(bytes) % 4 != 0)
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  return QUIRE_KERNEL_OK;
}

int check_flags(uint32_t flags) {
  return (flags & ~static_cast<uint32_t>(QUIRE_KERNEL_KEEP_NON_FINITE)) == 0
             ? QUIRE_KERNEL_OK
             : QUIRE_KERNEL_INVALID_ARGUMENT;
}

// Engine memory, rotation and rows of either direction, and that they leave the section alone.
int check_engine_side(const EngineRows& rows, const quire_rotation& rotation, int32_t plane,
                      const void* section, uint64_t section_bytes) {
  if (int status = check_engine(rows)) return status;
  if (int status = check_rotation(rotation, plane, rows.head_dim)) return status;
  if (int status = check_rows(rows)) return status;
  return overlaps(rows, section, section_bytes) ? QUIRE_KERNEL_INVALID_ARGUMENT : QUIRE_KERNEL_OK;
}

}  // namespace

int check_section(int32_t codec, int32_t plane, uint32_t n_tokens, uint32_t n_heads,
                  uint32_t head_dim, const void* bytes, uint64_t n_bytes) {
  if (int status = check_shape(codec, plane, n_tokens, n_heads, head_dim, bytes)) return status;
  if (!variable_size(codec))
    return quire_section_bytes(codec, plane, n_tokens, n_heads, head_dim) == n_bytes
               ? QUIRE_KERNEL_OK
               : QUIRE_KERNEL_INVALID_ARGUMENT;
  return check_header(section_shape(codec, plane, n_tokens, n_heads, head_dim),
                      static_cast<const Byte*>(bytes), n_bytes);
}

int check_load(const quire_load_params* params) {
  if (params == nullptr) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (params->struct_bytes != sizeof(*params)) return QUIRE_KERNEL_BAD_STRUCT;
  const quire_load_params& p = *params;
  if (int status =
          check_section(p.codec, p.plane, p.n_tokens, p.n_heads, p.head_dim, p.src, p.src_bytes))
    return status;
  return check_load_engine(p);
}

int check_load_engine(const quire_load_params& p) {
  if (element_bytes(p.dst_dtype) == 0) return QUIRE_KERNEL_UNSUPPORTED;
  if (p.dst == nullptr || p.token_begin > p.token_end || p.token_end > p.n_tokens)
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (int status = check_flags(p.flags)) return status;
  const EngineRows rows{.base = p.dst,
                        .n_heads = p.n_heads,
                        .head_dim = p.head_dim,
                        .element = element_bytes(p.dst_dtype),
                        .tokens = p.dst_tokens,
                        .token_stride = p.dst_token_stride,
                        .head_stride = p.dst_head_stride,
                        .dim_stride = p.dst_dim_stride,
                        .token_rows = p.dst_token,
                        .mask = p.row_mask,
                        .token_begin = p.token_begin,
                        .token_end = p.token_end};
  return check_engine_side(rows, p.rotation, p.plane, p.src, p.src_bytes);
}

int check_store(const quire_store_params* params) {
  if (params == nullptr) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (params->struct_bytes != sizeof(*params)) return QUIRE_KERNEL_BAD_STRUCT;
  const quire_store_params& p = *params;
  if (int status = check_shape(p.codec, p.plane, p.n_tokens, p.n_heads, p.head_dim, p.dst))
    return status;
  // Of a fixed size, that is the size.
  if (p.dst_bytes != quire_section_bytes_max(p.codec, p.plane, p.n_tokens, p.n_heads, p.head_dim))
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (p.dst_written == nullptr && variable_size(p.codec)) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (element_bytes(p.src_dtype) == 0) return QUIRE_KERNEL_UNSUPPORTED;
  if (p.src == nullptr) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (int status = check_flags(p.flags)) return status;
  const EngineRows rows{.base = p.src,
                        .n_heads = p.n_heads,
                        .head_dim = p.head_dim,
                        .element = element_bytes(p.src_dtype),
                        .tokens = p.src_tokens,
                        .token_stride = p.src_token_stride,
                        .head_stride = p.src_head_stride,
                        .dim_stride = p.src_dim_stride,
                        .token_rows = p.src_token,
                        .mask = nullptr,
                        .token_begin = 0,
                        .token_end = p.n_tokens};
  return check_engine_side(rows, p.rotation, p.plane, p.dst, p.dst_bytes);
}

}  // namespace quire_kernels
