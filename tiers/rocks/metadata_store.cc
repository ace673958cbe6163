#include "tiers/rocks/metadata_store.h"

namespace quire::tiers {
namespace {

Status invalid(const std::string& message) {
  return {StatusCode::kInvalidArgument, message};
}

}  // namespace

bool MetadataBatch::empty() const {
  return put_representations.empty() && put_tokens.empty() && put_models.empty() &&
         put_tenants.empty() && put_state.empty() && put_blobs.empty() &&
         patch_representations.empty() && delete_representations.empty() && delete_models.empty() &&
         delete_tenants.empty() && delete_state.empty() && delete_blobs.empty();
}

void MetadataBatch::clear() {
  *this = {};
}

bool apply_patch(const RepresentationPatch& patch, RepresentationRecord& record) {
  if (patch.nvme) {
    if (patch.nvme->payload_bytes != record.bytes) return false;
    record.nvme = *patch.nvme;
    record.location = PayloadLocation::kNvme;
  }
  if (patch.pinned_until_wall_ms) record.pinned_until_wall_ms = *patch.pinned_until_wall_ms;
  if (patch.hits) record.hits = *patch.hits;
  if (patch.last_used_wall_ms) record.last_used_wall_ms = *patch.last_used_wall_ms;
  if (patch.priority) record.priority = *patch.priority;
  if (patch.strikes) record.strikes = *patch.strikes;
  if (patch.deviation) record.deviation = *patch.deviation;
  if (patch.fingerprints) {
    record.tokens_fingerprint = patch.fingerprints->tokens;
    record.first_fingerprint = patch.fingerprints->first;
    record.level_fingerprint = patch.fingerprints->level;
  }
  return true;
}

Status validate_batch(const MetadataBatch& batch) {
  uint64_t bytes = 0;
  for (const auto& [id, record] : batch.put_representations) {
    if (record.n_tokens == 0 || record.n_tokens > kChunkTokensMax)
      return invalid("a representation's token count is out of range");
    const bool on_nvme = record.location == PayloadLocation::kNvme;
    if (on_nvme ? record.nvme.payload_bytes != record.bytes : record.nvme != NvmeRecordLocation{})
      return invalid("a representation's location does not fit it");
  }
  for (const auto& [id, record] : batch.put_tokens) {
    if (record.tokens.empty() || record.tokens.size() > kChunkTokensMax)
      return invalid("the number of a representation's tokens is out of range");
    bytes += record.tokens.size() * sizeof(TokenId);
  }
  for (const auto& [id, record] : batch.put_models) {
    if (record.name.size() > kModelNameBytesMax) return invalid("a model's name is too long");
    if (record.descriptor.size() > kRecordBodyBytesMax / 2)
      return invalid("a model's descriptor is too long");
    bytes += record.descriptor.size();
  }
  for (const auto& [id, record] : batch.put_tenants) {
    if (record.name.size() > kTenantNameBytesMax || record.salt.size() > kTenantSaltBytesMax)
      return invalid("a tenant's name or salt is too long");
    if (record.hard_bytes != 0 && record.soft_bytes > record.hard_bytes)
      return invalid("a tenant's soft_bytes is above its hard_bytes");
  }
  for (const auto& [key, value] : batch.put_state) {
    if (key.empty() || key.size() > kStateKeyBytesMax || value.size() > kRecordBodyBytesMax)
      return invalid("a state key or value is too long");
    bytes += value.size();
  }
  for (const auto& [id, payload] : batch.put_blobs) {
    if (payload.size() > kBlobBytesMax)
      return invalid("a payload of " + std::to_string(payload.size()) +
                     " bytes is too large for the metadata store");
    bytes += payload.size();
  }
  if (bytes > kBatchBytesMax) return invalid("the batch is too large; write it in parts");
  return Status::ok();
}

}  // namespace quire::tiers
