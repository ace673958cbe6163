// What a match must know and RAM does not hold for every object, and a bounded cache of it.
#ifndef QUIRE_TIERS_INDEX_DETAILS_H_
#define QUIRE_TIERS_INDEX_DETAILS_H_

#include <cstdint>
#include <list>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/hash.h"
#include "base/ids.h"
#include "tiers/index/row.h"

namespace quire::tiers {

using TokenList = std::vector<TokenId>;

// Of one representation, from its record and its tokens. Immutable once made.
struct IndexDetails {
  Digest variant;
  Digest object;
  VariantContext context;
  PositionFrame frame = PositionFrame::kLocal;
  Coverage coverage;
  uint64_t base_position = 0;
  uint64_t created_wall_ms = 0;
  float deviation = 0;  // told last by feedback; 0: never
  // Shared, so that representations of one object put together may hold one list.
  std::shared_ptr<const TokenList> tokens;

  // What it costs, its tokens as if they were its own.
  uint64_t memory_bytes() const;
};

// Shared: a match that is being answered outlives its place in the cache.
using SharedDetails = std::shared_ptr<const IndexDetails>;

// The least recently used go first; bounded by bytes. One thread.
//
// It knows rows by number only: erase() a row when it leaves the index, since a later one may get
// its number.
class DetailsCache {
 public:
  // Nothing is kept where bytes_max is 0.
  explicit DetailsCache(uint64_t bytes_max);
  DetailsCache(const DetailsCache&) = delete;
  DetailsCache& operator=(const DetailsCache&) = delete;

  // Makes it the most recently used; null where absent. Counts a hit or a miss.
  SharedDetails find(RowId row);
  // Replaces what is there. Not null. What alone is larger than bytes_max is not kept.
  void insert(RowId row, SharedDetails details);
  void erase(RowId row);

  uint64_t bytes() const { return bytes_; }  // with the cache's own cost for each entry
  uint64_t entries() const { return places_.size(); }
  uint64_t hits() const { return hits_; }
  uint64_t misses() const { return misses_; }

 private:
  struct Entry {
    RowId row;
    uint64_t bytes;
    SharedDetails details;
  };
  using Order = std::list<Entry>;

  void evict();

  Order order_;  // most recently used first
  std::unordered_map<RowId, Order::iterator> places_;
  uint64_t bytes_max_;
  uint64_t bytes_ = 0;
  uint64_t hits_ = 0;
  uint64_t misses_ = 0;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_INDEX_DETAILS_H_
