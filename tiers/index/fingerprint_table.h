// Open addressing from a 64-bit fingerprint to a list head: the one lookup made for every position
// of a prompt, so it must cost a cache line and no pointer chase. Linear probing, power-of-two
// size, at most half full, erasure by shifting back (no tombstones).
#ifndef QUIRE_TIERS_INDEX_FINGERPRINT_TABLE_H_
#define QUIRE_TIERS_INDEX_FINGERPRINT_TABLE_H_

#include <cstdint>
#include <vector>

namespace quire::tiers {

class FingerprintTable {
 public:
  static constexpr uint32_t kEmpty = UINT32_MAX;

  // kEmpty where the fingerprint is not there.
  uint32_t find(uint64_t fingerprint) const;
  // Inserts or replaces; value is not kEmpty.
  void set(uint64_t fingerprint, uint32_t value);
  void erase(uint64_t fingerprint);
  uint64_t size() const { return size_; }

 private:
  struct Cell {
    uint64_t fingerprint = 0;
    uint32_t value = kEmpty;
  };
  static constexpr uint64_t kCellsMin = 16;

  uint64_t home(uint64_t fingerprint) const;
  void grow();

  std::vector<Cell> cells_;
  uint64_t size_ = 0;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_INDEX_FINGERPRINT_TABLE_H_
