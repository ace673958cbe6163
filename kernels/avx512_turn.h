// Two blocks of Hadamard order 64 at once, in eight registers. Decoded codes come as the bits of
// their element number allow it for free: register = bits 0..2, lane = bits 3..5 and the block. So
// the first three stages need no shuffle; each later one swaps its bit into the register number,
// which leaves the elements nearly in order at the end. The additions are those of
// math/hadamard.h; the factor is left to the caller.
#ifndef QUIRE_KERNELS_AVX512_TURN_H_
#define QUIRE_KERNELS_AVX512_TURN_H_

#include "kernels/avx512_hadamard.h"

namespace quire_kernels {
namespace {

// The register bit becomes lane bit 1, lane bit 1 becomes 0, lane bit 0 the register's.
[[gnu::always_inline]] inline void swap_lane0(__m512* a, __m512* b) {
  const __m512 even = _mm512_shuffle_ps(*a, *b, 0x88);
  *b = _mm512_shuffle_ps(*a, *b, 0xdd);
  *a = even;
}
// The register bit becomes lane bit 3, lane bit 3 becomes 2, lane bit 2 the register's.
[[gnu::always_inline]] inline void swap_lane2(__m512* a, __m512* b) {
  const __m512 even = _mm512_shuffle_f32x4(*a, *b, 0x88);
  *b = _mm512_shuffle_f32x4(*a, *b, 0xdd);
  *a = even;
}

// In: register r holds element 8 * lane + r of the first block in lanes 0..7, of the second in the
// others. Out: register r holds elements 8r .. 8r + 7 of both; by lanes of 128 bits the first four
// of the first, of the second, the last four of the first, of the second.
[[gnu::always_inline]] inline void turn_two_blocks(__m512 (&r)[8]) {
#pragma GCC unroll 4
  for (uint32_t i = 0; i < 8; i += 2) add_subtract(&r[i], &r[i + 1]);
#pragma GCC unroll 2
  for (uint32_t i = 0; i < 8; i += 4) {
    add_subtract(&r[i], &r[i + 2]);
    add_subtract(&r[i + 1], &r[i + 3]);
  }
#pragma GCC unroll 4
  for (uint32_t i = 0; i < 4; ++i) add_subtract(&r[i], &r[i + 4]);
#pragma GCC unroll 4
  for (uint32_t i = 0; i < 8; i += 2) {
    swap_lane0(&r[i], &r[i + 1]);
    add_subtract(&r[i], &r[i + 1]);
  }
#pragma GCC unroll 2
  for (uint32_t i = 0; i < 8; i += 4) {
    swap_lane0(&r[i], &r[i + 2]);
    swap_lane0(&r[i + 1], &r[i + 3]);
    add_subtract(&r[i], &r[i + 2]);
    add_subtract(&r[i + 1], &r[i + 3]);
  }
#pragma GCC unroll 4
  for (uint32_t i = 0; i < 4; ++i) {
    swap_lane2(&r[i], &r[i + 4]);
    add_subtract(&r[i], &r[i + 4]);
  }
}

}  // namespace
}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_AVX512_TURN_H_
