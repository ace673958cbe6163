// The AVX-512 implementation: 16 fp32 lanes per step, the tail by mask, so every head size takes
// the same path. No fused multiply-add: the bits equal the scalar reference's. One core does this
// about as fast as memory delivers, so loops are kept plain. Nothing inline with external linkage
// may be included here (see rows.h).
#include "kernels/rows.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include <immintrin.h>
#include <string.h>

namespace quire_kernels {
namespace {

constexpr uint32_t kLanes = 16;

inline __mmask16 tail_mask(uint32_t remaining) {
  return remaining >= kLanes ? 0xffff : static_cast<__mmask16>((1u << remaining) - 1);
}

inline __m512 widen16(int32_t dtype, const Byte* src, __mmask16 mask) {
  const __m256i bits = _mm256_maskz_loadu_epi16(mask, src);
  if (dtype == QUIRE_DTYPE_F16) return _mm512_cvtph_ps(bits);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

void widen(int32_t dtype, const Byte* src, float* row, uint32_t n) {
  if (dtype == QUIRE_DTYPE_F32) {
    memcpy(row, src, uint64_t{n} * 4);
    return;
  }
  for (uint32_t i = 0; i < n; i += kLanes) {
    const __mmask16 mask = tail_mask(n - i);
    _mm512_mask_storeu_ps(row + i, mask, widen16(dtype, src + uint64_t{i} * 2, mask));
  }
}

inline __m256i narrow16(int32_t dtype, __m512 values) {
  if (dtype == QUIRE_DTYPE_F16)
    return _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}

void narrow(int32_t dtype, const float* row, Byte* dst, uint32_t n) {
  if (dtype == QUIRE_DTYPE_F32) {
    memcpy(dst, row, uint64_t{n} * 4);
    return;
  }
  for (uint32_t i = 0; i < n; i += kLanes) {
    const __mmask16 mask = tail_mask(n - i);
    const __m512 values = _mm512_maskz_loadu_ps(mask, row + i);
    _mm256_mask_storeu_epi16(dst + uint64_t{i} * 2, mask, narrow16(dtype, values));
  }
}

uint32_t max_abs_bits16(const Byte* src, uint64_t n) {
  __m512i largest = _mm512_setzero_si512();
  const __m512i magnitude = _mm512_set1_epi16(0x7fff);
  uint64_t i = 0;
  for (; i + 32 <= n; i += 32)
    largest =
        _mm512_max_epu16(largest, _mm512_and_si512(_mm512_loadu_si512(src + i * 2), magnitude));
  if (i < n) {
    const __mmask32 mask = (1u << (n - i)) - 1;
    largest = _mm512_max_epu16(
        largest, _mm512_and_si512(_mm512_maskz_loadu_epi16(mask, src + i * 2), magnitude));
  }
  const __m512i low = _mm512_and_si512(largest, _mm512_set1_epi32(0xffff));
  return _mm512_reduce_max_epu32(_mm512_max_epu32(low, _mm512_srli_epi32(largest, 16)));
}

uint32_t max_abs_bits(int32_t dtype, const Byte* src, uint64_t n) {
  if (dtype != QUIRE_DTYPE_F32) return max_abs_bits16(src, n);
  __m512i largest = _mm512_setzero_si512();
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (uint64_t i = 0; i < n; i += kLanes) {
    const __mmask16 mask = tail_mask(n - i >= kLanes ? kLanes : static_cast<uint32_t>(n - i));
    largest = _mm512_max_epu32(
        largest, _mm512_and_si512(_mm512_maskz_loadu_epi32(mask, src + i * 4), magnitude));
  }
  return _mm512_reduce_max_epu32(largest);
}

inline __m512 codes_to_float(const Byte* codes, __mmask16 mask) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, codes)));
}

void decode_channel(const Byte* codes, const float* minimums, const float* scales, float* row,
                    uint32_t n) {
  for (uint32_t i = 0; i < n; i += kLanes) {
    const __mmask16 mask = tail_mask(n - i);
    const __m512 product =
        _mm512_mul_ps(codes_to_float(codes + i, mask), _mm512_maskz_loadu_ps(mask, scales + i));
    const __m512 values = _mm512_add_ps(product, _mm512_maskz_loadu_ps(mask, minimums + i));
    _mm512_mask_storeu_ps(row + i, mask, values);
  }
}

void decode_token(const Byte* codes, float zero, float scale, float* row, uint32_t n) {
  const __m512 zeros = _mm512_set1_ps(zero);
  const __m512 scales = _mm512_set1_ps(scale);
  for (uint32_t i = 0; i < n; i += kLanes) {
    const __mmask16 mask = tail_mask(n - i);
    const __m512 product = _mm512_mul_ps(codes_to_float(codes + i, mask), scales);
    _mm512_mask_storeu_ps(row + i, mask, _mm512_add_ps(product, zeros));
  }
}

inline void encode16(__m512 values, __m512 minimums, __m512 scales, __mmask16 mask, Byte* codes) {
  const __mmask16 nonzero = _mm512_mask_cmp_ps_mask(mask, scales, _mm512_setzero_ps(), _CMP_NEQ_OQ);
  const __m512 steps = _mm512_maskz_div_ps(nonzero, _mm512_sub_ps(values, minimums), scales);
  const __m512i rounded =
      _mm512_cvt_roundps_epi32(steps, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512i clamped =
      _mm512_max_epi32(_mm512_min_epi32(rounded, _mm512_set1_epi32(255)), _mm512_setzero_si512());
  _mm512_mask_cvtepi32_storeu_epi8(codes, mask, clamped);
}

void encode_channel(const float* row, const float* minimums, const float* scales, Byte* codes,
                    uint32_t n) {
  for (uint32_t i = 0; i < n; i += kLanes) {
    const __mmask16 mask = tail_mask(n - i);
    encode16(_mm512_maskz_loadu_ps(mask, row + i), _mm512_maskz_loadu_ps(mask, minimums + i),
             _mm512_maskz_loadu_ps(mask, scales + i), mask, codes + i);
  }
}

void encode_token(const float* row, float zero, float scale, Byte* codes, uint32_t n) {
  for (uint32_t i = 0; i < n; i += kLanes) {
    const __mmask16 mask = tail_mask(n - i);
    encode16(_mm512_maskz_loadu_ps(mask, row + i), _mm512_set1_ps(zero), _mm512_set1_ps(scale),
             mask, codes + i);
  }
}

void extend_range(const float* row, float* minimums, float* maximums, uint32_t n) {
  for (uint32_t i = 0; i < n; i += kLanes) {
    const __mmask16 mask = tail_mask(n - i);
    const __m512 values = _mm512_maskz_loadu_ps(mask, row + i);
    const __m512 low = _mm512_min_ps(values, _mm512_maskz_loadu_ps(mask, minimums + i));
    const __m512 high = _mm512_max_ps(values, _mm512_maskz_loadu_ps(mask, maximums + i));
    _mm512_mask_storeu_ps(minimums + i, mask, low);
    _mm512_mask_storeu_ps(maximums + i, mask, high);
  }
}

void row_range(const float* row, uint32_t n, float* minimum, float* maximum) {
  __m512 low = _mm512_set1_ps(row[0]);
  __m512 high = low;
  for (uint32_t i = 0; i < n; i += kLanes) {
    const __mmask16 mask = tail_mask(n - i);
    const __m512 values = _mm512_mask_loadu_ps(_mm512_set1_ps(row[0]), mask, row + i);
    low = _mm512_min_ps(low, values);
    high = _mm512_max_ps(high, values);
  }
  *minimum = _mm512_reduce_min_ps(low);
  *maximum = _mm512_reduce_max_ps(high);
}

void rotate_neox(const float* table, float* row, uint32_t pairs) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
  for (uint32_t j = 0; j < pairs; j += kLanes) {
    const __mmask16 mask = tail_mask(pairs - j);
    const uint32_t values = 2 * (pairs - j);
    const __m512 first = _mm512_maskz_loadu_ps(tail_mask(values), table + 2 * j);
    const __m512 second = _mm512_maskz_loadu_ps(values > kLanes ? tail_mask(values - kLanes) : 0,
                                                table + 2 * j + kLanes);
    const __m512 cosine = _mm512_permutex2var_ps(first, even, second);
    const __m512 sine = _mm512_permutex2var_ps(first, odd, second);
    const __m512 x0 = _mm512_maskz_loadu_ps(mask, row + j);
    const __m512 x1 = _mm512_maskz_loadu_ps(mask, row + j + pairs);
    const __m512 y0 = _mm512_sub_ps(_mm512_mul_ps(x0, cosine), _mm512_mul_ps(x1, sine));
    const __m512 y1 = _mm512_add_ps(_mm512_mul_ps(x1, cosine), _mm512_mul_ps(x0, sine));
    _mm512_mask_storeu_ps(row + j, mask, y0);
    _mm512_mask_storeu_ps(row + j + pairs, mask, y1);
  }
}

void rotate_interleaved(const float* table, float* row, uint32_t rotary_dims) {
  for (uint32_t i = 0; i < rotary_dims; i += kLanes) {
    const __mmask16 mask = tail_mask(rotary_dims - i);
    const __m512 angles = _mm512_maskz_loadu_ps(mask, table + i);
    const __m512 values = _mm512_maskz_loadu_ps(mask, row + i);
    const __m512 swapped = _mm512_permute_ps(values, 0xb1);
    const __m512 direct = _mm512_mul_ps(values, _mm512_moveldup_ps(angles));
    const __m512 crossed = _mm512_mul_ps(swapped, _mm512_movehdup_ps(angles));
    const __m512 difference = _mm512_sub_ps(direct, crossed);
    _mm512_mask_storeu_ps(row + i, mask, _mm512_mask_add_ps(difference, 0xaaaa, direct, crossed));
  }
}

void rotate(int32_t style, const float* table, float* row, uint32_t rotary_dims) {
  if (style == QUIRE_ROPE_STYLE_NEOX)
    rotate_neox(table, row, rotary_dims / 2);
  else
    rotate_interleaved(table, row, rotary_dims);
}

// 16 x 16 of 32 bits, in place: pairs of rows, pairs of pairs, then 128-bit lanes.
inline void transpose_16x16(__m512i* r) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}

// 32 rows x 16 columns of 16 bits: two rows share a 32-bit lane, then as 16 x 16.
inline void transpose_block16(const Byte* src, int64_t src_stride, Byte* dst, int64_t dst_stride) {
  __m512i r[16];
  for (int i = 0; i < 16; ++i) {
    const Byte* low = src + 2 * i * src_stride;
    const __m512i a =
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(low)));
    const __m512i b = _mm512_cvtepu16_epi32(
        _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(low + src_stride)));
    r[i] = _mm512_or_si512(a, _mm512_slli_epi32(b, 16));
  }
  transpose_16x16(r);
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(dst + i * dst_stride, r[i]);
}

inline void transpose_block32(const Byte* src, int64_t src_stride, Byte* dst, int64_t dst_stride) {
  __m512i r[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(src + i * src_stride);
  transpose_16x16(r);
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(dst + i * dst_stride, r[i]);
}

void transpose(uint32_t element_bytes, const Byte* src, int64_t src_stride, uint32_t rows,
               uint32_t columns, Byte* dst, int64_t dst_stride) {
  const uint32_t block_rows = 64 / element_bytes;
  const uint32_t full_rows = rows / block_rows * block_rows;
  const uint32_t full_columns = columns / kLanes * kLanes;
  for (uint32_t row = 0; row < full_rows; row += block_rows)
    for (uint32_t column = 0; column < full_columns; column += kLanes) {
      const Byte* from = src + row * src_stride + column * element_bytes;
      Byte* to = dst + column * dst_stride + row * element_bytes;
      if (element_bytes == 2)
        transpose_block16(from, src_stride, to, dst_stride);
      else
        transpose_block32(from, src_stride, to, dst_stride);
    }
  const auto scalar = scalar_rows()->transpose;
  if (full_columns < columns && full_rows > 0)
    scalar(element_bytes, src + full_columns * element_bytes, src_stride, full_rows,
           columns - full_columns, dst + full_columns * dst_stride, dst_stride);
  if (full_rows < rows)
    scalar(element_bytes, src + full_rows * src_stride, src_stride, rows - full_rows, columns,
           dst + full_rows * element_bytes, dst_stride);
}

constexpr RowOps kAvx512Rows = {"avx512",       widen,        narrow,         max_abs_bits,
                                decode_channel, decode_token, encode_channel, encode_token,
                                extend_range,   row_range,    rotate,         transpose};

}  // namespace

const RowOps* avx512_rows() {
  return &kAvx512Rows;
}

}  // namespace quire_kernels

#else

namespace quire_kernels {
const RowOps* avx512_rows() {
  return nullptr;
}
}  // namespace quire_kernels

#endif
