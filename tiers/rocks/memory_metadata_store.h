// MetadataStore in memory, for tests of its users. Holds encoded records, so the formats are
// exercised.
#ifndef QUIRE_TIERS_ROCKS_MEMORY_METADATA_STORE_H_
#define QUIRE_TIERS_ROCKS_MEMORY_METADATA_STORE_H_

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "tiers/rocks/metadata_store.h"

namespace quire::tiers {

class MemoryMetadataStore final : public MetadataStore {
 public:
  // Until told otherwise (an OK status), every write fails with this status and changes nothing.
  void fail_writes_with(Status status);
  // As a new process would find it: one epoch later, clean_shutdown if close() was called.
  void reopen();

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
  Status checkpoint(const std::string& directory) const override;  // kUnsupported
  Status close() override;

 private:
  using Bytes = std::vector<std::byte>;

  mutable std::mutex mutex_;
  StoreIdentity identity_{"00000000000000000000000000000000", 1, true, false};
  Status write_status_;
  bool closed_ = false;
  std::map<Digest, Bytes> representations_;
  std::map<Digest, Bytes> tokens_;
  std::map<Digest, Bytes> models_;
  std::map<Digest, Bytes> blobs_;
  std::map<uint32_t, Bytes> tenants_;
  std::map<std::string, Bytes, std::less<>> state_values_;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_ROCKS_MEMORY_METADATA_STORE_H_
