#include "tiers/rocks/rocks_upgrade.h"

#include <rocksdb/write_batch.h>

#include "tiers/io/kill_point.h"
#include "tiers/rocks/rocks_state.h"

namespace quire::tiers {
namespace {

constexpr uint64_t kUpgradeBatchBytes = 4 << 20;

class TokensCopy {
 public:
  TokensCopy(const StoreDirectory& directory, const Database& database)
      : directory_(directory), database_(database) {}

  Status run() {
    rocksdb::ReadOptions options = verified_read();
    options.fill_cache = false;
    const std::unique_ptr<rocksdb::Iterator> it(
        database_.db->NewIterator(options, database_.family(Family::kMeta)));
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      Digest id;
      if (!digest_from_key(it->key(), id)) continue;
      const auto record = parse_representation_record(id, bytes_of(it->value()));
      // What does not verify is reported by the next scan.
      if (!record) continue;
      QUIRE_RETURN_IF_ERROR(copy(id, *record));
      if (batch_.GetDataSize() >= kUpgradeBatchBytes) QUIRE_RETURN_IF_ERROR(write());
    }
    if (!it->status().ok()) return map(it->status());
    return write();
  }

 private:
  Status map(const rocksdb::Status& status) const {
    return map_status(status, "upgrading", directory_.path());
  }

  Status copy(const Digest& id, const RepresentationRecord& record) {
    rocksdb::PinnableSlice value;
    const rocksdb::Status status =
        database_.db->Get(verified_read(), database_.objects, slice(record.object), &value);
    if (!status.ok() && !status.IsNotFound()) return map(status);
    Expected<ObjectRecord> object =
        status.ok() ? parse_object_record(record.object, bytes_of(value))
                    : Expected<ObjectRecord>(Status(StatusCode::kNotFound, "no such object"));
    if (object && object->tokens.size() == record.n_tokens) {
      const auto tokens = encode_record(id, TokensRecord{std::move(object->tokens)});
      batch_.Put(database_.family(Family::kTokens), slice(id), slice(tokens))
          .PermitUncheckedError();
    } else {
      batch_.Delete(database_.family(Family::kMeta), slice(id)).PermitUncheckedError();
    }
    return Status::ok();
  }

  Status write() {
    const rocksdb::Status status = database_.db->Write({}, &batch_);
    batch_.Clear();
    QUIRE_KILL_POINT("rocks_upgrade_tokens");
    return map(status);
  }

  const StoreDirectory& directory_;
  const Database& database_;
  rocksdb::WriteBatch batch_;
};

}  // namespace

Expected<uint32_t> upgrade_database(StoreDirectory& directory, Database& database) {
  const uint32_t version = directory.format_version();
  if (version < kStoreFormatVersion) {
    if (database.objects != nullptr) QUIRE_RETURN_IF_ERROR(TokensCopy(directory, database).run());
    const rocksdb::Status synced = database.db->SyncWAL();
    if (!synced.ok()) return map_status(synced, "upgrading", directory.path());
    QUIRE_KILL_POINT("rocks_upgrade_synced");
    QUIRE_RETURN_IF_ERROR(directory.mark_upgraded());
    QUIRE_KILL_POINT("rocks_upgrade_marked");
  }
  if (database.objects != nullptr) {
    const rocksdb::Status dropped = database.drop_objects();
    if (!dropped.ok()) return map_status(dropped, "upgrading", directory.path());
    QUIRE_KILL_POINT("rocks_upgrade_dropped");
  }
  return version < kStoreFormatVersion ? version : 0;
}

}  // namespace quire::tiers
