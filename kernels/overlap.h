// Whether a section and the rows of engine memory that a call touches share bytes.
#ifndef QUIRE_KERNELS_OVERLAP_H_
#define QUIRE_KERNELS_OVERLAP_H_

#include <stdint.h>

namespace quire_kernels {

struct EngineRows {
  const void* base;
  uint32_t n_heads;
  uint32_t head_dim;
  uint32_t element;
  int64_t tokens;  // rows that the engine has
  int64_t token_stride;
  int64_t head_stride;
  int64_t dim_stride;
  const int64_t* token_rows;  // or null: identity
  const uint8_t* mask;        // or null
  uint32_t token_begin;
  uint32_t token_end;
};

// Strides have been checked not to overflow. Exact, and cheap unless the section lies among the
// engine's rows.
bool overlaps(const EngineRows& rows, const void* section, uint64_t section_bytes);

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_OVERLAP_H_
