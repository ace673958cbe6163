// What the AVX-512 translation units share: blocks of sixteen lanes, conversions. Everything here
// has internal linkage (see rows.h).
#ifndef QUIRE_KERNELS_AVX512_BLOCKS_H_
#define QUIRE_KERNELS_AVX512_BLOCKS_H_

#include <immintrin.h>
#include <string.h>

#include "kernels/rows.h"

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
  __m512 load_or(const float* from, float) const { return load(from); }
  // `other` in the lanes beyond the row.
  __m512 keep(__m512 values, __m512) const { return values; }
  __m512 load32(const Byte* from) const { return _mm512_loadu_ps(from); }
  void store32(Byte* to, __m512 values) const { _mm512_storeu_ps(to, values); }
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
  __m512 keep(__m512 values, __m512 other) const { return _mm512_mask_mov_ps(other, mask, values); }
  __m512 load_or(const float* from, float other) const {
    return _mm512_mask_loadu_ps(_mm512_set1_ps(other), mask, from);
  }
  __m512 load32(const Byte* from) const { return _mm512_maskz_loadu_ps(mask, from); }
  void store32(Byte* to, __m512 values) const { _mm512_mask_storeu_ps(to, mask, values); }
  void store(float* to, __m512 values) const { _mm512_mask_storeu_ps(to, mask, values); }
  void store16(Byte* to, __m256i values) const { _mm256_mask_storeu_epi16(to, mask, values); }
  void store8(Byte* to, __m128i values) const { _mm_mask_storeu_epi8(to, mask, values); }
};

[[maybe_unused, gnu::always_inline]] inline __mmask16 tail_mask(uint64_t remaining) {
  return remaining >= kLanes ? 0xffff : static_cast<__mmask16>((1u << remaining) - 1);
}

// body(first element, block) over n elements.
template <typename Body>
[[gnu::always_inline]] inline void for_blocks(uint64_t n, Body body) {
  uint64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, FullBlock{});
  if (i < n) body(i, TailBlock{tail_mask(n - i)});
}

// Engine elements -> fp32, one block.
template <typename Block>
[[gnu::always_inline]] inline __m512 load_elements(int32_t dtype, const Byte* src, uint64_t i,
                                                   Block block) {
  if (dtype == QUIRE_DTYPE_BF16) {
    const __m512i wide = _mm512_cvtepu16_epi32(block.load16(src + i * 2));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  if (dtype == QUIRE_DTYPE_F16) return _mm512_cvtph_ps(block.load16(src + i * 2));
  return block.load32(src + i * 4);
}

// The bf16 is the upper half of each lane; the lower is left over.
[[gnu::always_inline]] inline __m512i round_bf16(__m512 values) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  return _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
}

[[gnu::always_inline]] inline __m256i to_bf16(__m512 values) {
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_bf16(values), 16));
}

[[gnu::always_inline]] inline __m256i to_half(__m512 values) {
  return _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// fp32 -> engine elements, one block; other numbers than f16 and f32 are bf16.
template <typename Block>
[[gnu::always_inline]] inline void store_elements(int32_t dtype, Byte* dst, uint64_t i,
                                                  __m512 values, Block block) {
  if (dtype == QUIRE_DTYPE_F32)
    block.store32(dst + i * 4, values);
  else if (dtype == QUIRE_DTYPE_F16)
    block.store16(dst + i * 2, to_half(values));
  else
    block.store16(dst + i * 2, to_bf16(values));
}

// (cos, sin) pairs -> sixteen of each; `left` floats remain in the table.
[[gnu::always_inline]] inline void split_pairs(const float* table, uint64_t left, __m512* cosine,
                                               __m512* sine) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
  const __m512 first = _mm512_maskz_loadu_ps(tail_mask(left), table);
  const __m512 second =
      _mm512_maskz_loadu_ps(left > kLanes ? tail_mask(left - kLanes) : 0, table + kLanes);
  *cosine = _mm512_permutex2var_ps(first, even, second);
  *sine = _mm512_permutex2var_ps(first, odd, second);
}

[[gnu::always_inline]] inline void rotate_pair(__m512 cosine, __m512 sine, __m512* x0, __m512* x1) {
  const __m512 y0 = _mm512_sub_ps(_mm512_mul_ps(*x0, cosine), _mm512_mul_ps(*x1, sine));
  *x1 = _mm512_add_ps(_mm512_mul_ps(*x1, cosine), _mm512_mul_ps(*x0, sine));
  *x0 = y0;
}

// Pairs in neighbouring lanes; angles is (cos, sin) per pair.
[[gnu::always_inline]] inline __m512 rotate_neighbours(__m512 angles, __m512 values) {
  const __m512 swapped = _mm512_permute_ps(values, 0xb1);
  const __m512 direct = _mm512_mul_ps(values, _mm512_moveldup_ps(angles));
  const __m512 crossed = _mm512_mul_ps(swapped, _mm512_movehdup_ps(angles));
  const __m512 difference = _mm512_sub_ps(direct, crossed);
  return _mm512_mask_add_ps(difference, 0xaaaa, direct, crossed);
}

[[gnu::always_inline]] inline __m512i magnitude_bits(__m512 values) {
  return _mm512_and_si512(_mm512_castps_si512(values), _mm512_set1_epi32(0x7fffffff));
}

}  // namespace

// Parts of avx512_rows() that lie in other translation units.
namespace avx512 {
void widen_pairs(const Byte* pairs, float* first, float* second, uint32_t n);
uint32_t max_affine_bits(const Byte* pairs, uint64_t n, uint32_t top);
bool has_fp8_nan(const Byte* codes, uint64_t n);
void rotate(int32_t style, const float* table, float* row, uint32_t rotary_dims);
void rotate_elements(const RowFormat& format, int32_t from_dtype, const ElementRows& rows);
void narrow(int32_t dtype, const float* row, Byte* dst, uint32_t n);
void decode_channel(const RowFormat& format, const float* zeros, const float* scales,
                    const CodeRows& rows);
void decode_token(const RowFormat& format, const CodeRows& rows);
void decode_normalised(const RowFormat& format, const float* means, const float* deviations,
                       const CodeRows& rows);
void decode_fp8(const RowFormat& format, const CodeRows& rows);
uint32_t fetch(int32_t dtype, const Byte* src, int32_t style, const float* table,
               uint32_t rotary_dims, float* row, uint32_t n);
bool fetch_range(const RowFormat& format, const SourceRows& source, float* rows, float* minimums,
                 float* maximums);
uint32_t fetch_turned(const RowFormat& format, const SourceRows& source, float* rows,
                      float* minimums, float* maximums);
bool affine_halves(const float* minimums, const float* maximums, uint32_t n, uint32_t top,
                   Byte* pairs);
void turn_range(float* row, uint32_t n, uint32_t order, float* minimum, float* maximum);
void normalise(float* row, const float* means, const float* deviations, uint32_t n);
void encode_channel(const RowFormat& format, const float* rows, uint32_t n_rows, const float* zeros,
                    const float* scales, Byte* codes);
void encode_token(const RowFormat& format, const float* rows, uint32_t n_rows, const Byte* pairs,
                  Byte* codes);
void encode_fp8(const float* row, float scale, Byte* codes, uint32_t n);
}  // namespace avx512
}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_AVX512_BLOCKS_H_
