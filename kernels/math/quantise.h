// Affine codes: value = code * scale + zero in fp32, one rounding for the product and one for the
// sum. Zero and scale are chosen so that nothing is ever clipped: zero <= minimum and
// zero + (2^bits - 1) * scale >= maximum.
#ifndef QUIRE_KERNELS_MATH_QUANTISE_H_
#define QUIRE_KERNELS_MATH_QUANTISE_H_

#include <math.h>
#include <stdint.h>

#include "kernels/math/bits.h"
#include "kernels/math/hd.h"

namespace quire_kernels {

inline constexpr double kLargestHalf = 65504.0;
inline constexpr double kLargestFloat = 0x1.fffffep127;

QUIRE_HD float decode_code(uint32_t code, float zero, float scale) {
  const float product = static_cast<float>(code) * scale;
  return product + zero;
}

// Nearest (ties to even) of (value - zero) / scale in 0..top; 0 where scale is 0.
QUIRE_HD uint32_t encode_code(float value, float zero, float scale, uint32_t top) {
  if (scale == 0) return 0;
  // Adding 1.5 * 2^23 rounds to nearest even; the steps count from its bits.
  const float difference = value - zero;
  const float shifted = difference / scale + 12582912.0f;
  const int32_t code = static_cast<int32_t>(float_bits(shifted)) - 0x4b400000;
  return code < 0 ? 0 : static_cast<uint32_t>(code) > top ? top : static_cast<uint32_t>(code);
}

// The greatest half <= value; never -0.
QUIRE_HD uint16_t half_below(float value) {
  uint16_t bits = float_to_half(value);
  if (half_to_float(bits) > value)
    bits = static_cast<uint16_t>((bits & 0x8000) ? bits + 1 : bits == 0 ? 0x8001 : bits - 1);
  return bits == 0x8000 ? 0 : bits;
}

// The half nearest to value >= 0, one step up where steps times it would not reach `range`. An
// infinity where there is none.
QUIRE_HD uint16_t half_scale(double range, double steps) {
  uint16_t bits = float_to_half(static_cast<float>(range / steps));
  if (bits < 0x7c00 && static_cast<double>(half_to_float(bits)) * steps < range) ++bits;
  return bits;
}

// Zero and scale of values in [minimum, maximum] as halves; false where halves cannot hold them.
QUIRE_HD bool half_affine(float minimum, float maximum, uint32_t top, uint16_t* zero,
                          uint16_t* scale) {
  if (static_cast<double>(minimum) < -kLargestHalf || static_cast<double>(maximum) > kLargestHalf)
    return false;
  *zero = half_below(minimum + 0.0f);
  // + 0: the difference of zeros of opposite signs has one form too.
  const double range =
      static_cast<double>(maximum) - static_cast<double>(half_to_float(*zero)) + 0.0;
  *scale = half_scale(range, static_cast<double>(top));
  return *scale < 0x7c00;
}

// The smallest fp32 scale with minimum + top * scale >= maximum; false where it has none.
QUIRE_HD bool float_scale(float minimum, float maximum, uint32_t top, float* scale) {
  const double range = static_cast<double>(maximum) - static_cast<double>(minimum) + 0.0;
  if (range > kLargestFloat) return false;
  *scale = static_cast<float>(range / static_cast<double>(top));
  if (static_cast<double>(*scale) * static_cast<double>(top) < range)
    *scale = bits_float(float_bits(*scale) + 1);
  return true;
}

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_MATH_QUANTISE_H_
