// One seeded run of the real NvmeTier on a faulty device in memory, under a virtual clock, with the
// owner that a server would be: an index, records written after the data, deletes, a cache's right
// to miss. What must hold whatever happens:
//   - a read that succeeds gives the bytes of the version asked for;
//   - it fails only where a fault, a removal or an eviction explains it;
//   - what a sync covered is found after a crash, unless it was evicted or a fault hit its blocks;
//   - what has a durable record is found, too, and recovery reports nothing that nobody wrote;
//   - a recovery that is cut off and done again finds the same;
//   - each callback runs exactly once, nothing hangs, the counters agree with what was seen.
#ifndef QUIRE_TESTS_SIM_TIER_SIMULATION_H_
#define QUIRE_TESTS_SIM_TIER_SIMULATION_H_

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/clock.h"
#include "tests/sim/sim_metadata.h"
#include "tests/sim/sim_payload.h"
#include "tests/sim/sim_profile.h"
#include "tiers/io/faulty_device.h"
#include "tiers/io/memory_device.h"
#include "tiers/nvme/nvme_tier.h"

namespace quire::sim {

struct SimulationOptions {
  uint64_t seed = 1;
  uint64_t operations = 5000;
  bool trace = false;  // the log of operations, to stdout
};

class TierSimulation {
 public:
  TierSimulation(const SimulationOptions& options, Totals& totals);
  ~TierSimulation();
  // False where a promise was broken: failure() says which.
  bool run();
  const std::string& failure() const { return failure_; }
  // Of everything that was observed, in order: equal for equal seeds.
  uint64_t digest() const { return digest_; }

 private:
  struct Entry {  // of the owner's index, by key
    uint32_t version = 0;
    NvmeLocation location;
    std::optional<NvmeLocation> moved_from;  // till the next sync the copy may be lost
    bool durable = false;                    // a sync covered it
  };
  struct PendingWrite {
    uint32_t version = 0;
    AlignedBuffer buffer;
    bool sealed_before = false;  // a seal that came later was answered first
    bool done = false;
  };
  struct PendingRead {
    uint32_t version = 0;
    NvmeLocation location;
    AlignedBuffer buffer;
    bool wrong_question = false;
    bool excused = false;  // a read fault hit its blocks
    bool done = false;
  };
  struct PendingSync {
    std::vector<std::pair<uint32_t, uint32_t>> covered;  // key, version
    size_t writes_before = 0;                            // a seal waits for them
    bool seal = false;
    bool flush = false;  // then write the records
    bool done = false;
  };
  // A place on the device and when: a segment's generation is in the location.
  using Place = std::pair<uint32_t, uint64_t>;

  // --- tier_simulation.cc: the operations of one life ---
  void step();
  void start_write();
  void on_write(PendingWrite& write, const Expected<NvmeLocation>& result);
  void start_read();
  void read_key(uint32_t key, bool wrongly);
  void ask_wrongly(PendingRead& read, Digest* key, Hash128* expected);
  void on_read(PendingRead& read, const Status& status);
  void start_sync(bool seal);
  void on_sync(PendingSync& sync, const Status& status);
  void remove_one();
  void rot_one();
  bool step_device();
  // Until nothing is under way; then compares the counters.
  void settle();
  void check_counters();
  void add_live(const NvmeLocation& location);
  // One sequence is one object at one place, now and after any restart.
  void know(uint32_t version, const NvmeLocation& location);
  // Something just happened after which a crash may hurt: have one soon, now and then.
  void maybe_crash_soon();
  void forget(uint32_t key);
  std::optional<uint32_t> any_key();
  void install_hooks();
  void start_scrub();
  void on_fault(Fault fault, uint64_t offset, uint64_t bytes);

  // --- tier_simulation_restart.cc: crash, recovery and what must be there after it ---
  void restart();
  void restart(bool power_cut);
  void drop_vanished();
  void crash(bool power_cut);
  void forget_life();
  bool open(const FaultRates& rates);
  Status try_open(const FaultRates& rates);
  NvmeOptions make_options();
  void reset_store();
  void recover(const std::function<void()>& on_done);
  std::vector<RecoveredObject> recover_and_crash(bool power_cut);
  void compare_recoveries(std::vector<RecoveredObject> first);
  void check_reported();
  void check_durable(const std::vector<std::optional<Entry>>& before);
  bool may_be_gone(const NvmeLocation& location) const;
  bool excused(const NvmeLocation& location) const;
  void rebuild_index();
  void audit();

  // --- both ---
  template <typename... Parts>
  void log(const Parts&... parts);
  void note(std::string_view text);
  void fail(const std::string& what);
  bool failed() const { return !failure_.empty(); }
  const Version& version(uint32_t number) const { return versions_[number]; }
  uint64_t device_offset(const NvmeLocation& location) const;
  static uint64_t stored_bytes(const NvmeLocation& location);

  const SimulationOptions options_;
  Totals& totals_;
  SeededRandom random_;
  ManualClock clock_;
  const PayloadBank& bank_;
  BufferPool buffers_;
  std::string failure_;
  uint64_t operation_ = 0;
  uint64_t digest_ = 0;

  uint64_t segments_ = 0;
  uint64_t payload_bytes_max_ = 0;
  uint64_t keys_ = 0;
  FaultProfile profile_;
  std::shared_ptr<MemoryImage> image_;   // shared with the device of each life
  std::shared_ptr<MediaDamage> damage_;  // likewise
  SimMetadata metadata_;

  std::vector<Version> versions_;
  std::unordered_map<uint64_t, uint32_t> version_by_checksum_;
  std::vector<std::optional<Entry>> index_;
  std::map<uint32_t, uint32_t> records_;  // synced ones: key, version
  SimMetadata::Batch deletes_;
  uint64_t last_sequence_ = 0;                                             // of anything seen
  std::unordered_map<uint64_t, std::pair<uint32_t, NvmeLocation>> known_;  // by sequence
  bool superblock_was_damaged_ = false;
  uint64_t opens_ = 0;  // of this store
  std::array<uint64_t, 2> uuid_{};

  // One life.
  uint64_t life_ = 0;
  std::optional<uint64_t> crash_in_steps_;
  bool passive_ = false;  // the owner has not looked yet: nothing is kept or forgotten
  std::vector<std::unique_ptr<PendingWrite>> writes_;
  std::unordered_set<uint32_t> keys_being_written_;
  std::vector<std::unique_ptr<PendingRead>> reads_;
  std::vector<std::unique_ptr<PendingSync>> syncs_;
  std::vector<std::function<void()>> tasks_;  // of other threads, and back from them
  std::vector<RecoveredObject> recovered_;
  // By segment misread in a recovery: the newest generation then. Appending to it may have hidden
  // what was there, and what was there may hide what is appended.
  std::map<uint32_t, uint64_t> tainted_;
  std::set<uint32_t> segments_hit_;      // a fault of any kind struck or had struck in it
  bool misdirected_ = false;             // a write went anywhere
  std::set<uint32_t> segments_misread_;  // a read fault struck in this life
  std::map<Place, NvmeLocation> live_;   // what the tier should count
  bool write_faults_ = false;            // errors that were reported
  bool stuck_ = false;                   // an operation was
  uint64_t next_tick_ns_ = 0;
  bool read_faults_ = false;  // struck in this life
  uint64_t written_bytes_ = 0, read_bytes_ = 0, corrupt_reads_ = 0;
  uint64_t kept_ = 0, moves_ = 0, evictions_ = 0;

  FaultyDevice* device_ = nullptr;  // the tier's
  std::unique_ptr<NvmeTier> tier_;  // last: its device looks at the payloads of unfinished writes
};

}  // namespace quire::sim

#endif  // QUIRE_TESTS_SIM_TIER_SIMULATION_H_
