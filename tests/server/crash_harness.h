// Load on a real quired that will be killed, and the account of what must be there afterwards.
#ifndef QUIRE_TESTS_SERVER_CRASH_HARNESS_H_
#define QUIRE_TESTS_SERVER_CRASH_HARNESS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/server/server_fixture.h"

namespace quire::server {

// What is known of an object that some client tried to store. Its bytes follow from its seed.
struct TriedObject {
  uint64_t seed = 0;
  Digest id;
  uint64_t bytes = 0;
  Hash128 checksum;
  uint64_t acknowledged_us = 0;  // since the last verify(), at any level; 0 = not
  bool durable = false;          // acknowledged as durable, ever
  bool found = false;            // by the last verify()
};

struct VerifyReport {
  uint64_t tried = 0;
  uint64_t durable = 0;
  uint64_t durable_lost = 0;
  uint64_t wrong_bytes = 0;
  uint64_t expected = 0;  // found by the verify() before, or acknowledged since
  uint64_t expected_found = 0;
  // Of these: what was on its way down before something that is durable, as objects of one tier go
  // down in order. How soon, the disk says.
  uint64_t settled = 0;
  uint64_t settled_found = 0;
  uint64_t present = 0;
  std::string trouble;  // the first object that was lost or wrong

  // Part of the objects that could be read before the kill that can be read after it, but for what
  // was still on its way down. 1 where there were none.
  double hit_ratio() const {
    return settled == 0 ? 1 : static_cast<double>(settled_found) / static_cast<double>(settled);
  }
};

struct LoadOptions {
  uint32_t durable_writers = 2;
  uint32_t memory_writers = 1;
  uint32_t readers = 1;
  uint32_t tokens_min = 16;  // 1 KiB each
  uint32_t tokens_max = 300;
  uint32_t pause_us = 4000;  // of a client between two requests; memory writers five times as long
  uint64_t objects_max = 1000;
};

class CrashHarness {
 public:
  CrashHarness(const Config& config, const LoadOptions& load, uint64_t first_seed)
      : config_(config), load_(load), next_seed_(first_seed), model_(test_model()) {}
  ~CrashHarness() { stop(); }

  // Registers the model and starts the clients; they end by themselves when the server dies.
  void start();
  void stop();
  // Until one put was acknowledged as durable, ever: however slow the disk is, a run without proves
  // nothing.
  void wait_for_durable() const;
  // Reads every object that was ever tried. `durable_is_forever`: nothing durable may be evicted.
  VerifyReport verify(bool durable_is_forever = true);
  uint64_t tried() const {
    const std::lock_guard lock(mutex_);
    return objects_.size();
  }
  // Wrong bytes that a reader saw under load.
  uint64_t wrong_reads() const { return wrong_reads_; }
  uint64_t reads() const { return reads_; }

 private:
  void write(bool durable);
  void read(uint64_t seed);
  size_t tier_of(const TriedObject& object) const {
    return object.bytes < config_.rocks_blob_bytes_max ? 0 : 1;
  }

  const Config config_;
  const LoadOptions load_;
  uint64_t next_seed_;
  const ModelDescriptor model_;
  mutable std::mutex mutex_;
  std::vector<TriedObject> objects_;
  // When the last put began that was acknowledged as durable, of blobs and of objects in segments.
  std::array<uint64_t, 2> durable_begun_us_{};
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> reads_{0};
  std::atomic<uint64_t> durable_puts_{0};
  std::atomic<uint64_t> wrong_reads_{0};
  std::vector<std::thread> threads_;
};

// The number of that environment variable.
uint64_t environment_number(const char* name, uint64_t otherwise);

}  // namespace quire::server

#endif  // QUIRE_TESTS_SERVER_CRASH_HARNESS_H_
