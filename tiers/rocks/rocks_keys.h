// Keys of the column families, and bytes as RocksDB takes them. Includes RocksDB: for the files of
// this folder only.
#ifndef QUIRE_TIERS_ROCKS_ROCKS_KEYS_H_
#define QUIRE_TIERS_ROCKS_ROCKS_KEYS_H_

#include <rocksdb/slice.h>

#include <cstring>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/hash.h"

namespace quire::tiers {

// Keys of the state column family.
inline constexpr std::string_view kUuidKey = "meta/uuid";
inline constexpr std::string_view kEpochKey = "meta/epoch";
inline constexpr std::string_view kCleanShutdownKey = "meta/clean_shutdown";
inline constexpr std::string_view kTenantPrefix = "tenant/";  // + number, big-endian
inline constexpr std::string_view kStatePrefix = "state/";    // + the caller's key

// Of no bytes: RocksDB's own empty slice, as it hands data() to memcmp and memcpy, which forbid
// null.
inline rocksdb::Slice slice(ByteSpan bytes) {
  if (bytes.empty()) return {};
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline rocksdb::Slice slice(const Digest& id) {
  return slice(std::as_bytes(std::span(id.bytes)));
}
inline rocksdb::Slice slice(std::string_view text) {
  if (text.empty()) return {};
  return {text.data(), text.size()};
}

inline ByteSpan bytes_of(const rocksdb::Slice& value) {
  return std::as_bytes(std::span(value.data(), value.size()));
}

inline std::string tenant_key(uint32_t tenant) {
  std::string key(kTenantPrefix);
  for (int shift = 24; shift >= 0; shift -= 8) key += static_cast<char>(tenant >> shift & 0xff);
  return key;
}

inline std::string state_key(std::string_view key) {
  return std::string(kStatePrefix).append(key);
}

inline bool digest_from_key(const rocksdb::Slice& key, Digest& id) {
  if (key.size() != sizeof(id.bytes)) return false;
  std::memcpy(id.bytes.data(), key.data(), key.size());
  return true;
}

inline bool tenant_from_key(const rocksdb::Slice& key, uint32_t& tenant) {
  if (key.size() != kTenantPrefix.size() + sizeof(tenant)) return false;
  tenant = 0;
  for (size_t i = kTenantPrefix.size(); i < key.size(); ++i)
    tenant = tenant << 8 | static_cast<uint8_t>(key[i]);
  return true;
}

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_ROCKS_ROCKS_KEYS_H_
