// Records that several tests use. The golden files hold exactly these: do not change them.
#ifndef QUIRE_TESTS_TIERS_ROCKS_SAMPLES_H_
#define QUIRE_TESTS_TIERS_ROCKS_SAMPLES_H_

#include "tiers/rocks/metadata_store.h"

namespace quire::tiers {

inline Digest sample_digest(uint8_t first) {
  Digest digest;
  for (size_t i = 0; i < digest.bytes.size(); ++i)
    digest.bytes[i] = static_cast<uint8_t>(first + i);
  return digest;
}

// As version 1 knows it.
inline RepresentationRecord sample_representation_v1() {
  RepresentationRecord record;
  record.variant = sample_digest(0x10);
  record.object = sample_digest(0x40);
  record.model = sample_digest(0x80);
  record.tenant = 7;
  record.n_tokens = 512;
  record.context = VariantContext::fixed_prefix(sample_digest(0xc0));
  record.codec = 16;
  record.frame = PositionFrame::kLocal;
  record.location = PayloadLocation::kNvme;
  record.base_position = 96;
  record.coverage = {0, 24, 0, 2};
  record.bytes = 3'200'000;
  record.checksum = {0x1122334455667788, 0x99aabbccddeeff00};
  record.nvme = {5, 42, 0x100000, 3'200'000, 1234};
  record.created_wall_ms = 1'700'000'000'000;
  record.pinned_until_wall_ms = 1'700'000'060'000;
  record.hits = 3;
  return record;
}

// As version 2 knows it.
inline RepresentationRecord sample_representation_v2() {
  RepresentationRecord record = sample_representation_v1();
  record.tokens_fingerprint = 0x0123456789abcdef;
  record.first_fingerprint = 0x11223344;
  record.level_fingerprint = 0x55667788;
  record.last_used_wall_ms = 1'700'000'030'000;
  record.priority = 200;
  return record;
}

inline RepresentationRecord sample_representation() {
  RepresentationRecord record = sample_representation_v2();
  record.strikes = 2;
  record.deviation = 0.25f;
  return record;
}

inline TokensRecord sample_tokens() {
  return {{9707, 11, 1879, 0, 151643}};
}

inline ObjectRecord sample_object() {
  return {sample_digest(0x80), 7, {9707, 11, 1879, 0, 151643}};
}

inline ModelRecord sample_model() {
  ModelRecord record;
  record.name = "qwen2.5-coder-0.5b";
  record.registered_wall_ms = 1'700'000'000'000;
  record.descriptor = {std::byte{1}, std::byte{2}, std::byte{3}};
  return record;
}

inline TenantRecord sample_tenant_v1() {
  TenantRecord record;
  record.name = "team-a";
  for (uint8_t i = 0; i < 16; ++i) record.salt.push_back(std::byte(0xa0 + i));
  record.hard_bytes = 1ull << 33;
  return record;
}

inline TenantRecord sample_tenant() {
  TenantRecord record = sample_tenant_v1();
  record.soft_bytes = 1ull << 31;
  return record;
}

}  // namespace quire::tiers

#endif  // QUIRE_TESTS_TIERS_ROCKS_SAMPLES_H_
