// All inner loops in plain C++ for every machine: the reference that the AVX-512 implementation is
// compared with bit for bit. rows_scalar.cc and rows_avx2.cc compile it, each for its instruction
// set, so everything here has internal linkage.
#ifndef QUIRE_KERNELS_ROWS_PORTABLE_H_
#define QUIRE_KERNELS_ROWS_PORTABLE_H_

#include <string.h>

#include "kernels/codes_portable.h"
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
  const auto store = [dst](uint32_t i, uint16_t bits) { memcpy(dst + i * 2, &bits, 2); };
  if (dtype == QUIRE_DTYPE_F16)
    for (uint32_t i = 0; i < n; ++i) store(i, float_to_half(row[i]));
  else
    for (uint32_t i = 0; i < n; ++i) store(i, float_to_bf16(row[i]));
}

void rotate_pair(float cosine, float sine, float* first, float* second) {
  const float x0 = *first;
  const float x1 = *second;
  *first = x0 * cosine - x1 * sine;
  *second = x1 * cosine + x0 * sine;
}

void rotate(int32_t style, const float* table, float* row, uint32_t rotary_dims) {
  const uint32_t pairs = rotary_dims / 2;
  if (style == QUIRE_ROPE_STYLE_NEOX) {
    for (uint32_t j = 0; j < pairs; ++j)
      rotate_pair(table[2 * j], table[2 * j + 1], row + j, row + j + pairs);
    return;
  }
  for (uint32_t j = 0; j < pairs; ++j)
    rotate_pair(table[2 * j], table[2 * j + 1], row + 2 * j, row + 2 * j + 1);
}

uint32_t max_abs_bits(int32_t dtype, const Byte* src, uint64_t n) {
  uint32_t result = 0;
  if (dtype == QUIRE_DTYPE_F32) {
    for (uint64_t i = 0; i < n; ++i) {
      const uint32_t bits = load32(src, i) & 0x7fffffff;
      result = bits > result ? bits : result;
    }
    return result;
  }
  for (uint64_t i = 0; i < n; ++i) {
    const uint32_t bits = load16(src, i) & 0x7fffu;
    result = bits > result ? bits : result;
  }
  return result;
}

void extend_range(const float* row, float* minimums, float* maximums, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) {
    minimums[i] = row[i] < minimums[i] ? row[i] : minimums[i];
    maximums[i] = row[i] > maximums[i] ? row[i] : maximums[i];
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
    widen(from_dtype, rows.from[r], row, format.n);
    if (rows.table[r] != nullptr) rotate(format.style, rows.table[r], row, format.rotary_dims);
    // Narrowing would carry a NaN's mantissa over into its sign.
    for (uint32_t i = 0; i < format.n; ++i)
      if (__builtin_isnan(row[i])) row[i] = bits_float(kQuietNan);
    narrow(format.dtype, row, rows.out[r], format.n);
  }
}

uint32_t fetch(int32_t dtype, const Byte* src, int32_t style, const float* table,
               uint32_t rotary_dims, float* row, uint32_t n) {
  widen(dtype, src, row, n);
  if (table != nullptr) rotate(style, table, row, rotary_dims);
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
    const uint32_t bits = fetch(format.dtype, source.src[r], format.style, source.table[r],
                                format.rotary_dims, rows, format.n);
    if (bits > largest) largest = bits;
    turn_range(rows, format.n, format.order, minimums + r, maximums + r);
  }
  return largest;
}

void stream_rows(const Byte* src, uint64_t row_bytes, Byte* const* dst, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) memcpy(dst[i], src + i * row_bytes, row_bytes);
}

void stream_fence() {}

constexpr RowOps portable_rows(const char* name) {
  return {
      .name = name,
      .widen = widen,
      .narrow = narrow,
      .max_abs_bits = max_abs_bits,
      .rotate = rotate,
      .rotate_elements = rotate_elements,
      .transpose = transpose,
      .stream_rows = stream_rows,
      .stream_fence = stream_fence,
      .widen_pairs = widen_pairs,
      .max_affine_bits = max_affine_bits,
      .has_fp8_nan = has_fp8_nan,
      .decode_channel = decode_channel,
      .decode_token = decode_token,
      .decode_normalised = decode_normalised,
      .decode_fp8 = decode_fp8,
      .fetch = fetch,
      .fetch_range = fetch_range,
      .turn_range = turn_range,
      .fetch_turned = fetch_turned,
      .affine_halves = affine_halves,
      .normalise = normalise,
      .encode_channel = encode_channel,
      .encode_token = encode_token,
      .encode_fp8 = encode_fp8,
  };
}

}  // namespace
}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_ROWS_PORTABLE_H_
