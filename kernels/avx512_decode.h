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

// A line that `streams` goes past the caches.
[[gnu::always_inline]] inline void store_line(bool streams, Byte* to, __m512i line) {
  if (streams)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), line);
  else
    _mm512_storeu_si512(to, line);
}

// Thirty-two elements of 16 bits.
[[gnu::always_inline]] inline __m512i join_elements(int32_t dtype, __m512 low, __m512 high) {
  if (dtype == kHardwareBf16) {
    const __m512bh both = _mm512_cvtne2ps_pbh(high, low);
    __m512i bits;
    memcpy(&bits, &both, sizeof(bits));
    return bits;
  }
  const bool half = dtype == QUIRE_DTYPE_F16;
  const __m256i first = half ? to_half(low) : to_bf16(low);
  const __m256i second = half ? to_half(high) : to_bf16(high);
  return _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
}

// Elements i .. i + 31 of a row: whole lines of it where it streams.
[[gnu::always_inline]] inline void store_pair(int32_t dtype, bool streams, Byte* dst, uint64_t i,
                                              __m512 a, __m512 b) {
  if (dtype == QUIRE_DTYPE_F32) {
    store_line(streams, dst + i * 4, _mm512_castps_si512(a));
    store_line(streams, dst + (i + kLanes) * 4, _mm512_castps_si512(b));
    return;
  }
  store_line(streams, dst + i * 2, join_elements(dtype, a, b));
}

}  // namespace

namespace avx512 {
// Rows of Hadamard order 64 and 2, 3 or 4 bits, none of which is rotated; the dtype may be
// kHardwareBf16.
void decode_turned(const RowFormat& format, const CodeRows& rows);
}  // namespace avx512
}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_AVX512_DECODE_H_
