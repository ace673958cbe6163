#include "tiers/index/candidates.h"

#include <cstdlib>

#include "tiers/index/match_index.h"

namespace quire::tiers {
namespace {

bool can_match(const IndexRow& row) {
  return row.n_tokens >= kMatchTokensMin && row.kind() != ContextKind::kDeltaOf;
}

}  // namespace

Candidates::Candidates(RowStore& rows, uint32_t fingerprint_mask)
    : rows_(rows), mask_(fingerprint_mask) {
  static_assert(SortedTable::kEmpty == kNoRow);
  static_assert(kIndexRowsMax < 1u << kCountBits);
  static_assert(kCountBits + kFingerprintTokens.size() <= 32);
}

void Candidates::link(RowId id) {
  IndexRow& row = rows_[id];
  if (!can_match(row)) return;
  if (is_chunk_kind(row.kind())) count_first(row);
  const uint32_t tag = row.fingerprints.level & mask_;
  head_table_.prepare_insert();
  const uint64_t position = head_table_.seek(tag);
  if (head_table_.occupied(position) && head_table_.at(position).tag == tag) {
    row.next = head_table_.at(position).value;
    rows_[row.next].previous = id;
    head_table_.set_value(position, id);
  } else {
    head_table_.insert(position, tag, id);
  }
}

void Candidates::unlink(RowId id) {
  IndexRow& row = rows_[id];
  if (!can_match(row)) return;
  if (is_chunk_kind(row.kind())) uncount_first(row);
  if (row.next != kNoRow) rows_[row.next].previous = row.previous;
  if (row.previous != kNoRow) {
    rows_[row.previous].next = row.next;
    return;
  }
  const uint64_t position = head_table_.seek(row.fingerprints.level & mask_);
  if (head_table_.at(position).value != id) std::abort();
  if (row.next == kNoRow) {
    head_table_.erase(position);
  } else {
    head_table_.set_value(position, row.next);
  }
}

void Candidates::reserve(uint64_t rows) {
  first_table_.reserve(rows);
  head_table_.reserve(rows);
}

void Candidates::count_first(const IndexRow& row) {
  const uint32_t tag = row.fingerprints.first & mask_;
  const uint32_t level_bit = 1u << (kCountBits + fingerprint_level(row.n_tokens));
  first_table_.prepare_insert();
  const uint64_t position = first_table_.seek(tag);
  if (first_table_.occupied(position) && first_table_.at(position).tag == tag) {
    first_table_.set_value(position, (first_table_.at(position).value + 1) | level_bit);
  } else {
    first_table_.insert(position, tag, level_bit | 1);
  }
}

void Candidates::uncount_first(const IndexRow& row) {
  const uint32_t tag = row.fingerprints.first & mask_;
  const uint64_t position = first_table_.seek(tag);
  if (!first_table_.occupied(position) || first_table_.at(position).tag != tag) std::abort();
  const uint32_t value = first_table_.at(position).value - 1;
  if ((value & ((1u << kCountBits) - 1)) == 0) {
    first_table_.erase(position);
  } else {
    first_table_.set_value(position, value);
  }
}

}  // namespace quire::tiers
