// AVX-512: rows of the engine to rows of codes.
#include "kernels/rows.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "kernels/avx512_turn.h"
#include "kernels/math/bits.h"

namespace quire_kernels {
namespace {

// encode_code() of sixteen values.
[[gnu::always_inline]] inline __m512i to_codes(__m512 values, __m512 zeros, __m512 scales,
                                               __m512i top) {
  const __mmask16 nonzero = _mm512_cmp_ps_mask(scales, _mm512_setzero_ps(), _CMP_NEQ_OQ);
  const __m512 steps = _mm512_maskz_div_ps(nonzero, _mm512_sub_ps(values, zeros), scales);
  const __m512i rounded =
      _mm512_cvt_roundps_epi32(steps, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return _mm512_max_epi32(_mm512_min_epi32(rounded, top), _mm512_setzero_si512());
}

// Sixty-four codes as bytes.
[[gnu::always_inline]] inline __m512i to_bytes(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i words = _mm512_packus_epi16(_mm512_packus_epi32(a, b), _mm512_packus_epi32(c, d));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, words);
}

// Eight groups of eight 4-bit codes: q | q >> 12 pairs each code with the one two further on.
[[gnu::always_inline]] inline __m256i pack_nibbles(__m512i codes) {
  const __m512i pairs = _mm512_or_si512(codes, _mm512_srli_epi64(codes, 12));
  const __m512i order =
      _mm512_set_epi8(-1, -1, -1, -1, 13, 9, 12, 8, -1, -1, -1, -1, 5, 1, 4, 0, -1, -1, -1, -1, 13,
                      9, 12, 8, -1, -1, -1, -1, 5, 1, 4, 0, -1, -1, -1, -1, 13, 9, 12, 8, -1, -1,
                      -1, -1, 5, 1, 4, 0, -1, -1, -1, -1, 13, 9, 12, 8, -1, -1, -1, -1, 5, 1, 4, 0);
  return _mm512_cvtepi64_epi32(_mm512_shuffle_epi8(pairs, order));
}

inline uint64_t pack_group(uint64_t codes, uint32_t bits) {
  if (bits == 3) return _pext_u64(codes, UINT64_C(0x0707070707070707));
  if (bits == 2) return _pext_u64(codes, UINT64_C(0x0303030303030303));
  return _pext_u64(codes, UINT64_C(0x000f000f000f000f)) |
         _pext_u64(codes, UINT64_C(0x0f000f000f000f00)) << 16;
}

// Groups of up to 64 codes; bytes beyond the last are zero.
inline void pack_groups(__m512i bytes, uint32_t bits, Byte* codes, uint32_t n) {
  alignas(64) Byte memory[64];
  _mm512_store_si512(memory, bytes);
  for (uint32_t i = 0; i < n; i += 8, codes += bits) {
    uint64_t group;
    memcpy(&group, memory + i, 8);
    group = pack_group(group, bits);
    memcpy(codes, &group, bits);
  }
}

template <typename Encode>
inline void encode_row(uint32_t bits, Byte* codes, uint32_t n, Encode encode) {
  if (bits == 8) {
    for_blocks(n, [&](uint64_t i, auto block) {
      block.store8(codes + i, _mm512_cvtepi32_epi8(encode(i, block)));
    });
    return;
  }
  uint32_t i = 0;
  for (; i + 64 <= n; i += 64, codes += 8 * bits) {
    const FullBlock block;
    const __m512i bytes = to_bytes(encode(i, block), encode(i + 16, block), encode(i + 32, block),
                                   encode(i + 48, block));
    if (bits == 4)
      _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(codes), pack_nibbles(bytes));
    else
      pack_groups(bytes, bits, codes, 64);
  }
  if (i == n) return;
  const uint32_t begin = i;
  __m512i parts[4] = {};
  for (__m512i& part : parts) {
    if (i + kLanes <= n) {
      part = encode(i, FullBlock{});
    } else if (i < n) {
      const TailBlock block{tail_mask(n - i)};
      part = _mm512_maskz_mov_epi32(block.mask, encode(i, block));
    }
    i += kLanes;
  }
  pack_groups(to_bytes(parts[0], parts[1], parts[2], parts[3]), bits, codes, n - begin);
}

template <uint32_t kRegisters>
[[gnu::always_inline]] inline void turn_blocks(float* row, uint32_t n, __m512* low, __m512* high) {
  const __m512 factor = _mm512_set1_ps(hadamard_scale(kLanes * kRegisters));
  for (uint32_t begin = 0; begin < n; begin += kLanes * kRegisters) {
    __m512 r[kRegisters];
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kRegisters; ++i) r[i] = _mm512_loadu_ps(row + begin + kLanes * i);
    hadamard_registers(r, factor);
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kRegisters; ++i) {
      _mm512_storeu_ps(row + begin + kLanes * i, r[i]);
      *low = _mm512_min_ps(*low, r[i]);
      *high = _mm512_max_ps(*high, r[i]);
    }
  }
}

[[gnu::always_inline]] inline void turn_span(float* row, uint32_t n, uint32_t order, __m512* low,
                                             __m512* high) {
  const __m512 factor = _mm512_set1_ps(hadamard_scale(order));
  for_blocks(n, [&](uint64_t i, auto block) {
    __m512 values = block.load(row + i);
    if (order > 1) {
      values = _mm512_mul_ps(hadamard_lanes(values, order), factor);
      block.store(row + i, values);
    }
    *low = _mm512_min_ps(*low, block.keep(values, *low));
    *high = _mm512_max_ps(*high, block.keep(values, *high));
  });
}

}  // namespace

uint32_t avx512::fetch(int32_t dtype, const Byte* src, int32_t style, const float* table,
                       uint32_t rotary_dims, float* row, uint32_t n) {
  uint32_t done = 0;
  __m512i largest = _mm512_setzero_si512();
  if (table != nullptr && style == QUIRE_ROPE_STYLE_NEOX && rotary_dims % (2 * kLanes) == 0) {
    const uint32_t pairs = rotary_dims / 2;
    const FullBlock block;
    for (uint32_t j = 0; j < pairs; j += kLanes) {
      __m512 cosine;
      __m512 sine;
      split_pairs(table + 2 * j, 2 * kLanes, &cosine, &sine);
      __m512 x0 = load_elements(dtype, src, j, block);
      __m512 x1 = load_elements(dtype, src, j + pairs, block);
      rotate_pair(cosine, sine, &x0, &x1);
      block.store(row + j, x0);
      block.store(row + j + pairs, x1);
      largest = _mm512_max_epu32(largest, magnitude_bits(x0));
      largest = _mm512_max_epu32(largest, magnitude_bits(x1));
    }
    done = rotary_dims;
    table = nullptr;
  }
  for_blocks(n - done, [&](uint64_t j, auto block) {
    const __m512 values = load_elements(dtype, src, done + j, block);
    block.store(row + done + j, values);
    largest = _mm512_max_epu32(largest, magnitude_bits(values));
  });
  if (table == nullptr) return _mm512_reduce_max_epu32(largest);
  rotate(style, table, row, rotary_dims);
  largest = _mm512_setzero_si512();
  for_blocks(n, [&](uint64_t i, auto block) {
    largest = _mm512_max_epu32(largest, magnitude_bits(block.load(row + i)));
  });
  return _mm512_reduce_max_epu32(largest);
}

void avx512::extend_range(const float* row, float* minimums, float* maximums, uint32_t n) {
  for_blocks(n, [=](uint64_t i, auto block) {
    const __m512 values = block.load(row + i);
    block.store(minimums + i, _mm512_min_ps(values, block.load(minimums + i)));
    block.store(maximums + i, _mm512_max_ps(values, block.load(maximums + i)));
  });
}

void avx512::turn_range(float* row, uint32_t n, uint32_t order, float* minimum, float* maximum) {
  __m512 low = _mm512_set1_ps(__builtin_inff());
  __m512 high = _mm512_set1_ps(-__builtin_inff());
  if (order == 64)
    turn_blocks<4>(row, n, &low, &high);
  else if (order == 32)
    turn_blocks<2>(row, n, &low, &high);
  else if (order == 16)
    turn_blocks<1>(row, n, &low, &high);
  else
    turn_span(row, n, order, &low, &high);
  *minimum = _mm512_reduce_min_ps(low);
  *maximum = _mm512_reduce_max_ps(high);
}

namespace {

// A block of 64 bf16 elements: even and odd ones come apart by a shift and a mask, which makes the
// first stage a matter of registers; each later stage swaps its bit of the element number into that
// place. In the end they are in order.
[[gnu::always_inline]] inline void turn_bf16_block(__m512i low, __m512i high, __m512 factor,
                                                   __m512 (&r)[4]) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000));
  r[0] = _mm512_castsi512_ps(_mm512_slli_epi32(low, 16));
  r[1] = _mm512_castsi512_ps(_mm512_and_si512(low, upper));
  r[2] = _mm512_castsi512_ps(_mm512_slli_epi32(high, 16));
  r[3] = _mm512_castsi512_ps(_mm512_and_si512(high, upper));
#pragma GCC unroll 2
  for (uint32_t i = 0; i < 4; i += 2) {
    add_subtract(&r[i], &r[i + 1]);
    swap_lane0(&r[i], &r[i + 1]);
    add_subtract(&r[i], &r[i + 1]);
    swap_lane0(&r[i], &r[i + 1]);
    add_subtract(&r[i], &r[i + 1]);
    swap_lane2(&r[i], &r[i + 1]);
    add_subtract(&r[i], &r[i + 1]);
    swap_lane2(&r[i], &r[i + 1]);
    add_subtract(&r[i], &r[i + 1]);
  }
  add_subtract(&r[0], &r[2]);
  add_subtract(&r[1], &r[3]);
#pragma GCC unroll 4
  for (uint32_t i = 0; i < 4; ++i) r[i] = _mm512_mul_ps(r[i], factor);
}

uint32_t fetch_turned_bf16(const Byte* src, float* row, uint32_t n, float* minimum,
                           float* maximum) {
  const __m512 factor = _mm512_set1_ps(hadamard_scale(64));
  const __m512i magnitude = _mm512_set1_epi16(0x7fff);
  __m512i largest = _mm512_setzero_si512();
  __m512 least = _mm512_set1_ps(__builtin_inff());
  __m512 most = _mm512_set1_ps(-__builtin_inff());
  for (uint32_t i = 0; i < n; i += 64) {
    const __m512i low = _mm512_loadu_si512(src + 2 * i);
    const __m512i high = _mm512_loadu_si512(src + 2 * i + 64);
    largest = _mm512_max_epu16(largest, _mm512_and_si512(low, magnitude));
    largest = _mm512_max_epu16(largest, _mm512_and_si512(high, magnitude));
    __m512 r[4];
    turn_bf16_block(low, high, factor, r);
#pragma GCC unroll 4
    for (uint32_t k = 0; k < 4; ++k) {
      _mm512_storeu_ps(row + i + kLanes * k, r[k]);
      least = _mm512_min_ps(least, r[k]);
      most = _mm512_max_ps(most, r[k]);
    }
  }
  *minimum = _mm512_reduce_min_ps(least);
  *maximum = _mm512_reduce_max_ps(most);
  const __m512i even = _mm512_slli_epi32(largest, 16);
  return _mm512_reduce_max_epu32(_mm512_max_epu32(
      even, _mm512_and_si512(largest, _mm512_set1_epi32(static_cast<int32_t>(0xffff0000)))));
}

}  // namespace

uint32_t avx512::fetch_turned(int32_t dtype, const Byte* src, uint32_t order, float* row,
                              uint32_t n, float* minimum, float* maximum) {
  if (dtype == QUIRE_DTYPE_BF16 && order == 64)
    return fetch_turned_bf16(src, row, n, minimum, maximum);
  if (order == 1) {
    __m512i most = _mm512_setzero_si512();
    __m512 low = _mm512_set1_ps(__builtin_inff());
    __m512 high = _mm512_set1_ps(-__builtin_inff());
    for_blocks(n, [&](uint64_t i, auto block) {
      const __m512 values = load_elements(dtype, src, i, block);
      block.store(row + i, values);
      most = _mm512_max_epu32(most, magnitude_bits(values));
      low = _mm512_min_ps(low, block.keep(values, low));
      high = _mm512_max_ps(high, block.keep(values, high));
    });
    *minimum = _mm512_reduce_min_ps(low);
    *maximum = _mm512_reduce_max_ps(high);
    return _mm512_reduce_max_epu32(most);
  }
  const uint32_t largest = fetch(dtype, src, QUIRE_ROPE_STYLE_NONE, nullptr, 0, row, n);
  turn_range(row, n, order, minimum, maximum);
  return largest;
}

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

void avx512::encode_channel(const float* row, uint32_t bits, const float* zeros,
                            const float* scales, Byte* codes, uint32_t n) {
  const __m512i top = _mm512_set1_epi32(static_cast<int32_t>((1u << bits) - 1));
  encode_row(bits, codes, n, [=](uint64_t i, auto block) {
    return to_codes(block.load(row + i), block.load(zeros + i), block.load(scales + i), top);
  });
}

void avx512::encode_token(const float* row, uint32_t bits, float zero, float scale, Byte* codes,
                          uint32_t n) {
  const __m512 zeros = _mm512_set1_ps(zero);
  const __m512 scales = _mm512_set1_ps(scale);
  const __m512i top = _mm512_set1_epi32(static_cast<int32_t>((1u << bits) - 1));
  encode_row(bits, codes, n, [=](uint64_t i, auto block) {
    return to_codes(block.load(row + i), zeros, scales, top);
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
