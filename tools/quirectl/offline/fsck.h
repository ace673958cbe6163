// Checks a whole data directory against itself: metadata, registry copy, segment files, small
// payloads; and plans what can be repaired without inventing data. Reads only; apply_repair() is
// the one that writes.
#ifndef QUIRE_TOOLS_QUIRECTL_OFFLINE_FSCK_H_
#define QUIRE_TOOLS_QUIRECTL_OFFLINE_FSCK_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "base/status.h"
#include "tiers/rocks/records.h"
#include "tools/quirectl/offline/segment_verify.h"

namespace quire::ctl {

enum class FindingKind : uint8_t {
  kMetadataMissing,
  kMetadataDamaged,
  kMetadataUnreadable,  // of a later version, or no permission
  kUpgradePending,
  kRegistryMissing,
  kRegistryDamaged,
  kRegistryStale,
  kTenantLost,
  kModelLost,
  kVerdictDamaged,
  kRecordDamaged,
  kTokensDamaged,
  kIdentityWrong,
  kOwnerUnknown,
  kSegmentFile,
  kSegmentDamage,
  kPayloadLost,
  kPayloadUnknown,
  kPayloadOverwritten,
  kPayloadForeign,
  kPayloadOrphan,
  kBlobDamaged,
  kBlobOrphan,
};
inline constexpr size_t kFindingKindCount = 23;

enum class Severity : uint8_t {
  kNote,    // normal after a kill or an eviction; the next start tidies it up
  kDamage,  // something acknowledged is lost or in doubt
};

struct FindingText {
  const char* name;
  Severity severity;
  const char* meaning;  // and what to do
};
const FindingText& finding_text(FindingKind kind);

struct Finding {
  FindingKind kind = FindingKind::kMetadataMissing;
  std::optional<Digest> id;  // of a representation, where it is about one
  std::string what;
};

// More are counted, not described.
inline constexpr size_t kFindingsShownMax = 1000;

struct RepairPlan {
  std::vector<std::pair<Digest, tiers::RepresentationRecord>> put_records;
  std::vector<std::pair<Digest, tiers::TokensRecord>> put_tokens;
  std::vector<std::pair<Digest, tiers::ModelRecord>> put_models;
  std::vector<std::pair<uint32_t, tiers::TenantRecord>> put_tenants;
  std::vector<std::pair<std::string, std::vector<std::byte>>> put_states;
  std::vector<Digest> drop_records;  // and their tokens
  std::vector<Digest> drop_blobs;

  bool empty() const {
    return put_records.empty() && put_tokens.empty() && put_models.empty() && put_tenants.empty() &&
           put_states.empty() && drop_records.empty() && drop_blobs.empty();
  }
};

struct FsckReport {
  bool metadata_opened = false;
  uint64_t records = 0;
  uint64_t records_good = 0;  // record, tokens, ids and payload hold
  uint64_t blobs = 0;
  uint64_t tenants = 0;
  uint64_t models = 0;
  std::vector<std::pair<std::string, VerifyReport>> files;
  std::array<uint64_t, kFindingKindCount> counts{};
  std::vector<Finding> findings;  // at most kFindingsShownMax
  RepairPlan plan;                // empty where interrupted
  bool interrupted = false;

  void add(FindingKind kind, std::string what, std::optional<Digest> id = std::nullopt);
  uint64_t count(FindingKind kind) const { return counts[static_cast<size_t>(kind)]; }
  uint64_t damage() const;
};

struct FsckInput {
  std::string data_directory;
  std::vector<std::string> segment_files;  // in the order of the configuration
  // Segments are numbered through the files in this order; false where the order was guessed.
  bool order_is_known = true;
};

// The step ("metadata", "segments of FILE", ...), done and all of it; false ends the run.
using FsckProgress = std::function<bool(const std::string& step, uint64_t done, uint64_t all)>;

// The caller holds the locks of the directory.
FsckReport check_store(const FsckInput& input, const FsckProgress& progress);

// Opens the metadata store and writes the plan, in batches that are each applied as one and synced.
// The lock of the metadata must be free, that of the data directory held. Stopped between two
// batches it has done a part; running it again does the rest.
Status apply_repair(const std::string& data_directory, const RepairPlan& plan);

}  // namespace quire::ctl

#endif  // QUIRE_TOOLS_QUIRECTL_OFFLINE_FSCK_H_
