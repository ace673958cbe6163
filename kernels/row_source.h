// Engine memory as rows of fp32: gathered (through a transposed tile where dims are not
// contiguous), widened, rotated and found finite.
#ifndef QUIRE_KERNELS_ROW_SOURCE_H_
#define QUIRE_KERNELS_ROW_SOURCE_H_

#include <stdint.h>

#include "kernels/quire_kernels.h"
#include "kernels/rows.h"
#include "kernels/tiles.h"

namespace quire_kernels {

// The tokens of a section or of one half of a mixed one, ascending.
class TokenWalk {
 public:
  TokenWalk() = default;  // all
  TokenWalk(const uint8_t* salient, bool wanted) : salient_(salient), wanted_(wanted) {}

  // No more often than there are tokens.
  uint32_t next() {
    if (salient_ != nullptr)
      while ((salient_[next_] != 0) != wanted_) ++next_;
    return next_++;
  }

 private:
  const uint8_t* salient_ = nullptr;
  bool wanted_ = false;
  uint32_t next_ = 0;
};

class RowSource {
 public:
  RowSource(const quire_store_params& params, const RowOps& ops);

  const RowOps& ops() const { return ops_; }
  const quire_store_params& params() const { return p_; }
  bool rotates() const { return rotates_; }
  // The dims of a row lie side by side in engine memory.
  bool contiguous() const { return contiguous_; }

  // row = the row in fp32, rotated: OK, NON_FINITE or OUT_OF_RANGE. *largest (may be null) is
  // max_abs_bits() of it.
  int fetch(uint32_t head, uint32_t token, float* row, uint32_t* largest);
  // The next rows of the walk, of which `left` remain, for the functions below: at most `most`, and
  // no more than kBatchRows; fewer where the tile ends.
  SourceRows gather(uint32_t head, uint32_t most, uint32_t left, TokenWalk* walk);
  // For rows that are gathered head by head, each time all n_tokens of the walk: ask_ahead() asks
  // for rows in this order, into the L2 cache, beginning `distance` rows from the first. Called for
  // as many rows as are gathered, but evenly over the time, it keeps memory busy while codes are
  // made.
  void start_ahead(const TokenWalk& walk, uint32_t n_tokens, uint32_t distance);
  void ask_ahead(uint32_t rows);
  // fetch() of row r of them.
  int fetch_row(const SourceRows& source, uint32_t r, float* row, uint32_t* largest) const;
  // RowOps::fetch_range() of rows just gathered, with the status of the first row that has another
  // than OK.
  int fetch_range(const SourceRows& source, float* rows, float* minimums, float* maximums);
  // RowOps::fetch_turned() likewise; OUT_OF_RANGE also where max_abs_bits() of a row exceeds
  // `limit`.
  int fetch_turned(const SourceRows& source, uint32_t order, uint32_t limit, float* rows,
                   float* minimums, float* maximums);
  // The row's elements side by side, in place or in the tile, until the next call.
  const Byte* elements(uint32_t head, uint32_t token);

 private:
  void prefetch(uint32_t head, uint32_t token) const;
  int status_of(const Byte* elements, uint32_t bits) const;
  // The status of the first row that has another than OK; overwrites `row`.
  int first_failure(const SourceRows& source, uint32_t limit, float* row) const;
  int64_t row_of(uint32_t token) const;
  const Byte* at(uint32_t head, uint32_t token) const;
  void fill_tile(uint32_t head, uint32_t token);
  bool runs_on(uint32_t token, uint32_t n) const;

  const quire_store_params& p_;
  const RowOps& ops_;
  const Byte* src_;
  uint32_t element_;
  uint64_t row_bytes_;
  RowFormat format_;
  bool rotates_;
  bool contiguous_;
  TokenWalk ahead_begin_;
  TokenWalk ahead_walk_;
  uint32_t ahead_tokens_ = 0;
  uint32_t ahead_token_ = 0;
  uint32_t ahead_head_;
  uint32_t tile_tokens_;
  uint32_t tile_head_ = 0;
  uint32_t tile_begin_ = 0;
  uint32_t tile_end_ = 0;  // empty
  alignas(64) Byte tile_[kTileBytes];
};

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_ROW_SOURCE_H_
