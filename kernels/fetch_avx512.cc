// AVX-512: engine memory to rows of fp32, rotated, and the ranges of channels.
#include "kernels/rows.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "kernels/avx512_fetch.h"

namespace quire_kernels {
namespace {

// Blocks of sixteen channels of many rows. Becomes NaN where a value is not finite.
template <uint32_t kBlocks>
struct ChannelRanges {
  __m512 low[kBlocks];
  __m512 high[kBlocks];
  __m512 finite = _mm512_setzero_ps();

  template <typename Block>
  [[gnu::always_inline]] void load(uint32_t k, const float* minimums, const float* maximums,
                                   Block block) {
    low[k] = block.load(minimums);
    high[k] = block.load(maximums);
  }
  [[gnu::always_inline]] void add(uint32_t k, __m512 values) {
    low[k] = _mm512_min_ps(values, low[k]);
    high[k] = _mm512_max_ps(values, high[k]);
    finite = _mm512_fmadd_ps(values, _mm512_setzero_ps(), finite);
  }
  template <typename Block>
  [[gnu::always_inline]] void store(uint32_t k, float* minimums, float* maximums,
                                    Block block) const {
    block.store(minimums, low[k]);
    block.store(maximums, high[k]);
  }
  bool is_finite() const { return _mm512_cmp_ps_mask(finite, finite, _CMP_UNORD_Q) == 0; }
};

// kBlocks blocks of pairs (j, j + rotary_dims / 2), from pair `begin` on.
template <int32_t kDtype, uint32_t kBlocks>
bool neox_strip(const RowFormat& format, const SourceRows& source, uint32_t begin, float* rows,
                float* minimums, float* maximums) {
  const uint32_t pairs = format.rotary_dims / 2;
  const FullBlock block;
  ChannelRanges<2 * kBlocks> ranges;
  const auto dim = [&](uint32_t k) { return begin + k / 2 * kLanes + (k % 2 == 0 ? 0 : pairs); };
#pragma GCC unroll 4
  for (uint32_t k = 0; k < 2 * kBlocks; ++k)
    ranges.load(k, minimums + dim(k), maximums + dim(k), block);
  for (uint32_t r = 0; r < source.n; ++r, rows += format.n) {
    if (begin == 0) ask_ahead(source, r, elements_bytes(kDtype, format.n));
#pragma GCC unroll 2
    for (uint32_t k = 0; k < 2 * kBlocks; k += 2) {
      __m512 cosine;
      __m512 sine;
      split_pairs(source.table[r] + 2 * dim(k), 2 * kLanes, &cosine, &sine);
      __m512 x0 = load_elements(kDtype, source.src[r], dim(k), block);
      __m512 x1 = load_elements(kDtype, source.src[r], dim(k + 1), block);
      rotate_pair(cosine, sine, &x0, &x1);
      block.store(rows + dim(k), x0);
      block.store(rows + dim(k + 1), x1);
      ranges.add(k, x0);
      ranges.add(k + 1, x1);
    }
  }
#pragma GCC unroll 4
  for (uint32_t k = 0; k < 2 * kBlocks; ++k)
    ranges.store(k, minimums + dim(k), maximums + dim(k), block);
  return ranges.is_finite();
}

// Dims begin .. begin + 16 * kBlocks - 1, or the fewer of one tail block; pairs of neighbours are
// rotated where kRotates.
template <int32_t kDtype, uint32_t kBlocks, bool kRotates, typename Block>
bool plain_strip(const RowFormat& format, const SourceRows& source, uint32_t begin, float* rows,
                 float* minimums, float* maximums, Block block) {
  ChannelRanges<kBlocks> ranges;
#pragma GCC unroll 4
  for (uint32_t k = 0; k < kBlocks; ++k)
    ranges.load(k, minimums + begin + k * kLanes, maximums + begin + k * kLanes, block);
  for (uint32_t r = 0; r < source.n; ++r, rows += format.n) {
    if (begin == 0) ask_ahead(source, r, elements_bytes(kDtype, format.n));
#pragma GCC unroll 4
    for (uint32_t k = 0; k < kBlocks; ++k) {
      const uint32_t i = begin + k * kLanes;
      __m512 values = load_elements(kDtype, source.src[r], i, block);
      if constexpr (kRotates) values = rotate_neighbours(block.load(source.table[r] + i), values);
      block.store(rows + i, values);
      ranges.add(k, values);
    }
  }
#pragma GCC unroll 4
  for (uint32_t k = 0; k < kBlocks; ++k)
    ranges.store(k, minimums + begin + k * kLanes, maximums + begin + k * kLanes, block);
  return ranges.is_finite();
}

template <int32_t kDtype, bool kRotates>
bool plain_strips(const RowFormat& format, const SourceRows& source, uint32_t begin, uint32_t end,
                  float* rows, float* minimums, float* maximums) {
  bool finite = true;
  for (; begin + 4 * kLanes <= end; begin += 4 * kLanes)
    finite &= plain_strip<kDtype, 4, kRotates>(format, source, begin, rows, minimums, maximums,
                                               FullBlock{});
  for (; begin + kLanes <= end; begin += kLanes)
    finite &= plain_strip<kDtype, 1, kRotates>(format, source, begin, rows, minimums, maximums,
                                               FullBlock{});
  if (begin < end)
    finite &= plain_strip<kDtype, 1, kRotates>(format, source, begin, rows, minimums, maximums,
                                               TailBlock{tail_mask(end - begin)});
  return finite;
}

template <int32_t kDtype>
bool fetch_strips(const RowFormat& format, const SourceRows& source, float* rows, float* minimums,
                  float* maximums) {
  bool finite = true;
  uint32_t begin = 0;
  if (source.table[0] != nullptr && format.style == QUIRE_ROPE_STYLE_NEOX) {
    const uint32_t pairs = format.rotary_dims / 2;
    for (; begin + 2 * kLanes <= pairs; begin += 2 * kLanes)
      finite &= neox_strip<kDtype, 2>(format, source, begin, rows, minimums, maximums);
    if (begin < pairs)
      finite &= neox_strip<kDtype, 1>(format, source, begin, rows, minimums, maximums);
    begin = format.rotary_dims;
  } else if (source.table[0] != nullptr) {
    begin = format.rotary_dims;
    finite = plain_strips<kDtype, true>(format, source, 0, begin, rows, minimums, maximums);
  }
  finite &= plain_strips<kDtype, false>(format, source, begin, format.n, rows, minimums, maximums);
  return finite;
}

bool finite_row(const float* row, uint32_t n) {
  ChannelRanges<1> ranges;
  for_blocks(n, [&](uint64_t i, auto block) {
    ranges.finite = _mm512_fmadd_ps(block.load(row + i), _mm512_setzero_ps(), ranges.finite);
  });
  return ranges.is_finite();
}

}  // namespace

uint32_t avx512::fetch(int32_t dtype, const Byte* src, int32_t style, const float* table,
                       uint32_t rotary_dims, float* row, uint32_t n) {
  uint32_t done = 0;
  __m512i largest = _mm512_setzero_si512();
  if (table != nullptr && style == QUIRE_ROPE_STYLE_NEOX && rotary_dims % (2 * kLanes) == 0) {
    const uint32_t pairs = rotary_dims / 2;
    const FullBlock block;
    for (uint32_t j = 0; j < pairs; j += kLanes) {
      __m512 cosine;
      __m512 sine;
      split_pairs(table + 2 * j, 2 * kLanes, &cosine, &sine);
      __m512 x0 = load_elements(dtype, src, j, block);
      __m512 x1 = load_elements(dtype, src, j + pairs, block);
      rotate_pair(cosine, sine, &x0, &x1);
      block.store(row + j, x0);
      block.store(row + j + pairs, x1);
      largest = _mm512_max_epu32(largest, magnitude_bits(x0));
      largest = _mm512_max_epu32(largest, magnitude_bits(x1));
    }
    done = rotary_dims;
    table = nullptr;
  }
  for_blocks(n - done, [&](uint64_t j, auto block) {
    const __m512 values = load_elements(dtype, src, done + j, block);
    block.store(row + done + j, values);
    largest = _mm512_max_epu32(largest, magnitude_bits(values));
  });
  if (table == nullptr) return _mm512_reduce_max_epu32(largest);
  rotate(style, table, row, rotary_dims);
  largest = _mm512_setzero_si512();
  for_blocks(n, [&](uint64_t i, auto block) {
    largest = _mm512_max_epu32(largest, magnitude_bits(block.load(row + i)));
  });
  return _mm512_reduce_max_epu32(largest);
}

bool avx512::fetch_range(const RowFormat& format, const SourceRows& source, float* rows,
                         float* minimums, float* maximums) {
  if (source.n == 0) return true;
  const bool pairs_in_lanes = source.table[0] == nullptr ||
                              format.style == QUIRE_ROPE_STYLE_INTERLEAVED ||
                              format.rotary_dims % (2 * kLanes) == 0;
  if (pairs_in_lanes) {
    if (format.dtype == QUIRE_DTYPE_BF16)
      return fetch_strips<QUIRE_DTYPE_BF16>(format, source, rows, minimums, maximums);
    if (format.dtype == QUIRE_DTYPE_F16)
      return fetch_strips<QUIRE_DTYPE_F16>(format, source, rows, minimums, maximums);
    return fetch_strips<QUIRE_DTYPE_F32>(format, source, rows, minimums, maximums);
  }
  for (uint32_t r = 0; r < source.n; ++r, rows += format.n) {
    fetch(format.dtype, source.src[r], format.style, source.table[r], format.rotary_dims, rows,
          format.n);
    if (!finite_row(rows, format.n)) return false;
    for_blocks(format.n, [&](uint64_t i, auto block) {
      const __m512 values = block.load(rows + i);
      block.store(minimums + i, _mm512_min_ps(values, block.load(minimums + i)));
      block.store(maximums + i, _mm512_max_ps(values, block.load(maximums + i)));
    });
  }
  return true;
}

}  // namespace quire_kernels

#endif
