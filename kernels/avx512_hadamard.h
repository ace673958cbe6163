// Block Hadamard transforms of rows in registers: the stages of math/hadamard.h with the operands
// of each addition in the same order up to commutation, so the bits are equal.
#ifndef QUIRE_KERNELS_AVX512_HADAMARD_H_
#define QUIRE_KERNELS_AVX512_HADAMARD_H_

#include "kernels/avx512_blocks.h"
#include "kernels/math/hadamard.h"

namespace quire_kernels {
namespace {

// b - a in the lanes of `upper`, a + b in the others, where b holds each lane's partner.
template <uint32_t kWidth>
[[gnu::always_inline]] inline __m512 stage(__m512 values) {
  __m512 partner;
  __mmask16 upper;
  if constexpr (kWidth == 1) {
    partner = _mm512_permute_ps(values, 0xb1);
    upper = 0xaaaa;
  } else if constexpr (kWidth == 2) {
    partner = _mm512_permute_ps(values, 0x4e);
    upper = 0xcccc;
  } else if constexpr (kWidth == 4) {
    partner = _mm512_shuffle_f32x4(values, values, 0xb1);
    upper = 0xf0f0;
  } else {
    partner = _mm512_shuffle_f32x4(values, values, 0x4e);
    upper = 0xff00;
  }
  return _mm512_mask_sub_ps(_mm512_add_ps(values, partner), upper, partner, values);
}

// Stages of widths below order, at most 8: inside a register.
[[gnu::always_inline]] inline __m512 hadamard_lanes(__m512 values, uint32_t order) {
  if (order >= 2) values = stage<1>(values);
  if (order >= 4) values = stage<2>(values);
  if (order >= 8) values = stage<4>(values);
  if (order >= 16) values = stage<8>(values);
  return values;
}

[[gnu::always_inline]] inline void add_subtract(__m512* a, __m512* b) {
  const __m512 sum = _mm512_add_ps(*a, *b);
  *b = _mm512_sub_ps(*a, *b);
  *a = sum;
}

// A whole block of order 16 * kRegisters, the final factor included.
template <uint32_t kRegisters>
[[gnu::always_inline]] inline void hadamard_registers(__m512 (&r)[kRegisters], __m512 factor) {
  static_assert(kRegisters == 1 || kRegisters == 2 || kRegisters == 4);
#pragma GCC unroll 4
  for (uint32_t i = 0; i < kRegisters; ++i) r[i] = hadamard_lanes(r[i], 16);
#pragma GCC unroll 4
  for (uint32_t i = 0; i + 1 < kRegisters; i += 2) add_subtract(&r[i], &r[i + 1]);
  if constexpr (kRegisters == 4) {
    add_subtract(&r[0], &r[2]);
    add_subtract(&r[1], &r[3]);
  }
#pragma GCC unroll 4
  for (uint32_t i = 0; i < kRegisters; ++i) r[i] = _mm512_mul_ps(r[i], factor);
}

}  // namespace
}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_AVX512_HADAMARD_H_
