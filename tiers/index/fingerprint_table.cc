#include "tiers/index/fingerprint_table.h"

#include <cstdlib>
#include <utility>

namespace quire::tiers {

uint64_t FingerprintTable::home(uint64_t fingerprint) const {
  // Fibonacci hashing: masked or otherwise poor fingerprints still spread.
  return ((fingerprint * 0x9e3779b97f4a7c15ull) >> 20) & (cells_.size() - 1);
}

uint32_t FingerprintTable::find(uint64_t fingerprint) const {
  if (size_ == 0) return kEmpty;
  const uint64_t mask = cells_.size() - 1;
  for (uint64_t i = home(fingerprint); cells_[i].value != kEmpty; i = (i + 1) & mask)
    if (cells_[i].fingerprint == fingerprint) return cells_[i].value;
  return kEmpty;
}

void FingerprintTable::set(uint64_t fingerprint, uint32_t value) {
  if (value == kEmpty) std::abort();
  if (2 * (size_ + 1) > cells_.size()) grow();
  const uint64_t mask = cells_.size() - 1;
  uint64_t i = home(fingerprint);
  for (; cells_[i].value != kEmpty; i = (i + 1) & mask) {
    if (cells_[i].fingerprint != fingerprint) continue;
    cells_[i].value = value;
    return;
  }
  cells_[i] = {fingerprint, value};
  ++size_;
}

void FingerprintTable::erase(uint64_t fingerprint) {
  if (size_ == 0) return;
  const uint64_t mask = cells_.size() - 1;
  uint64_t hole = home(fingerprint);
  for (; cells_[hole].fingerprint != fingerprint || cells_[hole].value == kEmpty;
       hole = (hole + 1) & mask)
    if (cells_[hole].value == kEmpty) return;
  // Cells behind the hole that may live in it move up, so that probing never meets a gap.
  for (uint64_t i = (hole + 1) & mask; cells_[i].value != kEmpty; i = (i + 1) & mask) {
    const uint64_t distance_from_home = (i - home(cells_[i].fingerprint)) & mask;
    if (distance_from_home < ((i - hole) & mask)) continue;
    cells_[hole] = cells_[i];
    hole = i;
  }
  cells_[hole] = {};
  --size_;
}

void FingerprintTable::grow() {
  std::vector<Cell> old = std::move(cells_);
  cells_.assign(old.empty() ? kCellsMin : old.size() * 2, Cell{});
  const uint64_t mask = cells_.size() - 1;
  for (const Cell& cell : old) {
    if (cell.value == kEmpty) continue;
    uint64_t i = home(cell.fingerprint);
    while (cells_[i].value != kEmpty) i = (i + 1) & mask;
    cells_[i] = cell;
  }
}

}  // namespace quire::tiers
