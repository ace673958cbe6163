// Part of exponent_avx512.h: the histogram that exp4's table is made from.
#ifndef QUIRE_KERNELS_EXPONENT_COUNTER_AVX512_H_
#define QUIRE_KERNELS_EXPONENT_COUNTER_AVX512_H_

#include <immintrin.h>
#include <stdint.h>

#include "kernels/rows.h"

namespace quire_kernels {
namespace {

constexpr uint32_t kStep = 64;

inline Byte largest_byte(__m512i bytes) {
  const __m512i of_words = _mm512_max_epu16(_mm512_srli_epi16(bytes, 8),
                                            _mm512_and_si512(bytes, _mm512_set1_epi16(0xff)));
  return static_cast<Byte>(_mm512_reduce_max_epu32(_mm512_max_epu32(
      _mm512_srli_epi32(of_words, 16), _mm512_and_si512(of_words, _mm512_set1_epi32(0xffff)))));
}

// Counts exponents of many vectors at a time: those close below the largest, which is most of them,
// in nibbles of bytes that a shuffle fills (two exponents a shuffle), others one by one.
class ExponentCounter {
 public:
  explicit ExponentCounter(uint64_t* counters) : counters_(counters) {}
  // Of fewer than 64 exponents the rest are zeros.
  void add(__m512i exponents, uint32_t n) {
    _mm512_store_si512(&group_[filled_++], exponents);
    absent_ += kStep - n;
    if (filled_ < kGroup) return;
    count(group_, filled_);
    filled_ = 0;
  }
  // Whole vectors, where they lie.
  void add_all(const Byte* exponents, uint64_t n_vectors) {
    const auto* from = reinterpret_cast<const __m512i_u*>(exponents);
    for (uint64_t n; n_vectors != 0; from += n, n_vectors -= n) {
      n = n_vectors < kVectorsMax ? n_vectors : kVectorsMax;
      count(from, static_cast<uint32_t>(n));
    }
  }
  void finish() {
    if (filled_ != 0) count(group_, filled_);
    counters_[0] -= absent_;
  }

 private:
  static constexpr uint32_t kNibbleMax = 15;
  static constexpr uint32_t kVectorsMax = kNibbleMax * (255 / kNibbleMax);
  static constexpr uint32_t kGroup = 4 * kNibbleMax;
  static constexpr uint32_t kWindow = 16;
  static constexpr uint32_t kPairs = kWindow / 2;

  // At most kVectorsMax.
  void count(const __m512i_u* exponents, uint32_t n) {
    __m512i largest = _mm512_setzero_si512();
    for (uint32_t i = 0; i < n; ++i)
      largest = _mm512_max_epu8(largest, _mm512_loadu_si512(exponents + i));
    const uint32_t top = largest_byte(largest);
    __m512i bytes[kWindow];
    for (__m512i& byte : bytes) byte = _mm512_setzero_si512();
    for (uint32_t begin = 0; begin < n; begin += kNibbleMax)
      count_window(top, exponents + begin, n - begin < kNibbleMax ? n - begin : kNibbleMax, bytes);
    for (uint32_t i = 0; i < kWindow && i <= top; ++i) counters_[top - i] += sum(bytes[i]);
  }

  // At most kNibbleMax.
  void count_window(uint32_t top, const __m512i_u* exponents, uint32_t n,
                    __m512i (&bytes)[kWindow]) {
    const __m512i tops = _mm512_set1_epi8(static_cast<char>(top));
    __m512i nibbles[kPairs];
    for (__m512i& nibble : nibbles) nibble = _mm512_setzero_si512();
    for (uint32_t i = 0; i < n; ++i) {
      const __m512i below = _mm512_sub_epi8(tops, _mm512_loadu_si512(exponents + i));
      // Shuffles give 0 where the topmost bit is set: outside the window.
      const __m512i index = _mm512_adds_epu8(below, _mm512_set1_epi8(0x80 - kWindow));
      const __mmask64 outside = _mm512_movepi8_mask(index);
      if (outside != 0) count_each(top, below, outside);
#pragma GCC unroll 8
      for (uint32_t pair = 0; pair < kPairs; ++pair)
        nibbles[pair] = _mm512_add_epi8(nibbles[pair], _mm512_shuffle_epi8(ones_of(pair), index));
    }
    const __m512i low = _mm512_set1_epi8(0x0f);
#pragma GCC unroll 8
    for (uint32_t pair = 0; pair < kPairs; ++pair) {
      const __m512i even = _mm512_and_si512(nibbles[pair], low);
      const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(nibbles[pair], 4), low);
      bytes[2 * pair] = _mm512_add_epi8(bytes[2 * pair], even);
      bytes[2 * pair + 1] = _mm512_add_epi8(bytes[2 * pair + 1], odd);
    }
  }

  // Byte 2 * pair is 0x01, the next one 0x10.
  static __m512i ones_of(uint32_t pair) {
    const __m128i shift = _mm_set_epi64x(pair >= 4 ? INT64_C(0x1001) << 16 * (pair - 4) : 0,
                                         pair < 4 ? INT64_C(0x1001) << 16 * pair : 0);
    return _mm512_broadcast_i32x4(shift);
  }

  static uint64_t sum(__m512i bytes) {
    return static_cast<uint64_t>(
        _mm512_reduce_add_epi64(_mm512_sad_epu8(bytes, _mm512_setzero_si512())));
  }

  void count_each(uint32_t top, __m512i below, __mmask64 marked) {
    const __mmask64 zeros =
        _mm512_mask_cmpeq_epi8_mask(marked, below, _mm512_set1_epi8(static_cast<char>(top)));
    counters_[0] += static_cast<uint64_t>(__builtin_popcountll(zeros));
    alignas(64) Byte all[kStep];
    _mm512_store_si512(all, below);
    for (uint64_t left = marked & ~zeros; left != 0; left &= left - 1)
      ++counters_[top - all[__builtin_ctzll(left)]];
  }

  uint64_t* counters_;
  __m512i group_[kGroup];
  uint32_t filled_ = 0;
  uint64_t absent_ = 0;
};

}  // namespace
}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_EXPONENT_COUNTER_AVX512_H_
