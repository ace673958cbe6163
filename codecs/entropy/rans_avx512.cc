// Two vectors of sixteen states. A symbol's frequency and start come from one register each; which
// symbol a slot belongs to from 256 nibbles in two registers: no memory is looked up. Only this
// unit has AVX-512 flags: nothing inline with external linkage may be instantiated here.
#include "codecs/entropy/rans_decode.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>

namespace quire {
namespace {

struct Tables {
  __m512i symbols[2];  // 64 words of four nibbles: of slots 4k .. 4k + 3
  __m512i frequencies;
  __m512i starts;
};

Tables tables_of(const uint8_t* frequencies) {
  alignas(64) uint16_t symbols[64] = {};
  alignas(64) uint32_t starts[kRansSymbols];
  uint32_t slot = 0;
  for (uint32_t symbol = 0; symbol < kRansSymbols; ++symbol) {
    starts[symbol] = slot;
    for (uint32_t i = 0; i < frequencies[symbol] && slot < kRansScale; ++i, ++slot)
      symbols[slot / 4] = static_cast<uint16_t>(symbols[slot / 4] | symbol << (slot % 4 * 4));
  }
  return {{_mm512_load_si512(symbols), _mm512_load_si512(symbols + 32)},
          _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(frequencies))),
          _mm512_load_si512(starts)};
}

struct Words {
  const std::byte* next;
  uint64_t left;
  bool overrun;
};

// The symbols of sixteen states, which move on.
inline __m512i step(const Tables& tables, __m512i* states, Words* words) {
  const __m512i x = *states;
  const __m512i slot = _mm512_and_si512(x, _mm512_set1_epi32(kRansScale - 1));
  const __m512i four =
      _mm512_permutex2var_epi16(tables.symbols[0], _mm512_srli_epi32(slot, 2), tables.symbols[1]);
  const __m512i shift = _mm512_slli_epi32(_mm512_and_si512(slot, _mm512_set1_epi32(3)), 2);
  const __m512i symbols = _mm512_and_si512(_mm512_srlv_epi32(four, shift), _mm512_set1_epi32(15));
  const __m512i frequency = _mm512_permutexvar_epi32(symbols, tables.frequencies);
  const __m512i start = _mm512_permutexvar_epi32(symbols, tables.starts);
  const __m512i moved = _mm512_add_epi32(_mm512_mullo_epi32(frequency, _mm512_srli_epi32(x, 8)),
                                         _mm512_sub_epi32(slot, start));
  const __mmask16 hungry = _mm512_cmplt_epu32_mask(moved, _mm512_set1_epi32(kRansStateMin));
  const auto wanted = static_cast<uint32_t>(__builtin_popcount(hungry));
  __m256i next;
  if (words->left >= 16) {
    next = _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(words->next));
  } else {
    next = _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << words->left) - 1), words->next);
    if (wanted > words->left) words->overrun = true;
  }
  const uint64_t taken = wanted < words->left ? wanted : words->left;
  words->next += 2 * taken;
  words->left -= taken;
  const __m512i filled = _mm512_maskz_expand_epi32(hungry, _mm512_cvtepu16_epi32(next));
  *states = _mm512_mask_or_epi32(moved, hungry, _mm512_slli_epi32(moved, 16), filled);
  return symbols;
}

void decode(RansDecodeState* state, const uint8_t* frequencies, std::byte* codes, uint64_t n) {
  const Tables tables = tables_of(frequencies);
  __m512i low = _mm512_loadu_si512(state->states);
  __m512i high = _mm512_loadu_si512(state->states + 16);
  Words words{state->words, state->n_words, state->overrun};
  for (uint64_t i = 0; i < n; i += kRansBlockBytes) {
    const __m512i low_symbols = step(tables, &low, &words);
    const __m512i high_symbols = step(tables, &high, &words);
    const __m128i bytes =
        _mm512_cvtepi32_epi8(_mm512_or_si512(low_symbols, _mm512_slli_epi32(high_symbols, 4)));
    if (i + kRansBlockBytes <= n)
      _mm_storeu_si128(reinterpret_cast<__m128i_u*>(codes + i), bytes);
    else
      _mm_mask_storeu_epi8(codes + i, static_cast<__mmask16>((1u << (n - i)) - 1), bytes);
  }
  _mm512_storeu_si512(state->states, low);
  _mm512_storeu_si512(state->states + 16, high);
  state->words = words.next;
  state->n_words = words.left;
  state->overrun = words.overrun;
}

}  // namespace

RansDecode rans_decode_avx512() {
  const bool usable = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl");
  return usable ? decode : nullptr;
}

}  // namespace quire

#else

namespace quire {

RansDecode rans_decode_avx512() {
  return nullptr;
}

}  // namespace quire

#endif
