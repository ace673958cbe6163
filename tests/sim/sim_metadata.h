// The records of an owner, over MemoryMetadataStore, with the promise of RocksStore about crashes:
// what was not synced may go, the last batches first, never a part of one.
#ifndef QUIRE_TESTS_SIM_SIM_METADATA_H_
#define QUIRE_TESTS_SIM_SIM_METADATA_H_

#include <cstdint>
#include <map>
#include <vector>

#include "tests/sim/sim_payload.h"
#include "tiers/io/seeded_random.h"
#include "tiers/nvme/nvme_tier.h"
#include "tiers/rocks/memory_metadata_store.h"

namespace quire::sim {

class SimMetadata {
 public:
  // Keys to put with the version they have, and keys to delete.
  struct Batch {
    std::vector<std::pair<Version, NvmeLocation>> puts;
    std::vector<uint32_t> deletes;
  };
  struct Row {
    uint64_t bytes = 0;
    Hash128 checksum;
  };

  void write(const Batch& batch, bool sync);
  // A killed process loses nothing, a power cut some of what was not synced.
  void crash(bool power_cut, SeededRandom& random);
  // By key number. To be called after crash().
  std::map<uint32_t, Row> records() const;

 private:
  void apply(const Batch& batch);
  tiers::MemoryMetadataStore store_;
  std::vector<Batch> unsynced_;
};

}  // namespace quire::sim

#endif  // QUIRE_TESTS_SIM_SIM_METADATA_H_
