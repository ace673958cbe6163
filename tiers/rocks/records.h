// Values of the metadata store, byte by byte in docs/formats/metadata.md. Each is a RecordHeader, a
// body and an XXH3-64 seeded with its key, so that a record under another key, a truncated one and
// one with a flipped bit are all refused (kCorrupt). A record of a later version is
// kVersionMismatch. Parsing is safe on hostile bytes. Pure functions, any thread.
#ifndef QUIRE_TIERS_ROCKS_RECORDS_H_
#define QUIRE_TIERS_ROCKS_RECORDS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/ids.h"
#include "base/status.h"

namespace quire::tiers {

inline constexpr uint32_t kRecordMagic = 0x52444d51;  // "QMDR"
// Descriptors, tokens and state values beyond this are refused when written and when read.
inline constexpr uint32_t kRecordBodyBytesMax = 8u << 20;
inline constexpr uint32_t kModelNameBytesMax = 256;
inline constexpr uint32_t kTenantNameBytesMax = 64;
inline constexpr uint32_t kTenantSaltBytesMax = 64;

enum class RecordKind : uint16_t {
  kRepresentation = 1,
  kObject = 2,  // of stores of format version 1: read by the upgrade, never written
  kModel = 3,
  kTenant = 4,
  kState = 5,
  kTokens = 6,
};

// The version that is written; older ones are read.
constexpr uint16_t record_version(RecordKind kind) {
  if (kind == RecordKind::kRepresentation) return 3;
  return kind == RecordKind::kTenant ? 2 : 1;
}

struct RecordHeader {
  uint32_t magic = kRecordMagic;
  uint16_t kind = 0;
  uint16_t version = 0;
  uint32_t body_bytes = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(RecordHeader) == 16);

enum class PayloadLocation : uint8_t {
  kNone = 0,  // in memory only: not found again after a restart
  kNvme = 1,
  kRocks = 2,  // in the blobs column family
};

// Where a payload lies in the NVMe tier.
struct NvmeRecordLocation {
  uint32_t segment = 0;
  uint64_t generation = 0;  // of the segment when it was written
  uint64_t offset = 0;      // of the object header, from the first byte of the segment
  uint64_t payload_bytes = 0;
  uint64_t sequence = 0;
  bool operator==(const NvmeRecordLocation&) const = default;
};

inline constexpr uint64_t kPinnedForever = UINT64_MAX;
inline constexpr uint8_t kNormalPriority = 128;

struct RepresentationRecord {  // key: representation id
  Digest variant;
  Digest object;
  Digest model;
  uint32_t tenant = 0;
  uint32_t n_tokens = 0;
  VariantContext context;
  uint16_t codec = 0;
  PositionFrame frame = PositionFrame::kLocal;
  PayloadLocation location = PayloadLocation::kNone;
  uint64_t base_position = 0;
  Coverage coverage;
  uint64_t bytes = 0;
  Hash128 checksum;         // XXH3-128 of the payload
  NvmeRecordLocation nvme;  // all zero unless location is kNvme
  uint64_t created_wall_ms = 0;
  uint64_t pinned_until_wall_ms = 0;  // 0 = not pinned, kPinnedForever = until unpinned
  uint64_t hits = 0;
  // What finding needs of the tokens (tiers/index); all zero = unknown: a record of version 1.
  uint64_t tokens_fingerprint = 0;
  uint32_t first_fingerprint = 0;
  uint32_t level_fingerprint = 0;
  uint64_t last_used_wall_ms = 0;  // 0 = unknown: a record of version 1
  uint8_t priority = kNormalPriority;
  uint8_t strikes = 0;  // version 3: uses that were thrown away, saturating
  float deviation = 0;  // version 3: told last by feedback; 0 = never
  bool operator==(const RepresentationRecord&) const = default;
};

struct TokensRecord {  // key: representation id
  std::vector<TokenId> tokens;
  bool operator==(const TokensRecord&) const = default;
};

struct ObjectRecord {  // key: object id; format version 1 only
  Digest model;
  uint32_t tenant = 0;
  std::vector<TokenId> tokens;
  bool operator==(const ObjectRecord&) const = default;
};

struct ModelRecord {  // key: model id
  std::string name;
  uint64_t registered_wall_ms = 0;
  std::vector<std::byte> descriptor;  // canonical bytes (docs/formats/ids.md)
  bool operator==(const ModelRecord&) const = default;
};

struct TenantRecord {  // key: tenant number
  std::string name;
  std::vector<std::byte> salt;
  uint64_t hard_bytes = 0;  // 0 = no limit
  uint64_t soft_bytes = 0;  // guaranteed share, 0 = none; never above a hard limit
  bool operator==(const TenantRecord&) const = default;
};

std::vector<std::byte> encode_record(const Digest& key, const RepresentationRecord& record);
std::vector<std::byte> encode_record(const Digest& key, const TokensRecord& record);
std::vector<std::byte> encode_record(const Digest& key, const ModelRecord& record);
std::vector<std::byte> encode_record(uint32_t tenant, const TenantRecord& record);
std::vector<std::byte> encode_state_record(std::string_view key, ByteSpan value);

Expected<RepresentationRecord> parse_representation_record(const Digest& key, ByteSpan bytes);
Expected<TokensRecord> parse_tokens_record(const Digest& key, ByteSpan bytes);
Expected<ObjectRecord> parse_object_record(const Digest& key, ByteSpan bytes);
Expected<ModelRecord> parse_model_record(const Digest& key, ByteSpan bytes);
Expected<TenantRecord> parse_tenant_record(uint32_t tenant, ByteSpan bytes);
Expected<std::vector<std::byte>> parse_state_record(std::string_view key, ByteSpan bytes);

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_ROCKS_RECORDS_H_
