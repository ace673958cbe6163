// What reading and writing of coded sections share: where blocks lie, how rows fall into runs.
#ifndef QUIRE_KERNELS_EXPONENT_SECTION_H_
#define QUIRE_KERNELS_EXPONENT_SECTION_H_

#include "kernels/exponent.h"

namespace quire_kernels {

inline constexpr uint32_t kTableExponents = 15;

struct ExponentSection {
  ExponentBlocks at;
  uint64_t rows;
  uint64_t n_escapes;
  uint64_t index_entries;
  uint32_t runs;        // window3; else 0
  uint64_t code_bytes;  // of a row
};

inline ExponentSection exponent_section(const ExponentShape& shape, uint64_t n_escapes) {
  const PlaneSpec& spec = shape.spec;
  const uint64_t rows = uint64_t{shape.n_heads} * shape.n_tokens;
  return {exponent_blocks(spec, shape.n_tokens, shape.n_heads, shape.head_dim, n_escapes),
          rows,
          n_escapes,
          (rows + kEscapeIndexRows - 1) / kEscapeIndexRows,
          spec.run_tokens ? (shape.n_tokens + spec.run_tokens - 1) / spec.run_tokens : 0,
          code_row_bytes(shape.head_dim, spec.bits)};
}

// Tokens from this one to the end of its run, or of the section where there are no runs.
inline uint32_t tokens_left_of_run(const ExponentShape& shape, uint32_t token) {
  const uint32_t left = shape.n_tokens - token;
  if (shape.spec.run_tokens == 0) return left;
  const uint32_t of_run = shape.spec.run_tokens - token % shape.spec.run_tokens;
  return left < of_run ? left : of_run;
}

// Inside the block of tops; 0 for exp4, which has none.
inline uint64_t tops_offset(const ExponentShape& shape, const ExponentSection& s, uint32_t head,
                            uint32_t token) {
  if (s.runs == 0) return 0;
  return (uint64_t{head} * s.runs + token / shape.spec.run_tokens) * shape.head_dim;
}

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_EXPONENT_SECTION_H_
