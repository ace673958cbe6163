#include "tiers/rocks/bare_database.h"

#include <utility>

#include "tiers/rocks/rocks_state.h"

namespace quire::tiers {

struct BareDatabase::State {
  StoreDirectory directory;
  Database database;

  Status map(const rocksdb::Status& status) const {
    return map_status(status, "reading from", directory.path());
  }
};

BareDatabase::BareDatabase(std::unique_ptr<State> state) : state_(std::move(state)) {}

BareDatabase::~BareDatabase() = default;

Expected<std::unique_ptr<BareDatabase>> BareDatabase::open(const std::string& directory,
                                                           const RocksOptions& options) {
  QUIRE_ASSIGN_OR_RETURN(StoreDirectory locked, StoreDirectory::open(directory, false));
  QUIRE_ASSIGN_OR_RETURN(Database database, open_database(locked, options));
  return std::unique_ptr<BareDatabase>(
      new BareDatabase(std::unique_ptr<State>(new State{std::move(locked), std::move(database)})));
}

Expected<uint64_t> BareDatabase::get_blob(const Digest& id) const {
  rocksdb::PinnableSlice value;
  const Database& database = state_->database;
  const rocksdb::Status status =
      database.db->Get({}, database.family(Family::kBlobs), slice(id), &value);
  if (!status.ok()) return state_->map(status);
  return value.size();
}

Expected<uint64_t> BareDatabase::scan_representations() const {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  const Database& database = state_->database;
  const std::unique_ptr<rocksdb::Iterator> it(
      database.db->NewIterator(options, database.family(Family::kMeta)));
  uint64_t count = 0;
  for (it->SeekToFirst(); it->Valid(); it->Next()) ++count;
  if (!it->status().ok()) return state_->map(it->status());
  return count;
}

Expected<uint64_t> BareDatabase::get_details(std::span<const Digest> ids) const {
  std::vector<rocksdb::Slice> keys;
  keys.reserve(ids.size());
  for (const Digest& id : ids) keys.push_back(slice(id));
  const Database& database = state_->database;
  uint64_t found = 0;
  for (const Family which : {Family::kMeta, Family::kTokens}) {
    std::vector<rocksdb::PinnableSlice> values(ids.size());
    std::vector<rocksdb::Status> status(ids.size());
    database.db->MultiGet({}, database.family(which), ids.size(), keys.data(), values.data(),
                          status.data());
    for (const rocksdb::Status& one : status) found += one.ok() ? 1 : 0;
  }
  return found;
}

}  // namespace quire::tiers
