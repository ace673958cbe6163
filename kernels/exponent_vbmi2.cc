// The lossless bf16 codecs with AVX-512 and its byte permutes (VBMI, VBMI2).
#include "kernels/exponent_ops.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && \
    defined(__AVX512DQ__) && defined(__AVX512VBMI__) && defined(__AVX512VBMI2__)
#include "kernels/exponent_avx512.h"

namespace quire_kernels {

const ExponentOps* vbmi2_exponent_ops() {
  static constexpr ExponentOps kOps = {
      "vbmi2", split, count_exponents, count, count_escapes, encode, encode_below_tops, decode,
  };
  return &kOps;
}

}  // namespace quire_kernels

#else

namespace quire_kernels {

const ExponentOps* vbmi2_exponent_ops() {
  return nullptr;
}

}  // namespace quire_kernels

#endif
