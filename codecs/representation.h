// A stored representation: manifest (ids, context, token ids, section table) followed by sections,
// one per (layer, plane), each 64-byte aligned with its own XXH3-64. It is self-describing: tiers
// keep it as opaque bytes, the server checks it on ingest, an index can be rebuilt from it. Offsets
// and an example hexdump: docs/formats/representation.md. Parsing is safe on hostile bytes.
#ifndef QUIRE_CODECS_REPRESENTATION_H_
#define QUIRE_CODECS_REPRESENTATION_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/ids.h"
#include "base/status.h"
#include "codecs/codec_ids.h"

namespace quire {

inline constexpr uint64_t kSectionAlignment = 64;
inline constexpr uint64_t kRepresentationBytesMax = 1ull << 30;

struct SectionEntry {
  uint32_t layer = 0;
  Plane plane = Plane::kKey;
  uint64_t offset = 0;  // from the first byte of the representation
  uint64_t bytes = 0;
  uint64_t xxh3 = 0;
};

struct RepresentationHeader {
  CodecId codec = CodecId::kRawF16;
  PositionFrame frame = PositionFrame::kLocal;
  VariantContext context;
  Digest model;
  Digest object;
  Digest variant;
  Digest representation;
  uint64_t base_position = 0;
  Coverage coverage;
  std::vector<TokenId> tokens;
};

// Fills in object, variant and representation ids from model, tokens, context, codec, frame,
// coverage.
void fill_ids(RepresentationHeader& header, ByteSpan tenant_salt);

// Lays out a representation whose section sizes are known: place() says where each section's bytes
// go, so encoders write straight into a staging window; finish() writes the manifest and section
// checksums.
class RepresentationWriter {
 public:
  // section_bytes[(layer - layer_begin) * 2 + plane]; header.ids must be filled in.
  static Expected<RepresentationWriter> plan(const RepresentationHeader& header,
                                             std::span<const uint64_t> section_bytes);

  uint64_t total_bytes() const { return total_bytes_; }
  // The section's bytes inside buffer (buffer.size() == total_bytes()).
  MutableByteSpan section(MutableByteSpan buffer, uint32_t layer, Plane plane) const;
  // Checksums the sections, zeroes all padding and writes the manifest. Call after encoding.
  void finish(MutableByteSpan buffer) const;

 private:
  RepresentationHeader header_;
  std::vector<SectionEntry> sections_;
  uint64_t total_bytes_ = 0;
};

// A parsed manifest over bytes that outlive it.
class RepresentationView {
 public:
  // Checks magic, version, limits, section table bounds and the manifest checksum, and that
  // object-free ids fit (variant from object and context, representation from variant). Section
  // checksums are checked by verify_sections(), the object id by verify_object().
  static Expected<RepresentationView> parse(ByteSpan bytes);

  // How long the manifest says it is, from the first bytes of one that is still arriving; parse()
  // reads nothing behind. nullopt: too few bytes to tell, or no manifest. Checks nothing else.
  static std::optional<uint64_t> manifest_bytes(ByteSpan prefix);

  const RepresentationHeader& header() const { return header_; }
  std::span<const SectionEntry> sections() const { return sections_; }
  uint64_t total_bytes() const { return bytes_.size(); }
  Expected<ByteSpan> section(uint32_t layer, Plane plane) const;
  Status verify_sections() const;
  Status verify_object(ByteSpan tenant_salt) const;

 private:
  ByteSpan bytes_;
  RepresentationHeader header_;
  std::vector<SectionEntry> sections_;
};

}  // namespace quire

#endif  // QUIRE_CODECS_REPRESENTATION_H_
