// Which rows may match at a position of a prompt: by the fingerprint of the first tokens whether to
// look closer, and by the fingerprint of a level the rows themselves. Part of MatchIndex.
//
// Rows with the same level fingerprint form a list without order, linked through the rows: however
// many begin alike, adding and removing take constant time. Values of 32 bits collide now and then,
// also across spaces and levels; whoever walks a list compares.
#ifndef QUIRE_TIERS_INDEX_CANDIDATES_H_
#define QUIRE_TIERS_INDEX_CANDIDATES_H_

#include <cstdint>

#include "tiers/index/row_store.h"
#include "tiers/index/sorted_table.h"

namespace quire::tiers {

class Candidates {
 public:
  // Fingerprints are looked at through the mask.
  Candidates(RowStore& rows, uint32_t fingerprint_mask);

  // Before link() of a row with these, to have the memory at hand.
  void prefetch(const TokenFingerprints& fingerprints) const {
    first_table_.prefetch(fingerprints.first & mask_);
    head_table_.prefetch(fingerprints.level & mask_);
  }
  // Rows that never match (too short, deltas) are left alone by both.
  void link(RowId id);
  void unlink(RowId id);
  void reserve(uint64_t rows);

  // Which levels (bits) chunks with these first tokens are of; 0: there are none. May name too
  // many.
  uint32_t levels(uint32_t first) const {
    const uint32_t cell = first_table_.find(first & mask_);
    return cell == SortedTable::kEmpty ? 0 : cell >> kCountBits;
  }
  // Before levels(), to have its memory at hand.
  void prefetch(uint32_t first) const { first_table_.prefetch(first & mask_); }
  // The first of the rows with this level fingerprint, on along IndexRow::next; kNoRow where there
  // are none.
  RowId head(uint32_t level) const { return head_table_.find(level & mask_); }

  uint64_t memory_bytes() const { return first_table_.memory_bytes() + head_table_.memory_bytes(); }

 private:
  // A cell of the first table: how many chunks there are, and above it a bit for every level that
  // one of them had since there was none.
  static constexpr uint32_t kCountBits = 27;

  void count_first(const IndexRow& row);
  void uncount_first(const IndexRow& row);

  RowStore& rows_;
  uint32_t mask_;
  SortedTable first_table_;
  SortedTable head_table_;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_INDEX_CANDIDATES_H_
