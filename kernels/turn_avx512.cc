// AVX-512: rows turned by a Hadamard transform, and the ranges of rows.
#include "kernels/rows.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "kernels/avx512_fetch.h"
#include "kernels/avx512_turn.h"

namespace quire_kernels {
namespace {

template <uint32_t kRegisters>
[[gnu::always_inline]] inline void turn_blocks(float* row, uint32_t n, __m512* low, __m512* high) {
  const __m512 factor = _mm512_set1_ps(hadamard_scale(kLanes * kRegisters));
  for (uint32_t begin = 0; begin < n; begin += kLanes * kRegisters) {
    __m512 r[kRegisters];
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kRegisters; ++i) r[i] = _mm512_loadu_ps(row + begin + kLanes * i);
    hadamard_registers(r, factor);
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kRegisters; ++i) {
      _mm512_storeu_ps(row + begin + kLanes * i, r[i]);
      *low = _mm512_min_ps(*low, r[i]);
      *high = _mm512_max_ps(*high, r[i]);
    }
  }
}

[[gnu::always_inline]] inline void turn_span(float* row, uint32_t n, uint32_t order, __m512* low,
                                             __m512* high) {
  const __m512 factor = _mm512_set1_ps(hadamard_scale(order));
  for_blocks(n, [&](uint64_t i, auto block) {
    __m512 values = block.load(row + i);
    if (order > 1) {
      values = _mm512_mul_ps(hadamard_lanes(values, order), factor);
      block.store(row + i, values);
    }
    *low = _mm512_min_ps(*low, block.keep(values, *low));
    *high = _mm512_max_ps(*high, block.keep(values, *high));
  });
}

// In place; the least and the greatest element are somewhere in the lanes.
[[gnu::always_inline]] inline void turn_row(float* row, uint32_t n, uint32_t order, __m512* low,
                                            __m512* high) {
  *low = _mm512_set1_ps(__builtin_inff());
  *high = _mm512_set1_ps(-__builtin_inff());
  if (order == 64)
    turn_blocks<4>(row, n, low, high);
  else if (order == 32)
    turn_blocks<2>(row, n, low, high);
  else if (order == 16)
    turn_blocks<1>(row, n, low, high);
  else
    turn_span(row, n, order, low, high);
}

// The least and the greatest of many rows, found sixteen rows at a time: one row alone would wait
// for each step of its reduction.
class RowRanges {
 public:
  RowRanges(float* minimums, float* maximums) : minimums_(minimums), maximums_(maximums) {}

  // Of the next row; its elements are anywhere in the lanes.
  [[gnu::always_inline]] void add(__m512 low, __m512 high) {
    _mm512_store_ps(low_[n_], low);
    _mm512_store_ps(high_[n_], high);
    if (++n_ == kLanes) flush();
  }
  void flush() {
    if (n_ == 0) return;
    const __mmask16 mask = tail_mask(n_);
    _mm512_mask_storeu_ps(minimums_, mask,
                          reduce(low_, [](__m512 a, __m512 b) { return _mm512_min_ps(a, b); }));
    _mm512_mask_storeu_ps(maximums_, mask,
                          reduce(high_, [](__m512 a, __m512 b) { return _mm512_max_ps(a, b); }));
    minimums_ += n_;
    maximums_ += n_;
    n_ = 0;
  }

 private:
  // Lane i of the result is what `merge` makes of row i.
  template <typename Merge>
  [[gnu::always_inline]] __m512 reduce(const float (&rows)[kLanes][kLanes], Merge merge) const {
    __m512 r[kLanes];
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kLanes; ++i) r[i] = _mm512_load_ps(rows[i < n_ ? i : 0]);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < 8; ++i)
      r[i] = merge(_mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]),
                   _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]));
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; ++i) {
      const __m512d a = _mm512_castps_pd(r[2 * i]);
      const __m512d b = _mm512_castps_pd(r[2 * i + 1]);
      r[i] = merge(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                   _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
#pragma GCC unroll 2
    for (uint32_t i = 0; i < 2; ++i)
      r[i] = merge(_mm512_shuffle_f32x4(r[2 * i], r[2 * i + 1], 0x88),
                   _mm512_shuffle_f32x4(r[2 * i], r[2 * i + 1], 0xdd));
    return merge(_mm512_shuffle_f32x4(r[0], r[1], 0x88), _mm512_shuffle_f32x4(r[0], r[1], 0xdd));
  }

  float* minimums_;
  float* maximums_;
  uint32_t n_ = 0;
  alignas(64) float low_[kLanes][kLanes];
  alignas(64) float high_[kLanes][kLanes];
};

}  // namespace

void avx512::turn_range(float* row, uint32_t n, uint32_t order, float* minimum, float* maximum) {
  __m512 low;
  __m512 high;
  turn_row(row, n, order, &low, &high);
  *minimum = _mm512_reduce_min_ps(low);
  *maximum = _mm512_reduce_max_ps(high);
}

namespace {

// A block of 64 bf16 elements: even and odd ones come apart by a shift and a mask, which makes the
// first stage a matter of registers; each later stage swaps its bit of the element number into that
// place. In the end they are in order.
[[gnu::always_inline]] inline void turn_bf16_block(__m512i low, __m512i high, __m512 factor,
                                                   __m512 (&r)[4]) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000));
  r[0] = _mm512_castsi512_ps(_mm512_slli_epi32(low, 16));
  r[1] = _mm512_castsi512_ps(_mm512_and_si512(low, upper));
  r[2] = _mm512_castsi512_ps(_mm512_slli_epi32(high, 16));
  r[3] = _mm512_castsi512_ps(_mm512_and_si512(high, upper));
#pragma GCC unroll 2
  for (uint32_t i = 0; i < 4; i += 2) {
    add_subtract(&r[i], &r[i + 1]);
    swap_lane0(&r[i], &r[i + 1]);
    add_subtract(&r[i], &r[i + 1]);
    swap_lane0(&r[i], &r[i + 1]);
    add_subtract(&r[i], &r[i + 1]);
    swap_lane2(&r[i], &r[i + 1]);
    add_subtract(&r[i], &r[i + 1]);
    swap_lane2(&r[i], &r[i + 1]);
    add_subtract(&r[i], &r[i + 1]);
  }
  add_subtract(&r[0], &r[2]);
  add_subtract(&r[1], &r[3]);
#pragma GCC unroll 4
  for (uint32_t i = 0; i < 4; ++i) r[i] = _mm512_mul_ps(r[i], factor);
}

// The largest lane, of sixteen bits each.
uint32_t largest_word(__m512i words) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000));
  return _mm512_reduce_max_epu32(
      _mm512_max_epu32(_mm512_slli_epi32(words, 16), _mm512_and_si512(words, upper)));
}

uint32_t turned_bf16(const RowFormat& format, const SourceRows& source, float* rows,
                     RowRanges* ranges) {
  const __m512 factor = _mm512_set1_ps(hadamard_scale(64));
  const __m512i magnitude = _mm512_set1_epi16(0x7fff);
  __m512i largest = _mm512_setzero_si512();
  for (uint32_t row = 0; row < source.n; ++row, rows += format.n) {
    ask_ahead(source, row, 2 * format.n);
    const Byte* src = source.src[row];
    __m512 least = _mm512_set1_ps(__builtin_inff());
    __m512 most = _mm512_set1_ps(-__builtin_inff());
    for (uint32_t i = 0; i < format.n; i += 64) {
      const __m512i low = _mm512_loadu_si512(src + 2 * i);
      const __m512i high = _mm512_loadu_si512(src + 2 * i + 64);
      largest = _mm512_max_epu16(largest, _mm512_and_si512(low, magnitude));
      largest = _mm512_max_epu16(largest, _mm512_and_si512(high, magnitude));
      __m512 r[4];
      turn_bf16_block(low, high, factor, r);
#pragma GCC unroll 4
      for (uint32_t k = 0; k < 4; ++k) _mm512_storeu_ps(rows + i + kLanes * k, r[k]);
      least =
          _mm512_min_ps(_mm512_min_ps(_mm512_min_ps(r[0], r[1]), _mm512_min_ps(r[2], r[3])), least);
      most =
          _mm512_max_ps(_mm512_max_ps(_mm512_max_ps(r[0], r[1]), _mm512_max_ps(r[2], r[3])), most);
    }
    ranges->add(least, most);
  }
  return largest_word(largest);
}

// bf16 without a transform: as integers that are ordered like the values, two to a lane.
uint32_t plain_bf16(const RowFormat& format, const SourceRows& source, float* rows,
                    RowRanges* ranges) {
  const __m512i magnitude = _mm512_set1_epi16(0x7fff);
  // Its own inverse: the magnitude's bits are flipped where the sign is set.
  const auto ordered = [&](__m512i words) {
    return _mm512_ternarylogic_epi32(words, _mm512_srai_epi16(words, 15), magnitude, 0x78);
  };
  const auto widened = [](__m512i words, auto merge) {
    const __m512i upper = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000));
    return merge(_mm512_castsi512_ps(_mm512_slli_epi32(words, 16)),
                 _mm512_castsi512_ps(_mm512_and_si512(words, upper)));
  };
  __m512i largest = _mm512_setzero_si512();
  for (uint32_t row = 0; row < source.n; ++row, rows += format.n) {
    ask_ahead(source, row, 2 * format.n);
    const Byte* src = source.src[row];
    __m512i least = _mm512_set1_epi16(0x7fff);
    __m512i most = _mm512_set1_epi16(-0x7fff - 1);
    for (uint32_t i = 0; i < format.n; i += 2 * kLanes) {
      const __m512i words = _mm512_loadu_si512(src + 2 * i);
      const __m512i order = ordered(words);
      least = _mm512_min_epi16(least, order);
      most = _mm512_max_epi16(most, order);
      const auto store = [&](__m256i half, uint32_t at) {
        _mm512_storeu_si512(rows + at, _mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
      };
      store(_mm512_castsi512_si256(words), i);
      store(_mm512_extracti64x4_epi64(words, 1), i + kLanes);
    }
    least = ordered(least);
    most = ordered(most);
    largest = _mm512_max_epu16(largest, _mm512_max_epu16(_mm512_and_si512(least, magnitude),
                                                         _mm512_and_si512(most, magnitude)));
    ranges->add(widened(least, [](__m512 a, __m512 b) { return _mm512_min_ps(a, b); }),
                widened(most, [](__m512 a, __m512 b) { return _mm512_max_ps(a, b); }));
  }
  return largest_word(largest);
}

// Any elements without a transform.
uint32_t plain_rows(const RowFormat& format, const SourceRows& source, float* rows,
                    RowRanges* ranges) {
  __m512i largest = _mm512_setzero_si512();
  for (uint32_t row = 0; row < source.n; ++row, rows += format.n) {
    ask_ahead(source, row, elements_bytes(format.dtype, format.n));
    __m512 low = _mm512_set1_ps(__builtin_inff());
    __m512 high = _mm512_set1_ps(-__builtin_inff());
    for_blocks(format.n, [&](uint64_t i, auto block) {
      const __m512 values = load_elements(format.dtype, source.src[row], i, block);
      block.store(rows + i, values);
      largest = _mm512_max_epu32(largest, magnitude_bits(values));
      low = _mm512_min_ps(low, block.keep(values, low));
      high = _mm512_max_ps(high, block.keep(values, high));
    });
    ranges->add(low, high);
  }
  return _mm512_reduce_max_epu32(largest);
}

// Any elements, rotations and transforms.
uint32_t turned_rows(const RowFormat& format, const SourceRows& source, float* rows,
                     RowRanges* ranges) {
  uint32_t largest = 0;
  for (uint32_t r = 0; r < source.n; ++r, rows += format.n) {
    ask_ahead(source, r, elements_bytes(format.dtype, format.n));
    const uint32_t bits = avx512::fetch(format.dtype, source.src[r], format.style, source.table[r],
                                        format.rotary_dims, rows, format.n);
    if (bits > largest) largest = bits;
    __m512 low;
    __m512 high;
    turn_row(rows, format.n, format.order, &low, &high);
    ranges->add(low, high);
  }
  return largest;
}

}  // namespace

uint32_t avx512::fetch_turned(const RowFormat& format, const SourceRows& source, float* rows,
                              float* minimums, float* maximums) {
  RowRanges ranges(minimums, maximums);
  uint32_t largest = 0;
  const bool bf16 = format.dtype == QUIRE_DTYPE_BF16;
  // A batch rotates all of its rows or none.
  if (source.n != 0 && source.table[0] != nullptr)
    largest = turned_rows(format, source, rows, &ranges);
  else if (bf16 && format.order == 64)
    largest = turned_bf16(format, source, rows, &ranges);
  else if (bf16 && format.order == 1 && format.n % (2 * kLanes) == 0)
    largest = plain_bf16(format, source, rows, &ranges);
  else if (format.order == 1)
    largest = plain_rows(format, source, rows, &ranges);
  else
    largest = turned_rows(format, source, rows, &ranges);
  ranges.flush();
  return largest;
}

}  // namespace quire_kernels

#endif
