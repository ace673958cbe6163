// Numeric ids of codecs. They are stored and hashed into representation ids: never reuse, never
// change. A section for each: docs/formats/codecs.md.
#ifndef QUIRE_CODECS_CODEC_IDS_H_
#define QUIRE_CODECS_CODEC_IDS_H_

#include <cstdint>

namespace quire {

enum class CodecId : uint16_t {
  kRawF16 = 1,
  kRawBf16 = 2,
  kRawF32 = 3,
  kBf16Exp4 = 4,         // lossless: 4-bit exponent codes with escapes
  kBf16Window3 = 5,      // lossless: 3 bits below the channel's top exponent, escapes
  kBf16ShuffleLz4 = 6,   // lossless: bits shuffled, LZ4
  kBf16SplitZstd = 7,    // lossless: exponent bytes apart, zstd
  kInt8Channel = 16,     // K per channel over runs of up to 256 tokens, V per token and head
  kFp8Token = 17,        // e4m3, scale per token and head
  kInt4Channel64 = 32,   // K per channel over runs of 64 tokens, V Hadamard per token and head
  kInt4Channel128 = 33,  // the same over runs of 128
  kInt4Kivi = 34,        // K per channel over 32 tokens, V per token and 32 dims
  kInt4Hadamard = 35,    // both Hadamard per token and head
  kInt4Centred = 36,     // K: mean and deviation per channel off, then Hadamard
  kInt4Rans = 37,        // kInt4Channel64 with entropy-coded levels
  kInt3Channel64 = 48,
  kInt2Channel32 = 56,
  kInt2Kivi = 57,
  kMixedInt8Int4 = 64,  // salient tokens as kInt8Channel, others as kInt4Channel64
  kMixedInt8Int2 = 65,  // salient tokens as kInt8Channel, others as kInt2Channel32
  kStatistics = 128,    // no KV: vectors of attention statistics (codecs/statistics.h)
};

enum class Plane : uint16_t { kKey = 0, kValue = 1 };

}  // namespace quire

#endif  // QUIRE_CODECS_CODEC_IDS_H_
