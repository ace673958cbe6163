#include "tiers/index/row_store.h"

#include <bit>
#include <cstdlib>

namespace quire::tiers {

RowId RowStore::take(uint32_t rows_max) {
  RowId id = unused_;
  if (id != kNoRow) {
    unused_ = (*this)[id].next;
    (*this)[id].next = kNoRow;
  } else {
    if (taken_max_ >= rows_max) return kNoRow;
    if (taken_max_ % kChunkRows == 0) chunks_.push_back(std::make_unique<Chunk>());
    id = taken_max_++;
  }
  chunk(id).live[id % kChunkRows / 64] |= 1ull << (id % 64);
  ++size_;
  return id;
}

void RowStore::give_back(RowId id) {
  if (!contains(id)) std::abort();
  IndexRow& row = (*this)[id];
  row = {};
  row.next = unused_;
  unused_ = id;
  chunk(id).live[id % kChunkRows / 64] &= ~(1ull << (id % 64));
  --size_;
}

bool RowStore::contains(RowId id) const {
  return id < taken_max_ && (chunk(id).live[id % kChunkRows / 64] >> (id % 64) & 1) != 0;
}

RowId RowStore::next(RowId from) const {
  for (uint64_t word_begin = from / 64 * 64; word_begin < taken_max_; word_begin += 64) {
    const auto id = static_cast<RowId>(word_begin);
    uint64_t live = chunk(id).live[id % kChunkRows / 64];
    if (id < from) live &= ~0ull << (from % 64);
    if (live != 0) return id + static_cast<RowId>(std::countr_zero(live));
  }
  return kNoRow;
}

uint64_t RowStore::memory_bytes() const {
  return chunks_.size() * sizeof(Chunk) + chunks_.capacity() * sizeof(chunks_[0]);
}

}  // namespace quire::tiers
