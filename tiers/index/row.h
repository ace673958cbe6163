// What RAM holds for every stored representation: what finding, reading and evicting need at once.
// Everything else (tokens, context, coverage) is read from the metadata store when it is needed:
// see details.h.
#ifndef QUIRE_TIERS_INDEX_ROW_H_
#define QUIRE_TIERS_INDEX_ROW_H_

#include <cstdint>

#include "base/hash.h"
#include "base/ids.h"
#include "tiers/index/fingerprints.h"

namespace quire::tiers {

// Number of a row: stable while it lives, given to a later row after its removal.
using RowId = uint32_t;
inline constexpr RowId kNoRow = UINT32_MAX;

enum class RowPlace : uint8_t { kMemory = 0 /* host tier only */, kNvme = 1, kRocks = 2 };

// A variant that had to be thrown away so often after its use is no chunk match any more.
inline constexpr uint8_t kStrikesMax = 3;

// The caller's flags beside the place; bits 5 to 7 are unused.
inline constexpr uint8_t kRowDurable = 1u << 2;
inline constexpr uint8_t kRowPinned = 1u << 3;
inline constexpr uint8_t kRowHasRecord = 1u << 4;

// The index reads what finding needs and never looks at the rest, which is the caller's. What the
// index reads (representation, fingerprints, bytes, n_tokens, space, kind_and_phase, codec,
// variant_tag and the links) must not be changed from outside.
struct IndexRow {
  // What a walk along a chain looks at, next to each other.
  TokenFingerprints fingerprints;
  uint32_t n_tokens : 24 = 0;
  uint32_t strikes : 8 = 0;  // caller's, by feedback; the index does not list it from kStrikesMax
  uint32_t space = UINT32_MAX;  // number of its IndexSpace; UINT32_MAX: no row lives here
  RowId next = kNoRow;          // rows with the same level fingerprint
  RowId previous = kNoRow;
  uint16_t codec = 0;
  uint8_t kind_and_phase = 0;   // ContextKind | Phase << 4
  uint8_t place_and_flags = 0;  // caller's: RowPlace | kRowDurable | ...
  uint32_t bytes = 0;           // of the payload
  Digest representation;
  Hash128 checksum;                 // caller's: XXH3-128 of the payload
  uint32_t nvme_segment = 0;        // caller's
  uint32_t nvme_offset_blocks = 0;  // caller's: in blocks of 4 KiB
  uint32_t live = UINT32_MAX;       // caller's: number of its in-memory entry
  uint32_t hits = 0;                // caller's: saturating
  uint32_t last_used_s = 0;         // caller's: wall clock, seconds; 0 unknown
  uint32_t variant_tag = 0;         // the first bytes of the variant id

  ContextKind kind() const { return static_cast<ContextKind>(kind_and_phase & 0x0f); }
  Phase phase() const { return static_cast<Phase>(kind_and_phase >> 4); }
  RowPlace place() const { return static_cast<RowPlace>(place_and_flags & kPlaceBits); }
  void set_place(RowPlace place) {
    place_and_flags =
        static_cast<uint8_t>((place_and_flags & ~kPlaceBits) | static_cast<uint8_t>(place));
  }
  bool flag(uint8_t which) const { return (place_and_flags & which) != 0; }
  void set_flag(uint8_t which, bool on) {
    place_and_flags = static_cast<uint8_t>(on ? place_and_flags | which : place_and_flags & ~which);
  }

 private:
  static constexpr uint8_t kPlaceBits = 3;
};
static_assert(sizeof(IndexRow) == 112);

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_INDEX_ROW_H_
