// Options and error mapping of the database. Includes RocksDB: for rocks_store.cc only.
#ifndef QUIRE_TIERS_ROCKS_ROCKS_OPEN_H_
#define QUIRE_TIERS_ROCKS_ROCKS_OPEN_H_

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/options.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "tiers/rocks/rocks_store.h"
#include "tiers/rocks/store_directory.h"

namespace quire::tiers {

enum class Family : uint8_t { kDefault, kMeta, kTokens, kModels, kBlobs, kState };
inline constexpr std::array<const char*, 6> kFamilyNames = {"default", "meta",  "tokens",
                                                            "models",  "blobs", "state"};

// Of stores of format version 1; see rocks_upgrade.h.
inline constexpr const char* kObjectsFamilyName = "objects";

struct Database {
  std::unique_ptr<rocksdb::DB> db;
  std::shared_ptr<rocksdb::Cache> block_cache;
  std::array<rocksdb::ColumnFamilyHandle*, kFamilyNames.size()> families{};
  rocksdb::ColumnFamilyHandle* objects = nullptr;  // null where it is gone

  Database() = default;
  Database(Database&& other) noexcept;
  Database& operator=(Database&&) = delete;
  ~Database();
  // Idempotent; OK where it is closed already.
  rocksdb::Status close();
  rocksdb::Status drop_objects();

  rocksdb::ColumnFamilyHandle* family(Family which) const {
    return families[static_cast<size_t>(which)];
  }
};

// what: "writing to", "opening" and so on; directory is named in the message.
Status map_status(const rocksdb::Status& status, const std::string& what,
                  const std::string& directory);

Expected<Database> open_database(const StoreDirectory& directory, const RocksOptions& options);

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_ROCKS_ROCKS_OPEN_H_
