#include "tests/tiers/rocks/raw_database.h"

#include <rocksdb/db.h>

#include <memory>
#include <vector>

namespace quire::tiers {

bool flip_stored_bit(const std::string& directory, const std::string& family,
                     const std::string& key, size_t byte) {
  std::vector<std::string> names;
  if (!rocksdb::DB::ListColumnFamilies({}, directory + "/db", &names).ok()) return false;
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  for (const std::string& name : names) families.emplace_back(name, rocksdb::ColumnFamilyOptions());
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* opened = nullptr;
  if (!rocksdb::DB::Open({}, directory + "/db", families, &handles, &opened).ok()) return false;
  const std::unique_ptr<rocksdb::DB> db(opened);
  bool done = false;
  for (size_t i = 0; i < names.size(); ++i) {
    std::string value;
    if (names[i] == family && db->Get({}, handles[i], key, &value).ok() && byte < value.size()) {
      value[byte] ^= 1;
      done = db->Put({}, handles[i], key, value).ok();
    }
    db->DestroyColumnFamilyHandle(handles[i]);
  }
  return done && db->Close().ok();
}

}  // namespace quire::tiers
