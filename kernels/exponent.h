// bf16 without loss: sections of kind kExponent (math/layout.h, docs/formats/codecs.md). The
// drivers in load.cc and store.cc use these for whole ranges of rows; everything else about engine
// memory, rotation and masks is theirs. Implementations per instruction set give equal bytes.
#ifndef QUIRE_KERNELS_EXPONENT_H_
#define QUIRE_KERNELS_EXPONENT_H_

#include <stdint.h>

#include "kernels/math/layout.h"
#include "kernels/rows.h"

namespace quire_kernels {

struct ExponentShape {
  PlaneSpec spec;  // kind kExponent: 4 bits = exp4, 3 bits = window3
  uint32_t n_tokens;
  uint32_t n_heads;
  uint32_t head_dim;
};

// Mode, size, reserved bytes, tops, escape index and the number of escape codes in each of its
// blocks all agree: QUIRE_KERNEL_OK or QUIRE_KERNEL_CORRUPT. Never reads outside [section, section
// + bytes). After OK the functions below are safe on the section.
int exponent_check(const ExponentShape& shape, const Byte* section, uint64_t bytes);

// At least the largest |element| of these tokens of all heads, as bf16 bits without the sign;
// 0x7f80 or more exactly where one of them is not finite.
uint32_t exponent_max_bits(const ExponentShape& shape, const Byte* section, uint32_t token_begin,
                           uint32_t token_end);

// bf16 elements of n tokens of one head, [token][dim], from `token` on. Consecutive calls on
// ascending tokens of a head cost no second look at earlier rows when they share a cursor.
struct ExponentCursor {
  uint64_t row = UINT64_MAX;  // the next row this cursor knows the escapes of; none at first
  uint64_t escape = 0;
};
void exponent_decode(const ExponentShape& shape, const Byte* section, uint32_t head, uint32_t token,
                     uint32_t n, ExponentCursor* cursor, Byte* elements);

// Encodes [head][token][dim] bf16 elements (any bits, NaN included). `section` has
// exponent_plain_bytes() bytes; returns how many are used. All bytes of the section are written.
uint64_t exponent_encode(const ExponentShape& shape, const Byte* elements, Byte* section);

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_EXPONENT_H_
