// The parts of the scalar reference: rows of elements (rows_scalar.cc) and of codes
// (codes_scalar.cc). One file would be too long; nothing else includes this.
#ifndef QUIRE_KERNELS_ROWS_SCALAR_H_
#define QUIRE_KERNELS_ROWS_SCALAR_H_

#include "kernels/rows.h"

namespace quire_kernels::scalar {

void widen(int32_t dtype, const Byte* src, float* row, uint32_t n);
void narrow(int32_t dtype, const float* row, Byte* dst, uint32_t n);
void rotate(int32_t style, const float* table, float* row, uint32_t rotary_dims);

void widen_pairs(const Byte* pairs, float* first, float* second, uint32_t n);
uint32_t max_affine_bits(const Byte* pairs, uint64_t n, uint32_t top);
bool has_fp8_nan(const Byte* codes, uint64_t n);
void decode_channel(const RowFormat& format, const float* zeros, const float* scales,
                    const CodeRows& rows);
void decode_token(const RowFormat& format, const CodeRows& rows);
void decode_normalised(const RowFormat& format, const float* means, const float* deviations,
                       const CodeRows& rows);
void decode_fp8(const RowFormat& format, const CodeRows& rows);
bool affine_halves(const float* minimums, const float* maximums, uint32_t n, uint32_t top,
                   Byte* pairs);
void turn_range(float* row, uint32_t n, uint32_t order, float* minimum, float* maximum);
void normalise(float* row, const float* means, const float* deviations, uint32_t n);
void encode_channel(const RowFormat& format, const float* rows, uint32_t n_rows, const float* zeros,
                    const float* scales, Byte* codes);
void encode_token(const RowFormat& format, const float* rows, uint32_t n_rows, const Byte* pairs,
                  Byte* codes);
void encode_fp8(const float* row, float scale, Byte* codes, uint32_t n);

}  // namespace quire_kernels::scalar

#endif  // QUIRE_KERNELS_ROWS_SCALAR_H_
