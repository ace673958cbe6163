// e4m3 with one scale per token and head.
#include <math.h>
#include <string.h>

#include "kernels/math/bits.h"
#include "kernels/math/quantise.h"
#include "kernels/section.h"

namespace quire_kernels {

int check_fp8(const SectionShape& shape, const LoadTarget& target, const Byte* section,
              uint32_t token_begin, uint32_t token_end) {
  for (uint32_t head = 0; head < shape.n_heads; ++head) {
    const TokenHead at = token_head(shape.spec, shape.n_tokens, shape.head_dim, head);
    const uint32_t bits = target.ops->max_abs_bits(
        QUIRE_DTYPE_F16, section + at.side + 2ull * token_begin, token_end - token_begin);
    const float scale = half_to_float(static_cast<uint16_t>(bits));
    if (int status = check_magnitude(scale * kFp8Largest, 1, target)) return status;
    const uint64_t dims = shape.head_dim;
    if (target.ops->has_fp8_nan(section + at.codes + token_begin * dims,
                                (token_end - token_begin) * dims))
      return QUIRE_KERNEL_NON_FINITE;
  }
  return QUIRE_KERNEL_OK;
}

void read_fp8(const SectionShape& shape, const LoadTarget& target, const Byte* section,
              const RowBatch& batch) {
  const TokenHead at = token_head(shape.spec, shape.n_tokens, shape.head_dim, batch.head);
  CodeRows rows;
  for (; rows.n < batch.n; ++rows.n) {
    const uint64_t token = batch.token[rows.n];
    rows.codes[rows.n] = section + at.codes + token * shape.head_dim;
    rows.side[rows.n] = section + at.side + token * 2;
    rows.table[rows.n] = batch.table[rows.n];
    rows.out[rows.n] = batch.out[rows.n];
  }
  target.ops->decode_fp8(row_format(shape, target), rows);
}

int write_fp8(const SectionShape& shape, RowSource& source, const TokenWalk& walk, Byte* section) {
  alignas(64) float row[QUIRE_KERNEL_DIMS_MAX];
  const uint64_t dims = shape.head_dim;
  for (uint32_t head = 0; head < shape.n_heads; ++head) {
    const TokenHead at = token_head(shape.spec, shape.n_tokens, shape.head_dim, head);
    TokenWalk tokens = walk;
    for (uint32_t i = 0; i < shape.n_tokens; ++i) {
      uint32_t largest;
      if (int status = source.fetch(head, tokens.next(), row, &largest)) return status;
      const uint16_t scale =
          half_scale(static_cast<double>(bits_float(largest)), static_cast<double>(kFp8Largest));
      if (scale >= infinity_bits(QUIRE_DTYPE_F16)) return QUIRE_KERNEL_OUT_OF_RANGE;
      memcpy(section + at.side + 2ull * i, &scale, 2);
      source.ops().encode_fp8(row, half_to_float(scale), section + at.codes + i * dims,
                              shape.head_dim);
    }
    clear_bytes(section, at.side + 2ull * shape.n_tokens, at.codes);
    const uint64_t codes_bytes = shape.n_tokens * dims;
    clear_bytes(section, at.codes + codes_bytes, at.codes + align_block(codes_bytes));
  }
  return QUIRE_KERNEL_OK;
}

}  // namespace quire_kernels
