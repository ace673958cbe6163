#include "tiers/index/sorted_table.h"

#include <cstdlib>
#include <cstring>
#include <utility>

namespace quire::tiers {
namespace {

constexpr uint64_t kHomesMin = 16;
constexpr uint64_t kTailMin = 64;

// Full at 85 %; grown by half, so at least 57 % full while it grows. Less than a quarter full, it
// shrinks to that.
bool is_full(uint64_t size, uint64_t homes) {
  return 20 * size > 17 * homes;
}

uint64_t homes_for(uint64_t size) {
  return std::max(kHomesMin, size * 20 / 17 + 1);
}

}  // namespace

SortedTable::SortedTable() {
  rebuild(kHomesMin);
}

void SortedTable::prepare_insert() {
  if (is_full(size_ + 1, homes_)) {
    rebuild(homes_ + homes_ / 2);
  } else if (occupied(cells_.size() - 2)) {
    rebuild(homes_);
  }
}

void SortedTable::insert(uint64_t position, uint32_t tag, uint32_t value) {
  if (value == kEmpty) std::abort();
  uint64_t gap = position;
  while (occupied(gap)) ++gap;
  if (gap + 1 >= cells_.size()) std::abort();
  std::memmove(&cells_[position + 1], &cells_[position], (gap - position) * sizeof(Cell));
  cells_[position] = {tag, value};
  ++size_;
}

void SortedTable::erase(uint64_t position) {
  if (!occupied(position)) std::abort();
  // What does not stand at its home moves up, so that probing never meets a gap.
  uint64_t end = position + 1;
  while (occupied(end) && home(cells_[end].tag) < end) ++end;
  std::memmove(&cells_[position], &cells_[position + 1], (end - position - 1) * sizeof(Cell));
  cells_[end - 1] = {};
  --size_;
  if (homes_ > kHomesMin && 4 * size_ < homes_) rebuild(homes_for(size_ + size_ / 2));
}

void SortedTable::reserve(uint64_t size) {
  if (homes_for(size) > homes_) rebuild(homes_for(size));
}

void SortedTable::rebuild(uint64_t homes) {
  homes_ = homes;
  uint64_t end = 0;  // behind the last cell, once they are moved
  for (const Cell& cell : cells_)
    if (cell.value != kEmpty) end = std::max(home(cell.tag), end) + 1;
  const uint64_t overflow = end > homes ? end - homes : 0;
  std::vector<Cell> cells(homes + overflow + overflow / 2 + kTailMin);
  uint64_t next = 0;
  for (const Cell& cell : cells_) {
    if (cell.value == kEmpty) continue;
    next = std::max(home(cell.tag), next);
    cells[next++] = cell;
  }
  cells_ = std::move(cells);
}

}  // namespace quire::tiers
