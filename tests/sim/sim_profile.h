// What one life of a simulated store goes through, and what all of them went through in sum.
#ifndef QUIRE_TESTS_SIM_SIM_PROFILE_H_
#define QUIRE_TESTS_SIM_SIM_PROFILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tiers/io/faulty_device.h"
#include "tiers/io/seeded_random.h"

namespace quire::sim {

struct FaultProfile {
  const char* name = "";
  FaultRates rates;
  double bit_rot = 0;  // per operation: a bit flips on the medium, at rest
};

// No faults, delays, reported errors, silent faults, or everything.
FaultProfile pick_profile(SeededRandom& random);

struct Totals {
  uint64_t seeds = 0;
  uint64_t operations = 0;
  uint64_t steps = 0;  // completions and polls
  uint64_t writes = 0, writes_ok = 0, writes_busy = 0, writes_failed = 0;
  uint64_t reads = 0, hits = 0, misses = 0, corrupt_reads = 0, failed_reads = 0;
  uint64_t wrong_questions = 0;  // reads with another key, checksum or place
  uint64_t syncs = 0, syncs_failed = 0, removes = 0, seals = 0;
  uint64_t power_cuts = 0, kills = 0, recoveries = 0, double_recoveries = 0, amnesias = 0;
  uint64_t audits = 0, stores_reset = 0;
  uint64_t unsynced_blocks = 0, reverted_blocks = 0, torn_blocks = 0, reordered_cuts = 0;
  uint64_t reclaimed_segments = 0, moved_objects = 0, evicted_objects = 0;
  uint64_t read_only_lives = 0, quarantined_lives = 0, full_lives = 0, stuck_lives = 0;
  uint64_t scrubbed_objects = 0, scrub_finds = 0;
  uint64_t durable_checked = 0, durable_excused = 0, bit_rots = 0, offloaded = 0, located = 0;
  FaultCounts faults{};

  std::string to_text() const;
  // Names of what a long run must have seen and has not.
  std::vector<std::string> missing() const;

 private:
  struct Line {
    const char* name;
    uint64_t value;
    bool required;
  };
  std::vector<Line> lines() const;
};

}  // namespace quire::sim

#endif  // QUIRE_TESTS_SIM_SIM_PROFILE_H_
