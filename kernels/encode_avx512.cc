// AVX-512: side data of codes, rows of e4m3 codes.
#include "kernels/rows.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "kernels/avx512_blocks.h"

namespace quire_kernels {

// half_affine() of sixteen ranges at a time.
bool avx512::affine_halves(const float* minimums, const float* maximums, uint32_t n, uint32_t top,
                           Byte* pairs) {
  const __m512 limit = _mm512_set1_ps(65504.0f);
  const __m512 lower = _mm512_set1_ps(-65504.0f);
  const __m512d steps = _mm512_set1_pd(static_cast<double>(top));
  __mmask16 beyond = 0;
  for_blocks(n, [&](uint64_t i, auto block) {
    const __m512 low = _mm512_add_ps(block.load(minimums + i), _mm512_setzero_ps());
    const __m512 high = block.load(maximums + i);
    beyond |=
        _mm512_cmp_ps_mask(low, lower, _CMP_NGE_UQ) | _mm512_cmp_ps_mask(high, limit, _CMP_NLE_UQ);
    // The greatest half that is not above the minimum: one step down where the nearest is.
    __m256i zero = to_half(low);
    const __mmask16 above = _mm512_cmp_ps_mask(_mm512_cvtph_ps(zero), low, _CMP_GT_OQ);
    const __mmask16 negative = _mm256_movepi16_mask(zero);
    const __mmask16 is_zero = _mm256_testn_epi16_mask(zero, zero);
    const __m256i one = _mm256_set1_epi16(1);
    const __m256i nearest = zero;
    zero = _mm256_mask_add_epi16(zero, above & negative, nearest, one);
    zero = _mm256_mask_sub_epi16(zero, above & ~negative, nearest, one);
    zero = _mm256_mask_mov_epi16(zero, above & is_zero, _mm256_set1_epi16(-0x7fff));
    zero =
        _mm256_mask_mov_epi16(zero, _mm256_cmpeq_epi16_mask(zero, _mm256_set1_epi16(-0x7fff - 1)),
                              _mm256_setzero_si256());
    const __m512 zero_value = _mm512_cvtph_ps(zero);
    const auto range = [&](int part) {
      const auto half = [&](__m512 values) {
        return _mm512_cvtps_pd(part == 0 ? _mm512_castps512_ps256(values)
                                         : _mm512_extractf32x8_ps(values, 1));
      };
      return _mm512_add_pd(_mm512_sub_pd(half(high), half(zero_value)), _mm512_setzero_pd());
    };
    const __m512d low_range = range(0);
    const __m512d high_range = range(1);
    const __m256 low_scale = _mm512_cvtpd_ps(_mm512_div_pd(low_range, steps));
    const __m256 high_scale = _mm512_cvtpd_ps(_mm512_div_pd(high_range, steps));
    __m256i scale = to_half(_mm512_insertf32x8(_mm512_castps256_ps512(low_scale), high_scale, 1));
    const __m512 scale_value = _mm512_cvtph_ps(scale);
    const auto short_of = [&](__m256 value, __m512d wanted) {
      return _mm512_cmp_pd_mask(_mm512_mul_pd(_mm512_cvtps_pd(value), steps), wanted, _CMP_LT_OQ);
    };
    const auto falls_short =
        static_cast<__mmask16>(short_of(_mm512_castps512_ps256(scale_value), low_range) |
                               short_of(_mm512_extractf32x8_ps(scale_value, 1), high_range) << 8);
    scale = _mm256_mask_add_epi16(scale, falls_short, scale, one);
    beyond |= _mm256_cmpge_epi16_mask(scale, _mm256_set1_epi16(0x7c00));
    const __m512i both = _mm512_or_si512(_mm512_cvtepu16_epi32(zero),
                                         _mm512_slli_epi32(_mm512_cvtepu16_epi32(scale), 16));
    block.store32(pairs + 4 * i, _mm512_castsi512_ps(both));
  });
  return beyond == 0;
}

void avx512::normalise(float* row, const float* means, const float* deviations, uint32_t n) {
  for_blocks(n, [=](uint64_t i, auto block) {
    const __m512 difference = _mm512_sub_ps(block.load(row + i), block.load(means + i));
    // Lanes beyond the row divide by 1.
    const __m512 divisor = block.load_or(deviations + i, 1.0f);
    block.store(row + i, _mm512_div_ps(difference, divisor));
  });
}

// The integer steps of float_to_fp8().
void avx512::encode_fp8(const float* row, float scale, Byte* codes, uint32_t n) {
  if (scale == 0) {
    memset(codes, 0, n);
    return;
  }
  const __m512 scales = _mm512_set1_ps(scale);
  for_blocks(n, [=](uint64_t i, auto block) {
    const __m512 value = _mm512_div_ps(block.load(row + i), scales);
    const __m512i magnitude = magnitude_bits(value);
    const __m512i sign = _mm512_and_si512(_mm512_srli_epi32(_mm512_castps_si512(value), 24),
                                          _mm512_set1_epi32(0x80));
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(magnitude, 20), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(_mm512_add_epi32(magnitude, _mm512_set1_epi32(0x7ffff)), odd);
    const __m512i normal =
        _mm512_srli_epi32(_mm512_sub_epi32(rounded, _mm512_set1_epi32(0x3c000000)), 20);
    const __m512 shifted = _mm512_add_ps(_mm512_castsi512_ps(magnitude), _mm512_set1_ps(24576.0f));
    const __m512i small =
        _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(0x46c00000));
    const __mmask16 is_small = _mm512_cmplt_epu32_mask(magnitude, _mm512_set1_epi32(0x3c800000));
    const __mmask16 is_large = _mm512_cmpge_epu32_mask(magnitude, _mm512_set1_epi32(0x43e00000));
    __m512i code = _mm512_mask_mov_epi32(normal, is_small, small);
    code = _mm512_mask_mov_epi32(code, is_large, _mm512_set1_epi32(0x7e));
    block.store8(codes + i, _mm512_cvtepi32_epi8(_mm512_or_si512(code, sign)));
  });
}

}  // namespace quire_kernels

#endif
