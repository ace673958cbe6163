// What outlives a restart besides the payloads in NVMe segments: records of representations, their
// tokens, models and tenants, small state, and payloads under kBlobBytesMax. RocksStore keeps it
// on disk, MemoryMetadataStore in memory for tests.
//
// Thread rules: all methods may be called from any thread; scans see the state of when they began,
// and their visitors may read and write the store, but not close it. Durability: write(batch, sync
// = true) has reached the disk when it returns OK; with sync = false the last writes may be lost in
// a power failure (not in a crash of the process), never a part of a batch and never an earlier
// batch while a later one is kept.
#ifndef QUIRE_TIERS_ROCKS_METADATA_STORE_H_
#define QUIRE_TIERS_ROCKS_METADATA_STORE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/status.h"
#include "tiers/rocks/records.h"

namespace quire::tiers {

// Larger payloads belong to the NVMe tier.
inline constexpr uint64_t kBlobBytesMax = 1ull << 20;
// A batch of more payload than this is refused: it would pass through a write buffer in one piece.
inline constexpr uint64_t kBatchBytesMax = 32ull << 20;
inline constexpr uint32_t kStateKeyBytesMax = 256;
// Ids of damaged records that a scan reports; more are only counted.
inline constexpr uint64_t kCorruptIdsMax = 4096;

struct RecordFingerprints {
  uint64_t tokens = 0;
  uint32_t first = 0;
  uint32_t level = 0;
  bool operator==(const RecordFingerprints&) const = default;
};

// A change of a record, read and written back on the writing thread. A record that is not there
// stays absent, one that does not verify stays as it is.
struct RepresentationPatch {
  // Sets the location to NVMe. A place of other payload bytes than the record's is of an earlier
  // life of the id: then the whole patch is ignored.
  std::optional<NvmeRecordLocation> nvme;
  std::optional<uint64_t> pinned_until_wall_ms;
  std::optional<uint64_t> hits;
  std::optional<uint64_t> last_used_wall_ms;
  std::optional<uint8_t> priority;
  std::optional<uint8_t> strikes;
  std::optional<float> deviation;
  std::optional<RecordFingerprints> fingerprints;
};

// False where the patch does not fit the record, which then is unchanged.
bool apply_patch(const RepresentationPatch& patch, RepresentationRecord& record);

// Applied as one. Spans must stay valid until write() returns. A delete of what is not there is
// fine. Puts come first, then patches in their order (they see the puts and each other), then
// deletes.
struct MetadataBatch {
  std::vector<std::pair<Digest, RepresentationRecord>> put_representations;
  std::vector<std::pair<Digest, TokensRecord>> put_tokens;  // by representation id
  std::vector<std::pair<Digest, ModelRecord>> put_models;
  std::vector<std::pair<uint32_t, TenantRecord>> put_tenants;
  std::vector<std::pair<std::string, std::vector<std::byte>>> put_state;
  std::vector<std::pair<Digest, ByteSpan>> put_blobs;  // by representation id
  std::vector<std::pair<Digest, RepresentationPatch>> patch_representations;
  std::vector<Digest> delete_representations;  // and their tokens
  std::vector<Digest> delete_models;
  std::vector<uint32_t> delete_tenants;
  std::vector<std::string> delete_state;
  std::vector<Digest> delete_blobs;

  bool empty() const;
  void clear();
};

// OK, or kInvalidArgument naming the limit that the batch breaks. write() asks it first.
Status validate_batch(const MetadataBatch& batch);

struct ScanReport {
  uint64_t records = 0;             // given to the callback
  uint64_t corrupt = 0;             // did not verify and were skipped
  std::vector<Digest> corrupt_ids;  // for the caller to delete
};

// How the store was found when it was opened.
struct StoreIdentity {
  std::string uuid;             // 32 hexadecimal digits, made with the store
  uint64_t epoch = 0;           // grows at every open
  bool created = false;         // by this open
  bool clean_shutdown = false;  // the last user called close()
  uint32_t upgraded_from = 0;   // by this open: the older format version it found, or 0
};

struct MetadataSizes {
  uint64_t disk_bytes = 0;  // all files
  uint64_t blob_bytes = 0;  // blob files, garbage included
  uint64_t live_blob_bytes = 0;
  uint64_t representations = 0;  // estimates
  uint64_t memory_bytes = 0;     // write buffers and caches
};

class MetadataStore {
 public:
  // Return false to end the scan early.
  template <typename Key, typename Record>
  using Visitor = std::function<bool(const Key&, Record&&)>;

  // What a match must know of a representation.
  struct Details {
    RepresentationRecord record;
    std::vector<TokenId> tokens;
  };

  virtual ~MetadataStore() = default;

  virtual StoreIdentity identity() const = 0;
  // All or nothing. kInvalidArgument beyond a limit, kNoSpace on a full disk (writes work again
  // soon after space is freed), kIoError (writes fail from then on until the store is reopened;
  // reads go on), kUnavailable after close(). What failed may still be found after a restart.
  virtual Status write(const MetadataBatch& batch, bool sync) = 0;

  // Copies the payload to target and verifies it there. kNotFound, or kCorrupt where its size or
  // checksum differs from what the caller knows.
  virtual Status get_blob(const Digest& representation, MutableByteSpan target,
                          const Hash128& expected) const = 0;
  virtual Expected<RepresentationRecord> get_representation(const Digest& id) const = 0;
  // One answer per id, in order, all of one moment. kNotFound; kCorrupt where the record or its
  // tokens do not verify, are not of one length, or the tokens are lost.
  virtual std::vector<Expected<Details>> get_details(std::span<const Digest> ids) const = 0;
  virtual Expected<std::vector<std::byte>> get_state(std::string_view key) const = 0;

  // In key order. A record that does not verify is skipped and reported; only a failing read is an
  // error.
  virtual Expected<ScanReport> scan_representations(
      const Visitor<Digest, RepresentationRecord>& visit) const = 0;
  virtual Expected<ScanReport> scan_models(const Visitor<Digest, ModelRecord>& visit) const = 0;
  virtual Expected<ScanReport> scan_tenants(const Visitor<uint32_t, TenantRecord>& visit) const = 0;
  // Ids of the stored blobs, to find those that no record names. Reads no payload. Blobs that are
  // written or deleted meanwhile may be visited or not.
  virtual Expected<uint64_t> scan_blob_ids(
      const std::function<bool(const Digest&)>& visit) const = 0;

  virtual MetadataSizes approximate_sizes() const = 0;
  // Writes a copy that can be opened as a store of its own; directory must not exist.
  virtual Status checkpoint(const std::string& directory) const = 0;
  // Flushes, marks a clean shutdown and closes; everything later is kUnavailable. Without it the
  // destructor closes, and the next open finds clean_shutdown false.
  virtual Status close() = 0;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_ROCKS_METADATA_STORE_H_
