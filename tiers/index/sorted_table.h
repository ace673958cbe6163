// Hash table whose cells lie in the order of their keys: linear probing where the place to begin,
// the home, is monotone in the key and every run is kept sorted (Amble and Knuth, "Ordered hash
// tables", 1974, without wrapping around). So a lookup that fails stops early even at 85 % load,
// erasing leaves no tombstones, growing is one pass in order, and the table can be walked in key
// order.
//
// A key begins with a 32-bit tag, kept in its cell; the rest of it, if any, the caller compares by
// the cell's value. Tags are expected to be uniform. Where they are not, runs get long: a lookup
// then takes a binary search, an insertion or erasure moves the run.
//
// Positions are valid until the next change.
#ifndef QUIRE_TIERS_INDEX_SORTED_TABLE_H_
#define QUIRE_TIERS_INDEX_SORTED_TABLE_H_

#include <algorithm>
#include <cstdint>
#include <vector>

namespace quire::tiers {

class SortedTable {
 public:
  static constexpr uint32_t kEmpty = UINT32_MAX;
  struct Cell {
    uint32_t tag = 0;
    uint32_t value = kEmpty;
  };
  static_assert(sizeof(Cell) == 8);

  SortedTable();

  uint64_t size() const { return size_; }
  // Positions are below this; the cell before it is always empty.
  uint64_t positions() const { return cells_.size(); }
  uint64_t memory_bytes() const { return cells_.capacity() * sizeof(Cell); }

  const Cell& at(uint64_t position) const { return cells_[position]; }
  void set_value(uint64_t position, uint32_t value) { cells_[position].value = value; }
  bool occupied(uint64_t position) const { return cells_[position].value != kEmpty; }

  // The first position whose cell is empty or does not come before the key. before(cell): does this
  // cell's key come before the one looked for, which begins with tag?
  template <typename Before>
  uint64_t seek(uint32_t tag, const Before& before) const;
  uint64_t seek(uint32_t tag) const {
    return seek(tag, [tag](const Cell& cell) { return cell.tag < tag; });
  }
  // For keys that are tags alone: the value, kEmpty where it is not there.
  uint32_t find(uint32_t tag) const {
    const Cell* cell = &cells_[home(tag)];
    while (cell->tag < tag && cell->value != kEmpty) ++cell;
    return cell->tag == tag ? cell->value : kEmpty;
  }
  void prefetch(uint32_t tag) const { __builtin_prefetch(&cells_[home(tag)]); }

  // Makes room for one more; call before the seek() whose position is given to insert().
  void prepare_insert();
  // The key must not be there; value is not kEmpty.
  void insert(uint64_t position, uint32_t tag, uint32_t value);
  void erase(uint64_t position);
  // Makes room for so many altogether.
  void reserve(uint64_t size);

 private:
  static constexpr uint64_t kLinearProbes = 16;

  uint64_t home(uint32_t tag) const { return (uint64_t{tag} * homes_) >> 32; }
  void rebuild(uint64_t homes);

  // homes_ cells, and a tail for runs that go on behind the last home.
  std::vector<Cell> cells_;
  uint64_t homes_ = 0;
  uint64_t size_ = 0;
};

template <typename Before>
uint64_t SortedTable::seek(uint32_t tag, const Before& before) const {
  const auto is_before = [&](uint64_t position) {
    return cells_[position].value != kEmpty && before(cells_[position]);
  };
  uint64_t low = home(tag);
  for (uint64_t i = 0; i < kLinearProbes; ++i, ++low)
    if (!is_before(low)) return low;
  // From the home on, is_before holds up to the answer and nowhere behind it, gaps included: a
  // smaller key's home is not behind ours and it has no gap before it. So a long run is bisected.
  uint64_t step = kLinearProbes;
  uint64_t high = cells_.size() - 1;
  while (low + step < high) {
    if (!is_before(low + step)) {
      high = low + step;
      break;
    }
    low += step + 1;
    step *= 2;
  }
  while (low < high) {
    const uint64_t middle = low + (high - low) / 2;
    if (is_before(middle)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_INDEX_SORTED_TABLE_H_
