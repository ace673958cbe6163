// AVX-512: rows of fp32 to rows of codes, many rows per call so that what belongs to a channel
// stays in registers.
#include "kernels/rows.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "kernels/avx512_blocks.h"

namespace quire_kernels {
namespace {

// Codes that are made and packed at once.
constexpr uint32_t kStripDims = 4 * kLanes;

// How (value - zero) / scale is found. Newton's correction of a product with the reciprocal, by a
// fused multiply-add, gives the very quotient that a division gives: Markstein, "Computation of
// elementary functions on the IBM RISC System/6000 processor", 1990. The product is within two
// units in the last place, so two corrections are needed; one where the scale has 11 bits, as a
// half has: then no quotient lies so close to the middle between two floats.
enum class Quotient { kOneCorrection, kTwoCorrections, kDivision };

// Scales whose quotients, where they round to another code than 0, neither overflow nor underflow
// on the way.
constexpr uint32_t kSmallestScaleBits = 0x17800000;  // 2^-80
constexpr uint32_t kLargestScaleBits = 0x67800000;   // 2^80
constexpr uint32_t kBitsBelowHalf = 0x1fff;

// Zero, scale and the scale's reciprocal of sixteen elements; a scale of 0 has the reciprocal 0, so
// its codes are 0.
struct Steps {
  __m512 zero;
  __m512 scale;
  __m512 reciprocal;
};

// What a row's elements are divided by: arrays with one entry per element, or per row and group.
struct StepArrays {
  const float* zeros;
  const float* scales;
  const float* reciprocals;
};

[[gnu::always_inline]] inline __m512 correct(__m512 quotient, __m512 difference,
                                             const Steps& steps) {
  const __m512 rest = _mm512_fnmadd_ps(quotient, steps.scale, difference);
  return _mm512_fmadd_ps(rest, steps.reciprocal, quotient);
}

// encode_code() of sixteen values, not yet limited to the codes there are.
template <Quotient kQuotient>
[[gnu::always_inline]] inline __m512i to_codes(__m512 values, const Steps& steps) {
  const __m512 difference = _mm512_sub_ps(values, steps.zero);
  __m512 quotient;
  if constexpr (kQuotient == Quotient::kDivision) {
    const __mmask16 nonzero = _mm512_cmp_ps_mask(steps.scale, _mm512_setzero_ps(), _CMP_NEQ_OQ);
    quotient = _mm512_maskz_div_ps(nonzero, difference, steps.scale);
  } else {
    quotient = correct(_mm512_mul_ps(difference, steps.reciprocal), difference, steps);
    if constexpr (kQuotient == Quotient::kTwoCorrections)
      quotient = correct(quotient, difference, steps);
  }
  return _mm512_cvt_roundps_epi32(quotient, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// Sixty-four codes as bytes; the narrowing limits them to 0 .. 255.
template <uint32_t kBits>
[[gnu::always_inline]] inline __m512i to_bytes(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i words = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i bytes = _mm512_permutexvar_epi32(order, words);
  if constexpr (kBits == 8) return bytes;
  return _mm512_min_epu8(bytes, _mm512_set1_epi8((1 << kBits) - 1));
}

// Eight groups of eight codes (math/pack.h); the first 8 * kBits bytes count.
template <uint32_t kBits>
[[gnu::always_inline]] inline __m512i pack_bytes(__m512i codes) {
  if constexpr (kBits == 8) {
    return codes;
  } else if constexpr (kBits == 4) {
    // q | q >> 12 pairs each code with the one two further on.
    const __m512i pairs = _mm512_or_si512(codes, _mm512_srli_epi64(codes, 12));
    const __m128i order = _mm_setr_epi8(0, 4, 1, 5, -1, -1, -1, -1, 8, 12, 9, 13, -1, -1, -1, -1);
    const __m512i words = _mm512_shuffle_epi8(pairs, _mm512_broadcast_i32x4(order));
    return _mm512_castsi256_si512(_mm512_cvtepi64_epi32(words));
  } else if constexpr (kBits == 2) {
    const __m512i pairs = _mm512_maddubs_epi16(codes, _mm512_set1_epi16(0x0401));
    const __m512i fours = _mm512_madd_epi16(pairs, _mm512_set1_epi32(0x00100001));
    return _mm512_castsi128_si512(_mm512_cvtepi32_epi8(fours));
  } else {
    const __m512i pairs = _mm512_maddubs_epi16(codes, _mm512_set1_epi16(0x0801));
    const __m512i fours = _mm512_madd_epi16(pairs, _mm512_set1_epi32(0x00400001));
    const __m256i groups =
        _mm512_cvtepi64_epi32(_mm512_or_si512(fours, _mm512_srli_epi64(fours, 20)));
    const __m128i order = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    const __m256i packed = _mm256_shuffle_epi8(groups, _mm256_broadcastsi128_si256(order));
    const __m256i joined = _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 3, 7);
    return _mm512_castsi256_si512(_mm256_permutevar8x32_epi32(packed, joined));
  }
}

template <uint32_t kBits>
[[gnu::always_inline]] inline void store_strip(Byte* codes, __m512i packed) {
  if constexpr (kBits == 8) {
    _mm512_storeu_si512(codes, packed);
  } else if constexpr (kBits == 4) {
    _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(codes), _mm512_castsi512_si256(packed));
  } else {
    _mm_storeu_si128(reinterpret_cast<__m128i_u*>(codes), _mm512_castsi512_si128(packed));
    if constexpr (kBits == 3)
      _mm_storel_epi64(reinterpret_cast<__m128i_u*>(codes + 16),
                       _mm512_extracti32x4_epi32(packed, 1));
  }
}

// The codes of n < 64 elements, padded to whole groups. steps(first element of a block, block).
template <uint32_t kBits, Quotient kQuotient, typename StepsOf>
inline void encode_tail(const float* row, uint32_t n, Byte* codes, StepsOf steps) {
  __m512i parts[4] = {};
  for (uint32_t i = 0; i < n; i += kLanes) {
    const TailBlock block{tail_mask(n - i)};
    parts[i / kLanes] = _mm512_maskz_mov_epi32(
        block.mask, to_codes<kQuotient>(block.load(row + i), steps(i, block)));
  }
  alignas(64) Byte packed[64];
  _mm512_store_si512(packed,
                     pack_bytes<kBits>(to_bytes<kBits>(parts[0], parts[1], parts[2], parts[3])));
  memcpy(codes, packed, kBits == 8 ? n : uint64_t{(n + 7) / 8} * kBits);
}

template <uint32_t kBits>
constexpr uint64_t row_bytes_of(uint32_t n) {
  return kBits == 8 ? n : uint64_t{(n + 7) / 8} * kBits;
}

template <uint32_t kBits, Quotient kQuotient>
void channel_rows(const float* rows, uint32_t n_rows, uint32_t n, const StepArrays& arrays,
                  Byte* codes) {
  const uint64_t row_bytes = row_bytes_of<kBits>(n);
  const auto steps_at = [&](uint64_t i, auto block) {
    return Steps{block.load(arrays.zeros + i), block.load_or(arrays.scales + i, 1.0f),
                 block.load(arrays.reciprocals + i)};
  };
  uint32_t begin = 0;
  for (; begin + kStripDims <= n; begin += kStripDims, codes += 8 * kBits) {
    Steps steps[4];
#pragma GCC unroll 4
    for (uint32_t k = 0; k < 4; ++k) steps[k] = steps_at(begin + k * kLanes, FullBlock{});
    const float* row = rows + begin;
    Byte* out = codes;
    for (uint32_t r = 0; r < n_rows; ++r, row += n, out += row_bytes) {
      __m512i parts[4];
#pragma GCC unroll 4
      for (uint32_t k = 0; k < 4; ++k)
        parts[k] = to_codes<kQuotient>(_mm512_loadu_ps(row + k * kLanes), steps[k]);
      store_strip<kBits>(
          out, pack_bytes<kBits>(to_bytes<kBits>(parts[0], parts[1], parts[2], parts[3])));
    }
  }
  if (begin == n) return;
  for (uint32_t r = 0; r < n_rows; ++r)
    encode_tail<kBits, kQuotient>(
        rows + uint64_t{r} * n + begin, n - begin, codes + r * row_bytes,
        [&](uint32_t i, auto block) { return steps_at(begin + i, block); });
}

// Groups have a multiple of kLanes dims where there is more than one.
template <uint32_t kBits>
void token_rows(const RowFormat& format, const float* rows, uint32_t n_rows,
                const StepArrays& arrays, Byte* codes) {
  constexpr Quotient kQuotient = Quotient::kOneCorrection;
  const uint32_t n = format.n;
  const uint32_t groups = (n + format.group_dims - 1) / format.group_dims;
  const uint64_t row_bytes = row_bytes_of<kBits>(n);
  for (uint32_t r = 0; r < n_rows; ++r, codes += row_bytes) {
    const uint64_t first = uint64_t{r} * groups;
    const auto steps_at = [&](uint32_t i) {
      const uint64_t at = groups == 1 ? first : first + i / format.group_dims;
      return Steps{_mm512_set1_ps(arrays.zeros[at]), _mm512_set1_ps(arrays.scales[at]),
                   _mm512_set1_ps(arrays.reciprocals[at])};
    };
    const float* row = rows + uint64_t{r} * n;
    Byte* out = codes;
    uint32_t begin = 0;
    for (; begin + kStripDims <= n; begin += kStripDims, out += 8 * kBits) {
      __m512i parts[4];
#pragma GCC unroll 4
      for (uint32_t k = 0; k < 4; ++k)
        parts[k] = to_codes<kQuotient>(_mm512_loadu_ps(row + begin + k * kLanes),
                                       steps_at(begin + k * kLanes));
      store_strip<kBits>(
          out, pack_bytes<kBits>(to_bytes<kBits>(parts[0], parts[1], parts[2], parts[3])));
    }
    if (begin < n)
      encode_tail<kBits, kQuotient>(row + begin, n - begin, out,
                                    [&](uint32_t i, auto) { return steps_at(begin + i); });
  }
}

// The reciprocals of scales, and how quotients by them are found.
Quotient find_reciprocals(const float* scales, float* reciprocals, uint64_t n) {
  __mmask16 beyond = 0;
  __m512i low_bits = _mm512_setzero_si512();
  for_blocks(n, [&](uint64_t i, auto block) {
    const __m512 scale = block.load_or(scales + i, 1.0f);
    const __m512i bits = _mm512_castps_si512(scale);
    const __mmask16 nonzero = _mm512_test_epi32_mask(bits, bits);
    beyond |= nonzero & (_mm512_cmplt_epu32_mask(bits, _mm512_set1_epi32(kSmallestScaleBits)) |
                         _mm512_cmpgt_epu32_mask(bits, _mm512_set1_epi32(kLargestScaleBits)));
    low_bits = _mm512_or_si512(low_bits, bits);
    block.store(reciprocals + i, _mm512_maskz_div_ps(nonzero, _mm512_set1_ps(1.0f), scale));
  });
  if (beyond != 0) return Quotient::kDivision;
  return _mm512_test_epi32_mask(low_bits, _mm512_set1_epi32(kBitsBelowHalf)) != 0
             ? Quotient::kTwoCorrections
             : Quotient::kOneCorrection;
}

template <uint32_t kBits>
void encode_channel_bits(const float* rows, uint32_t n_rows, uint32_t n, const float* zeros,
                         const float* scales, Byte* codes) {
  alignas(64) float reciprocals[QUIRE_KERNEL_DIMS_MAX];
  const StepArrays arrays{zeros, scales, reciprocals};
  switch (find_reciprocals(scales, reciprocals, n)) {
    case Quotient::kOneCorrection:
      return channel_rows<kBits, Quotient::kOneCorrection>(rows, n_rows, n, arrays, codes);
    case Quotient::kTwoCorrections:
      return channel_rows<kBits, Quotient::kTwoCorrections>(rows, n_rows, n, arrays, codes);
    case Quotient::kDivision:
      return channel_rows<kBits, Quotient::kDivision>(rows, n_rows, n, arrays, codes);
  }
}

}  // namespace

void avx512::encode_channel(const RowFormat& format, const float* rows, uint32_t n_rows,
                            const float* zeros, const float* scales, Byte* codes) {
  if (format.bits == 8) return encode_channel_bits<8>(rows, n_rows, format.n, zeros, scales, codes);
  if (format.bits == 4) return encode_channel_bits<4>(rows, n_rows, format.n, zeros, scales, codes);
  if (format.bits == 3) return encode_channel_bits<3>(rows, n_rows, format.n, zeros, scales, codes);
  encode_channel_bits<2>(rows, n_rows, format.n, zeros, scales, codes);
}

void avx512::encode_token(const RowFormat& format, const float* rows, uint32_t n_rows,
                          const Byte* pairs, Byte* codes) {
  alignas(64) float zeros[kRangesMax];
  alignas(64) float scales[kRangesMax];
  alignas(64) float reciprocals[kRangesMax];
  const uint32_t n = n_rows * ((format.n + format.group_dims - 1) / format.group_dims);
  widen_pairs(pairs, zeros, scales, n);
  find_reciprocals(scales, reciprocals, n);
  const StepArrays arrays{zeros, scales, reciprocals};
  if (format.bits == 8) return token_rows<8>(format, rows, n_rows, arrays, codes);
  if (format.bits == 4) return token_rows<4>(format, rows, n_rows, arrays, codes);
  if (format.bits == 3) return token_rows<3>(format, rows, n_rows, arrays, codes);
  token_rows<2>(format, rows, n_rows, arrays, codes);
}

}  // namespace quire_kernels

#endif
