// One stored representation and where its bytes are. Owned by Store; reactor thread only.
#ifndef QUIRE_SERVER_STORE_OBJECT_H_
#define QUIRE_SERVER_STORE_OBJECT_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/hash.h"
#include "base/status.h"
#include "tiers/host/slab.h"
#include "tiers/index/match_index.h"
#include "tiers/nvme/nvme_tier.h"

namespace quire::server {

enum class ObjectState : uint8_t {
  kReserved,  // a client writes its staging window; a slot is set aside
  kFilling,   // an ingest thread copies and verifies
  kSealed,    // can be found and leased
  kRemoving,  // cannot be found any more; I/O on its slot has still to end
};

enum class PersistState : uint8_t {
  kNone,     // nothing below memory, and nothing under way
  kQueued,   // waits for its write
  kWriting,  // the slot is being read by a write
  kWritten,  // on NVMe, not yet synced with its metadata
  kDurable,
  kFailed,  // no tier below takes it: lives and dies in memory
};

using StatusCallback = std::function<void(const Status&)>;

struct ObjectEntry {
  Digest id;
  ObjectState state = ObjectState::kReserved;
  PersistState persist = PersistState::kNone;
  uint32_t tenant = 0;
  uint64_t bytes = 0;
  Hash128 checksum;
  uint64_t incarnation = 0;                  // tells a later entry of the same id from this one
  const tiers::IndexEntry* index = nullptr;  // from kSealed on

  std::optional<tiers::Slot> slot;  // host tier
  bool loading = false;             // a read fills the slot; not readable yet
  uint32_t leases = 0;

  std::optional<NvmeLocation> nvme;
  bool in_rocks = false;
  bool as_blob = false;     // kWriting to RocksDB, not to NVMe
  bool has_record = false;  // its metadata record was handed to the metadata writer

  uint64_t hits = 0;
  uint64_t hits_when_moved = 0;  // by NVMe reclaiming, which keeps what was hit since
  uint64_t created_wall_ms = 0;
  uint64_t pinned_until_wall_ms = 0;
  uint64_t load_started_ns = 0;
  uint64_t reservation = 0;

  std::vector<StatusCallback> load_waiters;
  std::vector<StatusCallback> durable_waiters;

  bool in_host() const { return slot.has_value() && !loading && state == ObjectState::kSealed; }
  bool below() const { return nvme.has_value() || in_rocks; }
  bool io_in_flight() const {
    return loading || persist == PersistState::kWriting || state == ObjectState::kFilling;
  }
  bool pinned(uint64_t wall_ms) const { return pinned_until_wall_ms > wall_ms; }
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_OBJECT_H_
