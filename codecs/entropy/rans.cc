#include "codecs/entropy/rans.h"

#include <algorithm>
#include <numeric>
#include <string_view>

#include "kernels/quire_kernels.h"

namespace quire {
namespace {

constexpr uint32_t kScaleBits = 8;
constexpr uint32_t kWordBits = 16;
// x / f = x * ceil(2^40 / f) >> 40 for all states x < 2^32 and frequencies f < 2^8: the error of
// the reciprocal adds less than 2^-8.
constexpr uint32_t kReciprocalBits = 40;

uint32_t symbol_of(ByteSpan codes, uint32_t state, uint64_t block, uint8_t absent) {
  const uint64_t at = block * kRansBlockBytes + state % kRansBlockBytes;
  if (at >= codes.size()) return absent;
  const auto byte = static_cast<uint32_t>(codes[at]);
  return state < kRansBlockBytes ? byte & 15 : byte >> 4;
}

std::array<uint32_t, kRansSymbols> starts_of(const RansFrequencies& frequencies) {
  std::array<uint32_t, kRansSymbols> starts{};
  std::exclusive_scan(frequencies.begin(), frequencies.end(), starts.begin(), 0u);
  return starts;
}

}  // namespace

void rans_count(ByteSpan codes, RansCounts& counts) {
  // Whole bytes first: half the increments, and neighbours seldom hit the same counter.
  std::array<uint64_t, 256> bytes{};
  for (const std::byte byte : codes) ++bytes[static_cast<uint8_t>(byte)];
  for (uint32_t i = 0; i < 256; ++i) {
    counts[i & 15] += bytes[i];
    counts[i >> 4] += bytes[i];
  }
}

RansFrequencies rans_frequencies(const RansCounts& counts) {
  const uint64_t total =
      std::max<uint64_t>(1, std::accumulate(counts.begin(), counts.end(), uint64_t{0}));
  const auto most =
      static_cast<uint32_t>(std::max_element(counts.begin(), counts.end()) - counts.begin());
  std::array<int64_t, kRansSymbols> scaled{};
  int64_t sum = 0;
  for (uint32_t i = 0; i < kRansSymbols; ++i) {
    if (counts[i] == 0) continue;
    scaled[i] =
        std::max<int64_t>(1, static_cast<int64_t>((counts[i] * kRansScale + total / 2) / total));
    sum += scaled[i];
  }
  // Rounding and the ones that rare symbols got are made up for where they weigh least.
  for (; sum > kRansScale; --sum) --*std::max_element(scaled.begin(), scaled.end());
  scaled[most] += kRansScale - sum;
  if (scaled[most] == kRansScale) {  // a byte cannot say 256
    scaled[most] = kRansScale - 1;
    scaled[most == 0 ? 1 : 0] = 1;
  }
  RansFrequencies frequencies{};
  for (uint32_t i = 0; i < kRansSymbols; ++i) frequencies[i] = static_cast<uint8_t>(scaled[i]);
  return frequencies;
}

bool rans_valid(const RansFrequencies& frequencies) {
  return std::accumulate(frequencies.begin(), frequencies.end(), 0u) == kRansScale;
}

bool RansEncoder::encode(const RansFrequencies& frequencies, ByteSpan codes) {
  const auto starts = starts_of(frequencies);
  const auto most = static_cast<uint8_t>(std::max_element(frequencies.begin(), frequencies.end()) -
                                         frequencies.begin());
  std::array<uint64_t, kRansSymbols> reciprocals{};
  for (uint32_t i = 0; i < kRansSymbols; ++i)
    if (frequencies[i] != 0)
      reciprocals[i] = ((uint64_t{1} << kReciprocalBits) + frequencies[i] - 1) / frequencies[i];
  uint64_t blocks = (codes.size() + kRansBlockBytes - 1) / kRansBlockBytes;
  while (blocks-- > 0) {
    if (begin_ < kRansStates * 2) return false;
    for (uint32_t i = kRansStates; i-- > 0;) {
      const uint32_t symbol = symbol_of(codes, i, blocks, most);
      const uint32_t frequency = frequencies[symbol];
      uint32_t x = states_[i];
      if (x >= frequency << (32 - kScaleBits)) {
        begin_ -= 2;
        room_[begin_] = static_cast<std::byte>(x);
        room_[begin_ + 1] = static_cast<std::byte>(x >> 8);
        x >>= kWordBits;
      }
      const auto quotient = static_cast<uint32_t>(
          (static_cast<unsigned __int128>(x) * reciprocals[symbol]) >> kReciprocalBits);
      states_[i] = (quotient << kScaleBits) + (x - quotient * frequency) + starts[symbol];
    }
  }
  return true;
}

void rans_decode_scalar(RansDecodeState* state, const uint8_t* frequencies, std::byte* codes,
                        uint64_t n) {
  struct Slot {
    uint8_t symbol;
    uint8_t frequency;
    uint8_t offset;  // inside the symbol's slots
  };
  std::array<Slot, kRansScale> slots{};
  uint32_t slot = 0;
  for (uint32_t symbol = 0; symbol < kRansSymbols; ++symbol)
    for (uint32_t i = 0; i < frequencies[symbol]; ++i)
      slots[slot++ % kRansScale] = {static_cast<uint8_t>(symbol), frequencies[symbol],
                                    static_cast<uint8_t>(i)};
  for (uint64_t begin = 0; begin < n; begin += kRansBlockBytes) {
    std::array<uint8_t, kRansStates> symbols{};
    for (uint32_t i = 0; i < kRansStates; ++i) {
      uint32_t x = state->states[i];
      const Slot& at = slots[x % kRansScale];
      symbols[i] = at.symbol;
      x = at.frequency * (x >> kScaleBits) + at.offset;
      if (x < kRansStateMin) {
        uint32_t word = 0;
        if (state->n_words == 0) {
          state->overrun = true;
        } else {
          word = static_cast<uint32_t>(state->words[0]) | static_cast<uint32_t>(state->words[1])
                                                              << 8;
          state->words += 2;
          --state->n_words;
        }
        x = x << kWordBits | word;
      }
      state->states[i] = x;
    }
    const uint64_t bytes = std::min<uint64_t>(kRansBlockBytes, n - begin);
    for (uint64_t i = 0; i < bytes; ++i)
      codes[begin + i] = static_cast<std::byte>(symbols[i] | symbols[i + kRansBlockBytes] << 4);
  }
}

RansDecode rans_decoder() {
  static const RansDecode vectors = rans_decode_avx512();
  const bool scalar = vectors == nullptr || std::string_view(quire_kernel_isa_name()) == "scalar";
  return scalar ? rans_decode_scalar : vectors;
}

}  // namespace quire
