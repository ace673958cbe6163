// fp32 in 16 lanes. Compiled with AVX-512 flags of its own: everything here has internal linkage.
#include "kernels/attention/ops.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)

#include <immintrin.h>
#include <math.h>

#include "kernels/attention/attend_rows.h"
#include "kernels/attention/decode_chunks.h"
#include "kernels/attention/deviation.h"
#include "kernels/math/hadamard.h"

namespace quire_kernels {
namespace {

constexpr uint32_t kLanes = 16;

__mmask16 lanes_left(uint32_t n) {
  return n >= kLanes ? __mmask16{0xffff} : static_cast<__mmask16>((1u << n) - 1);
}

// kWhole: n is a multiple of the lanes, and masks cost nothing.
template <bool kWhole>
__m512 load16(const float* row, __mmask16 mask) {
  return kWhole ? _mm512_loadu_ps(row) : _mm512_maskz_loadu_ps(mask, row);
}
template <bool kWhole>
void store16(float* row, __mmask16 mask, __m512 value) {
  if (kWhole)
    _mm512_storeu_ps(row, value);
  else
    _mm512_mask_storeu_ps(row, mask, value);
}

__m512 widen16(int32_t dtype, const unsigned char* src, uint32_t i, __mmask16 mask) {
  if (dtype == QUIRE_DTYPE_F32) return _mm512_maskz_loadu_ps(mask, src + uint64_t{i} * 4);
  const __m256i bits = _mm256_maskz_loadu_epi16(mask, src + uint64_t{i} * 2);
  if (dtype == QUIRE_DTYPE_F16) return _mm512_cvtph_ps(bits);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

__m256i narrow_bf16(__m512 value) {
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(
      _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0)));
}

// 16 codes that begin at a group; `bytes` of the row are left.
template <uint32_t kBits>
__m512i unpack16(const unsigned char* src, uint64_t bytes) {
  uint64_t word = 0;
  if (bytes >= 8)
    memcpy(&word, src, 8);
  else
    memcpy(&word, src, bytes);
  // Three bits: the second group moves up to its own 32.
  if (kBits == 3) word = (word & 0xffffff) | (word & 0xffffff000000) << 8;
  const __m512i two_words = _mm512_castsi128_si512(_mm_cvtsi64_si128(static_cast<int64_t>(word)));
  const __m512i which = kBits == 2
                            ? _mm512_setzero_si512()
                            : _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  const __m512i shift =
      kBits == 2   ? _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
      : kBits == 3 ? _mm512_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21, 0, 3, 6, 9, 12, 15, 18, 21)
                   : _mm512_setr_epi32(0, 16, 4, 20, 8, 24, 12, 28, 0, 16, 4, 20, 8, 24, 12, 28);
  return _mm512_and_si512(_mm512_srlv_epi32(_mm512_permutexvar_epi32(which, two_words), shift),
                          _mm512_set1_epi32((1 << kBits) - 1));
}

__m512 fp8_16(__m128i codes) {
  const __m512i wide = _mm512_cvtepu8_epi32(codes);
  const __m512i magnitude = _mm512_slli_epi32(_mm512_and_si512(wide, _mm512_set1_epi32(0x7f)), 20);
  const __m512i sign = _mm512_slli_epi32(_mm512_and_si512(wide, _mm512_set1_epi32(0x80)), 24);
  // The exponent's bias by a product, which handles denormals as well.
  const __m512 value = _mm512_mul_ps(_mm512_castsi512_ps(magnitude), _mm512_set1_ps(0x1p120f));
  return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(value), sign));
}

// exp to 1 ulp or so for x <= 88; 0 below -104.
__m512 exp16(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-150.0f), x);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 y = _mm512_set1_ps(1.9875691500e-4f);
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.3981999507e-3f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(8.3334519073e-3f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(4.1665795894e-2f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.6666665459e-1f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(5.0000001201e-1f));
  y = _mm512_fmadd_ps(_mm512_mul_ps(r, r), y, _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(y, n);
}

__m512 tanh16(__m512 x) {
  const __m512 square = _mm512_mul_ps(x, x);
  __m512 series = _mm512_set1_ps(62.0f / 2835);
  series = _mm512_fmadd_ps(series, square, _mm512_set1_ps(-17.0f / 315));
  series = _mm512_fmadd_ps(series, square, _mm512_set1_ps(2.0f / 15));
  series = _mm512_fmadd_ps(series, square, _mm512_set1_ps(-1.0f / 3));
  series = _mm512_fmadd_ps(_mm512_mul_ps(series, square), x, x);
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 magnitude = _mm512_abs_ps(x);
  const __m512 e = exp16(_mm512_mul_ps(magnitude, _mm512_set1_ps(-2.0f)));
  const __m512 far = _mm512_div_ps(_mm512_sub_ps(one, e), _mm512_add_ps(one, e));
  const __m512 sign = _mm512_and_ps(x, _mm512_set1_ps(-0.0f));
  const __mmask16 near = _mm512_cmp_ps_mask(magnitude, _mm512_set1_ps(0.25f), _CMP_LT_OQ);
  return _mm512_mask_mov_ps(_mm512_or_ps(far, sign), near, series);
}

// sin and cos of x, |x| < 2^40, to 2 ulp or so: fdlibm's polynomials after a two-part reduction.
void sincos8(__m512d x, __m512d* sine, __m512d* cosine) {
  const __m512d k = _mm512_roundscale_pd(_mm512_mul_pd(x, _mm512_set1_pd(0.63661977236758134308)),
                                         _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512d r = _mm512_fnmadd_pd(k, _mm512_set1_pd(1.5707963267948966), x);
  r = _mm512_fnmadd_pd(k, _mm512_set1_pd(6.123233995736766e-17), r);
  const __m512d z = _mm512_mul_pd(r, r);
  __m512d s = _mm512_set1_pd(1.58969099521155010221e-10);
  s = _mm512_fmadd_pd(s, z, _mm512_set1_pd(-2.50507602534068634195e-08));
  s = _mm512_fmadd_pd(s, z, _mm512_set1_pd(2.75573137070700676789e-06));
  s = _mm512_fmadd_pd(s, z, _mm512_set1_pd(-1.98412698298579493134e-04));
  s = _mm512_fmadd_pd(s, z, _mm512_set1_pd(8.33333333332248946124e-03));
  s = _mm512_fmadd_pd(s, z, _mm512_set1_pd(-1.66666666666666324348e-01));
  s = _mm512_fmadd_pd(_mm512_mul_pd(s, z), r, r);
  __m512d c = _mm512_set1_pd(-1.13596475577881948265e-11);
  c = _mm512_fmadd_pd(c, z, _mm512_set1_pd(2.08757232129817482790e-09));
  c = _mm512_fmadd_pd(c, z, _mm512_set1_pd(-2.75573143513906633035e-07));
  c = _mm512_fmadd_pd(c, z, _mm512_set1_pd(2.48015872894767294178e-05));
  c = _mm512_fmadd_pd(c, z, _mm512_set1_pd(-1.38888888888741095749e-03));
  c = _mm512_fmadd_pd(c, z, _mm512_set1_pd(4.16666666666666019037e-02));
  c = _mm512_fmadd_pd(_mm512_mul_pd(z, z), c,
                      _mm512_fnmadd_pd(z, _mm512_set1_pd(0.5), _mm512_set1_pd(1.0)));
  const __m512i quadrant = _mm512_cvtpd_epi64(k);
  const __mmask8 swap = _mm512_test_epi64_mask(quadrant, _mm512_set1_epi64(1));
  const __m512d minus = _mm512_set1_pd(-0.0);
  const __mmask8 sine_minus = _mm512_test_epi64_mask(quadrant, _mm512_set1_epi64(2));
  const __mmask8 cosine_minus = _mm512_test_epi64_mask(
      _mm512_add_epi64(quadrant, _mm512_set1_epi64(1)), _mm512_set1_epi64(2));
  const __m512d a = _mm512_mask_mov_pd(s, swap, c);
  const __m512d b = _mm512_mask_mov_pd(c, swap, s);
  *sine = _mm512_mask_xor_pd(a, sine_minus, a, minus);
  *cosine = _mm512_mask_xor_pd(b, cosine_minus, b, minus);
}

// The sums of four vectors, in lanes 0..3.
__m128 sum_of_four(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 all =
      _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

struct Avx512Math {
  using Real = float;

  static void widen_row(int32_t dtype, const unsigned char* src, float* row, uint32_t n) {
    for (uint32_t i = 0; i < n; i += kLanes) {
      const __mmask16 mask = lanes_left(n - i);
      _mm512_mask_storeu_ps(row + i, mask, widen16(dtype, src, i, mask));
    }
  }
  static void narrow_row(int32_t dtype, const float* row, unsigned char* dst, uint32_t n) {
    for (uint32_t i = 0; i < n; i += kLanes) {
      const __mmask16 mask = lanes_left(n - i);
      const __m512 value = _mm512_maskz_loadu_ps(mask, row + i);
      if (dtype == QUIRE_DTYPE_F32) {
        _mm512_mask_storeu_ps(dst + uint64_t{i} * 4, mask, value);
        continue;
      }
      const __m256i bits = dtype == QUIRE_DTYPE_F16
                               ? _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT)
                               : narrow_bf16(value);
      _mm256_mask_storeu_epi16(dst + uint64_t{i} * 2, mask, bits);
    }
  }
  static void code_row(int32_t codec, const PlaneSpec& spec, const unsigned char* src, float* row,
                       uint32_t n) {
    if (spec.kind == SectionKind::kRaw) return widen_row(codec, src, row, n);
    if (spec.bits == 4) return small_code_row<4>(src, row, n);
    if (spec.bits == 3) return small_code_row<3>(src, row, n);
    if (spec.bits == 2) return small_code_row<2>(src, row, n);
    for (uint32_t i = 0; i < n; i += kLanes) {
      const __mmask16 mask = lanes_left(n - i);
      const __m128i codes = _mm_maskz_loadu_epi8(mask, src + i);
      const __m512 value = spec.kind == SectionKind::kFp8
                               ? fp8_16(codes)
                               : _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes));
      _mm512_mask_storeu_ps(row + i, mask, value);
    }
  }
  template <uint32_t kBits>
  static void small_code_row(const unsigned char* src, float* row, uint32_t n) {
    const uint64_t row_bytes = code_row_bytes(n, kBits);
    for (uint32_t i = 0; i < n; i += kLanes) {
      const uint64_t at = uint64_t{i} / kGroupCodes * kBits;
      _mm512_mask_storeu_ps(row + i, lanes_left(n - i),
                            _mm512_cvtepi32_ps(unpack16<kBits>(src + at, row_bytes - at)));
    }
  }
  static __m512 products(const float* w, const float* row, uint32_t n) {
    __m512 sum = _mm512_setzero_ps();
    for (uint32_t i = 0; i < n; i += kLanes) {
      const __mmask16 mask = lanes_left(n - i);
      sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, w + i),
                            _mm512_maskz_loadu_ps(mask, row + i), sum);
    }
    return sum;
  }
  static float dot(const float* w, const float* row, uint32_t n) {
    return _mm512_reduce_add_ps(products(w, row, n));
  }
  static void dots(const float (*w)[QUIRE_ATTENTION_DIMS_MAX], uint32_t queries, const float* row,
                   uint32_t n, float* out, uint32_t stride) {
    // Every sum in one order, so that a result does not depend on the tile's other queries.
    for (uint32_t q = 0; q < queries; q += 4) {
      const uint32_t count = queries - q < 4 ? queries - q : 4;
      if (count == 1) {
        const __m512 sum = products(w[q], row, n);
        out[q * stride] = _mm_cvtss_f32(sum_of_four(sum, sum, sum, sum));
        break;
      }
      __m512 sum[4] = {};
      for (uint32_t i = 0; i < n; i += kLanes) {
        const __mmask16 mask = lanes_left(n - i);
        const __m512 x = _mm512_maskz_loadu_ps(mask, row + i);
        for (uint32_t j = 0; j < 4; ++j)
          sum[j] =
              _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, w[j < count ? q + j : q] + i), x, sum[j]);
      }
      alignas(16) float four[4];
      _mm_store_ps(four, sum_of_four(sum[0], sum[1], sum[2], sum[3]));
      for (uint32_t j = 0; j < count; ++j) out[(q + j) * stride] = four[j];
    }
  }
  static void dots2(const float (*w)[QUIRE_ATTENTION_DIMS_MAX], uint32_t queries,
                    const float (*rows)[QUIRE_ATTENTION_DIMS_MAX], uint32_t n, float* out,
                    uint32_t stride) {
    uint32_t q = 0;
    for (; q + 4 <= queries; q += 4) {
      if (n % kLanes == 0)
        dots2_of_four<true>(w + q, rows, n, out + q * stride, stride);
      else
        dots2_of_four<false>(w + q, rows, n, out + q * stride, stride);
    }
    if (q == queries) return;
    for (uint32_t r = 0; r < 2; ++r)
      dots(w + q, queries - q, rows[r], n, out + q * stride + r, stride);
  }
  template <bool kWhole>
  static void dots2_of_four(const float (*w)[QUIRE_ATTENTION_DIMS_MAX],
                            const float (*rows)[QUIRE_ATTENTION_DIMS_MAX], uint32_t n, float* out,
                            uint32_t stride) {
    __m512 sum[2][4] = {};
    for (uint32_t i = 0; i < n; i += kLanes) {
      const __mmask16 mask = lanes_left(n - i);
      const __m512 x0 = load16<kWhole>(rows[0] + i, mask);
      const __m512 x1 = load16<kWhole>(rows[1] + i, mask);
      for (uint32_t j = 0; j < 4; ++j) {
        const __m512 y = load16<kWhole>(w[j] + i, mask);
        sum[0][j] = _mm512_fmadd_ps(y, x0, sum[0][j]);
        sum[1][j] = _mm512_fmadd_ps(y, x1, sum[1][j]);
      }
    }
    for (uint32_t r = 0; r < 2; ++r) {
      alignas(16) float four[4];
      _mm_store_ps(four, sum_of_four(sum[r][0], sum[r][1], sum[r][2], sum[r][3]));
      for (uint32_t j = 0; j < 4; ++j) out[j * stride + r] = four[j];
    }
  }
  static void axpy(float p, const float* row, float* sum, uint32_t n) {
    const __m512 weight = _mm512_set1_ps(p);
    for (uint32_t i = 0; i < n; i += kLanes) {
      const __mmask16 mask = lanes_left(n - i);
      const __m512 old = _mm512_maskz_loadu_ps(mask, sum + i);
      _mm512_mask_storeu_ps(sum + i, mask,
                            _mm512_fmadd_ps(weight, _mm512_maskz_loadu_ps(mask, row + i), old));
    }
  }
  static void axpy4(const float* p, const float (*rows)[QUIRE_ATTENTION_DIMS_MAX], uint32_t first,
                    float* sum, uint32_t n) {
    if (n % kLanes == 0)
      axpy4_rows<true>(p, rows, first, sum, n);
    else
      axpy4_rows<false>(p, rows, first, sum, n);
  }
  template <bool kWhole>
  static void axpy4_rows(const float* p, const float (*rows)[QUIRE_ATTENTION_DIMS_MAX],
                         uint32_t first, float* sum, uint32_t n) {
    __m512 weight[4];
    for (uint32_t j = 0; j < 4; ++j) weight[j] = _mm512_set1_ps(p[j]);
    for (uint32_t i = 0; i < n; i += kLanes) {
      const __mmask16 mask = lanes_left(n - i);
      __m512 total = load16<kWhole>(sum + i, mask);
      for (uint32_t j = 0; j < 4; ++j)
        total = _mm512_fmadd_ps(weight[j], load16<kWhole>(rows[j] + first + i, mask), total);
      store16<kWhole>(sum + i, mask, total);
    }
  }
  static void scale_row(float scale, float* row, uint32_t n) {
    for (uint32_t i = 0; i < n; i += kLanes) {
      const __mmask16 mask = lanes_left(n - i);
      _mm512_mask_storeu_ps(
          row + i, mask,
          _mm512_mul_ps(_mm512_set1_ps(scale), _mm512_maskz_loadu_ps(mask, row + i)));
    }
  }
  static void cap_row(float* row, uint32_t n, float cap) {
    for (uint32_t i = 0; i < n; i += kLanes) {
      const __mmask16 mask = lanes_left(n - i);
      const __m512 x = _mm512_div_ps(_mm512_maskz_loadu_ps(mask, row + i), _mm512_set1_ps(cap));
      _mm512_mask_storeu_ps(row + i, mask, _mm512_mul_ps(_mm512_set1_ps(cap), tanh16(x)));
    }
  }
  static float max_row(const float* row, uint32_t n) {
    __m512 most = _mm512_set1_ps(row[0]);
    for (uint32_t i = 0; i < n; i += kLanes)
      most = _mm512_mask_max_ps(most, lanes_left(n - i), most,
                                _mm512_maskz_loadu_ps(lanes_left(n - i), row + i));
    return _mm512_reduce_max_ps(most);
  }
  static float exp_row(float* row, float shift, uint32_t n) {
    __m512 sum = _mm512_setzero_ps();
    for (uint32_t i = 0; i < n; i += kLanes) {
      const __mmask16 mask = lanes_left(n - i);
      const __m512 x = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, row + i), _mm512_set1_ps(shift));
      const __m512 y = exp16(x);
      _mm512_mask_storeu_ps(row + i, mask, y);
      sum = _mm512_mask_add_ps(sum, mask, sum, y);
    }
    return _mm512_reduce_add_ps(sum);
  }
  static float exp_of(float x) { return expf(x); }
  static void hadamard(float* row, uint32_t n, uint32_t order) { hadamard_row(row, n, order); }
  static void angles(int64_t position, const float* inverse, uint32_t n, double* cosine,
                     double* sine) {
    constexpr double kReducible = 0x1p40;
    const __m512d at = _mm512_set1_pd(static_cast<double>(position));
    for (uint32_t i = 0; i < n; i += 8) {
      const auto mask = static_cast<__mmask8>(n - i >= 8 ? 0xff : (1u << (n - i)) - 1);
      const __m512d x =
          _mm512_mul_pd(at, _mm512_cvtps_pd(_mm256_maskz_loadu_ps(mask, inverse + i)));
      if (_mm512_cmp_pd_mask(_mm512_abs_pd(x), _mm512_set1_pd(kReducible), _CMP_NLT_UQ) != 0) {
        alignas(64) double angle[8];
        _mm512_store_pd(angle, x);
        for (uint32_t j = 0; j < 8 && i + j < n; ++j) {
          cosine[i + j] = cos(angle[j]);
          sine[i + j] = sin(angle[j]);
        }
        continue;
      }
      __m512d s;
      __m512d c;
      sincos8(x, &s, &c);
      _mm512_mask_storeu_pd(sine + i, mask, s);
      _mm512_mask_storeu_pd(cosine + i, mask, c);
    }
  }
  static float distance(const float* a, const float* b, uint32_t n, bool squared) {
    __m512 sum = _mm512_setzero_ps();
    for (uint32_t i = 0; i < n; i += kLanes) {
      const __mmask16 mask = lanes_left(n - i);
      const __m512 difference =
          _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, a + i), _mm512_maskz_loadu_ps(mask, b + i));
      sum = squared ? _mm512_fmadd_ps(difference, difference, sum)
                    : _mm512_add_ps(sum, _mm512_abs_ps(difference));
    }
    return _mm512_reduce_add_ps(sum);
  }
};

constexpr AttentionOps kAvx512 = {run_attend_rows<Avx512Math>, run_decode_chunks<Avx512Math>,
                                  run_deviation<Avx512Math>};

}  // namespace

const AttentionOps* avx512_attention() {
  return &kAvx512;
}

}  // namespace quire_kernels

#else

namespace quire_kernels {
const AttentionOps* avx512_attention() {
  return nullptr;
}
}  // namespace quire_kernels

#endif
