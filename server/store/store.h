// The store: which objects there are, where their bytes lie, who reads them. A single-threaded
// state machine: every method and every callback runs on the reactor thread (the one that runs the
// EventLoop), copying, hashing and RocksDB run on workers that own nothing.
//
// Life of an object: kReserved (a client writes its staging window) -> kFilling (a worker copies
// and verifies) -> kSealed (found, leased, written through to NVMe or RocksDB, dropped from memory
// and read back) -> kRemoving (I/O ends) -> gone. What is stored has a row in the index (about 100
// bytes); only what is in memory or under way has an ObjectEntry besides; tokens and details of the
// others are read from the metadata when a match needs them.
//
// The parts: store_reserve.cc, store_put.cc, store_get.cc, store_details.cc, store_place.cc (room,
// write-through), store_flush.cc (grouped durability, draining), store_reclaim.cc (what the NVMe
// tier asks), store_gpu.cc (copies on the GPU, over gpu_placement.h), store_quota.cc,
// store_recover.cc, store_rebuild.cc, store_variants.cc (scopes, cap, feedback), store_verdict.cc,
// store_admin.cc, store_status.cc.
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
#include "server/store/counters.h"
#include "server/store/gpu_placement.h"
#include "server/store/lease_table.h"
#include "server/store/limits.h"
#include "server/store/live_objects.h"
#include "server/store/lost_records.h"
#include "server/store/object.h"
#include "server/store/reservation.h"
#include "server/store/resolve_job.h"
#include "server/store/store_session.h"
#include "server/store/tenants.h"
#include "server/store/worker.h"
#include "server/verdict.h"
#include "tiers/host/slab.h"
#include "tiers/index/match_index.h"
#include "tiers/io/event_loop.h"
#include "tiers/nvme/nvme_tier.h"
#include "tiers/rocks/metadata_store.h"
#include "tiers/rocks/registry_file.h"

namespace quire::server {

class RecoveredPayloads;

class Store {
 public:
  // Opens everything below config.data_directory (locked by the caller) and recovers. Runs the loop
  // until recovery is done. Blocking; the calling thread becomes the reactor thread.
  static Expected<std::unique_ptr<Store>> open(const Config& config, EventLoop& loop, Clock& clock);
  // Call shutdown() before; without it this is the fast exit, which loses nothing that was durable.
  ~Store();

  // --- sessions ---
  // The tenant's number and salt; kPermissionDenied where there is no such tenant.
  Status fill_tenant(const std::string& name, StoreSession& session);
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
  // on_gpu: on the GPU copy where there is one that the session can read.
  Expected<Grant> try_acquire(StoreSession& session, const Digest& id, uint32_t lease_ms,
                              bool* must_load, bool on_gpu = false);
  // done(OK) runs when the object is in the host tier; a try_acquire from within done finds it
  // there.
  Status load(const Digest& id, StatusCallback done);
  Status release(StoreSession& session, uint64_t lease_id);
  Status renew(StoreSession& session, uint64_t lease_id, uint32_t lease_ms);
  // True: the job has its answer. False: details must be read first; call load_details(job, done),
  // and again when done ran.
  bool try_resolve(ResolveJob& job);
  // Reads what the last try_resolve() lacked. kBusy where too much waits.
  Status load_details(const std::shared_ptr<ResolveJob>& job, StatusCallback done);
  // Hints of the next use, of objects that this session may know of (nullptr: any).
  HintResult hint(std::span<const Digest> ids, const UseHint& hint, const StoreSession* session);

  // --- variants (store_variants.cc) ---
  // From now on; the scope's id.
  Digest enter_scope(StoreSession& session, std::string_view label);
  // Told of one representation, noted for all of its variant.
  wire::FeedbackReply feedback(const StoreSession& session,
                               std::span<const wire::FeedbackItem> items);

  // --- gpu (store_gpu.cc) ---
  // There is a GPU tier, or one is being opened.
  bool has_gpu() const;
  // The session imports the pool: from now on it may be given leases there. kBusy while the tier is
  // being opened, kUnavailable with the reason where it is not there.
  Expected<const tiers::DevicePool*> attach_gpu(StoreSession& session);

  // Expiries, retries. Called a few times per 100 ms.
  void tick();

  // --- admin (store_admin.cc, store_status.cc) ---
  void list(const ObjectFilter& filter, uint32_t limit, const std::string& page_token,
            std::function<void(Expected<ListPage>)> done);
  void stat(const Digest& id, std::function<void(Expected<ObjectInfo>)> done);
  void pin(const Digest& id, uint64_t ttl_ms, StatusCallback done);
  void unpin(const Digest& id, StatusCallback done);
  void remove(const Digest& id, bool force, StatusCallback done);
  void clear(const ObjectFilter& filter, std::function<void(Expected<uint64_t>)> done);
  // What cannot be there by the deadline, by the tiers' measured speeds, is not begun; done runs at
  // the deadline at the latest.
  void prefetch(std::vector<Digest> ids, uint32_t deadline_ms,
                std::function<void(PrefetchResult)> done);
  // Everything but version, uptime and session fields, which the caller fills in.
  ServerStats stats() const;
  std::vector<ModelInfo> models() const;
  // Survives a restart; nullopt takes it away. kNotFound for a model that was never registered.
  void set_verdict(const Digest& model, const std::optional<Verdict>& verdict, StatusCallback done);
  void lookup(const Digest& model, std::vector<TokenId> tokens, const std::string& tenant,
              std::string_view scope_label,
              std::function<void(Expected<std::vector<wire::ResolveEntry>>)> done);
  std::vector<TenantInfo> tenants() const;
  void set_quota(const std::string& tenant, uint64_t soft_bytes, uint64_t hard_bytes,
                 StatusCallback done);
  void checkpoint(const std::string& directory, std::function<void(Expected<CheckpointInfo>)> done);
  // Refuses new puts from now on; done when everything that can be durable is.
  void drain(StatusCallback done);
  bool draining() const { return draining_; }

  // After drain(), with the loop no longer running callbacks: flushes and closes RocksDB.
  Status shutdown();

  uint64_t object_bytes_max() const { return object_bytes_max_; }
  uint64_t epoch() const { return epoch_; }
  uint64_t recovery_ms() const { return recovery_ms_; }
  uint64_t objects() const { return index_->usage().entries; }
  tiers::HostSlab& slab() { return *slab_; }
  // Must outlive the EventLoop: I/O may still be under way in it when the store is gone.
  std::shared_ptr<tiers::HostSlab> shared_slab() const { return slab_; }
  StoreCounters& counters() { return counters_; }

 private:
  struct QueuedWrite {
    EntryRef entry;
    uint64_t first_try_ns = 0;
  };

  Store(const Config& config, EventLoop& loop, Clock& clock);

  // store.cc
  ObjectEntry* find_sealed(const Digest& id);
  ObjectEntry& make_live(tiers::RowId row);
  ObjectEntry* live_of(const tiers::IndexRow& row);
  const ObjectEntry* live_of(const tiers::IndexRow& row) const;
  // Gives up an entry that has nothing to say beyond its row.
  void retire(ObjectEntry& entry);
  void destroy_entry(ObjectEntry& entry);
  void destroy_if_removed(ObjectEntry& entry);
  void remove_entry(ObjectEntry& entry, const char* why);
  void remove_row(tiers::RowId row, const char* why);
  void drop_row(tiers::RowId row, bool has_record);
  void give_slot(ObjectEntry& entry, const tiers::Slot& slot);
  void free_slot(ObjectEntry& entry);
  void enter_policy(ObjectEntry& entry);
  void leave_policy(ObjectEntry& entry, bool evicted);
  void free_reservation(uint64_t id);
  void end_lease(ObjectEntry& entry, bool on_gpu);
  uint32_t lease_ms_within_limits(uint32_t wanted_ms) const;
  void sweep_leases(uint64_t now_ns);
  void sweep_reservations(uint64_t now_ns);
  uint64_t blob_bytes_max() const;
  uint32_t tenant_of(const tiers::IndexRow& row) const;
  bool pinned(const tiers::IndexRow& row, uint64_t wall_ms) const;
  uint64_t pinned_until(tiers::RowId row) const;
  void set_pin(tiers::RowId row, uint64_t until_wall_ms);
  bool below(const ObjectEntry& entry) const;
  std::optional<NvmeLocation> nvme_location(const tiers::IndexRow& row) const;
  void set_nvme_location(tiers::IndexRow& row, const NvmeLocation& location);

  // store_variants.cc
  bool visible(const StoreSession& session, tiers::RowId row) const;
  bool may_go(tiers::RowId row, uint64_t wall_ms) const;
  bool give_way_to_new(tiers::RowId row);
  std::vector<tiers::RowId> rows_of_variant(tiers::RowId row) const;
  void limit_variants(tiers::RowId newest);
  void note_deviation(tiers::RowId row, float deviation);

  // store_verdict.cc
  void apply_verdict(const Digest& model);
  Status recover_verdicts(const std::vector<Digest>& models, const tiers::Registry& copy);
  void add_verdict_warnings(std::vector<std::string>& out) const;

  // store_put.cc
  Expected<Reservation*> find_reservation(const StoreSession& session, uint64_t id);
  Ingest& ingest_of(const StoreSession& session, Reservation& reservation);
  void start_copy(const StoreSession& session, uint64_t reservation_id, Reservation& reservation);
  void finish_copy(uint64_t reservation_id);
  void finish_ingest(uint64_t reservation_id, const wire::CommitRequest& request,
                     Expected<RepresentationHeader> header, const StatusCallback& done);
  // store_reserve.cc
  Status publish(ObjectEntry& entry, const RepresentationHeader& header);
  void start_persist_after_put(ObjectEntry& entry, bool durable);

  // store_get.cc
  Status load(ObjectEntry& entry, StatusCallback done);
  Expected<Grant> grant(StoreSession& session, ObjectEntry& entry, uint32_t lease_ms, bool on_gpu);
  void note_use(ObjectEntry& entry);
  void start_read(ObjectEntry& entry);
  void finish_load(const EntryRef& ref, const Status& status);
  uint32_t load_us(const tiers::IndexRow& row) const;
  void fill_resolve_entry(const tiers::IndexMatch& match, float recompute_us_per_token,
                          bool reads_gpu, wire::ResolveEntry& out);

  // store_details.cc
  using DetailsDone = std::function<void(const Status&, std::vector<tiers::SharedDetails>)>;
  tiers::SharedDetails known_details(tiers::RowId row);
  // One answer per id, null where it is gone (and its row with it).
  Status read_details(std::vector<Digest> ids, DetailsDone done);

  // store_place.cc
  Expected<tiers::Slot> allocate_slot(uint64_t bytes, uint32_t tenant);
  bool evictable(const ObjectEntry& entry, uint64_t wall_ms) const;
  // Where nothing of the tenant may go: nullptr.
  ObjectEntry* host_victim(Tenant& tenant, uint64_t wall_ms);
  void evict_from_host(ObjectEntry& entry);
  void start_persist(ObjectEntry& entry);
  void pump_nvme_writes();
  void finish_nvme_write(const QueuedWrite& queued, const Expected<NvmeLocation>& result);
  void fail_persist(ObjectEntry& entry, const Status& status);

  // store_gpu.cc
  void open_gpu();
  bool in_gpu(const ObjectEntry& entry) const;
  void drop_gpu_copy(ObjectEntry& entry);
  uint32_t gpu_load_us(const tiers::IndexRow& row) const;

  // store_flush.cc
  void start_flush();
  bool add_to_flush(ObjectEntry& entry, const Status& sync_status, tiers::MetadataBatch& batch);
  void flush_metadata(const Status& sync_status);
  void finish_flush(const Status& status);
  void send_changes(bool sync, StatusCallback done);
  void check_drained();
  void seal_and_finish_drain();
  tiers::RepresentationRecord make_record(const ObjectEntry& entry) const;

  // store_reclaim.cc
  void install_reclaim_hooks();
  void start_scrub();
  std::optional<tiers::RowId> row_at(const Digest& id, const NvmeLocation& location) const;
  void on_nvme_move(const Digest& id, const NvmeLocation& from, const NvmeLocation& to);
  void on_nvme_evict(const Digest& id, const NvmeLocation& location);
  void on_scrub_corrupt(const Digest& id, const NvmeLocation& location);
  void rewrite_to_nvme(ObjectEntry& entry);

  // store_quota.cc
  Status make_room_in_quota(Tenant& tenant, uint64_t bytes);
  bool evict_one_of(Tenant& tenant);

  // store_recover.cc
  void warn(const std::string& what);
  Status open_tiers();
  Status open_metadata();
  Status open_nvme();
  Expected<std::unique_ptr<NvmeTier>> open_device(const std::string& path);
  Status recover();
  Expected<tiers::Registry> read_registry_copy();
  Status restore_registry(const tiers::Registry& copy);
  Status recover_seed(const tiers::Registry& copy);
  Status recover_tenants();
  Status apply_configured_tenants(uint32_t next_number);
  Status recover_models(const tiers::Registry& copy);
  tiers::Registry make_registry() const;
  std::string registry_path() const;
  void registry_written(const Status& status);
  // then, where given, runs on the reactor when that is over, whatever came of it.
  void write_registry_later(const std::function<void()>& then = nullptr);
  void measure_costs();

  // store_recover_objects.cc
  Status recover_payloads(RecoveredPayloads& payloads);
  Status recover_objects();
  bool add_recovered(const Digest& id, const tiers::RepresentationRecord& record,
                     std::optional<NvmeLocation> location,
                     const tiers::TokenFingerprints& fingerprints);
  Status forget_recovered(const Digest& id, const std::optional<NvmeLocation>& location,
                          bool in_rocks);
  Status backfill_fingerprints(const std::vector<UnreadRecord>& records);

  // store_rebuild.cc
  void pump_rebuild();
  void start_rebuild(const LostRecord& lost, const tiers::Slot& slot);
  void finish_rebuild(const Rebuilt& found);
  void rebuild_of_known_models();
  void check_rebuilt();

  // store_admin.cc
  using DescribeDone = std::function<void(Expected<std::vector<ObjectInfo>>)>;
  using LookupDone = std::function<void(Expected<std::vector<wire::ResolveEntry>>)>;
  ObjectInfo info(tiers::RowId row, const tiers::IndexDetails& details);
  // Of those ids that are stored, in order.
  void describe(std::vector<Digest> ids, DescribeDone done);
  // scope: scope_of(filter), asked for once.
  bool matches(const tiers::IndexRow& row, const ObjectFilter& filter,
               const std::optional<Digest>& scope);
  // The id of the filter's scope, if it names one.
  Expected<std::optional<Digest>> scope_of(const ObjectFilter& filter);
  void write_checkpoint(const std::string& directory,
                        const std::function<void(Expected<CheckpointInfo>)>& done);
  struct Clearing;
  void clear_some(const std::shared_ptr<Clearing>& clearing);
  void patch_record(tiers::RowId row, const tiers::RepresentationPatch& patch, StatusCallback done);
  void lookup_page(const std::shared_ptr<ResolveJob>& job,
                   const std::shared_ptr<std::vector<wire::ResolveEntry>>& all, LookupDone done);

  // store_status.cc
  std::vector<std::string> degraded() const;
  TierStats host_stats() const;
  TierStats nvme_stats() const;
  TierStats rocks_stats() const;

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
  bool nvme_broken_ = false;           // wanted, but its device could not be opened
  std::vector<std::string> warnings_;  // of the start: what is degraded, and why
  std::unique_ptr<tiers::MatchIndex> index_;
  uint64_t fingerprint_seed_ = 0;
  tiers::DetailsCache details_cache_;
  Tenants tenants_;

  LiveObjects live_;
  std::unordered_map<PendingKey, EntryRef, PendingKeyHasher> pending_;
  std::unordered_map<tiers::RowId, uint64_t> pins_;  // until which wall clock, ms
  std::unordered_map<uint64_t, Reservation> reservations_;
  std::unordered_map<uint32_t, StoreSession*> sessions_;
  LeaseTable leases_;
  std::shared_ptr<const ModelTable> models_ = std::make_shared<ModelTable>();
  std::map<Digest, Verdict> verdicts_;
  uint64_t next_reservation_id_ = 1;
  uint64_t earliest_reservation_ns_ = UINT64_MAX;
  uint32_t ingests_in_flight_ = 0;
  tiers::RowId quota_cursor_ = 0;

  std::deque<QueuedWrite> write_queue_;
  uint32_t nvme_writes_in_flight_ = 0;
  bool over_write_budget_ = false;  // of the NVMe tier, as of the last tick
  bool nvme_stalled_ = false;       // its last answer was kBusy; the next tick tries again
  std::deque<EntryRef> unsynced_;
  std::vector<EntryRef> flush_round_;
  bool flushing_ = false;
  bool flush_stalled_ = false;    // the last sync was kBusy; the next tick tries again
  tiers::MetadataBatch changes_;  // deletes and patches that nobody waits for
  uint32_t change_batches_in_flight_ = 0;
  bool draining_ = false;
  bool sealing_ = false;
  std::vector<StatusCallback> drain_waiters_;

  std::deque<LostRecord> lost_records_;
  std::vector<LostRecord> records_of_unknown_models_;
  uint32_t rebuilds_in_flight_ = 0;
  uint64_t rebuilt_objects_ = 0;
  std::string registry_error_;  // of the last write of the registry copy; empty: it holds
  bool rebuilding_ = false;     // payloads without a record are brought back, not forgotten

  StoreCounters counters_;
  CostMeter host_cost_{TierCost{5000, 5}};
  CostMeter nvme_cost_{TierCost{1000, 150}};
  CostMeter rocks_cost_{TierCost{500, 100}};

  // Declared last: stopped first, while what their jobs refer to is alive.
  std::unique_ptr<Worker> ingest_worker_;
  std::unique_ptr<Worker> metadata_worker_;
  std::unique_ptr<Worker> read_worker_;
  std::unique_ptr<GpuPlacement> gpu_;  // null where it is not configured
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_STORE_H_
