// A copy, outside RocksDB, of the little that no segment holds: the salts of the tenants, the
// models, the fingerprint seed, the store's id, and state that must not be forgotten (verdicts of
// models). When RocksDB is lost, the objects are rebuilt from the segments and these from here.
// Layout: docs/formats/registry.md. Any thread; one writer at a time.
#ifndef QUIRE_TIERS_ROCKS_REGISTRY_FILE_H_
#define QUIRE_TIERS_ROCKS_REGISTRY_FILE_H_

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/status.h"
#include "tiers/rocks/records.h"

namespace quire::tiers {

inline constexpr uint32_t kRegistryMagic = 0x47455251;  // "QREG"
inline constexpr uint16_t kRegistryVersion = 2;
inline constexpr uint32_t kRegistryTenantsMax = 1u << 16;
inline constexpr uint32_t kRegistryModelsMax = 1u << 12;
inline constexpr uint32_t kRegistryStatesMax = 1u << 12;
inline constexpr uint64_t kRegistryBytesMax = 64ull << 20;

struct Registry {
  std::vector<std::pair<uint32_t, TenantRecord>> tenants;              // by number, each once
  std::vector<std::pair<Digest, ModelRecord>> models;                  // by model id, each once
  std::vector<std::pair<std::string, std::vector<std::byte>>> states;  // by key, each once
  uint64_t fingerprint_seed = 0;
  std::array<uint64_t, 2> store_id{};
  bool operator==(const Registry&) const = default;
};

// kInvalidArgument beyond a limit.
Expected<std::vector<std::byte>> encode_registry(const Registry& registry);
// kCorrupt, kVersionMismatch. Safe on hostile bytes.
Expected<Registry> parse_registry(ByteSpan bytes);

// Replaces the file at path, all or nothing, and returns when it is on the disk: temporary file
// beside it (path.tmp, mode 0600: salts are secret), fsync, rename, fsync of the directory.
// kInvalidArgument, kPermissionDenied, kNoSpace, kIoError.
Status write_registry(const std::string& path, const Registry& registry);
// kNotFound, kCorrupt, kVersionMismatch, kPermissionDenied, kIoError.
Expected<Registry> read_registry(const std::string& path);

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_ROCKS_REGISTRY_FILE_H_
