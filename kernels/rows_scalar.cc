// The scalar reference: plain C++ for every machine, and what the vector implementations are
// compared with bit for bit.
#include <math.h>
#include <string.h>

#include "kernels/rows.h"

namespace quire_kernels {

float half_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1f;
  const uint32_t mantissa = bits & 0x3ff;
  uint32_t result;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    memcpy(&result, &magnitude, 4);
  } else if (exponent == 31) {
    result = 0x7f800000 | (mantissa << 13);
  } else {
    result = ((exponent + 112) << 23) | (mantissa << 13);
  }
  result |= sign;
  float value;
  memcpy(&value, &result, 4);
  return value;
}

uint16_t float_to_half(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  const uint32_t sign = (bits >> 16) & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (bits >= 0x47800000) return static_cast<uint16_t>(sign | 0x7c00);
  if (bits < 0x38800000) {
    // Below the smallest normal half: adding 1/2 leaves the half's bits in the last mantissa bits,
    // rounded to nearest even by the addition.
    float magnitude;
    memcpy(&magnitude, &bits, 4);
    magnitude += 0.5f;
    memcpy(&bits, &magnitude, 4);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000));
  }
  const uint32_t rounded = bits + 0xfff + ((bits >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

namespace {

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

float bf16_to_float(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

uint16_t float_to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
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
  for (uint32_t i = 0; i < n; ++i) {
    const uint16_t bits = dtype == QUIRE_DTYPE_F16 ? float_to_half(row[i]) : float_to_bf16(row[i]);
    memcpy(dst + i * 2, &bits, 2);
  }
}

uint32_t max_abs_bits(int32_t dtype, const Byte* src, uint64_t n) {
  uint32_t result = 0;
  for (uint64_t i = 0; i < n; ++i) {
    const uint32_t bits =
        dtype == QUIRE_DTYPE_F32 ? load32(src, i) & 0x7fffffff : load16(src, i) & 0x7fffu;
    if (bits > result) result = bits;
  }
  return result;
}

void decode_channel(const Byte* codes, const float* minimums, const float* scales, float* row,
                    uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) row[i] = static_cast<float>(codes[i]) * scales[i] + minimums[i];
}

void decode_token(const Byte* codes, float zero, float scale, float* row, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) row[i] = static_cast<float>(codes[i]) * scale + zero;
}

Byte encode(float value, float minimum, float scale) {
  if (scale == 0) return 0;
  // Adding 1.5 * 2^23 rounds to nearest even; the steps count from its bits.
  const float shifted = (value - minimum) / scale + 12582912.0f;
  int32_t bits;
  memcpy(&bits, &shifted, 4);
  const int32_t code = bits - 0x4b400000;
  return static_cast<Byte>(code > 255 ? 255 : code < 0 ? 0 : code);
}

void encode_channel(const float* row, const float* minimums, const float* scales, Byte* codes,
                    uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) codes[i] = encode(row[i], minimums[i], scales[i]);
}

void encode_token(const float* row, float zero, float scale, Byte* codes, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) codes[i] = encode(row[i], zero, scale);
}

void extend_range(const float* row, float* minimums, float* maximums, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) {
    if (row[i] < minimums[i]) minimums[i] = row[i];
    if (row[i] > maximums[i]) maximums[i] = row[i];
  }
}

void row_range(const float* row, uint32_t n, float* minimum, float* maximum) {
  float low = row[0];
  float high = row[0];
  for (uint32_t i = 1; i < n; ++i) {
    if (row[i] < low) low = row[i];
    if (row[i] > high) high = row[i];
  }
  *minimum = low;
  *maximum = high;
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

constexpr RowOps kScalarRows = {"scalar",       widen,        narrow,         max_abs_bits,
                                decode_channel, decode_token, encode_channel, encode_token,
                                extend_range,   row_range,    rotate,         transpose};

}  // namespace

const RowOps* scalar_rows() {
  return &kScalarRows;
}

}  // namespace quire_kernels
