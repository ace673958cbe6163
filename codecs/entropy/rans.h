// Range asymmetric numeral systems over 4-bit codes (Duda, "Asymmetric numeral systems", 2013;
// interleaved states as in Giesen, "Interleaved entropy coders", 2014). 32 states of 32 bits,
// renormalised by 16-bit words, share one stream of words; frequencies are of 256. State i codes
// the low nibbles of bytes i mod 16 for i < 16, the high nibbles for the others. Implementations
// give equal bytes. Stream and tables: docs/formats/codecs.md.
#ifndef QUIRE_CODECS_ENTROPY_RANS_H_
#define QUIRE_CODECS_ENTROPY_RANS_H_

#include <array>
#include <cstdint>

#include "base/bytes.h"
#include "codecs/entropy/rans_decode.h"

namespace quire {

// Of each symbol; at least 1 of those that occur, at most 255.
using RansFrequencies = std::array<uint8_t, kRansSymbols>;
using RansCounts = std::array<uint64_t, kRansSymbols>;

// Frequencies for these counts; sum to kRansScale.
RansFrequencies rans_frequencies(const RansCounts& counts);
void rans_count(ByteSpan codes, RansCounts& counts);
// They sum to kRansScale.
bool rans_valid(const RansFrequencies& frequencies);

// Encodes blocks of codes from the last to the first; words are written downwards from the end of
// `room`. Every symbol's frequency must be above 0.
class RansEncoder {
 public:
  explicit RansEncoder(MutableByteSpan room) : room_(room), begin_(room.size()) {
    states_.fill(kRansStateMin);
  }
  // What lacks of the last block is coded as the most frequent symbol. False: no more room.
  bool encode(const RansFrequencies& frequencies, ByteSpan codes);
  // The states and then the words that decoding begins with.
  const std::array<uint32_t, kRansStates>& states() const { return states_; }
  ByteSpan words() const { return room_.subspan(begin_); }

 private:
  MutableByteSpan room_;
  uint64_t begin_;
  std::array<uint32_t, kRansStates> states_{};
};

// The best, or the scalar one where quire_kernel_select() says so.
RansDecode rans_decoder();

}  // namespace quire

#endif  // QUIRE_CODECS_ENTROPY_RANS_H_
