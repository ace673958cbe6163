// The scalar reference: plain C++ for every machine, and what the vector implementations are
// compared with bit for bit.
#include "kernels/rows_scalar.h"

#include <math.h>
#include <string.h>

#include "kernels/math/bits.h"

namespace quire_kernels {

namespace {

constexpr uint32_t kQuietNan = 0x7fc00000;

uint16_t load16(const Byte* src, uint64_t index) {
  uint16_t value;
  memcpy(&value, src + index * 2, 2);
  return value;
}

uint32_t load32(const Byte* src, uint64_t index) {
  uint32_t value;
  memcpy(&value, src + index * 4, 4);
  return value;
}

}  // namespace

namespace scalar {

void widen(int32_t dtype, const Byte* src, float* row, uint32_t n) {
  if (dtype == QUIRE_DTYPE_F32) {
    memcpy(row, src, uint64_t{n} * 4);
    return;
  }
  if (dtype == QUIRE_DTYPE_F16)
    for (uint32_t i = 0; i < n; ++i) row[i] = half_to_float(load16(src, i));
  else
    for (uint32_t i = 0; i < n; ++i) row[i] = bf16_to_float(load16(src, i));
}

void narrow(int32_t dtype, const float* row, Byte* dst, uint32_t n) {
  if (dtype == QUIRE_DTYPE_F32) {
    memcpy(dst, row, uint64_t{n} * 4);
    return;
  }
  for (uint32_t i = 0; i < n; ++i) {
    const uint16_t bits = dtype == QUIRE_DTYPE_F16 ? float_to_half(row[i]) : float_to_bf16(row[i]);
    memcpy(dst + i * 2, &bits, 2);
  }
}

void rotate(int32_t style, const float* table, float* row, uint32_t rotary_dims) {
  const uint32_t pairs = rotary_dims / 2;
  const bool neox = style == QUIRE_ROPE_STYLE_NEOX;
  for (uint32_t j = 0; j < pairs; ++j) {
    float* first = neox ? row + j : row + 2 * j;
    float* second = neox ? row + j + pairs : row + 2 * j + 1;
    const float cosine = table[2 * j];
    const float sine = table[2 * j + 1];
    const float x0 = *first;
    const float x1 = *second;
    *first = x0 * cosine - x1 * sine;
    *second = x1 * cosine + x0 * sine;
  }
}

}  // namespace scalar

namespace {

uint32_t max_abs_bits(int32_t dtype, const Byte* src, uint64_t n) {
  uint32_t result = 0;
  for (uint64_t i = 0; i < n; ++i) {
    const uint32_t bits =
        dtype == QUIRE_DTYPE_F32 ? load32(src, i) & 0x7fffffff : load16(src, i) & 0x7fffu;
    if (bits > result) result = bits;
  }
  return result;
}

void extend_range(const float* row, float* minimums, float* maximums, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) {
    if (row[i] < minimums[i]) minimums[i] = row[i];
    if (row[i] > maximums[i]) maximums[i] = row[i];
  }
}

template <uint32_t kBytes>
void transpose_elements(const Byte* src, int64_t src_stride, uint32_t rows, uint32_t columns,
                        Byte* dst, int64_t dst_stride) {
  for (uint32_t column = 0; column < columns; ++column)
    for (uint32_t row = 0; row < rows; ++row)
      memcpy(dst + column * dst_stride + row * kBytes, src + row * src_stride + column * kBytes,
             kBytes);
}

void transpose(uint32_t element_bytes, const Byte* src, int64_t src_stride, uint32_t rows,
               uint32_t columns, Byte* dst, int64_t dst_stride) {
  if (element_bytes == 2)
    transpose_elements<2>(src, src_stride, rows, columns, dst, dst_stride);
  else
    transpose_elements<4>(src, src_stride, rows, columns, dst, dst_stride);
}

void rotate_elements(const RowFormat& format, int32_t from_dtype, const ElementRows& rows) {
  float row[QUIRE_KERNEL_DIMS_MAX];
  for (uint32_t r = 0; r < rows.n; ++r) {
    scalar::widen(from_dtype, rows.from[r], row, format.n);
    if (rows.table[r] != nullptr)
      scalar::rotate(format.style, rows.table[r], row, format.rotary_dims);
    // Narrowing would carry a NaN's mantissa over into its sign.
    for (uint32_t i = 0; i < format.n; ++i)
      if (isnan(row[i])) row[i] = bits_float(kQuietNan);
    scalar::narrow(format.dtype, row, rows.out[r], format.n);
  }
}

uint32_t fetch(int32_t dtype, const Byte* src, int32_t style, const float* table,
               uint32_t rotary_dims, float* row, uint32_t n) {
  scalar::widen(dtype, src, row, n);
  if (table != nullptr) scalar::rotate(style, table, row, rotary_dims);
  return max_abs_bits(QUIRE_DTYPE_F32, reinterpret_cast<const Byte*>(row), n);
}

constexpr uint32_t kInfinity = 0x7f800000;  // the bits of fp32's

bool fetch_range(const RowFormat& format, const SourceRows& source, float* rows, float* minimums,
                 float* maximums) {
  for (uint32_t r = 0; r < source.n; ++r, rows += format.n) {
    const uint32_t bits = fetch(format.dtype, source.src[r], format.style, source.table[r],
                                format.rotary_dims, rows, format.n);
    if (bits >= kInfinity) return false;
    extend_range(rows, minimums, maximums, format.n);
  }
  return true;
}

uint32_t fetch_turned(const RowFormat& format, const SourceRows& source, float* rows,
                      float* minimums, float* maximums) {
  uint32_t largest = 0;
  for (uint32_t r = 0; r < source.n; ++r, rows += format.n) {
    const uint32_t bits =
        fetch(format.dtype, source.src[r], QUIRE_ROPE_STYLE_NONE, nullptr, 0, rows, format.n);
    if (bits > largest) largest = bits;
    scalar::turn_range(rows, format.n, format.order, minimums + r, maximums + r);
  }
  return largest;
}

void stream_rows(const Byte* src, uint64_t row_bytes, Byte* const* dst, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) memcpy(dst[i], src + i * row_bytes, row_bytes);
}

void stream_fence() {}

constexpr RowOps kScalarRows = {
    .name = "scalar",
    .widen = scalar::widen,
    .narrow = scalar::narrow,
    .max_abs_bits = max_abs_bits,
    .rotate = scalar::rotate,
    .rotate_elements = rotate_elements,
    .transpose = transpose,
    .stream_rows = stream_rows,
    .stream_fence = stream_fence,
    .widen_pairs = scalar::widen_pairs,
    .max_affine_bits = scalar::max_affine_bits,
    .has_fp8_nan = scalar::has_fp8_nan,
    .decode_channel = scalar::decode_channel,
    .decode_token = scalar::decode_token,
    .decode_normalised = scalar::decode_normalised,
    .decode_fp8 = scalar::decode_fp8,
    .fetch = fetch,
    .fetch_range = fetch_range,
    .turn_range = scalar::turn_range,
    .fetch_turned = fetch_turned,
    .affine_halves = scalar::affine_halves,
    .normalise = scalar::normalise,
    .encode_channel = scalar::encode_channel,
    .encode_token = scalar::encode_token,
    .encode_fp8 = scalar::encode_fp8,
};

}  // namespace

const RowOps* scalar_rows() {
  return &kScalarRows;
}

}  // namespace quire_kernels
