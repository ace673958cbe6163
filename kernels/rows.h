// The inner loops of the kernels, as a table of functions with one implementation per instruction
// set. Implementations give equal bits. This header must stay free of inline functions with
// external linkage: a translation unit compiled for AVX-512 would leave its copy to the linker.
#ifndef QUIRE_KERNELS_ROWS_H_
#define QUIRE_KERNELS_ROWS_H_

#include <stddef.h>
#include <stdint.h>

#include "kernels/quire_kernels.h"

namespace quire_kernels {

using Byte = unsigned char;

// Rows are n contiguous elements. Byte pointers need no alignment, float pointers 4 bytes.
struct RowOps {
  const char* name;
  // Engine element -> fp32, exact.
  void (*widen)(int32_t dtype, const Byte* src, float* row, uint32_t n);
  // fp32 -> engine element, round to nearest even.
  void (*narrow)(int32_t dtype, const float* row, Byte* dst, uint32_t n);
  // The largest |element| as the bits of its type without the sign: ordered like the values, and
  // beyond the bits of infinity where there is a NaN.
  uint32_t (*max_abs_bits)(int32_t dtype, const Byte* src, uint64_t n);
  // row = code * scale + minimum, two roundings.
  void (*decode_channel)(const Byte* codes, const float* minimums, const float* scales, float* row,
                         uint32_t n);
  void (*decode_token)(const Byte* codes, float zero, float scale, float* row, uint32_t n);
  // code = nearest_even((x - minimum) / scale), at most 255; 0 where scale is 0.
  void (*encode_channel)(const float* row, const float* minimums, const float* scales, Byte* codes,
                         uint32_t n);
  void (*encode_token)(const float* row, float zero, float scale, Byte* codes, uint32_t n);
  // Elementwise minimums = min(minimums, row), maximums likewise. Finite rows only.
  void (*extend_range)(const float* row, float* minimums, float* maximums, uint32_t n);
  void (*row_range)(const float* row, uint32_t n, float* minimum, float* maximum);
  // y0 = x0 * cos - x1 * sin; y1 = x0 * sin + x1 * cos on each pair, in place.
  void (*rotate)(int32_t style, const float* table, float* row, uint32_t rotary_dims);
  // dst[column][row] = src[row][column]; strides in bytes between rows of each.
  void (*transpose)(uint32_t element_bytes, const Byte* src, int64_t src_stride, uint32_t rows,
                    uint32_t columns, Byte* dst, int64_t dst_stride);
};

const RowOps* scalar_rows();
// Null where this build has no AVX-512.
const RowOps* avx512_rows();
// What calls use now (dispatch.cc).
const RowOps* active_rows();

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_ROWS_H_
