#include "tiers/rocks/records.h"

#include <cmath>
#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <type_traits>

namespace quire::tiers {
namespace {

constexpr uint64_t kTrailerBytes = sizeof(uint64_t);

// Fixed part of a representation's body in version 1; the encoded context follows.
struct RepresentationBody {
  Digest variant;
  Digest object;
  Digest model;
  uint32_t tenant = 0;
  uint32_t n_tokens = 0;
  uint16_t codec = 0;
  uint8_t frame = 0;
  uint8_t location = 0;
  uint32_t context_bytes = 0;
  uint64_t base_position = 0;
  uint32_t layer_begin = 0;
  uint32_t layer_end = 0;
  uint32_t head_begin = 0;
  uint32_t head_end = 0;
  uint64_t bytes = 0;
  uint64_t checksum_low = 0;
  uint64_t checksum_high = 0;
  uint32_t nvme_segment = 0;
  uint32_t reserved = 0;
  uint64_t nvme_generation = 0;
  uint64_t nvme_offset = 0;
  uint64_t nvme_payload_bytes = 0;
  uint64_t nvme_sequence = 0;
  uint64_t created_wall_ms = 0;
  uint64_t pinned_until_wall_ms = 0;
  uint64_t hits = 0;
};
static_assert(sizeof(RepresentationBody) == 224);
static_assert(offsetof(RepresentationBody, bytes) == 136);
static_assert(offsetof(RepresentationBody, created_wall_ms) == 200);

// What version 2 puts between it and the context; strikes and deviation are of version 3.
struct RepresentationUse {
  uint64_t tokens_fingerprint = 0;
  uint32_t first_fingerprint = 0;
  uint32_t level_fingerprint = 0;
  uint64_t last_used_wall_ms = 0;
  uint8_t priority = kNormalPriority;
  uint8_t strikes = 0;
  uint8_t reserved[2] = {};
  float deviation = 0;
};
static_assert(sizeof(RepresentationUse) == 32);
static_assert(offsetof(RepresentationUse, strikes) == 25);
constexpr uint8_t kNothingReserved[7] = {};

struct ObjectBody {  // followed by the tokens
  Digest model;
  uint32_t tenant = 0;
  uint32_t n_tokens = 0;
};
static_assert(sizeof(ObjectBody) == 40);

struct ModelBody {  // followed by name and descriptor
  uint64_t registered_wall_ms = 0;
  uint32_t name_bytes = 0;
  uint32_t descriptor_bytes = 0;
};
static_assert(sizeof(ModelBody) == 16);

struct TenantNames {  // followed by name and salt
  uint32_t name_bytes = 0;
  uint32_t salt_bytes = 0;
};
static_assert(sizeof(TenantNames) == 8);

Status corrupt(const char* what) {
  return {StatusCode::kCorrupt, std::string("metadata record: ") + what};
}

template <typename T>
ByteSpan bytes_of(const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  return std::as_bytes(std::span(&value, 1));
}
ByteSpan bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}
ByteSpan bytes_of(const std::vector<TokenId>& tokens) {
  return std::as_bytes(std::span(tokens));
}

uint64_t key_seed(ByteSpan key) {
  return xxh3_64(key);
}
uint64_t key_seed(const Digest& key) {
  return key_seed(std::as_bytes(std::span(key.bytes)));
}
uint64_t key_seed(uint32_t key) {
  return key_seed(std::as_bytes(std::span(&key, 1)));
}
uint64_t key_seed(std::string_view key) {
  return key_seed(std::as_bytes(std::span(key)));
}

std::vector<std::byte> seal(RecordKind kind, uint64_t seed,
                            std::initializer_list<ByteSpan> body_parts) {
  uint64_t body_bytes = 0;
  for (const ByteSpan part : body_parts) body_bytes += part.size();
  const RecordHeader header{.kind = static_cast<uint16_t>(kind),
                            .version = record_version(kind),
                            .body_bytes = static_cast<uint32_t>(body_bytes)};
  std::vector<std::byte> record;
  record.reserve(sizeof(header) + body_bytes + kTrailerBytes);
  const auto append = [&](ByteSpan bytes) {
    record.insert(record.end(), bytes.begin(), bytes.end());
  };
  append(bytes_of(header));
  for (const ByteSpan part : body_parts) append(part);
  append(bytes_of(xxh3_64(record, seed)));
  return record;
}

struct Unsealed {
  uint16_t version;
  ByteSpan body;
};

// The body, once everything around it holds. The version is looked at before the checksum, because
// a later version may compute that differently.
Expected<Unsealed> unseal(RecordKind kind, uint64_t seed, ByteSpan bytes) {
  ByteReader reader(bytes);
  const auto header = reader.read<RecordHeader>();
  if (!reader.ok() || header.magic != kRecordMagic) return corrupt("not a record");
  if (header.kind != static_cast<uint16_t>(kind)) return corrupt("of another kind");
  if (header.version > record_version(kind))
    return Status(StatusCode::kVersionMismatch, "metadata record: version " +
                                                    std::to_string(header.version) +
                                                    " is of a later Quire; use that one");
  if (header.version == 0 || header.reserved != 0) return corrupt("damaged header");
  if (header.body_bytes > kRecordBodyBytesMax ||
      bytes.size() != sizeof(header) + header.body_bytes + kTrailerBytes)
    return corrupt("wrong length");
  const ByteSpan body = reader.read_bytes(header.body_bytes);
  const auto checksum = reader.read<uint64_t>();
  if (checksum != xxh3_64(bytes.first(bytes.size() - kTrailerBytes), seed))
    return corrupt("checksum does not match");
  return Unsealed{header.version, body};
}

// The tokens that end a record.
Expected<std::vector<TokenId>> read_tokens(ByteReader& reader, uint32_t n_tokens) {
  if (!reader.ok() || n_tokens == 0 || n_tokens > kChunkTokensMax)
    return corrupt("token count out of range");
  const ByteSpan bytes = reader.read_bytes(uint64_t{n_tokens} * sizeof(TokenId));
  if (!reader.at_end()) return corrupt("wrong length of a list of tokens");
  std::vector<TokenId> tokens(n_tokens);
  std::memcpy(tokens.data(), bytes.data(), bytes.size());
  return tokens;
}

RepresentationBody to_body(const RepresentationRecord& record, uint64_t context_bytes) {
  RepresentationBody body;
  body.variant = record.variant;
  body.object = record.object;
  body.model = record.model;
  body.tenant = record.tenant;
  body.n_tokens = record.n_tokens;
  body.codec = record.codec;
  body.frame = static_cast<uint8_t>(record.frame);
  body.location = static_cast<uint8_t>(record.location);
  body.context_bytes = static_cast<uint32_t>(context_bytes);
  body.base_position = record.base_position;
  body.layer_begin = record.coverage.layer_begin;
  body.layer_end = record.coverage.layer_end;
  body.head_begin = record.coverage.head_begin;
  body.head_end = record.coverage.head_end;
  body.bytes = record.bytes;
  body.checksum_low = record.checksum.low;
  body.checksum_high = record.checksum.high;
  body.nvme_segment = record.nvme.segment;
  body.nvme_generation = record.nvme.generation;
  body.nvme_offset = record.nvme.offset;
  body.nvme_payload_bytes = record.nvme.payload_bytes;
  body.nvme_sequence = record.nvme.sequence;
  body.created_wall_ms = record.created_wall_ms;
  body.pinned_until_wall_ms = record.pinned_until_wall_ms;
  body.hits = record.hits;
  return body;
}

RepresentationRecord from_body(const RepresentationBody& body) {
  RepresentationRecord record;
  record.variant = body.variant;
  record.object = body.object;
  record.model = body.model;
  record.tenant = body.tenant;
  record.n_tokens = body.n_tokens;
  record.codec = body.codec;
  record.frame = static_cast<PositionFrame>(body.frame);
  record.location = static_cast<PayloadLocation>(body.location);
  record.base_position = body.base_position;
  record.coverage = {body.layer_begin, body.layer_end, body.head_begin, body.head_end};
  record.bytes = body.bytes;
  record.checksum = {body.checksum_low, body.checksum_high};
  record.nvme = {body.nvme_segment, body.nvme_generation, body.nvme_offset, body.nvme_payload_bytes,
                 body.nvme_sequence};
  record.created_wall_ms = body.created_wall_ms;
  record.pinned_until_wall_ms = body.pinned_until_wall_ms;
  record.hits = body.hits;
  return record;
}

}  // namespace

std::vector<std::byte> encode_record(const Digest& key, const RepresentationRecord& record) {
  const std::vector<std::byte> context = record.context.encode();
  const RepresentationBody fixed = to_body(record, context.size());
  const RepresentationUse use{.tokens_fingerprint = record.tokens_fingerprint,
                              .first_fingerprint = record.first_fingerprint,
                              .level_fingerprint = record.level_fingerprint,
                              .last_used_wall_ms = record.last_used_wall_ms,
                              .priority = record.priority,
                              .strikes = record.strikes,
                              .deviation = record.deviation};
  return seal(RecordKind::kRepresentation, key_seed(key),
              {bytes_of(fixed), bytes_of(use), context});
}

std::vector<std::byte> encode_record(const Digest& key, const TokensRecord& record) {
  const auto n_tokens = static_cast<uint32_t>(record.tokens.size());
  return seal(RecordKind::kTokens, key_seed(key), {bytes_of(n_tokens), bytes_of(record.tokens)});
}

std::vector<std::byte> encode_record(const Digest& key, const ModelRecord& record) {
  const ModelBody fixed{record.registered_wall_ms, static_cast<uint32_t>(record.name.size()),
                        static_cast<uint32_t>(record.descriptor.size())};
  return seal(RecordKind::kModel, key_seed(key),
              {bytes_of(fixed), bytes_of(record.name), record.descriptor});
}

std::vector<std::byte> encode_record(uint32_t tenant, const TenantRecord& record) {
  const TenantNames names{static_cast<uint32_t>(record.name.size()),
                          static_cast<uint32_t>(record.salt.size())};
  return seal(RecordKind::kTenant, key_seed(tenant),
              {bytes_of(record.hard_bytes), bytes_of(record.soft_bytes), bytes_of(names),
               bytes_of(record.name), record.salt});
}

std::vector<std::byte> encode_state_record(std::string_view key, ByteSpan value) {
  return seal(RecordKind::kState, key_seed(key), {value});
}

Expected<RepresentationRecord> parse_representation_record(const Digest& key, ByteSpan bytes) {
  QUIRE_ASSIGN_OR_RETURN(const Unsealed unsealed,
                         unseal(RecordKind::kRepresentation, key_seed(key), bytes));
  ByteReader reader(unsealed.body);
  const auto fixed = reader.read<RepresentationBody>();
  const auto use = unsealed.version >= 2 ? reader.read<RepresentationUse>() : RepresentationUse{};
  const ByteSpan context = reader.read_bytes(fixed.context_bytes);
  if (!reader.at_end()) return corrupt("wrong length of a representation");
  if (fixed.frame > 1 || fixed.location > 2 || fixed.reserved != 0)
    return corrupt("unknown frame or location");
  const bool fields_known =
      unsealed.version >= 3
          ? std::memcmp(use.reserved, kNothingReserved, sizeof(use.reserved)) == 0
          : std::memcmp(&use.strikes, kNothingReserved, sizeof(kNothingReserved)) == 0;
  if (!fields_known) return corrupt("unknown fields");
  if (!std::isfinite(use.deviation) || use.deviation < 0) return corrupt("deviation out of range");
  if (fixed.n_tokens == 0 || fixed.n_tokens > kChunkTokensMax)
    return corrupt("token count out of range");
  RepresentationRecord record = from_body(fixed);
  record.tokens_fingerprint = use.tokens_fingerprint;
  record.first_fingerprint = use.first_fingerprint;
  record.level_fingerprint = use.level_fingerprint;
  record.last_used_wall_ms = use.last_used_wall_ms;
  record.priority = use.priority;
  record.strikes = use.strikes;
  record.deviation = use.deviation;
  const bool on_nvme = record.location == PayloadLocation::kNvme;
  if (!on_nvme && record.nvme != NvmeRecordLocation{}) return corrupt("a place without a payload");
  if (on_nvme && record.nvme.payload_bytes != record.bytes) return corrupt("two payload sizes");
  Expected<VariantContext> parsed = VariantContext::parse(context);
  if (!parsed) return corrupt("damaged context");
  record.context = std::move(*parsed);
  return record;
}

Expected<TokensRecord> parse_tokens_record(const Digest& key, ByteSpan bytes) {
  QUIRE_ASSIGN_OR_RETURN(const Unsealed unsealed,
                         unseal(RecordKind::kTokens, key_seed(key), bytes));
  ByteReader reader(unsealed.body);
  const auto n_tokens = reader.read<uint32_t>();
  TokensRecord record;
  QUIRE_ASSIGN_OR_RETURN(record.tokens, read_tokens(reader, n_tokens));
  return record;
}

Expected<ObjectRecord> parse_object_record(const Digest& key, ByteSpan bytes) {
  QUIRE_ASSIGN_OR_RETURN(const Unsealed unsealed,
                         unseal(RecordKind::kObject, key_seed(key), bytes));
  ByteReader reader(unsealed.body);
  const auto fixed = reader.read<ObjectBody>();
  ObjectRecord record{fixed.model, fixed.tenant, {}};
  QUIRE_ASSIGN_OR_RETURN(record.tokens, read_tokens(reader, fixed.n_tokens));
  return record;
}

Expected<ModelRecord> parse_model_record(const Digest& key, ByteSpan bytes) {
  QUIRE_ASSIGN_OR_RETURN(const Unsealed unsealed, unseal(RecordKind::kModel, key_seed(key), bytes));
  ByteReader reader(unsealed.body);
  const auto fixed = reader.read<ModelBody>();
  if (!reader.ok() || fixed.name_bytes > kModelNameBytesMax) return corrupt("name too long");
  const ByteSpan name = reader.read_bytes(fixed.name_bytes);
  const ByteSpan descriptor = reader.read_bytes(fixed.descriptor_bytes);
  if (!reader.at_end()) return corrupt("wrong length of a model");
  ModelRecord record;
  record.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
  record.registered_wall_ms = fixed.registered_wall_ms;
  record.descriptor.assign(descriptor.begin(), descriptor.end());
  return record;
}

Expected<TenantRecord> parse_tenant_record(uint32_t tenant, ByteSpan bytes) {
  QUIRE_ASSIGN_OR_RETURN(const Unsealed unsealed,
                         unseal(RecordKind::kTenant, key_seed(tenant), bytes));
  ByteReader reader(unsealed.body);
  TenantRecord record;
  record.hard_bytes = reader.read<uint64_t>();
  if (unsealed.version >= 2) record.soft_bytes = reader.read<uint64_t>();
  const auto names = reader.read<TenantNames>();
  if (!reader.ok() || names.name_bytes > kTenantNameBytesMax ||
      names.salt_bytes > kTenantSaltBytesMax)
    return corrupt("name or salt too long");
  const ByteSpan name = reader.read_bytes(names.name_bytes);
  const ByteSpan salt = reader.read_bytes(names.salt_bytes);
  if (!reader.at_end()) return corrupt("wrong length of a tenant");
  if (record.hard_bytes != 0 && record.soft_bytes > record.hard_bytes)
    return corrupt("a tenant's share is above its limit");
  record.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
  record.salt.assign(salt.begin(), salt.end());
  return record;
}

Expected<std::vector<std::byte>> parse_state_record(std::string_view key, ByteSpan bytes) {
  QUIRE_ASSIGN_OR_RETURN(const Unsealed unsealed, unseal(RecordKind::kState, key_seed(key), bytes));
  return std::vector<std::byte>(unsealed.body.begin(), unsealed.body.end());
}

}  // namespace quire::tiers
