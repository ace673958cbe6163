// The store: which objects there are, where their bytes lie, who reads them. A single-threaded
// state machine: every method and every callback runs on the reactor thread (the one that runs the
// EventLoop), copying, hashing and RocksDB run on workers that own nothing.
//
// Life of an object: kReserved (a client writes its staging window) -> kFilling (a worker copies
// and verifies) -> kSealed (found, leased, written through to NVMe or RocksDB, dropped from memory
// and read back) -> kRemoving (I/O ends) -> gone. The parts: store_reserve.cc, store_put.cc,
// store_get.cc, store_place.cc (room, write-through, reclaiming), store_recover.cc, store_admin.cc.
#ifndef QUIRE_SERVER_STORE_STORE_H_
#define QUIRE_SERVER_STORE_STORE_H_

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "proto/wire.h"
#include "server/admin.h"
#include "server/config.h"
#include "server/store/cost_meter.h"
#include "server/store/ingest.h"
#include "server/store/lease_table.h"
#include "server/store/object.h"
#include "server/store/staging_window.h"
#include "server/store/worker.h"
#include "tiers/evict/policy.h"
#include "tiers/host/slab.h"
#include "tiers/index/match_index.h"
#include "tiers/io/event_loop.h"
#include "tiers/nvme/nvme_tier.h"
#include "tiers/rocks/metadata_store.h"

namespace quire::server {

inline constexpr uint32_t kModelsMax = 4096;
inline constexpr uint32_t kLoadWaitersMax = 4096;
// One room-making for a large object evicts at most this many small ones.
inline constexpr uint32_t kEvictionsPerAllocateMax = 4096;
inline constexpr uint32_t kNvmeWritesInFlightMax = 8;
// Objects and payload bytes that one synced metadata write carries.
inline constexpr size_t kFlushObjectsMax = 1024;
inline constexpr uint64_t kFlushBlobBytesMax = 8ull << 20;
// A write that the NVMe tier cannot place for this long stays in memory only.
inline constexpr uint64_t kPersistGiveUpNs = 10'000'000'000;
inline constexpr uint32_t kBusyRetryMs = 20;

// What the store knows of one connected client. Owned by the reactor's session.
struct StoreSession {
  uint32_t id = 0;
  tiers::TenantId tenant = 0;
  std::shared_ptr<const TenantSalt> salt;
  std::shared_ptr<StagingWindow> staging;
  uint32_t lease_head = UINT32_MAX;
  uint32_t leases = 0;
  uint32_t reservations = 0;
};

struct Grant {
  uint64_t lease_id = 0;
  uint32_t lease_ms = 0;
  uint64_t generation = 0;
  uint64_t slab_offset = 0;
  uint64_t bytes = 0;
};

struct StoreCounters {
  uint64_t resolves = 0;
  uint64_t resolved_tokens = 0;
  uint64_t acquires = 0;
  uint64_t misses = 0;
  uint64_t puts = 0;
  uint64_t put_bytes = 0;
  uint64_t refused_puts = 0;
  uint64_t busy_replies = 0;
  uint64_t expired_leases = 0;
  uint64_t expired_reservations = 0;
  uint64_t host_hits = 0;
  uint64_t nvme_hits = 0;
  uint64_t rocks_hits = 0;
  uint64_t host_evictions = 0;
  uint64_t nvme_evictions = 0;
  uint64_t nvme_corruptions = 0;
  uint64_t rocks_corruptions = 0;
  uint64_t rocks_read_bytes = 0;
  uint64_t rocks_written_bytes = 0;
  uint64_t rocks_objects = 0;
};

class Store {
 public:
  // Opens everything below config.data_directory (locked by the caller) and recovers. Runs the loop
  // until recovery is done. Blocking; the calling thread becomes the reactor thread.
  static Expected<std::unique_ptr<Store>> open(const Config& config, EventLoop& loop, Clock& clock);
  // Call shutdown() before; without it this is the fast exit, which loses nothing that was durable.
  ~Store();

  // --- sessions ---
  // The tenant's number and salt; kPermissionDenied where there is no such tenant.
  Status fill_tenant(const std::string& name, StoreSession& session) const;
  void add_session(StoreSession& session);
  // Leases and unfinished reservations go at once.
  void drop_session(StoreSession& session);

  // --- put (store_put.cc) ---
  Expected<wire::ReserveReply> reserve(StoreSession& session, const Digest& id, uint64_t bytes);
  // The client has written that much of its window: copying starts. A hint, except for its errors.
  Status fill(StoreSession& session, const wire::FillRequest& request);
  // Touches the start of the session's staging window, on the ingest worker.
  void prefault(const StoreSession& session);
  // done runs later, exactly once (unless the store is destroyed), or never where this is not OK.
  Status commit(StoreSession& session, const wire::CommitRequest& request, StatusCallback done);
  Status abort(StoreSession& session, uint64_t reservation_id);
  Status register_model(const Digest& id, const std::string& name, ByteSpan descriptor,
                        StatusCallback done);

  // --- get (store_get.cc) ---
  // A lease, or why not. Where the object lies in a slower tier, *must_load is set (and the status
  // is kBusy): call load() and try again when it is done.
  Expected<Grant> try_acquire(StoreSession& session, const Digest& id, uint32_t lease_ms,
                              ObjectEntry** must_load);
  // done(OK) runs when the object is in the host tier; a try_acquire from within done finds it
  // there.
  Status load(ObjectEntry& entry, StatusCallback done);
  Status release(StoreSession& session, uint64_t lease_id);
  Status renew(StoreSession& session, uint64_t lease_id, uint32_t lease_ms);
  // Appends at most kResolveEntriesMax entries to out (cleared first); the token to go on from.
  uint32_t resolve(tiers::TenantId tenant, const TenantSalt& salt,
                   const wire::ResolveRequest& request, std::span<const TokenId> tokens,
                   std::vector<wire::ResolveEntry>& out);

  // Expiries, retries. Called a few times per 100 ms.
  void tick();

  // --- admin (store_admin.cc) ---
  Expected<ListPage> list(const ObjectFilter& filter, uint32_t limit,
                          const std::string& page_token);
  Expected<ObjectInfo> stat(const Digest& id);
  void pin(const Digest& id, uint64_t ttl_ms, StatusCallback done);
  void unpin(const Digest& id, StatusCallback done);
  void remove(const Digest& id, bool force, StatusCallback done);
  void clear(const ObjectFilter& filter, std::function<void(Expected<uint64_t>)> done);
  void prefetch(std::vector<Digest> ids, std::function<void(PrefetchResult)> done);
  // Everything but version, uptime and session fields, which the caller fills in.
  ServerStats stats() const;
  std::vector<ModelInfo> models() const;
  Expected<std::vector<wire::ResolveEntry>> lookup(const Digest& model,
                                                   std::span<const TokenId> tokens,
                                                   const std::string& tenant);
  // Refuses new puts from now on; done when everything that can be durable is.
  void drain(StatusCallback done);
  bool draining() const { return draining_; }

  // After drain(), with the loop no longer running callbacks: flushes and closes RocksDB.
  Status shutdown();

  uint64_t object_bytes_max() const { return object_bytes_max_; }
  uint64_t epoch() const { return epoch_; }
  uint64_t recovery_ms() const { return recovery_ms_; }
  uint64_t objects() const { return index_.usage().entries; }
  tiers::HostSlab& slab() { return *slab_; }
  // Must outlive the EventLoop: I/O may still be under way in it when the store is gone.
  std::shared_ptr<tiers::HostSlab> shared_slab() const { return slab_; }
  StoreCounters& counters() { return counters_; }

 private:
  struct Tenant {
    std::string name;
    std::shared_ptr<const TenantSalt> salt;
  };
  struct Reservation {
    Digest id;
    uint32_t session = 0;
    uint64_t bytes = 0;
    uint64_t staging_offset = 0;
    uint64_t deadline_ns = 0;
    uint64_t filled_bytes = 0;
    std::shared_ptr<Ingest> ingest;  // from the first fill (or the commit) on
    // The ingest worker copies a part: the slot must stay. Whoever wants to free the reservation
    // abandons it instead, and it goes when the part is done.
    bool copying = false;
    bool abandoned = false;
  };
  struct FlushItem {
    Digest id;
    uint64_t incarnation = 0;
  };
  struct QueuedWrite {
    Digest id;
    uint64_t first_try_ns = 0;
  };

  Store(const Config& config, EventLoop& loop, Clock& clock);

  // store.cc
  ObjectEntry* find(const Digest& id);
  ObjectEntry* find_sealed(const Digest& id);
  ObjectEntry* find(const FlushItem& item);
  static uint64_t handle_of(const Digest& id);
  ObjectEntry& create_entry(const Digest& id, uint32_t tenant, uint64_t bytes);
  void destroy_entry(ObjectEntry& entry);
  void destroy_if_removed(ObjectEntry& entry);
  void remove_entry(ObjectEntry& entry, const char* why);
  void free_slot(ObjectEntry& entry);
  void free_reservation(uint64_t id);
  uint32_t lease_ms_within_limits(uint32_t wanted_ms) const;
  void sweep_leases(uint64_t now_ns);
  void sweep_reservations(uint64_t now_ns);
  uint64_t blob_bytes_max() const;

  // store_put.cc
  Expected<Reservation*> find_reservation(const StoreSession& session, uint64_t id);
  Ingest& ingest_of(const StoreSession& session, Reservation& reservation);
  void start_copy(const StoreSession& session, uint64_t reservation_id, Reservation& reservation);
  void finish_copy(uint64_t reservation_id);
  void finish_ingest(uint64_t reservation_id, const wire::CommitRequest& request,
                     Expected<RepresentationHeader> header, const StatusCallback& done);
  Status publish(ObjectEntry& entry, const RepresentationHeader& header);

  // store_get.cc
  void start_read(ObjectEntry& entry);
  void finish_load(const Digest& id, const Status& status);
  void fill_resolve_entry(const tiers::IndexMatch& match, float recompute_us_per_token,
                          wire::ResolveEntry& out) const;

  // store_place.cc
  Expected<tiers::Slot> allocate_slot(uint64_t bytes);
  bool evictable(const ObjectEntry& entry, uint64_t wall_ms) const;
  void evict_from_host(ObjectEntry& entry);
  void start_persist(ObjectEntry& entry);
  void pump_nvme_writes();
  void finish_nvme_write(const Digest& id, uint64_t first_try_ns,
                         const Expected<NvmeLocation>& result);
  void start_flush();
  void flush_metadata(const Status& sync_status);
  void finish_flush(const Status& status);
  void fail_persist(ObjectEntry& entry, const Status& status);
  void send_deletes(bool sync, StatusCallback done);
  void install_reclaim_hooks();
  void on_nvme_evict(const Digest& id, const NvmeLocation& location);
  void check_drained();
  tiers::RepresentationRecord make_record(const ObjectEntry& entry) const;

  // store_recover.cc
  Status open_tiers();
  Status open_nvme();
  Status recover();
  Status recover_tenants();
  Status recover_models();
  Status recover_objects();
  void measure_costs();

  // store_admin.cc
  ObjectInfo info(const ObjectEntry& entry) const;
  bool matches(const ObjectEntry& entry, const ObjectFilter& filter) const;
  void write_record(ObjectEntry& entry, StatusCallback done);

  const Config config_;
  EventLoop& loop_;
  Clock& clock_;
  uint64_t epoch_ = 0;
  uint64_t recovery_ms_ = 0;
  uint64_t object_bytes_max_ = 0;

  std::shared_ptr<tiers::HostSlab> slab_;
  std::unique_ptr<tiers::MetadataStore> metadata_;
  std::unique_ptr<NvmeTier> nvme_;  // null without an NVMe tier
  std::string nvme_absent_because_;
  std::unique_ptr<tiers::EvictionPolicy> policy_;
  tiers::MatchIndex index_;

  std::unordered_map<Digest, std::unique_ptr<ObjectEntry>, DigestHasher> objects_;
  std::unordered_map<uint64_t, ObjectEntry*> by_handle_;
  std::unordered_map<uint64_t, Reservation> reservations_;
  std::unordered_map<uint32_t, StoreSession*> sessions_;
  LeaseTable leases_;
  std::map<uint32_t, Tenant> tenants_;
  std::shared_ptr<const ModelTable> models_ = std::make_shared<ModelTable>();
  uint64_t next_reservation_id_ = 1;
  uint64_t next_incarnation_ = 1;
  uint64_t earliest_reservation_ns_ = UINT64_MAX;
  uint32_t ingests_in_flight_ = 0;
  uint32_t writes_of_records_in_flight_ = 0;

  std::deque<QueuedWrite> write_queue_;
  uint32_t nvme_writes_in_flight_ = 0;
  bool nvme_stalled_ = false;  // its last answer was kBusy; the next tick tries again
  std::deque<FlushItem> unsynced_;
  std::vector<FlushItem> flush_round_;
  bool flushing_ = false;
  tiers::MetadataBatch deletes_;
  bool draining_ = false;
  bool sealing_ = false;
  std::vector<StatusCallback> drain_waiters_;

  StoreCounters counters_;
  CostMeter host_cost_{TierCost{5000, 5}};
  CostMeter nvme_cost_{TierCost{1000, 150}};
  CostMeter rocks_cost_{TierCost{500, 100}};

  // Declared last: stopped first, while what their jobs refer to is alive.
  std::unique_ptr<Worker> ingest_worker_;
  std::unique_ptr<Worker> metadata_worker_;
  std::unique_ptr<Worker> read_worker_;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_STORE_H_
