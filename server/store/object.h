// One representation that memory knows more of than its index row: it is being stored, lies in the
// host tier, is leased or has I/O under way. Objects that only lie below have no entry; one is made
// when they are asked for. Owned by LiveObjects; reactor thread only.
#ifndef QUIRE_SERVER_STORE_OBJECT_H_
#define QUIRE_SERVER_STORE_OBJECT_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/hash.h"
#include "base/status.h"
#include "tiers/host/slab.h"
#include "tiers/index/details.h"

namespace quire::server {

enum class ObjectState : uint8_t {
  kReserved,  // a client writes its staging window; a slot is set aside; not in the index
  kFilling,   // an ingest thread copies and verifies
  kSealed,    // in the index: can be found and leased
  kRemoving,  // not in the index any more; I/O on its slot has still to end
};

enum class PersistState : uint8_t {
  kNone,     // nothing below memory, and nothing under way
  kHeld,     // not written for now: the write budget is used up; a second use writes it
  kQueued,   // waits for its write
  kWriting,  // the slot is being read by a write
  kWritten,  // on NVMe, not yet synced with its metadata
  kDurable,
  kFailed,  // no tier below takes it: lives and dies in memory
};

// The store's flags of an index row, beside those of tiers/index/row.h.
inline constexpr uint8_t kRowUsed = 1u << 5;      // since it was written or moved on NVMe
inline constexpr uint8_t kRowFinished = 1u << 6;  // by a hint: nobody asks for it again

using StatusCallback = std::function<void(const Status&)>;

// Names an entry across callbacks: by the time they run it may be gone and its number reused.
struct EntryRef {
  uint32_t number = UINT32_MAX;
  uint64_t incarnation = 0;
};

// The copy of an object on the GPU (gpu_placement.h).
struct GpuCopy {
  std::optional<tiers::Slot> slot;  // of the device pool
  bool queued = false;              // waits for its upload
  bool uploading = false;           // the host slot is being read
  bool ready = false;
  uint64_t handle = 0;  // in the GPU tier's eviction policy, while ready
  uint32_t asks = 0;    // by clients of the pool, while it was not there
  uint32_t leases = 0;  // of ObjectEntry::leases, those on this copy
};

struct ObjectEntry {
  Digest id;
  uint32_t number = 0;  // in LiveObjects; IndexRow::live of its row
  uint64_t incarnation = 0;
  tiers::RowId row = tiers::kNoRow;  // while kSealed
  ObjectState state = ObjectState::kReserved;
  PersistState persist = PersistState::kNone;
  uint32_t tenant = 0;
  uint64_t bytes = 0;
  Hash128 checksum;

  std::optional<tiers::Slot> slot;  // host tier
  bool loading = false;             // a read fills the slot; not readable yet
  bool in_policy = false;           // the eviction policy of its tenant holds it, under `handle`
  uint64_t handle = 0;
  bool as_blob = false;     // kWriting to RocksDB, not to NVMe
  bool has_record = false;  // its metadata record was handed to the metadata writer
  uint32_t leases = 0;      // on the host slot and on the GPU copy
  GpuCopy gpu;

  // What its record says; kept until it is durable, then the details cache has it.
  tiers::SharedDetails details;
  uint64_t nvme_sequence = 0;  // of the write that its next record names
  uint64_t load_started_ns = 0;
  uint64_t reservation = 0;

  std::vector<StatusCallback> load_waiters;
  std::vector<StatusCallback> durable_waiters;

  EntryRef ref() const { return {number, incarnation}; }
  bool in_host() const { return slot.has_value() && !loading && state == ObjectState::kSealed; }
  bool io_in_flight() const {
    return loading || persist == PersistState::kWriting || state == ObjectState::kFilling ||
           gpu.uploading;
  }
  uint32_t host_leases() const { return leases - gpu.leases; }
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_OBJECT_H_
