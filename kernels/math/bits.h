// Bit patterns of the element types: bfloat16, IEEE half, fp8 e4m3, and fp32. Conversions to the
// narrow types round to nearest even; those to fp32 are exact.
#ifndef QUIRE_KERNELS_MATH_BITS_H_
#define QUIRE_KERNELS_MATH_BITS_H_

#include <stdint.h>
#include <string.h>

#include "kernels/math/hd.h"

namespace quire_kernels {

QUIRE_HD uint32_t float_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}
QUIRE_HD float bits_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

QUIRE_HD float bf16_to_float(uint16_t bits) {
  return bits_float(static_cast<uint32_t>(bits) << 16);
}
// Finite input only.
QUIRE_HD uint16_t float_to_bf16(float value) {
  const uint32_t bits = float_bits(value);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

QUIRE_HD float half_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1f;
  const uint32_t mantissa = bits & 0x3ff;
  uint32_t magnitude;
  if (exponent == 0)
    magnitude = float_bits(static_cast<float>(mantissa) * 0x1p-24f);
  else if (exponent == 31)
    magnitude = 0x7f800000 | (mantissa << 13);
  else
    magnitude = ((exponent + 112) << 23) | (mantissa << 13);
  return bits_float(magnitude | sign);
}

QUIRE_HD uint16_t float_to_half(float value) {
  uint32_t bits = float_bits(value);
  const uint32_t sign = (bits >> 16) & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (bits >= 0x47800000) return static_cast<uint16_t>(sign | 0x7c00);
  // Below the smallest normal half: adding 1/2 leaves the half's bits in the last mantissa bits,
  // rounded to nearest even by the addition.
  if (bits < 0x38800000)
    return static_cast<uint16_t>(sign | (float_bits(bits_float(bits) + 0.5f) - 0x3f000000));
  const uint32_t rounded = bits + 0xfff + ((bits >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

// fp8 e4m3 (OCP "E4M3FN"): no infinity, 0x7f and 0xff are NaN, the largest magnitude is 448.
inline constexpr float kFp8Largest = 448.0f;

QUIRE_HD bool fp8_is_nan(uint8_t bits) {
  return (bits & 0x7f) == 0x7f;
}
QUIRE_HD float fp8_to_float(uint8_t bits) {
  const uint32_t exponent = (bits >> 3) & 15;
  const uint32_t mantissa = bits & 7;
  const float magnitude = exponent == 0 ? static_cast<float>(mantissa) * 0x1p-9f
                                        : bits_float(((exponent + 120) << 23) | (mantissa << 20));
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}
// |value| <= 448 (callers scale first); larger finite ones become the largest.
QUIRE_HD uint8_t float_to_fp8(float value) {
  const uint32_t bits = float_bits(value);
  const uint8_t sign = static_cast<uint8_t>((bits >> 24) & 0x80);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x43e00000) return sign | 0x7e;
  // Below the smallest normal, 2^-6: steps of 2^-9. 1.5 * 2^14 has exactly that ulp.
  if (magnitude < 0x3c800000)
    return static_cast<uint8_t>(sign | (float_bits(bits_float(magnitude) + 24576.0f) - 0x46c00000));
  const uint32_t rounded = magnitude + 0x7ffff + ((magnitude >> 20) & 1);
  return static_cast<uint8_t>(sign | ((rounded - 0x3c000000) >> 20));
}

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_MATH_BITS_H_
