// Sections as the drivers see them: one plane of one layer, whatever its codec. A section is read
// in batches of rows of one head and written as a whole. One file per kind of section.
#ifndef QUIRE_KERNELS_SECTION_H_
#define QUIRE_KERNELS_SECTION_H_

#include <stdint.h>

#include "kernels/exponent.h"
#include "kernels/math/layout.h"
#include "kernels/row_source.h"
#include "kernels/rows.h"

namespace quire_kernels {

struct SectionShape {
  int32_t codec;
  int32_t plane;
  uint32_t n_tokens;
  uint32_t n_heads;
  uint32_t head_dim;
  PlaneSpec spec;
};
SectionShape section_shape(int32_t codec, int32_t plane, uint32_t n_tokens, uint32_t n_heads,
                           uint32_t head_dim);

// What rows are turned into.
struct LoadTarget {
  const RowOps* ops;
  int32_t dtype;
  int32_t style;  // of the rotation; rows that have no table are not rotated
  uint32_t rotary_dims;
  bool rotates;
  bool keep_non_finite;
  bool streams = false;  // RowFormat::streams
};

// Rows of one head; tokens ascending, numbered inside the section.
struct RowBatch {
  uint32_t head = 0;
  uint32_t n = 0;
  uint32_t token[kBatchRows];
  const float* table[kBatchRows];
  Byte* out[kBatchRows];  // engine elements, dims side by side
};

// Where the last batch ended, for sections that are walked.
struct ReadCursor {
  ExponentCursor exponent;
  uint32_t map_token = 0;    // kMixed: salient tokens are counted up to this one
  uint32_t map_salient = 0;  // that many
};

// The header and size of a section of variable size: OK or CORRUPT. Sections of fixed size: OK.
int check_header(const SectionShape& shape, const Byte* section, uint64_t bytes);

// NON_FINITE or OUT_OF_RANGE where values of these tokens cannot be written to the target. Sections
// of variable size have passed check_header(), here and below.
int check_values(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                 uint32_t token_begin, uint32_t token_end);
void read_rows(const SectionShape& shape, const LoadTarget& target, const Byte* section,
               const RowBatch& batch, ReadCursor* cursor);

// Writes the whole section, padding included, from the tokens of the walk: shape.n_tokens of them.
int write_section(const SectionShape& shape, RowSource& source, const TokenWalk& walk,
                  Byte* section, uint64_t* written);

// True where read_rows() itself writes rows past the caches if the target says so.
bool streams_rows(const SectionShape& shape, const LoadTarget& target);

// True where rows are copied bit for bit.
bool copies_elements(const SectionShape& shape, const LoadTarget& target);

// By kind; called through the functions above.
int check_lossless(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                   uint32_t token_begin, uint32_t token_end);
void read_lossless(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                   const RowBatch& batch, ExponentCursor* cursor);
int write_raw(const SectionShape& shape, RowSource& source, const TokenWalk& walk, Byte* section);
int write_exponent(const SectionShape& shape, RowSource& source, const TokenWalk& walk,
                   Byte* section, uint64_t* written);

int check_channel(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                  uint32_t token_begin, uint32_t token_end);
void read_channel(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                  const RowBatch& batch);
int write_channel(const SectionShape& shape, RowSource& source, const TokenWalk& walk,
                  Byte* section);

int check_token(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                uint32_t token_begin, uint32_t token_end);
void read_token(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                const RowBatch& batch);
int write_token(const SectionShape& shape, RowSource& source, const TokenWalk& walk, Byte* section);

int check_fp8(const SectionShape& shape, const LoadTarget& target, const Byte* section,
              uint32_t token_begin, uint32_t token_end);
void read_fp8(const SectionShape& shape, const LoadTarget& target, const Byte* section,
              const RowBatch& batch);
int write_fp8(const SectionShape& shape, RowSource& source, const TokenWalk& walk, Byte* section);

int check_normalised(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                     uint32_t token_begin, uint32_t token_end);
void read_normalised(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                     const RowBatch& batch);
int write_normalised(const SectionShape& shape, RowSource& source, const TokenWalk& walk,
                     Byte* section);

int check_mixed_header(const SectionShape& shape, const Byte* section, uint64_t bytes);
int check_mixed(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                uint32_t token_begin, uint32_t token_end);
void read_mixed(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                const RowBatch& batch, ReadCursor* cursor);
int write_mixed(const SectionShape& shape, RowSource& source, const TokenWalk& walk, Byte* section,
                uint64_t* written);

// What the kinds share (section.cc).
double largest_magnitude(int32_t dtype, bool rotated);
// NON_FINITE, OUT_OF_RANGE or OK; `growth` is the most that transforms enlarge a value by.
int check_magnitude(double magnitude, double growth, const LoadTarget& target);
// The same for max_affine_bits(); adds the growth of a Hadamard transform.
int check_affine_bits(uint32_t bits, uint32_t order, const LoadTarget& target);
uint32_t hadamard_order_of(const SectionShape& shape);
RowFormat row_format(const SectionShape& shape, const LoadTarget& target);
void clear_bytes(Byte* section, uint64_t begin, uint64_t end);
float load_half(const Byte* from);
void store_pair(Byte* to, uint16_t first, uint16_t second);

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_SECTION_H_
