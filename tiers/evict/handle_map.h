// Flat hash table from handles to slot numbers: linear probing, deletion by shifting back, no
// allocation but when it grows. 16 bytes an entry at a load of at most 3/4.
#ifndef QUIRE_TIERS_EVICT_HANDLE_MAP_H_
#define QUIRE_TIERS_EVICT_HANDLE_MAP_H_

#include <cstdint>
#include <utility>
#include <vector>

namespace quire::tiers {

// Finaliser of splitmix64: every bit of the handle reaches every bit of the result. A bijection.
inline uint64_t mix_handle(uint64_t handle) {
  handle += 0x9e3779b97f4a7c15ull;
  handle = (handle ^ (handle >> 30)) * 0xbf58476d1ce4e5b9ull;
  handle = (handle ^ (handle >> 27)) * 0x94d049bb133111ebull;
  return handle ^ (handle >> 31);
}

class HandleMap {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  HandleMap() : cells_(kCellsMin) {}

  uint32_t find(uint64_t handle) const { return cells_[cell_of(handle)].slot; }
  bool contains(uint64_t handle) const { return find(handle) != kNone; }

  // Replaces what is there. slot must not be kNone.
  void set(uint64_t handle, uint32_t slot) {
    if (4 * (size_ + 1) > 3 * cells_.size()) grow();
    Cell& cell = cells_[cell_of(handle)];
    if (cell.slot == kNone) ++size_;
    cell = {handle, slot};
  }

  void erase(uint64_t handle) {
    uint64_t hole = cell_of(handle);
    if (cells_[hole].slot == kNone) return;
    --size_;
    // Whoever was pushed past the hole moves back into it.
    for (uint64_t next = (hole + 1) & mask(); cells_[next].slot != kNone;
         next = (next + 1) & mask()) {
      const uint64_t home = mix_handle(cells_[next].handle) & mask();
      if (((next - home) & mask()) < ((next - hole) & mask())) continue;
      cells_[hole] = cells_[next];
      hole = next;
    }
    cells_[hole] = Cell{};
  }

  uint64_t size() const { return size_; }

 private:
  static constexpr uint64_t kCellsMin = 16;
  struct Cell {
    uint64_t handle = 0;
    uint32_t slot = kNone;
  };

  uint64_t mask() const { return cells_.size() - 1; }

  uint64_t cell_of(uint64_t handle) const {
    uint64_t cell = mix_handle(handle) & mask();
    while (cells_[cell].slot != kNone && cells_[cell].handle != handle) cell = (cell + 1) & mask();
    return cell;
  }

  void grow() {
    std::vector<Cell> old(2 * cells_.size());
    old.swap(cells_);
    for (const Cell& cell : old)
      if (cell.slot != kNone) cells_[cell_of(cell.handle)] = cell;
  }

  std::vector<Cell> cells_;  // a power of two
  uint64_t size_ = 0;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_EVICT_HANDLE_MAP_H_
