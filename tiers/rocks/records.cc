#include "tiers/rocks/records.h"

#include <cstddef>
#include <cstring>

namespace quire::tiers {
namespace {

constexpr uint64_t kTrailerBytes = sizeof(uint64_t);

// Fixed part of a representation's body; the encoded context follows.
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

struct TenantBody {  // followed by name and salt
  uint64_t quota_bytes = 0;
  uint32_t name_bytes = 0;
  uint32_t salt_bytes = 0;
};
static_assert(sizeof(TenantBody) == 16);

Status corrupt(const char* what) {
  return {StatusCode::kCorrupt, std::string("metadata record: ") + what};
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

std::vector<std::byte> seal(RecordKind kind, uint64_t seed, ByteSpan body) {
  ByteWriter writer;
  RecordHeader header;
  header.kind = static_cast<uint16_t>(kind);
  header.body_bytes = static_cast<uint32_t>(body.size());
  writer.write(header);
  writer.write_bytes(body);
  writer.write(xxh3_64(writer.bytes(), seed));
  return writer.take();
}

// The body, once everything around it holds. The version is looked at before the checksum, because
// a later version may compute that differently.
Expected<ByteSpan> unseal(RecordKind kind, uint64_t seed, ByteSpan bytes) {
  ByteReader reader(bytes);
  const auto header = reader.read<RecordHeader>();
  if (!reader.ok() || header.magic != kRecordMagic) return corrupt("not a record");
  if (header.version > kRecordVersion)
    return Status(StatusCode::kVersionMismatch, "metadata record: version " +
                                                    std::to_string(header.version) +
                                                    " is of a later Quire; use that one");
  if (header.version == 0 || header.reserved != 0) return corrupt("damaged header");
  if (header.kind != static_cast<uint16_t>(kind)) return corrupt("of another kind");
  if (header.body_bytes > kRecordBodyBytesMax ||
      bytes.size() != sizeof(header) + header.body_bytes + kTrailerBytes)
    return corrupt("wrong length");
  const ByteSpan body = reader.read_bytes(header.body_bytes);
  const auto checksum = reader.read<uint64_t>();
  if (checksum != xxh3_64(bytes.first(bytes.size() - kTrailerBytes), seed))
    return corrupt("checksum does not match");
  return body;
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
  ByteWriter body;
  body.write(to_body(record, context.size()));
  body.write_bytes(context);
  return seal(RecordKind::kRepresentation, key_seed(key), body.bytes());
}

std::vector<std::byte> encode_record(const Digest& key, const ObjectRecord& record) {
  ByteWriter body;
  body.write(ObjectBody{record.model, record.tenant, static_cast<uint32_t>(record.tokens.size())});
  body.write_bytes(std::as_bytes(std::span(record.tokens)));
  return seal(RecordKind::kObject, key_seed(key), body.bytes());
}

std::vector<std::byte> encode_record(const Digest& key, const ModelRecord& record) {
  ByteWriter body;
  body.write(ModelBody{record.registered_wall_ms, static_cast<uint32_t>(record.name.size()),
                       static_cast<uint32_t>(record.descriptor.size())});
  body.write_text(record.name);
  body.write_bytes(record.descriptor);
  return seal(RecordKind::kModel, key_seed(key), body.bytes());
}

std::vector<std::byte> encode_record(uint32_t tenant, const TenantRecord& record) {
  ByteWriter body;
  body.write(TenantBody{record.quota_bytes, static_cast<uint32_t>(record.name.size()),
                        static_cast<uint32_t>(record.salt.size())});
  body.write_text(record.name);
  body.write_bytes(record.salt);
  return seal(RecordKind::kTenant, key_seed(tenant), body.bytes());
}

std::vector<std::byte> encode_state_record(std::string_view key, ByteSpan value) {
  return seal(RecordKind::kState, key_seed(key), value);
}

Expected<RepresentationRecord> parse_representation_record(const Digest& key, ByteSpan bytes) {
  QUIRE_ASSIGN_OR_RETURN(const ByteSpan body,
                         unseal(RecordKind::kRepresentation, key_seed(key), bytes));
  ByteReader reader(body);
  const auto fixed = reader.read<RepresentationBody>();
  const ByteSpan context = reader.read_bytes(fixed.context_bytes);
  if (!reader.at_end()) return corrupt("wrong length of a representation");
  if (fixed.frame > 1 || fixed.location > 2 || fixed.reserved != 0)
    return corrupt("unknown frame or location");
  if (fixed.n_tokens == 0 || fixed.n_tokens > kChunkTokensMax)
    return corrupt("token count out of range");
  RepresentationRecord record = from_body(fixed);
  const bool on_nvme = record.location == PayloadLocation::kNvme;
  if (!on_nvme && record.nvme != NvmeRecordLocation{}) return corrupt("a place without a payload");
  if (on_nvme && record.nvme.payload_bytes != record.bytes) return corrupt("two payload sizes");
  Expected<VariantContext> parsed = VariantContext::parse(context);
  if (!parsed) return corrupt("damaged context");
  record.context = std::move(*parsed);
  return record;
}

Expected<ObjectRecord> parse_object_record(const Digest& key, ByteSpan bytes) {
  QUIRE_ASSIGN_OR_RETURN(const ByteSpan body, unseal(RecordKind::kObject, key_seed(key), bytes));
  ByteReader reader(body);
  const auto fixed = reader.read<ObjectBody>();
  if (!reader.ok() || fixed.n_tokens == 0 || fixed.n_tokens > kChunkTokensMax)
    return corrupt("token count out of range");
  const ByteSpan tokens = reader.read_bytes(uint64_t{fixed.n_tokens} * sizeof(TokenId));
  if (!reader.at_end()) return corrupt("wrong length of an object");
  ObjectRecord record{fixed.model, fixed.tenant, std::vector<TokenId>(fixed.n_tokens)};
  std::memcpy(record.tokens.data(), tokens.data(), tokens.size());
  return record;
}

Expected<ModelRecord> parse_model_record(const Digest& key, ByteSpan bytes) {
  QUIRE_ASSIGN_OR_RETURN(const ByteSpan body, unseal(RecordKind::kModel, key_seed(key), bytes));
  ByteReader reader(body);
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
  QUIRE_ASSIGN_OR_RETURN(const ByteSpan body, unseal(RecordKind::kTenant, key_seed(tenant), bytes));
  ByteReader reader(body);
  const auto fixed = reader.read<TenantBody>();
  if (!reader.ok() || fixed.name_bytes > kTenantNameBytesMax ||
      fixed.salt_bytes > kTenantSaltBytesMax)
    return corrupt("name or salt too long");
  const ByteSpan name = reader.read_bytes(fixed.name_bytes);
  const ByteSpan salt = reader.read_bytes(fixed.salt_bytes);
  if (!reader.at_end()) return corrupt("wrong length of a tenant");
  TenantRecord record;
  record.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
  record.salt.assign(salt.begin(), salt.end());
  record.quota_bytes = fixed.quota_bytes;
  return record;
}

Expected<std::vector<std::byte>> parse_state_record(std::string_view key, ByteSpan bytes) {
  QUIRE_ASSIGN_OR_RETURN(const ByteSpan body, unseal(RecordKind::kState, key_seed(key), bytes));
  return std::vector<std::byte>(body.begin(), body.end());
}

}  // namespace quire::tiers
