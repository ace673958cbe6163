// AVX-512: rows of codes to rows of the engine, in registers from the codes to the stored element
// wherever the rotation's partners lie in whole registers.
#include "kernels/rows.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "kernels/avx512_decode.h"
#include "kernels/avx512_hadamard.h"
#include "kernels/math/bits.h"

namespace quire_kernels {
namespace {

constexpr uint32_t kPairsMax = QUIRE_KERNEL_DIMS_MAX / 2;

// Beyond 2^-30, or zero. Products and sums of two numbers of this kind, and again of their sums
// with a third, are multiples of 2^-106: never denormal. The same goes for halves, which are
// multiples of 2^-24, whatever adds and halves them.
constexpr uint32_t kHarmlessBits = 0x30800000;

bool harmless(const float* values, uint64_t n) {
  __mmask16 tiny = 0;
  for_blocks(n, [&](uint64_t i, auto block) {
    const __m512i bits = magnitude_bits(block.load(values + i));
    tiny |= _mm512_cmplt_epu32_mask(_mm512_sub_epi32(bits, _mm512_set1_epi32(1)),
                                    _mm512_set1_epi32(kHarmlessBits - 1));
  });
  return tiny == 0;
}

// Codes first .. first + 15 of a row, one per lane; first is a multiple of 8. The tail block reads
// only the groups that the row has.
template <uint32_t kBits>
[[gnu::always_inline]] inline __m512i unpack(const Byte* codes, uint64_t first, FullBlock block) {
  if constexpr (kBits == 8) return _mm512_cvtepu8_epi32(block.load8(codes + first));
  const Byte* from = codes + first / 8 * kBits;
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  if constexpr (kBits == 4) {
    const __m512i shifts =
        _mm512_setr_epi32(0, 16, 4, 20, 8, 24, 12, 28, 0, 16, 4, 20, 8, 24, 12, 28);
    const __m512i low = _mm512_broadcastd_epi32(_mm_loadu_si32(from));
    const __m512i both = _mm512_mask_broadcastd_epi32(low, 0xff00, _mm_loadu_si32(from + 4));
    return _mm512_and_si512(_mm512_srlv_epi32(both, shifts), _mm512_set1_epi32(15));
  } else if constexpr (kBits == 2) {
    const __m512i all = _mm512_set1_epi32(load_as<int32_t>(from));
    return _mm512_and_si512(_mm512_srlv_epi32(all, _mm512_slli_epi32(lanes, 1)),
                            _mm512_set1_epi32(3));
  } else {
    // The second group's 24 bits are the upper ones of the last four bytes.
    const __m512i low = _mm512_set1_epi32(load_as<int32_t>(from));
    const __m512i both = _mm512_mask_set1_epi32(low, 0xff00, load_as<int32_t>(from + 2));
    const __m512i shifts =
        _mm512_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21, 8, 11, 14, 17, 20, 23, 26, 29);
    return _mm512_and_si512(_mm512_srlv_epi32(both, shifts), _mm512_set1_epi32(7));
  }
}

template <uint32_t kBits>
[[gnu::always_inline]] inline __m512i unpack(const Byte* codes, uint64_t first, TailBlock block) {
  if constexpr (kBits == 8) return _mm512_cvtepu8_epi32(block.load8(codes + first));
  Byte copy[2 * kBits] = {};
  memcpy(copy, codes + first / 8 * kBits, block.mask > 0xff ? 2 * kBits : kBits);
  return unpack<kBits>(copy, 0, FullBlock{});
}

// A rotation's cosines and sines apart, split anew only where the table changes.
class SplitTable {
 public:
  void use(const float* table, uint32_t pairs) {
    if (table == table_) return;
    table_ = table;
    is_harmless = harmless(table, 2 * uint64_t{pairs});
    for_blocks(pairs, [&](uint64_t j, auto block) {
      __m512 c;
      __m512 s;
      split_pairs(table + 2 * j, 2 * (pairs - j), &c, &s);
      block.store(cosines + j, c);
      block.store(sines + j, s);
    });
  }
  bool is_harmless = false;
  alignas(64) float cosines[kPairsMax];
  alignas(64) float sines[kPairsMax];

 private:
  const float* table_ = nullptr;
};

// Rows by channel, without rotation from dim `begin` on.
template <uint32_t kBits>
[[gnu::always_inline]] inline void channel_plain(const RowFormat& format, const float* zeros,
                                                 const float* scales, const Byte* codes, Byte* out,
                                                 uint32_t begin) {
  uint64_t i = begin;
  for (; i + 2 * kLanes <= format.n; i += 2 * kLanes) {
    const FullBlock block;
    const __m512 a =
        affine(unpack<kBits>(codes, i, block), block.load(zeros + i), block.load(scales + i));
    const __m512 b = affine(unpack<kBits>(codes, i + kLanes, block), block.load(zeros + i + kLanes),
                            block.load(scales + i + kLanes));
    store_pair(format.dtype, format.streams, out, i, a, b);
  }
  for_blocks(format.n - i, [&](uint64_t j, auto block) {
    const __m512 a = affine(unpack<kBits>(codes, i + j, block), block.load(zeros + i + j),
                            block.load(scales + i + j));
    store_elements(format.dtype, out, i + j, a, block);
  });
}

// Sixteen rotated pairs of channels: what turns their codes into elements.
template <uint32_t kBits>
class ChannelPairs {
 public:
  [[gnu::always_inline]] ChannelPairs(const float* zeros, const float* scales,
                                      const SplitTable& split, uint32_t first, uint32_t second)
      : first_(first),
        second_(second),
        zeros_{_mm512_loadu_ps(zeros + first), _mm512_loadu_ps(zeros + second)},
        scales_{_mm512_loadu_ps(scales + first), _mm512_loadu_ps(scales + second)},
        cosine_(_mm512_loadu_ps(split.cosines + first)),
        sine_(_mm512_loadu_ps(split.sines + first)) {}

  [[gnu::always_inline]] void decode(const Byte* codes, __m512* x0, __m512* x1) const {
    *x0 = affine(unpack<kBits>(codes, first_, FullBlock{}), zeros_[0], scales_[0]);
    *x1 = affine(unpack<kBits>(codes, second_, FullBlock{}), zeros_[1], scales_[1]);
    rotate_pair(cosine_, sine_, x0, x1);
  }

 private:
  uint32_t first_;
  uint32_t second_;
  __m512 zeros_[2];
  __m512 scales_[2];
  __m512 cosine_;
  __m512 sine_;
};

// Rows begin .. end - 1, which share a table: what belongs to the channels stays in registers while
// rows go by.
template <uint32_t kBits>
void channel_neox(const RowFormat& format, const float* zeros, const float* scales,
                  const SplitTable& split, const CodeRows& rows, uint32_t begin, uint32_t end) {
  const uint32_t pairs = format.rotary_dims / 2;
  uint32_t j = 0;
  for (; j + 2 * kLanes <= pairs; j += 2 * kLanes) {
    const ChannelPairs<kBits> a(zeros, scales, split, j, j + pairs);
    const ChannelPairs<kBits> b(zeros, scales, split, j + kLanes, j + kLanes + pairs);
    for (uint32_t r = begin; r < end; ++r) {
      __m512 first[2];
      __m512 second[2];
      a.decode(rows.codes[r], &first[0], &second[0]);
      b.decode(rows.codes[r], &first[1], &second[1]);
      store_pair(format.dtype, format.streams, rows.out[r], j, first[0], first[1]);
      store_pair(format.dtype, format.streams, rows.out[r], j + pairs, second[0], second[1]);
    }
  }
  for (; j < pairs; j += kLanes) {
    const ChannelPairs<kBits> a(zeros, scales, split, j, j + pairs);
    for (uint32_t r = begin; r < end; ++r) {
      __m512 first;
      __m512 second;
      a.decode(rows.codes[r], &first, &second);
      store_elements(format.dtype, rows.out[r], j, first, FullBlock{});
      store_elements(format.dtype, rows.out[r], j + pairs, second, FullBlock{});
    }
  }
  if (format.rotary_dims == format.n) return;
  for (uint32_t r = begin; r < end; ++r)
    channel_plain<kBits>(format, zeros, scales, rows.codes[r], rows.out[r], format.rotary_dims);
}

// Any rotation: through a row of fp32.
void rotate_narrow(const RowFormat& format, const float* table, float* row, Byte* out) {
  if (table != nullptr) avx512::rotate(format.style, table, row, format.rotary_dims);
  avx512::narrow(format.dtype, row, out, format.n);
}

template <uint32_t kBits>
void channel_rows(const RowFormat& format, const float* zeros, const float* scales,
                  const CodeRows& rows) {
  const bool in_registers =
      format.style == QUIRE_ROPE_STYLE_NEOX && format.rotary_dims % (2 * kLanes) == 0;
  RowFormat wide = format;
  wide.dtype = QUIRE_DTYPE_F32;
  wide.streams = false;
  RowFormat fast = format;
  if (format.dtype == QUIRE_DTYPE_BF16 && hardware_bf16() && harmless(zeros, format.n) &&
      harmless(scales, format.n))
    fast.dtype = kHardwareBf16;
  SplitTable split;
  for (uint32_t r = 0, end; r < rows.n; r = end) {
    const float* table = rows.table[r];
    end = r + 1;
    if (table == nullptr) {
      channel_plain<kBits>(fast, zeros, scales, rows.codes[r], rows.out[r], 0);
    } else if (in_registers) {
      while (end < rows.n && rows.table[end] == table) ++end;
      split.use(table, format.rotary_dims / 2);
      channel_neox<kBits>(split.is_harmless ? fast : format, zeros, scales, split, rows, r, end);
    } else {
      alignas(64) float row[QUIRE_KERNEL_DIMS_MAX];
      channel_plain<kBits>(wide, zeros, scales, rows.codes[r], reinterpret_cast<Byte*>(row), 0);
      rotate_narrow(format, table, row, rows.out[r]);
    }
  }
}

// n codes that share zero and scale, Hadamard blocks of 16 * kRegisters.
template <uint32_t kBits, uint32_t kRegisters>
[[gnu::always_inline]] inline void token_blocks(const RowFormat& format, const Byte* codes,
                                                __m512 zero, __m512 scale, Byte* out) {
  const __m512 factor = _mm512_set1_ps(hadamard_scale(kLanes * kRegisters));
  for (uint32_t begin = 0; begin < format.n; begin += kLanes * kRegisters) {
    __m512 r[kRegisters];
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kRegisters; ++i)
      r[i] = affine(unpack<kBits>(codes, begin + kLanes * i, FullBlock{}), zero, scale);
    hadamard_registers(r, factor);
    if constexpr (kRegisters == 1) {
      store_elements(format.dtype, out, begin, r[0], FullBlock{});
    } else {
#pragma GCC unroll 4
      for (uint32_t i = 0; i < kRegisters; i += 2)
        store_pair(format.dtype, false, out, begin + kLanes * i, r[i], r[i + 1]);
    }
  }
}

// Orders below 16, or none; n may be any.
template <uint32_t kBits>
[[gnu::always_inline]] inline void token_span(const RowFormat& format, const Byte* codes,
                                              __m512 zero, __m512 scale, Byte* out, uint32_t n) {
  const __m512 factor = _mm512_set1_ps(hadamard_scale(format.order));
  const bool turns = format.order > 1;
  uint64_t done = 0;
  if (!turns)
    for (; done + 2 * kLanes <= n; done += 2 * kLanes)
      store_pair(format.dtype, false, out, done,
                 affine(unpack<kBits>(codes, done, FullBlock{}), zero, scale),
                 affine(unpack<kBits>(codes, done + kLanes, FullBlock{}), zero, scale));
  for_blocks(n - done, [&](uint64_t j, auto block) {
    const uint64_t i = done + j;
    __m512 values = affine(unpack<kBits>(codes, i, block), zero, scale);
    if (turns) values = _mm512_mul_ps(hadamard_lanes(values, format.order), factor);
    store_elements(format.dtype, out, i, values, block);
  });
}

template <uint32_t kBits>
[[gnu::always_inline]] inline void token_row(const RowFormat& format, const Byte* codes,
                                             const Byte* side, Byte* out) {
  const __m512 zero = half_to_all(side);
  const __m512 scale = half_to_all(side + 2);
  if (format.order == 64) return token_blocks<kBits, 4>(format, codes, zero, scale, out);
  if (format.order == 32) return token_blocks<kBits, 2>(format, codes, zero, scale, out);
  if (format.order == 16) return token_blocks<kBits, 1>(format, codes, zero, scale, out);
  const uint32_t element = format.dtype == QUIRE_DTYPE_F32 ? 4 : 2;
  for (uint32_t begin = 0; begin < format.n; begin += format.group_dims, side += 4) {
    const uint32_t left = format.n - begin;
    token_span<kBits>(format, codes + uint64_t{begin} * kBits / 8, half_to_all(side),
                      half_to_all(side + 2), out + uint64_t{begin} * element,
                      left < format.group_dims ? left : format.group_dims);
  }
}

template <uint32_t kBits>
void token_rows(const RowFormat& format, const CodeRows& rows) {
  RowFormat fast = format;
  if (format.dtype == QUIRE_DTYPE_BF16 && hardware_bf16()) fast.dtype = kHardwareBf16;
  if constexpr (kBits != 8) {
    // A batch rotates all of its rows or none.
    if (format.order == 64 && rows.n != 0 && rows.table[0] == nullptr)
      return avx512::decode_turned(fast, rows);
  }
  RowFormat wide = format;
  wide.dtype = QUIRE_DTYPE_F32;
  for (uint32_t r = 0; r < rows.n; ++r) {
    if (rows.table[r] == nullptr) {
      token_row<kBits>(fast, rows.codes[r], rows.side[r], rows.out[r]);
      continue;
    }
    alignas(64) float row[QUIRE_KERNEL_DIMS_MAX];
    token_row<kBits>(wide, rows.codes[r], rows.side[r], reinterpret_cast<Byte*>(row));
    rotate_narrow(format, rows.table[r], row, rows.out[r]);
  }
}

}  // namespace

void avx512::decode_channel(const RowFormat& format, const float* zeros, const float* scales,
                            const CodeRows& rows) {
  if (format.bits == 8) return channel_rows<8>(format, zeros, scales, rows);
  if (format.bits == 4) return channel_rows<4>(format, zeros, scales, rows);
  if (format.bits == 3) return channel_rows<3>(format, zeros, scales, rows);
  channel_rows<2>(format, zeros, scales, rows);
}

void avx512::decode_token(const RowFormat& format, const CodeRows& rows) {
  if (format.bits == 8) return token_rows<8>(format, rows);
  if (format.bits == 4) return token_rows<4>(format, rows);
  if (format.bits == 3) return token_rows<3>(format, rows);
  token_rows<2>(format, rows);
}

void avx512::decode_normalised(const RowFormat& format, const float* means, const float* deviations,
                               const CodeRows& rows) {
  RowFormat wide = format;
  wide.dtype = QUIRE_DTYPE_F32;
  for (uint32_t r = 0; r < rows.n; ++r) {
    alignas(64) float row[QUIRE_KERNEL_DIMS_MAX];
    token_row<4>(wide, rows.codes[r], rows.side[r], reinterpret_cast<Byte*>(row));
    for_blocks(format.n, [&](uint64_t i, auto block) {
      const __m512 product = _mm512_mul_ps(block.load(row + i), block.load(deviations + i));
      block.store(row + i, _mm512_add_ps(product, block.load(means + i)));
    });
    rotate_narrow(format, rows.table[r], row, rows.out[r]);
  }
}

// As halves e4m3 codes are 2^-8 of their value: the exponent's bias differs by 8.
void avx512::decode_fp8(const RowFormat& format, const CodeRows& rows) {
  for (uint32_t r = 0; r < rows.n; ++r) {
    alignas(64) float row[QUIRE_KERNEL_DIMS_MAX];
    const bool rotates = rows.table[r] != nullptr;
    const __m512 scale = half_to_all(rows.side[r]);
    const Byte* codes = rows.codes[r];
    for_blocks(format.n, [&](uint64_t i, auto block) {
      const __m256i wide = _mm256_cvtepi8_epi16(block.load8(codes + i));
      const __m256i half = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(0x3f80));
      const __m256i sign = _mm256_and_si256(wide, _mm256_set1_epi16(INT16_MIN));
      const __m512 value =
          _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(half, sign)), _mm512_set1_ps(256.0f));
      const __m512 scaled = _mm512_mul_ps(value, scale);
      if (rotates)
        block.store(row + i, scaled);
      else
        store_elements(format.dtype, rows.out[r], i, scaled, block);
    });
    if (rotates) rotate_narrow(format, rows.table[r], row, rows.out[r]);
  }
}

void avx512::widen_pairs(const Byte* pairs, float* first, float* second, uint32_t n) {
  for_blocks(n, [=](uint64_t i, auto block) {
    const __m512i both = _mm512_castps_si512(block.load32(pairs + 4 * i));
    block.store(first + i, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(both)));
    block.store(second + i, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16))));
  });
}

uint32_t avx512::max_affine_bits(const Byte* pairs, uint64_t n, uint32_t top) {
  const __m512 steps = _mm512_set1_ps(static_cast<float>(top));
  __m512i largest = _mm512_setzero_si512();
  for_blocks(n, [&](uint64_t i, auto block) {
    const __m512i both = _mm512_castps_si512(block.load32(pairs + 4 * i));
    const __m512 zero = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(both));
    const __m512 scale = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16)));
    const __m512 end = _mm512_add_ps(_mm512_mul_ps(steps, scale), zero);
    largest = _mm512_max_epu32(largest, magnitude_bits(zero));
    largest = _mm512_max_epu32(largest, magnitude_bits(end));
  });
  return _mm512_reduce_max_epu32(largest);
}

bool avx512::has_fp8_nan(const Byte* codes, uint64_t n) {
  const __m512i nan = _mm512_set1_epi8(0x7f);
  __mmask64 found = 0;
  for (uint64_t i = 0; i < n; i += 64) {
    const __mmask64 mask = n - i >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << (n - i)) - 1;
    const __m512i values = _mm512_maskz_loadu_epi8(mask, codes + i);
    found |= _mm512_cmpeq_epi8_mask(_mm512_and_si512(values, nan), nan);
  }
  return found != 0;
}

}  // namespace quire_kernels

#endif
