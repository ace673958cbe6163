// The directory around the database: whose it is, which version wrote it, who has it open. All of
// it is checked before RocksDB sees a byte, so that nothing foreign or newer is ever changed.
#ifndef QUIRE_TIERS_ROCKS_STORE_DIRECTORY_H_
#define QUIRE_TIERS_ROCKS_STORE_DIRECTORY_H_

#include <cstdint>
#include <string>

#include "base/status.h"

namespace quire::tiers {

inline constexpr uint32_t kStoreFormatVersion = 2;  // older ones are upgraded

// Holds the lock file for as long as it lives. Movable.
class StoreDirectory {
 public:
  // Errors: see RocksStore::open.
  static Expected<StoreDirectory> open(const std::string& path, bool create_if_missing);
  StoreDirectory(StoreDirectory&& other) noexcept;
  StoreDirectory& operator=(StoreDirectory&& other) noexcept;
  ~StoreDirectory();

  // As FORMAT says; older than kStoreFormatVersion until mark_upgraded().
  uint32_t format_version() const { return format_version_; }
  Status mark_upgraded();
  const std::string& path() const { return path_; }
  std::string database_path() const { return path_ + "/db"; }
  // True where RocksDB finds its CURRENT file.
  bool has_database() const;
  // True where db/ holds files: without CURRENT that is a damaged database, not a new one.
  bool has_database_files() const;

 private:
  StoreDirectory(std::string path, int lock_fd, uint32_t format_version);

  std::string path_;
  int lock_fd_ = -1;
  uint32_t format_version_ = kStoreFormatVersion;
};

// See RocksStore::set_aside.
Status set_aside_store(const std::string& directory, std::string* moved_to);

// Makes directory a store's by writing its marker file, durably.
Status write_store_marker(const std::string& directory);

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_ROCKS_STORE_DIRECTORY_H_
