// Codecs that need a library or serial state: a whole section of a base codec, packed. They serve
// the far tiers, where bytes cost more than time; a load expands a section into scratch memory
// first. Bytes: docs/formats/codecs.md, "Lossless behind a library". All functions are pure but for
// the memory they are told to fill, thread safe, and safe on hostile bytes.
#ifndef QUIRE_CODECS_WRAPPED_H_
#define QUIRE_CODECS_WRAPPED_H_

#include <cstdint>
#include <optional>

#include "base/bytes.h"
#include "base/status.h"
#include "codecs/codec_ids.h"

namespace quire {

// A section's shape; within the limits of base/ids.h.
struct SectionShape {
  Plane plane = Plane::kKey;
  uint32_t n_tokens = 0;
  uint32_t n_heads = 0;
  uint32_t head_dim = 0;
};

// What the sections of a wrapped codec expand to; nullopt for codecs that the kernels load as they
// are.
std::optional<CodecId> base_codec(CodecId codec);

// The most a wrapped section takes for a base section of base_bytes: stored as it is behind the
// header.
uint64_t wrapped_bytes_max(uint64_t base_bytes);

// Packs a section of base_codec(codec); packed has wrapped_bytes_max(base.size()) bytes. Returns
// the section's size, all of it written. Equal input gives equal bytes with one build of the
// libraries; never larger than stored. kInternal where a library fails.
Expected<uint64_t> wrap_section(CodecId codec, const SectionShape& shape, ByteSpan base,
                                MutableByteSpan packed);

// That the header fits the shape and the section's size; touches no payload. kCorrupt.
Status check_wrapped(CodecId codec, const SectionShape& shape, ByteSpan packed);

// Expands into base (exactly the base section's size) and verifies its checksum. kCorrupt: header,
// payload or checksum; base's content is then unspecified.
Status expand_section(CodecId codec, const SectionShape& shape, ByteSpan packed,
                      MutableByteSpan base);

}  // namespace quire

#endif  // QUIRE_CODECS_WRAPPED_H_
