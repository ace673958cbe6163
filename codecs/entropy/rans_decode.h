// The decoding loop of rans.h, one implementation per instruction set. Stays free of anything
// inline with external linkage: rans_avx512.cc has flags of its own (see kernels/rows.h).
#ifndef QUIRE_CODECS_ENTROPY_RANS_DECODE_H_
#define QUIRE_CODECS_ENTROPY_RANS_DECODE_H_

#include <cstddef>
#include <cstdint>

namespace quire {

inline constexpr uint32_t kRansSymbols = 16;
inline constexpr uint32_t kRansStates = 32;
inline constexpr uint32_t kRansBlockBytes = 16;  // two symbols each: one per state
inline constexpr uint32_t kRansScale = 256;      // frequencies sum to it
inline constexpr uint32_t kRansStateMin = 1u << 16;

struct RansDecodeState {
  uint32_t states[kRansStates];
  const std::byte* words;  // the next one
  uint64_t n_words;        // left
  bool overrun;            // more words were asked for than there are
};

// Decodes n bytes of two codes each. Safe on any states and words, for frequencies of kRansSymbols
// symbols that sum to kRansScale.
using RansDecode = void (*)(RansDecodeState* state, const uint8_t* frequencies, std::byte* codes,
                            uint64_t n);
void rans_decode_scalar(RansDecodeState* state, const uint8_t* frequencies, std::byte* codes,
                        uint64_t n);
// Null where this build or machine has no AVX-512.
RansDecode rans_decode_avx512();

}  // namespace quire

#endif  // QUIRE_CODECS_ENTROPY_RANS_DECODE_H_
