// What an open RocksStore holds; shared by rocks_store.cc (opening and reading) and rocks_write.cc.
#ifndef QUIRE_TIERS_ROCKS_ROCKS_STATE_H_
#define QUIRE_TIERS_ROCKS_ROCKS_STATE_H_

#include <exception>
#include <map>
#include <shared_mutex>
#include <string>
#include <utility>

#include "tiers/rocks/operation_gate.h"
#include "tiers/rocks/rocks_keys.h"
#include "tiers/rocks/rocks_open.h"

namespace quire::tiers {

inline rocksdb::ReadOptions verified_read() {
  rocksdb::ReadOptions options;
  options.verify_checksums = true;
  return options;
}

// RocksDB reports by status, but allocations and its thread start may throw.
template <typename Function>
auto guarded(const Function& function) -> decltype(function()) {
  try {
    return function();
  } catch (const std::exception& error) {
    return Status(StatusCode::kInternal, std::string("metadata store: ") + error.what());
  }
}

using PatchedRecords = std::map<Digest, RepresentationRecord>;

struct RocksStore::State {
  State(StoreDirectory given_directory, Database given_database)
      : directory(std::move(given_directory)), database(std::move(given_database)) {}

  // Destroyed in reverse: the lock goes last.
  StoreDirectory directory;
  mutable OperationGate gate;
  // Held alone by batches with patches: nobody may change a record between reading and writing it
  // back.
  std::shared_mutex patching;
  Database database;
  StoreIdentity identity;

  rocksdb::DB* db() const { return database.db.get(); }
  rocksdb::ColumnFamilyHandle* family(Family which) const { return database.family(which); }
  Status map(const rocksdb::Status& status, const char* what) const {
    return map_status(status, what, directory.path());
  }
  Status closed() const { return {StatusCode::kUnavailable, "the metadata store is closed"}; }

  // rocks_write.cc; callers have passed the gate.
  Status start();
  Status write(const MetadataBatch& batch, bool sync);
  Status commit(rocksdb::WriteBatch& batch, bool sync);
  Expected<PatchedRecords> patched_records(const MetadataBatch& batch) const;
  void fill(const MetadataBatch& batch, const PatchedRecords& patched,
            rocksdb::WriteBatch& target) const;
  Expected<std::vector<std::byte>> read_meta(std::string_view key) const;
  Status write_meta(std::string_view key, ByteSpan value);

  // rocks_store.cc; callers have passed the gate.
  Status append_details(std::span<const Digest> ids, const rocksdb::Snapshot* snapshot,
                        std::vector<Expected<Details>>& answers) const;

  template <typename Parse>
  auto get(Family which, const rocksdb::Slice& key, const Parse& parse) const
      -> decltype(parse(ByteSpan{})) {
    rocksdb::PinnableSlice value;
    const rocksdb::Status status = db()->Get(verified_read(), family(which), key, &value);
    if (!status.ok()) return map(status, "reading from");
    return parse(bytes_of(value));
  }
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_ROCKS_ROCKS_STATE_H_
