// Rows of small codes. Eight codes of b bits make a group of b bytes, a little-endian integer of 8b
// bits; a row is padded with zero codes to whole groups. Codes of 4 bits are interleaved so that
// (word >> 4k) & 0x000f000f holds elements 2k and 2k + 1: two 16-bit lanes for one instruction.
#ifndef QUIRE_KERNELS_MATH_PACK_H_
#define QUIRE_KERNELS_MATH_PACK_H_

#include <stdint.h>

#include "kernels/math/hd.h"

namespace quire_kernels {

inline constexpr uint32_t kGroupCodes = 8;

// Bytes of a row of n codes of 2, 3, 4 or 8 bits. Rows of 8-bit codes are not padded.
QUIRE_HD uint64_t code_row_bytes(uint32_t n, uint32_t bits) {
  return bits == 8 ? n : uint64_t{(n + kGroupCodes - 1) / kGroupCodes} * bits;
}

// Where element e (0..7) of a group lies in its integer.
QUIRE_HD uint32_t code_shift(uint32_t bits, uint32_t e) {
  return bits == 4 ? 4 * (e / 2 + (e % 2) * 4) : bits * e;
}

QUIRE_HD uint64_t group_integer(const unsigned char* group, uint32_t bits) {
  uint64_t value = 0;
  for (uint32_t i = 0; i < bits; ++i) value |= static_cast<uint64_t>(group[i]) << (8 * i);
  return value;
}

QUIRE_HD uint32_t get_code(const unsigned char* row, uint32_t bits, uint32_t element) {
  if (bits == 8) return row[element];
  const uint32_t e = element % kGroupCodes;
  const uint64_t group = group_integer(row + uint64_t{element / kGroupCodes} * bits, bits);
  return static_cast<uint32_t>(group >> code_shift(bits, e)) & ((1u << bits) - 1);
}

// codes[n] -> the padded row.
QUIRE_HD void pack_row(const unsigned char* codes, uint32_t n, uint32_t bits, unsigned char* row) {
  if (bits == 8) {
    for (uint32_t i = 0; i < n; ++i) row[i] = codes[i];
    return;
  }
  for (uint32_t begin = 0; begin < n; begin += kGroupCodes) {
    uint64_t group = 0;
    for (uint32_t e = 0; e < kGroupCodes && begin + e < n; ++e)
      group |= static_cast<uint64_t>(codes[begin + e]) << code_shift(bits, e);
    for (uint32_t i = 0; i < bits; ++i) *row++ = static_cast<unsigned char>(group >> (8 * i));
  }
}

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_MATH_PACK_H_
