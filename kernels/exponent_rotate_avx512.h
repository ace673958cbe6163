// Part of exponent_avx512.h for processors that also convert to bf16: rows that are rotated in
// registers on their way into a section. Neox, all dims, of 64, 128 or 256.
#ifndef QUIRE_KERNELS_EXPONENT_ROTATE_AVX512_H_
#define QUIRE_KERNELS_EXPONENT_ROTATE_AVX512_H_

#include "kernels/avx512_blocks.h"
#include "kernels/exponent_avx512.h"

#if QUIRE_EXPONENT_VBMI2

namespace quire_kernels {
namespace {

constexpr uint32_t kTwoLanes = 2 * kLanes;

// Cosines and sines of thirty-two pairs: of even ones, then of odd ones, as the halves of a 32-bit
// lane come apart without a permutation.
void order_angles(const float* table, uint32_t head_dim, float* angles) {
  const __m512i even = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(2));
  constexpr int kLower = 0x44;
  constexpr int kUpper = 0xee;
  for (uint32_t i = 0; i < head_dim; i += 2 * kTwoLanes) {
    const __m512 t[4] = {_mm512_loadu_ps(table + i), _mm512_loadu_ps(table + i + kLanes),
                         _mm512_loadu_ps(table + i + 2 * kLanes),
                         _mm512_loadu_ps(table + i + 3 * kLanes)};
    const __m512i orders[2] = {even, odd};
    for (uint32_t k = 0; k < 2; ++k) {
      const __m512 first = _mm512_permutex2var_ps(t[0], orders[k], t[1]);
      const __m512 second = _mm512_permutex2var_ps(t[2], orders[k], t[3]);
      float* to = angles + i + k * kTwoLanes;
      _mm512_store_ps(to, _mm512_shuffle_f32x4(first, second, kLower));
      _mm512_store_ps(to + kLanes, _mm512_shuffle_f32x4(first, second, kUpper));
    }
  }
}

[[gnu::always_inline]] inline __m512i to_bf16_pair(__m512 even, __m512 odd) {
  const __m512bh both = _mm512_cvtne2ps_pbh(odd, even);
  __m512i bits;
  memcpy(&bits, &both, sizeof(bits));
  return bits;
}

// Elements 0..31 of each half of a row, rotated; in the result, even ones before odd ones.
[[gnu::always_inline]] inline void rotate_halves(const Byte* first, const Byte* second,
                                                 const float* angles, __m512i* y0, __m512i* y1) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000));
  const __m512i a = _mm512_loadu_si512(first);
  const __m512i b = _mm512_loadu_si512(second);
  __m512 even[2] = {_mm512_castsi512_ps(_mm512_slli_epi32(a, 16)),
                    _mm512_castsi512_ps(_mm512_slli_epi32(b, 16))};
  __m512 odd[2] = {_mm512_castsi512_ps(_mm512_and_si512(a, upper)),
                   _mm512_castsi512_ps(_mm512_and_si512(b, upper))};
  rotate_pair(_mm512_load_ps(angles), _mm512_load_ps(angles + kLanes), &even[0], &even[1]);
  rotate_pair(_mm512_load_ps(angles + 2 * kLanes), _mm512_load_ps(angles + 3 * kLanes), &odd[0],
              &odd[1]);
  *y0 = to_bf16_pair(even[0], odd[0]);
  *y1 = to_bf16_pair(even[1], odd[1]);
}

// Of two times 32 elements as rotate_halves() leaves them.
[[gnu::always_inline]] inline Parts parts_in_order(__m512i first, __m512i second) {
  // Byte 2 * (i / 2) of even elements i, 32 more of odd ones, 64 more of the second.
  const __m512i order = _mm512_setr_epi64(
      0x2606240422022000, 0x2e0e2c0c2a0a2808, 0x3616341432123010, 0x3e1e3c1c3a1a3818,
      0x6646644462426040, 0x6e4e6c4c6a4a6848, 0x7656745472527050, 0x7e5e7c5c7a5a7858);
  const __m512i lower = _mm512_permutex2var_epi8(first, order, second);
  const __m512i upper =
      _mm512_permutex2var_epi8(first, _mm512_or_si512(order, each8(0x0101010101010101)), second);
  return parts_of_bytes(lower, upper);
}

template <uint32_t kSteps>
[[gnu::always_inline]] inline void rotate_row(const Byte* row, const float* angles,
                                              Parts (&parts)[kSteps]) {
  constexpr uint32_t kHalf = kSteps * kStep / 2;
  __m512i y0[kSteps];
  __m512i y1[kSteps];
#pragma GCC unroll 4
  for (uint32_t i = 0; i < kSteps; ++i)
    rotate_halves(row + i * 64, row + kHalf * 2 + i * 64, angles + i * 2 * kTwoLanes, &y0[i],
                  &y1[i]);
  if constexpr (kSteps == 1) {
    parts[0] = parts_in_order(y0[0], y1[0]);
  } else {
#pragma GCC unroll 2
    for (uint32_t i = 0; i < kSteps / 2; ++i) {
      parts[i] = parts_in_order(y0[2 * i], y0[2 * i + 1]);
      parts[kSteps / 2 + i] = parts_in_order(y1[2 * i], y1[2 * i + 1]);
    }
  }
}

// Asks for what will be written soon, so that its lines are there then. May lie beyond the section.
[[gnu::always_inline]] inline void own_ahead(const Byte* to, uint64_t distance) {
  _mm_prefetch(reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(to) + distance),
               _MM_HINT_T1);
}

// Extremes of the exponents seen.
struct Extremes {
  __m512i least = _mm512_set1_epi8(-1);
  __m512i largest = _mm512_setzero_si512();

  [[gnu::always_inline]] void add(__m512i exponents) {
    least = _mm512_min_epu8(least, exponents);
    largest = _mm512_max_epu8(largest, exponents);
  }
  ExponentsFound found() const {
    return {_mm512_testn_epi8_mask(least, least) != 0, any_most(largest)};
  }
};

template <uint32_t kSteps>
ExponentsFound rotated_exponents_of(const EncodeRows& rows, uint32_t n_rows, Byte* exponents) {
  Extremes extremes;
  for (uint32_t row = 0; row < n_rows; ++row) {
    fetch_ahead(rows, row);
    Parts parts[kSteps];
    rotate_row<kSteps>(rows.elements[row] + rows.offset, rows.angles[row], parts);
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kSteps; ++i, exponents += kStep) {
      _mm512_storeu_si512(exponents, parts[i].exponents);
      extremes.add(parts[i].exponents);
    }
  }
  return extremes.found();
}

template <uint32_t kSteps>
ExponentsFound split_rotated_of(const EncodeRows& rows, uint32_t n_rows, Byte* sign_mantissa,
                                Byte* exponents, Byte* tops) {
  const uint64_t ahead = uint64_t{n_rows} * kSteps * kStep;
  Extremes extremes;
  __m512i most[kSteps];
#pragma GCC unroll 4
  for (uint32_t i = 0; i < kSteps; ++i) most[i] = _mm512_loadu_si512(tops + i * kStep);
  for (uint32_t row = 0; row < n_rows; ++row) {
    fetch_ahead(rows, row);
    Parts parts[kSteps];
    rotate_row<kSteps>(rows.elements[row] + rows.offset, rows.angles[row], parts);
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kSteps; ++i) {
      own_ahead(sign_mantissa, ahead);
      _mm512_storeu_si512(sign_mantissa, parts[i].sign_mantissa);
      _mm512_storeu_si512(exponents, parts[i].exponents);
      extremes.add(parts[i].exponents);
      most[i] = _mm512_max_epu8(most[i], parts[i].exponents);
      sign_mantissa += kStep;
      exponents += kStep;
    }
  }
#pragma GCC unroll 4
  for (uint32_t i = 0; i < kSteps; ++i) _mm512_storeu_si512(tops + i * kStep, most[i]);
  return extremes.found();
}

template <uint32_t kSteps, typename Table>
ExponentsFound encode_rotated_by(const Table& table, const ExponentRows& format,
                                 const EncodeRows& rows, Byte* sign_mantissa, Byte* codes,
                                 EscapeWriter* escapes) {
  const uint64_t ahead = uint64_t{format.n_rows} * kSteps * kStep;
  Extremes extremes;
  EscapeWriter to = *escapes;
  for (uint32_t row = 0; row < format.n_rows && to.n <= to.max; ++row) {
    fetch_ahead(rows, row);
    Parts parts[kSteps];
    rotate_row<kSteps>(rows.elements[row] + rows.offset, rows.angles[row], parts);
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kSteps; ++i) {
      if (to.n > to.max) break;
      own_ahead(sign_mantissa, ahead);
      if (i % 2 == 0) own_ahead(codes, ahead / 2);
      _mm512_storeu_si512(sign_mantissa, parts[i].sign_mantissa);
      store_codes<4>(Whole<4>{}, codes, table.codes(parts[i].exponents), parts[i].exponents, &to);
      extremes.add(parts[i].exponents);
      sign_mantissa += kStep;
      codes += kStep / 2;
    }
  }
  escapes->n = to.n;
  return extremes.found();
}

template <uint32_t kSteps>
ExponentsFound encode_rotated_of(const ExponentRows& format, const EncodeRows& rows,
                                 Byte* sign_mantissa, Byte* codes, EscapeWriter* escapes) {
  if (format.window_begin != kNoCodeWindow)
    return encode_rotated_by<kSteps>(CodeWindow(format.code_of, format.window_begin), format, rows,
                                     sign_mantissa, codes, escapes);
  return encode_rotated_by<kSteps>(CodeTable(format.exponents, format.code_of), format, rows,
                                   sign_mantissa, codes, escapes);
}

ExponentsFound rotated_exponents(const EncodeRows& rows, uint32_t n_rows, uint32_t head_dim,
                                 Byte* exponents) {
  if (head_dim == 64) return rotated_exponents_of<1>(rows, n_rows, exponents);
  if (head_dim == 128) return rotated_exponents_of<2>(rows, n_rows, exponents);
  return rotated_exponents_of<4>(rows, n_rows, exponents);
}

ExponentsFound split_rotated(const EncodeRows& rows, uint32_t n_rows, uint32_t head_dim,
                             Byte* sign_mantissa, Byte* exponents, Byte* tops) {
  if (head_dim == 64) return split_rotated_of<1>(rows, n_rows, sign_mantissa, exponents, tops);
  if (head_dim == 128) return split_rotated_of<2>(rows, n_rows, sign_mantissa, exponents, tops);
  return split_rotated_of<4>(rows, n_rows, sign_mantissa, exponents, tops);
}

ExponentsFound encode_rotated(const ExponentRows& format, const EncodeRows& rows,
                              Byte* sign_mantissa, Byte* codes, EscapeWriter* escapes) {
  if (format.head_dim == 64)
    return encode_rotated_of<1>(format, rows, sign_mantissa, codes, escapes);
  if (format.head_dim == 128)
    return encode_rotated_of<2>(format, rows, sign_mantissa, codes, escapes);
  return encode_rotated_of<4>(format, rows, sign_mantissa, codes, escapes);
}

}  // namespace
}  // namespace quire_kernels

#endif  // QUIRE_EXPONENT_VBMI2
#endif  // QUIRE_KERNELS_EXPONENT_ROTATE_AVX512_H_
