// Rows by number, in chunks that never move; numbers of removed rows are given out again.
#ifndef QUIRE_TIERS_INDEX_ROW_STORE_H_
#define QUIRE_TIERS_INDEX_ROW_STORE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "tiers/index/row.h"

namespace quire::tiers {

class RowStore {
 public:
  const IndexRow& operator[](RowId id) const { return chunk(id).rows[id % kChunkRows]; }
  IndexRow& operator[](RowId id) { return chunk(id).rows[id % kChunkRows]; }

  // A row of defaults, kNoRow beyond rows_max altogether.
  RowId take(uint32_t rows_max);
  void give_back(RowId id);
  // Also for numbers never given out.
  bool contains(RowId id) const;
  // The first row with a number >= from; kNoRow behind the last.
  RowId next(RowId from) const;

  uint64_t size() const { return size_; }
  uint64_t memory_bytes() const;

 private:
  static constexpr uint32_t kChunkRows = 512;
  struct Chunk {
    std::array<uint64_t, kChunkRows / 64> live{};  // one bit a row
    std::array<IndexRow, kChunkRows> rows;
  };

  const Chunk& chunk(RowId id) const { return *chunks_[id / kChunkRows]; }
  Chunk& chunk(RowId id) { return *chunks_[id / kChunkRows]; }

  std::vector<std::unique_ptr<Chunk>> chunks_;
  RowId unused_ = kNoRow;   // the first of a list along `next`
  uint32_t taken_max_ = 0;  // numbers ever given out
  uint64_t size_ = 0;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_INDEX_ROW_STORE_H_
