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

// Sixteen elements, or the fewer that are left of a row: the masked forms cost many times the plain
// ones on some processors, so only a row's last block uses them.
struct FullBlock {
  __m512 load(const float* from) const { return _mm512_loadu_ps(from); }
  __m256i load16(const Byte* from) const {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(from));
  }
  __m128i load8(const Byte* from) const {
    return _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(from));
  }
  void store(float* to, __m512 values) const { _mm512_storeu_ps(to, values); }
  void store16(Byte* to, __m256i values) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(to), values);
  }
  void store8(Byte* to, __m128i values) const {
    _mm_storeu_si128(reinterpret_cast<__m128i_u*>(to), values);
  }
};

struct TailBlock {
  __mmask16 mask;
  __m512 load(const float* from) const { return _mm512_maskz_loadu_ps(mask, from); }
  __m256i load16(const Byte* from) const { return _mm256_maskz_loadu_epi16(mask, from); }
  __m128i load8(const Byte* from) const { return _mm_maskz_loadu_epi8(mask, from); }
  void store(float* to, __m512 values) const { _mm512_mask_storeu_ps(to, mask, values); }
  void store16(Byte* to, __m256i values) const { _mm256_mask_storeu_epi16(to, mask, values); }
  void store8(Byte* to, __m128i values) const { _mm_mask_storeu_epi8(to, mask, values); }
};

inline __mmask16 tail_mask(uint64_t remaining) {
  return remaining >= kLanes ? 0xffff : static_cast<__mmask16>((1u << remaining) - 1);
}

// body(first element, block) over n elements.
template <typename Body>
inline void for_blocks(uint64_t n, Body body) {
  uint64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, FullBlock{});
  if (i < n) body(i, TailBlock{tail_mask(n - i)});
}

void widen(int32_t dtype, const Byte* src, float* row, uint32_t n) {
  if (dtype == QUIRE_DTYPE_F32) {
    memcpy(row, src, uint64_t{n} * 4);
  } else if (dtype == QUIRE_DTYPE_F16) {
    for_blocks(n, [=](uint64_t i, auto block) {
      block.store(row + i, _mm512_cvtph_ps(block.load16(src + i * 2)));
    });
  } else {
    for_blocks(n, [=](uint64_t i, auto block) {
      const __m512i wide = _mm512_cvtepu16_epi32(block.load16(src + i * 2));
      block.store(row + i, _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)));
    });
  }
}

inline __m256i to_bf16(__m512 values) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}

void narrow(int32_t dtype, const float* row, Byte* dst, uint32_t n) {
  if (dtype == QUIRE_DTYPE_F32) {
    memcpy(dst, row, uint64_t{n} * 4);
  } else if (dtype == QUIRE_DTYPE_F16) {
    for_blocks(n, [=](uint64_t i, auto block) {
      block.store16(dst + i * 2, _mm512_cvtps_ph(block.load(row + i),
                                                 _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    });
  } else {
    for_blocks(n, [=](uint64_t i, auto block) {
      block.store16(dst + i * 2, to_bf16(block.load(row + i)));
    });
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
    const __m512i values = _mm512_maskz_loadu_epi32(tail_mask(n - i), src + i * 4);
    largest = _mm512_max_epu32(largest, _mm512_and_si512(values, magnitude));
  }
  return _mm512_reduce_max_epu32(largest);
}

inline __m512 to_float(__m128i codes) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes));
}

void decode_channel(const Byte* codes, const float* minimums, const float* scales, float* row,
                    uint32_t n) {
  for_blocks(n, [=](uint64_t i, auto block) {
    const __m512 product = _mm512_mul_ps(to_float(block.load8(codes + i)), block.load(scales + i));
    block.store(row + i, _mm512_add_ps(product, block.load(minimums + i)));
  });
}

void decode_token(const Byte* codes, float zero, float scale, float* row, uint32_t n) {
  const __m512 zeros = _mm512_set1_ps(zero);
  const __m512 scales = _mm512_set1_ps(scale);
  for_blocks(n, [=](uint64_t i, auto block) {
    const __m512 product = _mm512_mul_ps(to_float(block.load8(codes + i)), scales);
    block.store(row + i, _mm512_add_ps(product, zeros));
  });
}

inline __m128i to_codes(__m512 values, __m512 minimums, __m512 scales) {
  const __mmask16 nonzero = _mm512_cmp_ps_mask(scales, _mm512_setzero_ps(), _CMP_NEQ_OQ);
  const __m512 steps = _mm512_maskz_div_ps(nonzero, _mm512_sub_ps(values, minimums), scales);
  const __m512i rounded =
      _mm512_cvt_roundps_epi32(steps, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512i clamped =
      _mm512_max_epi32(_mm512_min_epi32(rounded, _mm512_set1_epi32(255)), _mm512_setzero_si512());
  return _mm512_cvtepi32_epi8(clamped);
}

void encode_channel(const float* row, const float* minimums, const float* scales, Byte* codes,
                    uint32_t n) {
  for_blocks(n, [=](uint64_t i, auto block) {
    block.store8(codes + i,
                 to_codes(block.load(row + i), block.load(minimums + i), block.load(scales + i)));
  });
}

void encode_token(const float* row, float zero, float scale, Byte* codes, uint32_t n) {
  const __m512 zeros = _mm512_set1_ps(zero);
  const __m512 scales = _mm512_set1_ps(scale);
  for_blocks(n, [=](uint64_t i, auto block) {
    block.store8(codes + i, to_codes(block.load(row + i), zeros, scales));
  });
}

void extend_range(const float* row, float* minimums, float* maximums, uint32_t n) {
  for_blocks(n, [=](uint64_t i, auto block) {
    const __m512 values = block.load(row + i);
    block.store(minimums + i, _mm512_min_ps(values, block.load(minimums + i)));
    block.store(maximums + i, _mm512_max_ps(values, block.load(maximums + i)));
  });
}

void row_range(const float* row, uint32_t n, float* minimum, float* maximum) {
  __m512 low = _mm512_set1_ps(row[0]);
  __m512 high = low;
  for (uint32_t i = 0; i < n; i += kLanes) {
    const __m512 values = _mm512_mask_loadu_ps(low, tail_mask(n - i), row + i);
    low = _mm512_min_ps(low, values);
    high = _mm512_max_ps(high, values);
  }
  *minimum = _mm512_reduce_min_ps(low);
  *maximum = _mm512_reduce_max_ps(high);
}

void rotate_neox(const float* table, float* row, uint32_t pairs) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
  for_blocks(pairs, [=](uint64_t j, auto block) {
    const uint64_t left = 2 * (pairs - j);
    const __m512 first = _mm512_maskz_loadu_ps(tail_mask(left), table + 2 * j);
    const __m512 second =
        _mm512_maskz_loadu_ps(left > kLanes ? tail_mask(left - kLanes) : 0, table + 2 * j + kLanes);
    const __m512 cosine = _mm512_permutex2var_ps(first, even, second);
    const __m512 sine = _mm512_permutex2var_ps(first, odd, second);
    const __m512 x0 = block.load(row + j);
    const __m512 x1 = block.load(row + j + pairs);
    const __m512 y0 = _mm512_sub_ps(_mm512_mul_ps(x0, cosine), _mm512_mul_ps(x1, sine));
    const __m512 y1 = _mm512_add_ps(_mm512_mul_ps(x1, cosine), _mm512_mul_ps(x0, sine));
    block.store(row + j, y0);
    block.store(row + j + pairs, y1);
  });
}

void rotate_interleaved(const float* table, float* row, uint32_t rotary_dims) {
  for_blocks(rotary_dims, [=](uint64_t i, auto block) {
    const __m512 angles = block.load(table + i);
    const __m512 values = block.load(row + i);
    const __m512 swapped = _mm512_permute_ps(values, 0xb1);
    const __m512 direct = _mm512_mul_ps(values, _mm512_moveldup_ps(angles));
    const __m512 crossed = _mm512_mul_ps(swapped, _mm512_movehdup_ps(angles));
    const __m512 difference = _mm512_sub_ps(direct, crossed);
    block.store(row + i, _mm512_mask_add_ps(difference, 0xaaaa, direct, crossed));
  });
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
