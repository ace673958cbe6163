// What the units that decode share.
#ifndef QUIRE_KERNELS_AVX512_DECODE_H_
#define QUIRE_KERNELS_AVX512_DECODE_H_

#include "kernels/avx512_blocks.h"

namespace quire_kernels {
namespace {

// Beside the dtypes: bf16 by the processor's own conversion, which takes denormals for zero and
// so serves only values that cannot be any.
constexpr int32_t kHardwareBf16 = 100;

[[maybe_unused]] bool hardware_bf16() {
  return __builtin_cpu_supports("avx512bf16") != 0;
}

template <typename T>
inline T load_as(const Byte* from) {
  T value;
  memcpy(&value, from, sizeof(value));
  return value;
}

[[gnu::always_inline]] inline __m512 affine(__m512i codes, __m512 zeros, __m512 scales) {
  return _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(codes), scales), zeros);
}

[[gnu::always_inline]] inline __m512 half_to_all(const Byte* from) {
  return _mm512_cvtph_ps(_mm256_set1_epi16(load_as<int16_t>(from)));
}

}  // namespace

namespace avx512 {
// Rows of Hadamard order 64 and 2, 3 or 4 bits, none of which is rotated; the dtype may be
// kHardwareBf16.
void decode_turned(const RowFormat& format, const CodeRows& rows);
}  // namespace avx512
}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_AVX512_DECODE_H_
