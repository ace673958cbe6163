// What the segments of the NVMe tier were found to hold, while a start joins it with the records.
// One block of plain rows: a million objects cost 80 MB for as long as the start lasts.
#ifndef QUIRE_SERVER_STORE_RECOVERED_PAYLOADS_H_
#define QUIRE_SERVER_STORE_RECOVERED_PAYLOADS_H_

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/hash.h"
#include "tiers/nvme/nvme_tier.h"

namespace quire::server {

class RecoveredPayloads {
 public:
  struct Row {
    Digest key;
    Hash128 checksum;
    NvmeLocation location;
  };

  void add(const RecoveredObject& object) {
    rows_.push_back({object.key, object.checksum, object.location});
  }
  // By key, the newest of each first. Once, after the last add().
  void sort();
  // The rows of this key, newest first. Keys must be asked for in ascending order; rows of keys
  // that were passed over go to `skipped`.
  std::span<const Row> take(const Digest& key, const std::function<void(const Row&)>& skipped);
  // All that were never asked for.
  void rest(const std::function<void(const Row&)>& skipped);
  uint64_t size() const { return rows_.size(); }

 private:
  std::vector<Row> rows_;
  size_t next_ = 0;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_RECOVERED_PAYLOADS_H_
