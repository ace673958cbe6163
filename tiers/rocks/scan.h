// What the stores share: one record of a scan, given to the visitor or counted as damaged; and
// details put together.
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

// tokens: empty where there are none.
inline Expected<MetadataStore::Details> join_details(const Digest& id, ByteSpan record,
                                                     ByteSpan tokens) {
  MetadataStore::Details details;
  QUIRE_ASSIGN_OR_RETURN(details.record, parse_representation_record(id, record));
  if (tokens.empty()) return Status(StatusCode::kCorrupt, "a representation has lost its tokens");
  QUIRE_ASSIGN_OR_RETURN(TokensRecord parsed, parse_tokens_record(id, tokens));
  if (parsed.tokens.size() != details.record.n_tokens)
    return Status(StatusCode::kCorrupt, "a representation and its tokens differ in length");
  details.tokens = std::move(parsed.tokens);
  return details;
}

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_ROCKS_SCAN_H_
