// Objects whose metadata is lost or was not read yet: what a start knows of them until their
// payloads were looked at.
#ifndef QUIRE_SERVER_STORE_LOST_RECORDS_H_
#define QUIRE_SERVER_STORE_LOST_RECORDS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "base/ids.h"
#include "base/status.h"
#include "codecs/representation.h"
#include "tiers/host/slab.h"
#include "tiers/nvme/nvme_tier.h"

namespace quire::server {

// State in the metadata for as long as payloads without a record have to be looked at.
inline constexpr char kRebuildKey[] = "rebuild";

// An object found in a segment whose record was lost.
struct LostRecord {
  Digest id;
  NvmeLocation location;
  Hash128 checksum;
};

// A record whose fingerprints have to be made from its tokens.
struct UnreadRecord {
  Digest id;
  std::optional<NvmeLocation> location;
};

// What looking at a lost object's payload has shown.
struct Rebuilt {
  LostRecord lost;
  tiers::Slot slot;
  Status status;
  RepresentationHeader header;
  std::optional<uint32_t> tenant;
  std::vector<std::pair<uint32_t, std::shared_ptr<const TenantSalt>>> salts;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_LOST_RECORDS_H_
