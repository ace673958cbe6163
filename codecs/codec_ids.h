// Numeric ids of codecs. They are stored and hashed into representation ids: never reuse, never
// change. A page for each: docs/formats/codecs.md.
#ifndef QUIRE_CODECS_CODEC_IDS_H_
#define QUIRE_CODECS_CODEC_IDS_H_

#include <cstdint>

namespace quire {

enum class CodecId : uint16_t {
  kRawF16 = 1,
  kRawBf16 = 2,
  kRawF32 = 3,
  kInt8Channel = 16,  // K per channel over runs of up to 256 tokens, V per token and head
};

enum class Plane : uint16_t { kKey = 0, kValue = 1 };

}  // namespace quire

#endif  // QUIRE_CODECS_CODEC_IDS_H_
