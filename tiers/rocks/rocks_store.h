// MetadataStore on RocksDB, the only place of Quire that knows RocksDB. Layout of the directory and
// of all values: docs/formats/metadata.md. Payloads go to BlobDB files, the rest to small column
// families.
#ifndef QUIRE_TIERS_ROCKS_ROCKS_STORE_H_
#define QUIRE_TIERS_ROCKS_ROCKS_STORE_H_

#include <memory>
#include <string>

#include "tiers/rocks/metadata_store.h"

namespace rocksdb {
class Env;
}

namespace quire::tiers {

struct RocksOptions {
  uint64_t block_cache_bytes = 64ull << 20;
  uint64_t blob_write_buffer_bytes = 64ull << 20;
  uint64_t tokens_write_buffer_bytes = 32ull << 20;
  uint64_t write_buffer_bytes = 16ull << 20;  // per small column family
  uint32_t background_jobs_max = 2;
  bool create_if_missing = true;
  // For tests: faults below RocksDB. Null: the system's. Outlives the store.
  rocksdb::Env* env = nullptr;
};

class RocksStore final : public MetadataStore {
 public:
  // Creates the directory where it is missing or empty. Errors, each naming the directory and what
  // to do:
  //   kFailedPrecondition  another process (or this one) has it open; or it holds something else
  //   kNotFound            missing, and create_if_missing is false
  //   kVersionMismatch     written by a later version
  //   kCorrupt             RocksDB or the marker file is damaged; nothing was changed
  //   kPermissionDenied, kNoSpace, kIoError
  static Expected<std::unique_ptr<RocksStore>> open(const std::string& directory,
                                                    const RocksOptions& options = {});
  ~RocksStore() override;

  // Moves a store that open() calls kCorrupt out of the way: directory becomes
  // directory.damaged-<wall clock, ms>, with everything in it, durably. moved_to (may be null)
  // receives the new name. kFailedPrecondition where a server has it open or it is not a store of
  // Quire, kVersionMismatch where it is a later one, kNotFound, kPermissionDenied, kIoError.
  static Status set_aside(const std::string& directory, std::string* moved_to = nullptr);

  StoreIdentity identity() const override;
  Status write(const MetadataBatch& batch, bool sync) override;
  Status get_blob(const Digest& representation, MutableByteSpan target,
                  const Hash128& expected) const override;
  Expected<RepresentationRecord> get_representation(const Digest& id) const override;
  std::vector<Expected<Details>> get_details(std::span<const Digest> ids) const override;
  Expected<std::vector<std::byte>> get_state(std::string_view key) const override;
  Expected<ScanReport> scan_representations(
      const Visitor<Digest, RepresentationRecord>& visit) const override;
  Expected<ScanReport> scan_models(const Visitor<Digest, ModelRecord>& visit) const override;
  Expected<ScanReport> scan_tenants(const Visitor<uint32_t, TenantRecord>& visit) const override;
  Expected<uint64_t> scan_blob_ids(const std::function<bool(const Digest&)>& visit) const override;
  MetadataSizes approximate_sizes() const override;
  Status checkpoint(const std::string& directory) const override;
  Status close() override;

 private:
  struct State;
  explicit RocksStore(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_ROCKS_ROCKS_STORE_H_
