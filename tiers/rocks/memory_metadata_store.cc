#include "tiers/rocks/memory_metadata_store.h"

#include <cstring>

#include "tiers/rocks/scan.h"

namespace quire::tiers {
namespace {

Status closed_status() {
  return {StatusCode::kUnavailable, "the metadata store is closed"};
}
Status not_found() {
  return {StatusCode::kNotFound, "no such record"};
}

template <typename Map, typename Parse, typename Visit>
ScanReport scan_map(const Map& map, const Parse& parse, const Visit& visit) {
  ScanReport report;
  for (const auto& [key, bytes] : map)
    if (!visit_record(key, parse(key, bytes), visit, report)) break;
  return report;
}

}  // namespace

void MemoryMetadataStore::fail_writes_with(Status status) {
  const std::lock_guard lock(mutex_);
  write_status_ = std::move(status);
}

void MemoryMetadataStore::reopen() {
  const std::lock_guard lock(mutex_);
  identity_.clean_shutdown = closed_;
  identity_.created = false;
  ++identity_.epoch;
  closed_ = false;
}

StoreIdentity MemoryMetadataStore::identity() const {
  const std::lock_guard lock(mutex_);
  return identity_;
}

Status MemoryMetadataStore::write(const MetadataBatch& batch, bool /*sync*/) {
  QUIRE_RETURN_IF_ERROR(validate_batch(batch));
  const std::lock_guard lock(mutex_);
  if (closed_) return closed_status();
  if (!write_status_) return write_status_;
  for (const auto& [id, record] : batch.put_representations)
    representations_[id] = encode_record(id, record);
  for (const auto& [id, record] : batch.put_tokens) tokens_[id] = encode_record(id, record);
  for (const auto& [id, record] : batch.put_models) models_[id] = encode_record(id, record);
  for (const auto& [id, record] : batch.put_tenants) tenants_[id] = encode_record(id, record);
  for (const auto& [key, value] : batch.put_state)
    state_values_[key] = encode_state_record(key, value);
  for (const auto& [id, payload] : batch.put_blobs) blobs_[id] = {payload.begin(), payload.end()};
  for (const auto& [id, patch] : batch.patch_representations) {
    const auto found = representations_.find(id);
    if (found == representations_.end()) continue;
    auto record = parse_representation_record(id, found->second);
    if (record && apply_patch(patch, *record)) found->second = encode_record(id, *record);
  }
  for (const Digest& id : batch.delete_representations) {
    representations_.erase(id);
    tokens_.erase(id);
  }
  for (const Digest& id : batch.delete_models) models_.erase(id);
  for (const uint32_t id : batch.delete_tenants) tenants_.erase(id);
  for (const std::string& key : batch.delete_state) state_values_.erase(key);
  for (const Digest& id : batch.delete_blobs) blobs_.erase(id);
  return Status::ok();
}

Status MemoryMetadataStore::get_blob(const Digest& representation, MutableByteSpan target,
                                     const Hash128& expected) const {
  const std::lock_guard lock(mutex_);
  if (closed_) return closed_status();
  const auto found = blobs_.find(representation);
  if (found == blobs_.end()) return not_found();
  if (found->second.size() != target.size())
    return {StatusCode::kCorrupt, "a payload of another size is stored"};
  if (copy_and_xxh3_128(target, found->second) != expected)
    return {StatusCode::kCorrupt, "the stored payload does not match its checksum"};
  return Status::ok();
}

Expected<RepresentationRecord> MemoryMetadataStore::get_representation(const Digest& id) const {
  const std::lock_guard lock(mutex_);
  if (closed_) return closed_status();
  const auto found = representations_.find(id);
  if (found == representations_.end()) return not_found();
  return parse_representation_record(id, found->second);
}

std::vector<Expected<MetadataStore::Details>> MemoryMetadataStore::get_details(
    std::span<const Digest> ids) const {
  std::vector<Expected<Details>> answers;
  answers.reserve(ids.size());
  const std::lock_guard lock(mutex_);
  for (const Digest& id : ids) {
    const auto record = representations_.find(id);
    const auto tokens = tokens_.find(id);
    if (closed_) {
      answers.emplace_back(closed_status());
    } else if (record == representations_.end()) {
      answers.emplace_back(not_found());
    } else {
      answers.push_back(join_details(
          id, record->second, tokens == tokens_.end() ? ByteSpan{} : ByteSpan(tokens->second)));
    }
  }
  return answers;
}

Expected<std::vector<std::byte>> MemoryMetadataStore::get_state(std::string_view key) const {
  const std::lock_guard lock(mutex_);
  if (closed_) return closed_status();
  const auto found = state_values_.find(key);
  if (found == state_values_.end()) return not_found();
  return parse_state_record(key, found->second);
}

// Scans walk a copy: the visitor may write.
Expected<ScanReport> MemoryMetadataStore::scan_representations(
    const Visitor<Digest, RepresentationRecord>& visit) const {
  std::unique_lock lock(mutex_);
  if (closed_) return closed_status();
  const auto copy = representations_;
  lock.unlock();
  return scan_map(copy, parse_representation_record, visit);
}

Expected<ScanReport> MemoryMetadataStore::scan_models(
    const Visitor<Digest, ModelRecord>& visit) const {
  std::unique_lock lock(mutex_);
  if (closed_) return closed_status();
  const auto copy = models_;
  lock.unlock();
  return scan_map(copy, parse_model_record, visit);
}

Expected<ScanReport> MemoryMetadataStore::scan_tenants(
    const Visitor<uint32_t, TenantRecord>& visit) const {
  std::unique_lock lock(mutex_);
  if (closed_) return closed_status();
  const auto copy = tenants_;
  lock.unlock();
  return scan_map(copy, parse_tenant_record, visit);
}

Expected<uint64_t> MemoryMetadataStore::scan_blob_ids(
    const std::function<bool(const Digest&)>& visit) const {
  std::vector<Digest> ids;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return closed_status();
    for (const auto& [id, bytes] : blobs_) ids.push_back(id);
  }
  uint64_t visited = 0;
  for (const Digest& id : ids) {
    ++visited;
    if (!visit(id)) break;
  }
  return visited;
}

MetadataSizes MemoryMetadataStore::approximate_sizes() const {
  const std::lock_guard lock(mutex_);
  MetadataSizes sizes;
  for (const auto& [id, bytes] : blobs_) sizes.live_blob_bytes += bytes.size();
  sizes.blob_bytes = sizes.live_blob_bytes;
  sizes.memory_bytes = sizes.live_blob_bytes;
  sizes.representations = representations_.size();
  return sizes;
}

Status MemoryMetadataStore::checkpoint(const std::string& /*directory*/) const {
  return {StatusCode::kUnsupported, "a store in memory has no checkpoints"};
}

Status MemoryMetadataStore::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  return Status::ok();
}

}  // namespace quire::tiers
