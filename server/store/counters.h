// What the store counts since its start.
#ifndef QUIRE_SERVER_STORE_COUNTERS_H_
#define QUIRE_SERVER_STORE_COUNTERS_H_

#include <cstdint>

namespace quire::server {

// Each rises only.
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
  uint64_t quota_evictions = 0;
  uint64_t variant_evictions = 0;
  uint64_t details_read = 0;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_COUNTERS_H_
