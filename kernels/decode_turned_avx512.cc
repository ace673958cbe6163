// AVX-512: rows of codes whose Hadamard blocks are of order 64, two blocks at a time in registers.
#include "kernels/rows.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "kernels/avx512_decode.h"
#include "kernels/avx512_turn.h"

namespace quire_kernels {
namespace {

// A block of 64 codes: where it comes from and goes to.
struct TurnBlock {
  const Byte* codes;
  const Byte* side;
  Byte* out;
};

// The eight groups of each block as integers, one per lane.
template <uint32_t kBits>
[[gnu::always_inline]] inline __m512i load_groups(const Byte* a, const Byte* b) {
  const auto load = [](const Byte* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(from));
  };
  if constexpr (kBits == 4) {
    const auto low = _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(a));
    const auto high = _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(b));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  } else if constexpr (kBits == 2) {
    return _mm512_cvtepu16_epi32(_mm256_set_m128i(load(b), load(a)));
  } else {
    // Groups of three bytes; the second load begins at byte 8 so as to end with the block.
    const __m512i bytes =
        _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_set_m128i(load(a + 8), load(a))),
                           _mm256_set_m128i(load(b + 8), load(b)), 1);
    const __m256i spread = _mm256_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1, 4,
                                            5, 6, -1, 7, 8, 9, -1, 10, 11, 12, -1, 13, 14, 15, -1);
    return _mm512_shuffle_epi8(bytes, _mm512_broadcast_i64x4(spread));
  }
}

// The values of codes 0, 1, ... in lanes 0, 1, ..., times the transform's factor; the codes begin
// again where they have fewer than four bits, so that the bits above a code do not matter. The
// factor is 1 / 8 and the values are multiples of 2^-24, so it may be applied before the sums.
template <uint32_t kBits>
[[gnu::always_inline]] inline __m512 levels_of(const Byte* side) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512 values = affine(_mm512_and_si512(lanes, _mm512_set1_epi32((1 << kBits) - 1)),
                               half_to_all(side), half_to_all(side + 2));
  return _mm512_mul_ps(values, _mm512_set1_ps(0.125f));
}

[[gnu::always_inline]] inline void store_turned(const RowFormat& format, const __m512 (&r)[8],
                                                Byte* a, Byte* b) {
  const int32_t dtype = format.dtype;
  const auto half = [](__m512i values, Byte* to) {
    _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(to), _mm512_castsi512_si256(values));
  };
  if (dtype == QUIRE_DTYPE_F32) {
    // 128-bit lanes 0, 2 are the first block's, 1, 3 the second's.
    const auto store = [&](__m512 values, uint32_t i) {
      const __m512i apart = _mm512_castps_si512(_mm512_shuffle_f32x4(values, values, 0xd8));
      half(apart, a + 32 * i);
      half(_mm512_shuffle_i64x2(apart, apart, 0xee), b + 32 * i);
    };
#pragma GCC unroll 8
    for (uint32_t i = 0; i < 8; ++i) store(r[i], i);
    return;
  }
  // Quadwords: four elements of the first block, four of the second, and so on.
  const auto joined = [&](uint32_t i) { return join_elements(dtype, r[i], r[i + 1]); };
  const __m512i first = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
  const __m512i second = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
#pragma GCC unroll 2
  for (uint32_t i = 0; i < 8; i += 4) {
    const __m512i low = joined(i);
    const __m512i high = joined(i + 2);
    store_line(format.streams, a + 16 * i, _mm512_permutex2var_epi64(low, first, high));
    store_line(format.streams, b + 16 * i, _mm512_permutex2var_epi64(low, second, high));
  }
}

// Element e of each group, looked up in the levels of its row.
template <uint32_t kBits>
struct Lookup {
  __m512i groups;
  __m512 levels;
  [[gnu::always_inline]] __m512 element(uint32_t e) const {
    // Where it lies: math/pack.h.
    const uint32_t shift = kBits == 4 ? 4 * (e / 2 + e % 2 * 4) : kBits * e;
    return _mm512_permutexvar_ps(_mm512_srli_epi32(groups, shift), levels);
  }
};

// The same of two rows: bit 4 of an index chooses the levels of the second, in the upper lanes.
template <uint32_t kBits>
class LookupOfTwo {
 public:
  LookupOfTwo(__m512i groups, __m512 levels, __m512 others)
      : groups_(groups), levels_(levels), others_(others) {
    if constexpr (kBits == 4) {
      even_ = index_of(groups);
      odd_ = index_of(_mm512_srli_epi32(groups, 4));
    }
  }
  [[gnu::always_inline]] __m512 element(uint32_t e) const {
    if constexpr (kBits == 4) {
      const __m512i nibbles = e / 2 % 2 == 0 ? even_ : odd_;
      return find(_mm512_srli_epi32(nibbles, 8 * (e / 4) + 16 * (e % 2)));
    }
    return find(index_of(_mm512_srli_epi32(groups_, kBits * e)));
  }

 private:
  // In each byte (index & 15) | choice.
  [[gnu::always_inline]] static __m512i index_of(__m512i index) {
    const __m512i choice = _mm512_maskz_set1_epi32(0xff00, 0x10101010);
    return _mm512_ternarylogic_epi32(index, _mm512_set1_epi8(15), choice, 0xea);
  }
  [[gnu::always_inline]] __m512 find(__m512i index) const {
    return _mm512_permutex2var_ps(levels_, index, others_);
  }

  __m512i groups_;
  __m512i even_;
  __m512i odd_;
  __m512 levels_;
  __m512 others_;
};

// Both blocks of order 64; of one row where kSameRow.
template <uint32_t kBits, bool kSameRow>
[[gnu::always_inline]] inline void turn_blocks(const RowFormat& format, const TurnBlock& a,
                                               const TurnBlock& b) {
  const __m512i groups = load_groups<kBits>(a.codes, b.codes);
  const __m512 levels = levels_of<kBits>(a.side);
  __m512 r[8];
  const auto look_up = [&](auto lookup) {
#pragma GCC unroll 8
    for (uint32_t e = 0; e < 8; ++e) r[e] = lookup.element(e);
  };
  if constexpr (kSameRow)
    look_up(Lookup<kBits>{groups, levels});
  else
    look_up(LookupOfTwo<kBits>(groups, levels, levels_of<kBits>(b.side)));
  turn_two_blocks(r);
  store_turned(format, r, a.out, b.out);
}

// True where no sum of the transform of these codes rounds, in whatever order it is made: all
// values are multiples of the last place of zero or of scale, and 64 of them stay below 2^24 of
// those. Both are normal halves then, of exponents that lie near enough to each other.
[[gnu::always_inline]] inline bool sums_exactly(const Byte* side) {
  const auto pair = load_as<uint32_t>(side);
  const uint32_t zero = pair >> 10 & 31;
  const uint32_t scale = pair >> 26;  // 32 and more where it is negative
  constexpr uint32_t kLargest = 30;
  if (scale - 1 >= kLargest) return false;
  if ((pair & 0xffff) == 0) return true;
  return zero - 1 < kLargest && scale <= zero + 2 && zero <= scale + 6;
}

// Two blocks of 4-bit codes that the transform sums exactly: on the codes as integers, of a byte
// while they fit, then of two and of four. In the comments bit b of an element's number in its
// block is b0 .. b5, "l" are the bits of a 32-bit lane's number, "R" a register's.
class CodeSums {
 public:
  [[gnu::always_inline]] explicit CodeSums(__m512i codes) {
    const __m512i nibble = _mm512_set1_epi8(15);
    // math/pack.h: R = b1, bytes of a lane b2 and b0, l = b3, b4, b5, block.
    __m512i a = _mm512_and_si512(codes, nibble);
    __m512i b = _mm512_and_si512(_mm512_srli_epi32(codes, 4), nibble);
    add_subtract_bytes(&a, &b);
    swap0(&a, &b);  // R = b3, l = b4, b1, b5, block
    add_subtract_bytes(&a, &b);
    swap0(&a, &b);               // R = b4, l = b1, b3, b5, block
    add_subtract_bytes(&a, &b);  // of eight codes: at most 120
    widen(a, &words_[0][0], &words_[0][1]);
    widen(b, &words_[1][0], &words_[1][1]);
#pragma GCC unroll 2
    for (uint32_t b2 = 0; b2 < 2; ++b2) {
      swap2(&words_[0][b2], &words_[1][b2]);  // R = b5, l = b1, b3, block, b4
      const __m512i sum = _mm512_add_epi16(words_[0][b2], words_[1][b2]);
      words_[1][b2] = _mm512_sub_epi16(words_[0][b2], words_[1][b2]);
      words_[0][b2] = sum;
    }
  }

  // Of b0 = 0 and b0 = 1; l = b1, b3, block, b4.
  [[gnu::always_inline]] __m512 even(uint32_t b5, uint32_t b2) const {
    return _mm512_cvtepi32_ps(_mm512_madd_epi16(words_[b5][b2], _mm512_set1_epi16(1)));
  }
  [[gnu::always_inline]] __m512 odd(uint32_t b5, uint32_t b2) const {
    const __m512i signs = _mm512_set1_epi32(static_cast<int32_t>(0xffff0001));
    return _mm512_cvtepi32_ps(_mm512_madd_epi16(words_[b5][b2], signs));
  }

 private:
  [[gnu::always_inline]] static void add_subtract_bytes(__m512i* a, __m512i* b) {
    const __m512i sum = _mm512_add_epi8(*a, *b);
    *b = _mm512_sub_epi8(*a, *b);
    *a = sum;
  }
  [[gnu::always_inline]] static void swap0(__m512i* a, __m512i* b) {
    __m512 x = _mm512_castsi512_ps(*a);
    __m512 y = _mm512_castsi512_ps(*b);
    swap_lane0(&x, &y);
    *a = _mm512_castps_si512(x);
    *b = _mm512_castps_si512(y);
  }
  [[gnu::always_inline]] static void swap2(__m512i* a, __m512i* b) {
    __m512 x = _mm512_castsi512_ps(*a);
    __m512 y = _mm512_castsi512_ps(*b);
    swap_lane2(&x, &y);
    *a = _mm512_castps_si512(x);
    *b = _mm512_castps_si512(y);
  }
  // The sum and the difference of the bytes of each word.
  [[gnu::always_inline]] static void widen(__m512i bytes, __m512i* sum, __m512i* difference) {
    const __m512i ones = _mm512_set1_epi8(1);
    const __m512i odd_negative =
        _mm512_mask_sub_epi8(bytes, UINT64_C(0xaaaaaaaaaaaaaaaa), _mm512_setzero_si512(), bytes);
    *sum = _mm512_maddubs_epi16(ones, bytes);
    *difference = _mm512_maddubs_epi16(ones, odd_negative);
  }

  __m512i words_[2][2];  // [b5][b2]
};

// Where the elements b0 .. b4 of a block lie in two registers, b2 = 0 and 1, of sixteen b0 = 0 and
// sixteen b0 = 1 each.
struct LineOrder {
  alignas(64) uint16_t of_block[2][32];
};
constexpr LineOrder line_order() {
  LineOrder order{};
  for (uint32_t block = 0; block < 2; ++block)
    for (uint32_t i = 0; i < 32; ++i)
      order.of_block[block][i] =
          static_cast<uint16_t>((i >> 2 & 1) * 32 + (i & 1) * 16 + (i >> 1 & 1) + (i >> 3 & 1) * 2 +
                                block * 4 + (i >> 4 & 1) * 8);
  return order;
}
constexpr LineOrder kLineOrder = line_order();

// Both blocks sum exactly.
[[gnu::always_inline]] inline void turn_codes(const RowFormat& format, const TurnBlock& a,
                                              const TurnBlock& b) {
  constexpr __mmask16 kOfB = 0xf0f0;
  const CodeSums sums(load_groups<4>(a.codes, b.codes));
  const auto of_both = [&](uint32_t at) {
    return _mm512_mask_blend_ps(kOfB, half_to_all(a.side + at), half_to_all(b.side + at));
  };
  const __m512 scale = _mm512_mul_ps(of_both(2), _mm512_set1_ps(0.125f));
  // The zeros of a block add up in its first element.
  const __m512 zero = _mm512_maskz_mul_ps(0x0011, of_both(0), _mm512_set1_ps(8.0f));
#pragma GCC unroll 2
  for (uint32_t b5 = 0; b5 < 2; ++b5) {
    __m512i joined[2];
#pragma GCC unroll 2
    for (uint32_t b2 = 0; b2 < 2; ++b2) {
      __m512 even = _mm512_mul_ps(sums.even(b5, b2), scale);
      if (b5 == 0 && b2 == 0) even = _mm512_add_ps(even, zero);
      joined[b2] = join_elements(format.dtype, even, _mm512_mul_ps(sums.odd(b5, b2), scale));
    }
    const auto line = [&](uint32_t block) {
      const __m512i order = _mm512_load_si512(kLineOrder.of_block[block]);
      return _mm512_permutex2var_epi16(joined[0], order, joined[1]);
    };
    store_line(format.streams, a.out + 64 * b5, line(0));
    store_line(format.streams, b.out + 64 * b5, line(1));
  }
}

template <uint32_t kBits, bool kSameRow>
[[gnu::always_inline]] inline void turn_pair(const RowFormat& format, const TurnBlock& a,
                                             const TurnBlock& b) {
  if (kBits == 4 && format.dtype != QUIRE_DTYPE_F32 && sums_exactly(a.side) &&
      (kSameRow || sums_exactly(b.side)))
    return turn_codes(format, a, b);
  turn_blocks<kBits, kSameRow>(format, a, b);
}

// Rows of order 64 without rotation: their blocks in pairs, across rows where a row has an odd
// number of them. A last one is done twice.
template <uint32_t kBits>
void turned_rows(const RowFormat& format, const CodeRows& rows) {
  const uint64_t element = format.dtype == QUIRE_DTYPE_F32 ? 4 : 2;
  TurnBlock waiting;
  bool waits = false;
  for (uint32_t r = 0; r < rows.n; ++r) {
    uint32_t begin = 0;
    const auto block = [&](uint32_t at) {
      return TurnBlock{rows.codes[r] + uint64_t{at} * kBits / 8, rows.side[r],
                       rows.out[r] + at * element};
    };
    if (waits) {
      turn_pair<kBits, false>(format, waiting, block(0));
      begin = 64;
    }
    for (; begin + 128 <= format.n; begin += 128)
      turn_pair<kBits, true>(format, block(begin), block(begin + 64));
    waits = begin < format.n;
    if (waits) waiting = block(begin);
  }
  if (waits) turn_pair<kBits, true>(format, waiting, waiting);
}

}  // namespace

void avx512::decode_turned(const RowFormat& format, const CodeRows& rows) {
  if (format.bits == 4) return turned_rows<4>(format, rows);
  if (format.bits == 3) return turned_rows<3>(format, rows);
  turned_rows<2>(format, rows);
}

}  // namespace quire_kernels

#endif
