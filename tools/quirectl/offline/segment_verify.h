// Proves every byte of a segment file that a start of the server could serve, and names each kind
// of damage. Reads only.
#ifndef QUIRE_TOOLS_QUIRECTL_OFFLINE_SEGMENT_VERIFY_H_
#define QUIRE_TOOLS_QUIRECTL_OFFLINE_SEGMENT_VERIFY_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/hash.h"
#include "base/status.h"
#include "tools/quirectl/offline/segment_file.h"

namespace quire::ctl {

enum class DamageKind : uint8_t {
  kSuperblock,     // one slot (the other one serves), or both (the file cannot be opened)
  kFileCutShort,   // the file ends before its last segment
  kReadError,      // the device refuses to read
  kSegmentHeader,  // objects behind it are not found by a start
  kFooter,         // the objects are found all the same, by walking
  kFooterTable,    // as kFooter
  kObjectHeader,   // the object cannot be read; in an unsealed segment all behind it, too
  kPayload,        // the object reads as a miss
  // Not certain: what a kill in the middle of writes leaves, or a damaged header whose magic is
  // gone. No acknowledged object is affected by the former.
  kHole,
};
inline constexpr size_t kDamageKindCount = 9;
const char* damage_name(DamageKind kind);     // "payload" and so on
const char* damage_meaning(DamageKind kind);  // one sentence: what it means and what to do
inline bool is_certain(DamageKind kind) {
  return kind != DamageKind::kHole;
}

struct Damage {
  DamageKind kind = DamageKind::kPayload;
  std::optional<uint32_t> segment;
  uint64_t offset = 0;  // in the segment; in the file where there is no segment
  std::optional<Digest> key;
  std::string what;
};

// More are counted, not described.
inline constexpr size_t kDamageShownMax = 1000;

struct VerifyReport {
  uint64_t segments = 0;
  uint64_t segments_free = 0;
  uint64_t segments_sealed = 0;
  uint64_t segments_open = 0;
  uint64_t objects = 0;
  uint64_t objects_good = 0;
  // Entries that recovery flagged when it sealed a segment: writes cut off by a power failure.
  uint64_t objects_given_up = 0;
  uint64_t payload_bytes = 0;
  std::array<uint64_t, kDamageKindCount> damage_counts{};
  std::vector<Damage> damage;  // at most kDamageShownMax
  // By segment: as its header says; 0 where it is free or not readable.
  std::vector<uint64_t> generations;
  bool interrupted = false;

  void add(Damage found);
  uint64_t certain_damage() const;
};

// segments done of all, bytes read; false ends the run (VerifyReport::interrupted).
using Progress = std::function<bool(uint64_t done, uint64_t all, uint64_t bytes)>;

// An object whose header and payload hold, with the payload.
using GoodObject =
    std::function<void(uint32_t segment, const nvme::FooterEntry& entry, ByteSpan payload)>;

// Adds to report.
void verify_segments(SegmentFile& file, VerifyReport& report, const Progress& progress,
                     const GoodObject& good = nullptr);
// Damage that keeps a file from being opened, as a report; or the error as it is (not there, in
// use, no permission, another version).
Expected<VerifyReport> damage_of_open(const Status& open_error);

}  // namespace quire::ctl

#endif  // QUIRE_TOOLS_QUIRECTL_OFFLINE_SEGMENT_VERIFY_H_
