// The writing side of RocksStore: batches, patches, and the store's own marks.
#include <rocksdb/write_batch.h>
#include <sys/random.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>

#include "tiers/io/kill_point.h"
#include "tiers/rocks/rocks_state.h"

namespace quire::tiers {
namespace {

constexpr uint64_t kUuidBytes = 16;

Expected<std::string> new_uuid() {
  uint8_t random[kUuidBytes];
  if (::getentropy(random, sizeof(random)) != 0)
    return Status(StatusCode::kInternal, "no random numbers from the kernel");
  Digest digest;
  std::memcpy(digest.bytes.data(), random, sizeof(random));
  return digest.to_hex().substr(0, 2 * kUuidBytes);
}

uint64_t wall_ms() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(now).count());
}

}  // namespace

Expected<std::vector<std::byte>> RocksStore::State::read_meta(std::string_view key) const {
  return get(Family::kState, slice(key),
             [&](ByteSpan bytes) { return parse_state_record(key, bytes); });
}

Status RocksStore::State::write_meta(std::string_view key, ByteSpan value) {
  const std::vector<std::byte> record = encode_state_record(key, value);
  rocksdb::WriteBatch batch;
  batch.Put(family(Family::kState), slice(key), slice(record)).PermitUncheckedError();
  return commit(batch, true);
}

Status RocksStore::State::start() {
  Expected<std::vector<std::byte>> uuid = read_meta(kUuidKey);
  if (!uuid && uuid.status().code() != StatusCode::kNotFound) return uuid.status();
  identity.created = !uuid;
  if (identity.created) {
    QUIRE_ASSIGN_OR_RETURN(identity.uuid, new_uuid());
    identity.epoch = wall_ms();
  } else {
    identity.uuid.assign(reinterpret_cast<const char*>(uuid->data()), uuid->size());
    QUIRE_ASSIGN_OR_RETURN(const std::vector<std::byte> epoch, read_meta(kEpochKey));
    identity.epoch = ByteReader(epoch).read<uint64_t>() + 1;
    const auto clean = read_meta(kCleanShutdownKey);
    if (!clean && clean.status().code() != StatusCode::kNotFound) return clean.status();
    identity.clean_shutdown = clean.is_ok();
  }
  const std::vector<std::byte> uuid_record =
      encode_state_record(kUuidKey, std::as_bytes(std::span(identity.uuid)));
  const std::vector<std::byte> epoch_record =
      encode_state_record(kEpochKey, std::as_bytes(std::span(&identity.epoch, 1)));
  rocksdb::ColumnFamilyHandle* state = family(Family::kState);
  rocksdb::WriteBatch batch;
  batch.Put(state, slice(kUuidKey), slice(uuid_record)).PermitUncheckedError();
  batch.Put(state, slice(kEpochKey), slice(epoch_record)).PermitUncheckedError();
  batch.Delete(state, slice(kCleanShutdownKey)).PermitUncheckedError();
  QUIRE_RETURN_IF_ERROR(commit(batch, true));
  QUIRE_KILL_POINT("rocks_opened");
  return Status::ok();
}

Status RocksStore::State::commit(rocksdb::WriteBatch& batch, bool sync) {
  rocksdb::WriteOptions options;
  options.sync = sync;
  return map(db()->Write(options, &batch), "writing to");
}

// The records that the patches make of what is stored or put by the same batch.
Expected<PatchedRecords> RocksStore::State::patched_records(const MetadataBatch& batch) const {
  PatchedRecords patched;
  if (batch.patch_representations.empty()) return patched;
  std::map<Digest, const RepresentationRecord*> puts;
  for (const auto& [id, record] : batch.put_representations) puts[id] = &record;
  for (const auto& [id, patch] : batch.patch_representations) {
    auto found = patched.find(id);
    if (found == patched.end()) {
      const auto put = puts.find(id);
      const auto parse = [&id = id](ByteSpan bytes) {
        return parse_representation_record(id, bytes);
      };
      Expected<RepresentationRecord> record = put != puts.end()
                                                  ? Expected<RepresentationRecord>(*put->second)
                                                  : get(Family::kMeta, slice(id), parse);
      const StatusCode code = record.status().code();
      if (code == StatusCode::kNotFound || code == StatusCode::kCorrupt) continue;
      if (!record) return record.status();
      found = patched.emplace(id, std::move(*record)).first;
    }
    apply_patch(patch, found->second);
  }
  return patched;
}

// Filling a batch in memory cannot fail.
void RocksStore::State::fill(const MetadataBatch& batch, const PatchedRecords& patched,
                             rocksdb::WriteBatch& target) const {
  const auto put = [&](Family which, const rocksdb::Slice& key, ByteSpan value) {
    target.Put(family(which), key, slice(value)).PermitUncheckedError();
  };
  const auto erase = [&](Family which, const rocksdb::Slice& key) {
    target.Delete(family(which), key).PermitUncheckedError();
  };
  for (const auto& [id, payload] : batch.put_blobs) put(Family::kBlobs, slice(id), payload);
  for (const auto& [id, record] : batch.put_tokens)
    put(Family::kTokens, slice(id), encode_record(id, record));
  for (const auto& [id, record] : batch.put_models)
    put(Family::kModels, slice(id), encode_record(id, record));
  for (const auto& [id, record] : batch.put_tenants)
    put(Family::kState, tenant_key(id), encode_record(id, record));
  for (const auto& [key, value] : batch.put_state)
    put(Family::kState, state_key(key), encode_state_record(key, value));
  for (const auto& [id, record] : batch.put_representations)
    put(Family::kMeta, slice(id), encode_record(id, record));
  for (const auto& [id, record] : patched) put(Family::kMeta, slice(id), encode_record(id, record));
  for (const Digest& id : batch.delete_representations) {
    erase(Family::kMeta, slice(id));
    erase(Family::kTokens, slice(id));
  }
  for (const Digest& id : batch.delete_models) erase(Family::kModels, slice(id));
  for (const uint32_t id : batch.delete_tenants) erase(Family::kState, tenant_key(id));
  for (const std::string& key : batch.delete_state) erase(Family::kState, state_key(key));
  for (const Digest& id : batch.delete_blobs) erase(Family::kBlobs, slice(id));
}

Status RocksStore::State::write(const MetadataBatch& batch, bool sync) {
  std::shared_lock together(patching, std::defer_lock);
  std::unique_lock alone(patching, std::defer_lock);
  if (batch.patch_representations.empty()) {
    together.lock();
  } else {
    alone.lock();
  }
  QUIRE_ASSIGN_OR_RETURN(const PatchedRecords patched, patched_records(batch));
  rocksdb::WriteBatch target;
  fill(batch, patched, target);
  const bool has_payloads = !batch.put_blobs.empty();
  if (has_payloads) QUIRE_KILL_POINT("rocks_blob_write");
  QUIRE_KILL_POINT("rocks_write");
  QUIRE_RETURN_IF_ERROR(commit(target, sync));
  if (has_payloads) QUIRE_KILL_POINT("rocks_blob_written");
  QUIRE_KILL_POINT("rocks_written");
  return Status::ok();
}

}  // namespace quire::tiers
