// Part of exponent_avx512.h: the histogram that exp4's table is made from.
#ifndef QUIRE_KERNELS_EXPONENT_COUNTER_AVX512_H_
#define QUIRE_KERNELS_EXPONENT_COUNTER_AVX512_H_

#include <immintrin.h>
#include <stdint.h>

#include "kernels/rows.h"

namespace quire_kernels {
namespace {

constexpr uint32_t kStep = 64;

// Counts exponents of four vectors at a time: those close below the largest by comparing with each,
// which is most of them, others one by one.
class ExponentCounter {
 public:
  explicit ExponentCounter(uint64_t* counters) : counters_(counters) {}
  // Of fewer than 64 exponents the rest are zeros.
  void add(__m512i exponents, uint32_t n) {
    group_[filled_++] = exponents;
    absent_ += kStep - n;
    if (filled_ == kGroup) count();
  }
  void finish() {
    while (filled_ != 0) add(_mm512_setzero_si512(), 0);
    counters_[0] -= absent_;
  }

 private:
  static constexpr uint32_t kGroup = 4;
  static constexpr uint32_t kWindow = 16;

  static uint64_t count_ones(__mmask64 mask) {
    return static_cast<uint64_t>(__builtin_popcountll(mask));
  }

  void count() {
    filled_ = 0;
    const __m512i largest = _mm512_max_epu8(_mm512_max_epu8(group_[0], group_[1]),
                                            _mm512_max_epu8(group_[2], group_[3]));
    const __m512i of_words = _mm512_max_epu16(_mm512_srli_epi16(largest, 8),
                                              _mm512_and_si512(largest, _mm512_set1_epi16(0xff)));
    const uint32_t top = _mm512_reduce_max_epu32(_mm512_max_epu32(
        _mm512_srli_epi32(of_words, 16), _mm512_and_si512(of_words, _mm512_set1_epi32(0xffff))));
    const __m512i tops = _mm512_set1_epi8(static_cast<char>(top));
    for (__m512i& exponents : group_) exponents = _mm512_sub_epi8(tops, exponents);
    for (uint32_t below = 0; below < kWindow && below <= top; ++below)
      counters_[top - below] += count_equal(below);
    if (top < kWindow) return;
    counters_[0] += count_equal(top);
    for (const __m512i below : group_) {
      const __mmask64 inside = _mm512_cmplt_epu8_mask(below, _mm512_set1_epi8(kWindow));
      const __mmask64 others = ~(inside | _mm512_cmpeq_epi8_mask(below, tops));
      if (others != 0) count_each(top, below, others);
    }
  }

  uint64_t count_equal(uint32_t below) const {
    const __m512i value = _mm512_set1_epi8(static_cast<char>(below));
    return count_ones(_mm512_cmpeq_epi8_mask(group_[0], value)) +
           count_ones(_mm512_cmpeq_epi8_mask(group_[1], value)) +
           count_ones(_mm512_cmpeq_epi8_mask(group_[2], value)) +
           count_ones(_mm512_cmpeq_epi8_mask(group_[3], value));
  }

  void count_each(uint32_t top, __m512i below, __mmask64 marked) {
    alignas(64) Byte all[kStep];
    _mm512_store_si512(all, below);
    for (uint64_t left = marked; left != 0; left &= left - 1)
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
