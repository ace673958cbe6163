// One record of a scan: given to the visitor, or counted as damaged. Shared by the stores.
#ifndef QUIRE_TIERS_ROCKS_SCAN_H_
#define QUIRE_TIERS_ROCKS_SCAN_H_

#include <type_traits>
#include <utility>

#include "tiers/rocks/metadata_store.h"

namespace quire::tiers {

// parsed: Expected<Record>. False where the scan is to end.
template <typename Key, typename Parsed, typename Visit>
bool visit_record(const Key& key, Parsed&& parsed, const Visit& visit, ScanReport& report) {
  if (!parsed) {
    ++report.corrupt;
    if constexpr (std::is_same_v<Key, Digest>) {
      if (report.corrupt_ids.size() < kCorruptIdsMax) report.corrupt_ids.push_back(key);
    }
    return true;
  }
  ++report.records;
  return visit(key, std::move(*parsed));
}

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_ROCKS_SCAN_H_
