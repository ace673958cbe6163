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

// Rows decoded by one call: enough to hide the call, few enough to stay in the L1 cache.
inline constexpr uint32_t kBatchRows = 32;
// Rows lie far apart where an engine has many heads: no hardware prefetcher follows them.
inline constexpr uint32_t kAheadRows = 8;
// Pairs {zero, scale} of a batch: one per row and 32 dims at most.
inline constexpr uint32_t kRangesMax = kBatchRows * (QUIRE_KERNEL_DIMS_MAX / 32);

// How rows of codes become rows of the engine.
struct RowFormat {
  uint32_t n;           // dims of a row
  uint32_t bits;        // of a code
  uint32_t group_dims;  // dims that share zero and scale; n where there are no groups
  uint32_t order;       // of the block Hadamard transform after decoding; 1 = none
  int32_t dtype;        // of the engine
  int32_t style;        // of the rotation of rows that have a table
  uint32_t rotary_dims;
  // Rows may be written past the caches: all lie on multiples of 64 bytes, and so do the parts of
  // them that are rotated apart. For decode_token(), decode_channel() and rotate_elements(); the
  // others pay no heed to it.
  bool streams = false;
};

// Rows of the engine on their way to codes, dims side by side.
struct SourceRows {
  uint32_t n = 0;
  uint32_t n_ahead = 0;  // rows after those that will be wanted next: to be asked for
  const Byte* src[kBatchRows + kAheadRows];
  const float* table[kBatchRows];  // (cos, sin) per pair; null for all rows or for none
};

struct CodeRows {
  uint32_t n = 0;
  const Byte* codes[kBatchRows];
  const Byte* side[kBatchRows];    // scales of the row's own: fp16, see the functions
  const float* table[kBatchRows];  // (cos, sin) per pair, or null: no rotation
  Byte* out[kBatchRows];           // engine elements, dims side by side
};

// Rows of elements that change their dtype or position.
struct ElementRows {
  uint32_t n = 0;
  const Byte* from[kBatchRows];
  const float* table[kBatchRows];  // (cos, sin) per pair, or null: no rotation
  Byte* out[kBatchRows];           // none of it in `from`
};

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
  // y0 = x0 * cos - x1 * sin; y1 = x0 * sin + x1 * cos on each pair, in place.
  void (*rotate)(int32_t style, const float* table, float* row, uint32_t rotary_dims);
  // widen, rotate where there is a table, narrow to format.dtype. A NaN becomes some NaN.
  void (*rotate_elements)(const RowFormat& format, int32_t from_dtype, const ElementRows& rows);
  // dst[column][row] = src[row][column]; strides in bytes between rows of each.
  void (*transpose)(uint32_t element_bytes, const Byte* src, int64_t src_stride, uint32_t rows,
                    uint32_t columns, Byte* dst, int64_t dst_stride);

  // Rows from cache to memory that is not read soon, past the caches: dst[i] and row_bytes are
  // multiples of 64, src holds the rows side by side. Visible to other threads after
  // stream_fence().
  void (*stream_rows)(const Byte* src, uint64_t row_bytes, Byte* const* dst, uint32_t n);
  void (*stream_fence)();

  // n pairs of fp16 -> fp32, exact.
  void (*widen_pairs)(const Byte* pairs, float* first, float* second, uint32_t n);
  // max_abs_bits() of the values that n fp16 pairs {zero, scale} give codes 0 and top.
  uint32_t (*max_affine_bits)(const Byte* pairs, uint64_t n, uint32_t top);
  bool (*has_fp8_nan)(const Byte* codes, uint64_t n);

  // Decode (code * scale + zero, two roundings), rotate, narrow.
  void (*decode_channel)(const RowFormat& format, const float* zeros, const float* scales,
                         const CodeRows& rows);
  // Decode by the pairs {zero, scale} of each row's groups, Hadamard, rotate, narrow.
  void (*decode_token)(const RowFormat& format, const CodeRows& rows);
  // Decode by each row's pair, Hadamard, times deviation plus mean, rotate, narrow.
  void (*decode_normalised)(const RowFormat& format, const float* means, const float* deviations,
                            const CodeRows& rows);
  // e4m3 times each row's scale, rotate, narrow.
  void (*decode_fp8)(const RowFormat& format, const CodeRows& rows);

  // widen, rotate where there is a table, max_abs_bits of the result.
  uint32_t (*fetch)(int32_t dtype, const Byte* src, int32_t style, const float* table,
                    uint32_t rotary_dims, float* row, uint32_t n);
  // fetch of each row, the rows side by side; elementwise minimums = min(minimums, row), maximums
  // likewise. False where an element of the result is not finite: then neither is to be used.
  bool (*fetch_range)(const RowFormat& format, const SourceRows& source, float* rows,
                      float* minimums, float* maximums);
  // Hadamard in place (order 1: none), then the least and the greatest element.
  void (*turn_range)(float* row, uint32_t n, uint32_t order, float* minimum, float* maximum);
  // fetch of each row, then turn_range(); one minimum and maximum per row.
  // The largest max_abs_bits of a row before it was turned.
  uint32_t (*fetch_turned)(const RowFormat& format, const SourceRows& source, float* rows,
                           float* minimums, float* maximums);
  // half_affine() of n ranges: pairs {zero, scale}. False where halves cannot hold one of them.
  bool (*affine_halves)(const float* minimums, const float* maximums, uint32_t n, uint32_t top,
                        Byte* pairs);
  // (row - mean) / deviation, in place.
  void (*normalise)(float* row, const float* means, const float* deviations, uint32_t n);
  // At most kBatchRows rows of format.n elements, side by side, to as many rows of codes, padded
  // (math/pack.h): encode_code() of each element.
  void (*encode_channel)(const RowFormat& format, const float* rows, uint32_t n_rows,
                         const float* zeros, const float* scales, Byte* codes);
  // pairs: {zero, scale} per row and group of format.group_dims dims. Groups are multiples of 32
  // dims where a row has more than one.
  void (*encode_token)(const RowFormat& format, const float* rows, uint32_t n_rows,
                       const Byte* pairs, Byte* codes);
  // e4m3 of row / scale; 0 where the scale is 0.
  void (*encode_fp8)(const float* row, float scale, Byte* codes, uint32_t n);
};

const RowOps* scalar_rows();
// Null where this build has no AVX2, no AVX-512.
const RowOps* avx2_rows();
const RowOps* avx512_rows();
// What calls use now (dispatch.cc).
const RowOps* active_rows();

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_ROWS_H_
