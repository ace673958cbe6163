// The lossless bf16 codecs with AVX-512, its byte permutes and its bf16 conversion.
#include "kernels/exponent_ops.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) &&       \
    defined(__AVX512DQ__) && defined(__AVX512VBMI__) && defined(__AVX512VBMI2__) && \
    defined(__AVX512BF16__)
#include "kernels/exponent_rotate_avx512.h"

namespace quire_kernels {

const ExponentOps* rotating_exponent_ops() {
  static constexpr RotatingOps kRotating = {order_angles, rotated_exponents, split_rotated,
                                            encode_rotated};
  static constexpr ExponentOps kOps = {
      "rotating",        split,  count_exponents, count, count_escapes, encode,
      encode_below_tops, decode, &kRotating,
  };
  return &kOps;
}

}  // namespace quire_kernels

#else

namespace quire_kernels {

const ExponentOps* rotating_exponent_ops() {
  return nullptr;
}

}  // namespace quire_kernels

#endif
