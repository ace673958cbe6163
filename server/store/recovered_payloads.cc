#include "server/store/recovered_payloads.h"

#include <algorithm>

namespace quire::server {

void RecoveredPayloads::sort() {
  std::sort(rows_.begin(), rows_.end(), [](const Row& a, const Row& b) {
    if (a.key != b.key) return a.key < b.key;
    return a.location.sequence > b.location.sequence;
  });
}

std::span<const RecoveredPayloads::Row> RecoveredPayloads::take(
    const Digest& key, const std::function<void(const Row&)>& skipped) {
  while (next_ < rows_.size() && rows_[next_].key < key) skipped(rows_[next_++]);
  const size_t first = next_;
  while (next_ < rows_.size() && rows_[next_].key == key) ++next_;
  return std::span(rows_).subspan(first, next_ - first);
}

void RecoveredPayloads::rest(const std::function<void(const Row&)>& skipped) {
  while (next_ < rows_.size()) skipped(rows_[next_++]);
}

}  // namespace quire::server
