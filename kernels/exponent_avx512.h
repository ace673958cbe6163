// The loops of the lossless bf16 codecs for AVX-512: 64 elements per step, the tail of a row by
// mask. Included by one translation unit per instruction set (exponent_avx512.cc; with VBMI and
// VBMI2, which have byte permutes, expansion and compression, exponent_vbmi2.cc and
// exponent_rotating.cc), each with its own copy of everything here. Nothing inline with external
// linkage (see rows.h).
#ifndef QUIRE_KERNELS_EXPONENT_AVX512_H_
#define QUIRE_KERNELS_EXPONENT_AVX512_H_

#include <immintrin.h>
#include <string.h>

#include "kernels/exponent_counter_avx512.h"
#include "kernels/exponent_ops.h"
#include "kernels/math/pack.h"

namespace quire_kernels {
namespace {

#if defined(__AVX512VBMI__) && defined(__AVX512VBMI2__)
#define QUIRE_EXPONENT_VBMI2 1
#else
#define QUIRE_EXPONENT_VBMI2 0
#endif

inline __m256i_u* to256(Byte* at) {
  return reinterpret_cast<__m256i_u*>(at);
}
inline const __m256i_u* to256(const Byte* at) {
  return reinterpret_cast<const __m256i_u*>(at);
}

// Sixty-four elements of a row, or the fewer that are left of it: masked accesses cost many times
// the plain ones on some processors.
template <uint32_t kBits>
struct Whole {
  static constexpr uint32_t kCodeBytes = 8 * kBits;
  __mmask64 elements() const { return ~__mmask64{0}; }
  __m512i load_bytes(const Byte* from) const { return _mm512_loadu_si512(from); }
  void store_bytes(Byte* to, __m512i bytes) const { _mm512_storeu_si512(to, bytes); }
  __m512i load_low(const Byte* from) const { return _mm512_loadu_si512(from); }
  __m512i load_high(const Byte* from) const { return _mm512_loadu_si512(from + 64); }
  void store_low(Byte* to, __m512i words) const { _mm512_storeu_si512(to, words); }
  void store_high(Byte* to, __m512i words) const { _mm512_storeu_si512(to + 64, words); }
  __m256i load_codes(const Byte* from) const {
    if constexpr (kBits == 4) return _mm256_loadu_si256(to256(from));
    const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(from));
    const __m128i last = _mm_loadl_epi64(reinterpret_cast<const __m128i_u*>(from + 16));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(first), last, 1);
  }
  void store_codes(Byte* to, __m256i codes) const {
    if constexpr (kBits == 4) {
      _mm256_storeu_si256(to256(to), codes);
    } else {
      _mm_storeu_si128(reinterpret_cast<__m128i_u*>(to), _mm256_castsi256_si128(codes));
      _mm_storel_epi64(reinterpret_cast<__m128i_u*>(to + 16), _mm256_extracti128_si256(codes, 1));
    }
  }
};

template <uint32_t kBits>
struct Part {
  __mmask64 mask;
  __mmask32 codes;

  explicit Part(uint32_t n)
      : mask((__mmask64{1} << n) - 1),
        codes(static_cast<__mmask32>((__mmask64{1} << code_row_bytes(n, kBits)) - 1)) {}
  __mmask64 elements() const { return mask; }
  __mmask32 low() const { return static_cast<__mmask32>(mask); }
  __mmask32 high() const { return static_cast<__mmask32>(mask >> 32); }
  __m512i load_bytes(const Byte* from) const { return _mm512_maskz_loadu_epi8(mask, from); }
  void store_bytes(Byte* to, __m512i bytes) const { _mm512_mask_storeu_epi8(to, mask, bytes); }
  __m512i load_low(const Byte* from) const { return _mm512_maskz_loadu_epi16(low(), from); }
  __m512i load_high(const Byte* from) const { return _mm512_maskz_loadu_epi16(high(), from + 64); }
  void store_low(Byte* to, __m512i words) const { _mm512_mask_storeu_epi16(to, low(), words); }
  void store_high(Byte* to, __m512i words) const {
    _mm512_mask_storeu_epi16(to + 64, high(), words);
  }
  __m256i load_codes(const Byte* from) const { return _mm256_maskz_loadu_epi8(codes, from); }
  void store_codes(Byte* to, __m256i packed) const { _mm256_mask_storeu_epi8(to, codes, packed); }
};

// body(first dim, Whole or Part) over a row.
template <uint32_t kBits, typename Body>
inline void for_steps(uint32_t head_dim, Body body) {
  uint32_t d = 0;
  for (; d + kStep <= head_dim; d += kStep) body(d, Whole<kBits>{});
  if (d < head_dim) body(d, Part<kBits>{head_dim - d});
}

inline __m512i each8(uint64_t bytes) {
  return _mm512_set1_epi64(static_cast<int64_t>(bytes));
}

// Words 0..31 and 32..63 that hold bytes -> bytes 0..63.
inline __m512i pack_words(__m512i low, __m512i high) {
  const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
  return _mm512_permutexvar_epi64(order, _mm512_packus_epi16(low, high));
}

inline bool any_most(__m512i exponents) {
  return _mm512_cmpeq_epi8_mask(exponents, _mm512_set1_epi8(-1)) != 0;
}

struct Parts {
  __m512i exponents;
  __m512i sign_mantissa;
};

// The lower and the upper bytes of words 0..31 and 32..63.
inline void split_words(__m512i first, __m512i second, __m512i* lower, __m512i* upper) {
#if QUIRE_EXPONENT_VBMI2
  const __m512i even = _mm512_setr_epi64(0x0e0c0a0806040200, 0x1e1c1a1816141210, 0x2e2c2a2826242220,
                                         0x3e3c3a3836343230, 0x4e4c4a4846444240, 0x5e5c5a5856545250,
                                         0x6e6c6a6866646260, 0x7e7c7a7876747270);
  const __m512i odd = _mm512_or_si512(even, each8(0x0101010101010101));
  *lower = _mm512_permutex2var_epi8(first, even, second);
  *upper = _mm512_permutex2var_epi8(first, odd, second);
#else
  const __m512i byte = _mm512_set1_epi16(0x00ff);
  *lower = pack_words(_mm512_and_si512(first, byte), _mm512_and_si512(second, byte));
  *upper = pack_words(_mm512_srli_epi16(first, 8), _mm512_srli_epi16(second, 8));
#endif
}

inline Parts parts_of_bytes(__m512i lower, __m512i upper) {
  const __m512i last_bit = _mm512_srli_epi16(lower, 7);
  // (a & b) | c and b ? a : c
  constexpr int kAndOr = 0xea;
  constexpr int kChoose = 0xca;
  return {_mm512_ternarylogic_epi64(last_bit, each8(0x0101010101010101),
                                    _mm512_add_epi8(upper, upper), kAndOr),
          _mm512_ternarylogic_epi64(each8(0x8080808080808080), upper, lower, kChoose)};
}

template <typename Block>
inline Parts parts_of(Block block, const Byte* elements) {
  __m512i lower;
  __m512i upper;
  split_words(block.load_low(elements), block.load_high(elements), &lower, &upper);
  return parts_of_bytes(lower, upper);
}

// Codes of 64 elements, a byte each <-> packed, in the low 32 or 24 bytes.
template <uint32_t kBits>
inline __m512i unpack_codes(__m256i packed) {
  if constexpr (kBits == 4) {
    const __m512i wide = _mm512_cvtepu8_epi16(packed);
    const __m512i nibbles = _mm512_and_si512(_mm512_or_si512(wide, _mm512_slli_epi16(wide, 4)),
                                             each8(0x0f0f0f0f0f0f0f0f));
    const __m512i order = _mm512_set4_epi32(0x0f0b0e0a, 0x0d090c08, 0x07030602, 0x05010400);
    return _mm512_shuffle_epi8(nibbles, order);
  } else {
    const __m512i codes = _mm512_castsi256_si512(packed);
#if QUIRE_EXPONENT_VBMI2
    const __m512i order = _mm512_setr_epi64(0x020100, 0x050403, 0x080706, 0x0b0a09, 0x0e0d0c,
                                            0x11100f, 0x141312, 0x171615);
    const __m512i groups = _mm512_permutexvar_epi8(order, codes);
    const __m512i shifted = _mm512_multishift_epi64_epi8(each8(0x15120f0c09060300), groups);
    return _mm512_and_si512(shifted, each8(0x0707070707070707));
#else
    const __m512i order = _mm512_setr_epi64(0x0000000200010000, 0, 0x0000000500040003, 0,
                                            0x0000000800070006, 0, 0x0000000b000a0009, 0);
    const __m512i lanes = _mm512_permutexvar_epi16(order, codes);
    // Three bytes of a group into each eight.
    const __m512i apart =
        _mm512_set4_epi32(-1, static_cast<int>(0xff050403), -1, static_cast<int>(0xff020100));
    __m512i x = _mm512_shuffle_epi8(lanes, apart);
    x = _mm512_and_si512(_mm512_or_si512(x, _mm512_slli_epi64(x, 20)), each8(0x00000fff00000fff));
    x = _mm512_and_si512(_mm512_or_si512(x, _mm512_slli_epi64(x, 10)), each8(0x003f003f003f003f));
    return _mm512_and_si512(_mm512_or_si512(x, _mm512_slli_epi64(x, 5)), each8(0x0707070707070707));
#endif
  }
}

template <uint32_t kBits>
inline __m256i pack_codes(__m512i codes) {
  if constexpr (kBits == 4) {
    const __m512i order = _mm512_set4_epi32(0x0f0d0b09, 0x0e0c0a08, 0x07050301, 0x06040200);
    const __m512i sorted = _mm512_shuffle_epi8(codes, order);
    return _mm512_cvtepi16_epi8(_mm512_maddubs_epi16(sorted, _mm512_set1_epi16(0x1001)));
  } else {
    const __m512i pairs = _mm512_maddubs_epi16(codes, _mm512_set1_epi16(0x0801));
    const __m512i fours = _mm512_madd_epi16(pairs, _mm512_set1_epi32(0x00400001));
    const __m512i groups = _mm512_or_si512(fours, _mm512_srli_epi64(fours, 20));
    const __m512i together = _mm512_set4_epi32(-1, -1, static_cast<int>(0xffff0a09), 0x08020100);
    const __m512i order = _mm512_setr_epi64(0x0008000200010000, 0x00110010000a0009,
                                            0x001a001900180012, 0, 0, 0, 0, 0);
    return _mm512_castsi512_si256(
        _mm512_permutexvar_epi16(order, _mm512_shuffle_epi8(groups, together)));
  }
}

// exp4: which code stands for an exponent.
class CodeTable {
 public:
  CodeTable(const Byte* exponents, const Byte* code_of) {
#if QUIRE_EXPONENT_VBMI2
    (void)exponents;
    for (uint32_t i = 0; i < 4; ++i) quarters_[i] = _mm512_loadu_si512(code_of + 64 * i);
#else
    (void)code_of;
    for (uint32_t i = 0; i < 15; ++i)
      exponents_[i] = _mm512_set1_epi8(static_cast<char>(exponents[i]));
#endif
  }
  __m512i codes(__m512i exponents) const {
#if QUIRE_EXPONENT_VBMI2
    const __m512i low = _mm512_permutex2var_epi8(quarters_[0], exponents, quarters_[1]);
    const __m512i high = _mm512_permutex2var_epi8(quarters_[2], exponents, quarters_[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(exponents), low, high);
#else
    __m512i codes = _mm512_set1_epi8(15);
    for (uint32_t i = 0; i < 15; ++i)
      codes = _mm512_mask_mov_epi8(codes, _mm512_cmpeq_epi8_mask(exponents, exponents_[i]),
                                   _mm512_set1_epi8(static_cast<char>(i)));
    return codes;
#endif
  }

 private:
#if QUIRE_EXPONENT_VBMI2
  __m512i quarters_[4];
#else
  __m512i exponents_[15];
#endif
};

#if QUIRE_EXPONENT_VBMI2
// The same where the exponents that have a code lie in a window: one permutation.
class CodeWindow {
 public:
  CodeWindow(const Byte* code_of, uint32_t begin)
      : begin_(_mm512_set1_epi8(static_cast<char>(begin))),
        codes_(_mm512_loadu_si512(code_of + begin)) {}
  // Exponents outside share the entry behind the window.
  __m512i codes(__m512i exponents) const {
    const __m512i place = _mm512_min_epu8(_mm512_sub_epi8(exponents, begin_), each8(kBehind));
    return _mm512_permutexvar_epi8(place, codes_);
  }

 private:
  static constexpr uint64_t kBehind = kCodeWindow * UINT64_C(0x0101010101010101);
  static_assert(kCodeWindow + 1 == kStep);
  __m512i begin_;
  __m512i codes_;
};
#endif

// window3 has escapes in most steps but not in all, which costs more to guess than to move none.
template <uint32_t kBits>
constexpr bool kMovesAll = QUIRE_EXPONENT_VBMI2&& kBits == 3;

// Appends the marked bytes; writes up to 64.
inline uint64_t append(__mmask64 marked, __m512i bytes, Byte* to) {
#if QUIRE_EXPONENT_VBMI2
  _mm512_storeu_si512(to, _mm512_maskz_compress_epi8(marked, bytes));
  return static_cast<uint64_t>(__builtin_popcountll(marked));
#else
  alignas(64) Byte all[kStep];
  _mm512_store_si512(all, bytes);
  uint64_t n = 0;
  for (uint64_t left = marked; left != 0; left &= left - 1) to[n++] = all[__builtin_ctzll(left)];
  return n;
#endif
}

// The next of n bytes into the marked places of `into`; zeros when there are no more.
inline __m512i expand(__m512i into, __mmask64 marked, const Byte* from, uint64_t n) {
#if QUIRE_EXPONENT_VBMI2
  const __m512i next = n >= kStep ? _mm512_loadu_si512(from)
                                  : _mm512_maskz_loadu_epi8((__mmask64{1} << n) - 1, from);
  return _mm512_mask_expand_epi8(into, marked, next);
#else
  alignas(64) Byte all[kStep];
  _mm512_store_si512(all, into);
  uint64_t i = 0;
  for (uint64_t left = marked; left != 0; left &= left - 1, ++i)
    all[__builtin_ctzll(left)] = i < n ? from[i] : 0;
  return _mm512_load_si512(all);
#endif
}

// Into the L2 cache: hardware follows no rows that lie apart, and those of an engine crowd a few
// sets of the L1 cache.
[[gnu::always_inline]] inline void fetch_ahead(const EncodeRows& rows, uint32_t row) {
  const auto* from = reinterpret_cast<const char*>(rows.ahead[row] + rows.offset);
  for (uint32_t line = 0; line < rows.ahead_bytes; line += 64)
    _mm_prefetch(from + line, _MM_HINT_T1);
}

void split(const EncodeRows& rows, uint32_t n_rows, uint32_t head_dim, Byte* sign_mantissa,
           Byte* exponents, Byte* tops) {
  for (uint32_t row = 0; row < n_rows; ++row) {
    fetch_ahead(rows, row);
    for_steps<3>(head_dim, [&](uint32_t d, auto block) {
      const Parts parts = parts_of(block, rows.elements[row] + uint64_t{d} * 2);
      block.store_bytes(sign_mantissa + d, parts.sign_mantissa);
      block.store_bytes(exponents + d, parts.exponents);
      block.store_bytes(tops + d, _mm512_max_epu8(parts.exponents, block.load_bytes(tops + d)));
    });
    sign_mantissa += head_dim;
    exponents += head_dim;
  }
}

void count_exponents(const EncodeRows& rows, uint32_t n_rows, uint32_t head_dim,
                     uint64_t* counters) {
  ExponentCounter counter(counters);
  for (uint32_t row = 0; row < n_rows; ++row) {
    fetch_ahead(rows, row);
    for_steps<4>(head_dim, [&](uint32_t d, auto block) {
      counter.add(parts_of(block, rows.elements[row] + uint64_t{d} * 2).exponents,
                  head_dim - d < kStep ? head_dim - d : kStep);
    });
  }
  counter.finish();
}

void count(const Byte* exponents, uint64_t n, uint64_t* counters) {
  ExponentCounter counter(counters);
  counter.add_all(exponents, n / kStep);
  const auto left = static_cast<uint32_t>(n % kStep);
  if (left != 0) counter.add(Part<4>{left}.load_bytes(exponents + n - left), left);
  counter.finish();
}

template <uint32_t kBits>
uint64_t count_escapes_of(const Byte* codes, uint64_t n_rows, uint32_t head_dim) {
  const uint64_t row_bytes = code_row_bytes(head_dim, kBits);
  const __m512i escape = _mm512_set1_epi8((1 << kBits) - 1);
  const auto in_row = [=](const Byte* row, uint32_t n) {
    uint64_t count = 0;
    for_steps<kBits>(n, [&](uint32_t d, auto block) {
      const __m512i unpacked = unpack_codes<kBits>(block.load_codes(row + d / 8 * kBits));
      count += static_cast<uint64_t>(
          __builtin_popcountll(_mm512_mask_cmpeq_epi8_mask(block.elements(), unpacked, escape)));
    });
    return count;
  };
  uint64_t count = 0;
  // Rows without padding are one long row.
  const bool padded = head_dim % kGroupCodes != 0;
  const uint64_t together = padded ? 1 : UINT64_C(1) << 20;
  for (uint64_t row = 0; row < n_rows; row += together) {
    const uint64_t rows = n_rows - row < together ? n_rows - row : together;
    count += in_row(codes + row * row_bytes, static_cast<uint32_t>(rows * head_dim));
  }
  return count;
}

uint64_t count_escapes(const Byte* codes, uint64_t n_rows, uint32_t head_dim, uint32_t bits) {
  return bits == 4 ? count_escapes_of<4>(codes, n_rows, head_dim)
                   : count_escapes_of<3>(codes, n_rows, head_dim);
}

// Codes of up to 64 elements; appends the escapes among them.
template <uint32_t kBits, typename Block>
inline void store_codes(Block block, Byte* to, __m512i codes, __m512i exponents,
                        EscapeWriter* escapes) {
  const __m512i escape = _mm512_set1_epi8((1 << kBits) - 1);
  block.store_codes(to, pack_codes<kBits>(_mm512_maskz_mov_epi8(block.elements(), codes)));
  const __mmask64 escaped = _mm512_mask_cmpeq_epi8_mask(block.elements(), codes, escape);
  if (kMovesAll<kBits> || escaped != 0)
    escapes->n += append(escaped, exponents, escapes->escapes + escapes->n);
}

template <typename Table>
bool encode_by(const Table& table, const ExponentRows& format, const EncodeRows& rows,
               Byte* sign_mantissa, Byte* codes, EscapeWriter* escapes) {
  __m512i largest = _mm512_setzero_si512();
  EscapeWriter to = *escapes;
  for (uint32_t row = 0; row < format.n_rows && to.n <= to.max; ++row) {
    fetch_ahead(rows, row);
    for_steps<4>(format.head_dim, [&](uint32_t d, auto block) {
      if (to.n > to.max) return;
      const Parts parts = parts_of(block, rows.elements[row] + uint64_t{d} * 2);
      block.store_bytes(sign_mantissa + d, parts.sign_mantissa);
      store_codes<4>(block, codes + d / 2, table.codes(parts.exponents), parts.exponents, &to);
      largest = _mm512_max_epu8(largest, parts.exponents);
    });
    sign_mantissa += format.head_dim;
    codes += code_row_bytes(format.head_dim, 4);
  }
  escapes->n = to.n;
  return any_most(largest);
}

bool encode(const ExponentRows& format, const EncodeRows& rows, Byte* sign_mantissa, Byte* codes,
            EscapeWriter* escapes) {
#if QUIRE_EXPONENT_VBMI2
  if (format.window_begin != kNoCodeWindow)
    return encode_by(CodeWindow(format.code_of, format.window_begin), format, rows, sign_mantissa,
                     codes, escapes);
#endif
  return encode_by(CodeTable(format.exponents, format.code_of), format, rows, sign_mantissa, codes,
                   escapes);
}

void encode_below_tops(const ExponentRows& format, const Byte* exponents, Byte* codes,
                       EscapeWriter* escapes) {
  EscapeWriter to = *escapes;
  for (uint32_t row = 0; row < format.n_rows && to.n <= to.max; ++row) {
    for_steps<3>(format.head_dim, [&](uint32_t d, auto block) {
      if (to.n > to.max) return;
      const __m512i these = block.load_bytes(exponents + d);
      const __m512i below = _mm512_subs_epu8(block.load_bytes(format.tops + d), these);
      store_codes<3>(block, codes + d / 8 * 3, _mm512_min_epu8(below, _mm512_set1_epi8(7)), these,
                     &to);
    });
    exponents += format.head_dim;
    codes += code_row_bytes(format.head_dim, 3);
  }
  escapes->n = to.n;
}

// Exponent and sign-and-mantissa bytes -> elements.
template <typename Block>
inline void store_elements(Block block, Byte* elements, __m512i exponents, __m512i rest) {
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  const __m512i top_bit = each8(0x8080808080808080);
  // top_bit ? second : third
  const __m512i high =
      _mm512_ternarylogic_epi64(top_bit, rest, _mm512_srli_epi16(exponents, 1), 0xca);
  const __m512i low =
      _mm512_ternarylogic_epi64(top_bit, _mm512_slli_epi16(exponents, 7), rest, 0xca);
  const __m512i high_sorted = _mm512_permutexvar_epi64(order, high);
  const __m512i low_sorted = _mm512_permutexvar_epi64(order, low);
  block.store_low(elements, _mm512_unpacklo_epi8(low_sorted, high_sorted));
  block.store_high(elements, _mm512_unpackhi_epi8(low_sorted, high_sorted));
}

// exponents_of_codes(codes, first dim, block) -> exponents; anything for escapes.
template <uint32_t kBits, typename Exponents>
inline uint64_t decode_rows(const ExponentRows& rows, const Byte* sign_mantissa, const Byte* codes,
                            const Byte* escapes, uint64_t n_escapes, Byte* const* elements,
                            Exponents exponents_of_codes) {
  const uint64_t row_bytes = code_row_bytes(rows.head_dim, kBits);
  const __m512i escape = _mm512_set1_epi8((1 << kBits) - 1);
  uint64_t taken = 0;
  for (uint32_t row = 0; row < rows.n_rows; ++row) {
    for_steps<kBits>(rows.head_dim, [&](uint32_t d, auto block) {
      const __m512i code_bytes = unpack_codes<kBits>(block.load_codes(codes + d / 8 * kBits));
      __m512i exponents = exponents_of_codes(code_bytes, d, block);
      const __mmask64 escaped = _mm512_mask_cmpeq_epi8_mask(block.elements(), code_bytes, escape);
      if (kMovesAll<kBits> || escaped != 0) {
        const uint64_t at = taken < n_escapes ? taken : n_escapes;
        exponents = expand(exponents, escaped, escapes + at, n_escapes - at);
        taken += static_cast<uint64_t>(__builtin_popcountll(escaped));
      }
      store_elements(block, elements[row] + uint64_t{d} * 2, exponents,
                     block.load_bytes(sign_mantissa + d));
    });
    sign_mantissa += rows.head_dim;
    codes += row_bytes;
  }
  return taken;
}

uint64_t decode(const ExponentRows& rows, const Byte* sign_mantissa, const Byte* codes,
                const Byte* escapes, uint64_t n_escapes, Byte* const* elements) {
  if (rows.bits == 4) {
    const __m512i table =
        _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(rows.exponents)));
    return decode_rows<4>(
        rows, sign_mantissa, codes, escapes, n_escapes, elements,
        [=](__m512i code_bytes, uint32_t, auto) { return _mm512_shuffle_epi8(table, code_bytes); });
  }
  return decode_rows<3>(rows, sign_mantissa, codes, escapes, n_escapes, elements,
                        [&](__m512i code_bytes, uint32_t d, auto block) {
                          return _mm512_sub_epi8(block.load_bytes(rows.tops + d), code_bytes);
                        });
}

}  // namespace
}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_EXPONENT_AVX512_H_
