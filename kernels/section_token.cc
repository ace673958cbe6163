// Codes per token and head, or groups of its dims (V, and K of the plain Hadamard codec).
#include <math.h>

#include "kernels/math/bits.h"
#include "kernels/math/quantise.h"
#include "kernels/section.h"

namespace quire_kernels {

int check_token(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                uint32_t token_begin, uint32_t token_end) {
  const uint64_t groups = token_groups(shape.spec, shape.head_dim);
  const uint32_t top = (1u << shape.spec.bits) - 1;
  for (uint32_t head = 0; head < shape.n_heads; ++head) {
    const TokenHead at = token_head(shape.spec, shape.n_tokens, shape.head_dim, head);
    const uint32_t bits = target.ops->max_affine_bits(section + at.side + 4 * groups * token_begin,
                                                      groups * (token_end - token_begin), top);
    if (int status = check_affine_bits(bits, hadamard_order_of(shape), target)) return status;
  }
  return QUIRE_KERNEL_OK;
}

void read_token(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                const RowBatch& batch) {
  const uint64_t row_bytes = code_row_bytes(shape.head_dim, shape.spec.bits);
  const uint64_t side_bytes = 4ull * token_groups(shape.spec, shape.head_dim);
  const TokenHead at = token_head(shape.spec, shape.n_tokens, shape.head_dim, batch.head);
  CodeRows rows;
  for (; rows.n < batch.n; ++rows.n) {
    const uint64_t token = batch.token[rows.n];
    rows.codes[rows.n] = section + at.codes + token * row_bytes;
    rows.side[rows.n] = section + at.side + token * side_bytes;
    rows.table[rows.n] = batch.table[rows.n];
    rows.out[rows.n] = batch.out[rows.n];
  }
  target.ops->decode_token(row_format(shape, target), rows);
}

int write_token(const SectionShape& shape, RowSource& source, const TokenWalk& walk,
                Byte* section) {
  const RowOps& ops = source.ops();
  const uint32_t bits = shape.spec.bits;
  const uint32_t top = (1u << bits) - 1;
  const uint32_t order = hadamard_order_of(shape);
  const uint32_t groups = token_groups(shape.spec, shape.head_dim);
  const uint32_t dims = group_dims(shape.spec, shape.head_dim);
  const uint64_t row_bytes = code_row_bytes(shape.head_dim, bits);
  // A larger element leaves a larger one than halves hold in its turned block, whose norm is the
  // same. Refused here, sums cannot overflow.
  const uint32_t limit = float_bits(static_cast<float>(kLargestHalf * 1.001 * sqrt(order)));
  alignas(64) float row[QUIRE_KERNEL_DIMS_MAX];
  for (uint32_t head = 0; head < shape.n_heads; ++head) {
    const TokenHead at = token_head(shape.spec, shape.n_tokens, shape.head_dim, head);
    TokenWalk tokens = walk;
    Byte* side = section + at.side;
    Byte* codes = section + at.codes;
    for (uint32_t i = 0; i < shape.n_tokens; ++i, codes += row_bytes) {
      uint32_t largest;
      if (int status = source.fetch(head, tokens.next(), row, &largest)) return status;
      if (largest > limit) return QUIRE_KERNEL_OUT_OF_RANGE;
      for (uint32_t group = 0; group < groups; ++group, side += 4) {
        const uint32_t begin = group * dims;
        const uint32_t n = shape.head_dim - begin < dims ? shape.head_dim - begin : dims;
        RowAffine affine;
        if (!row_affine(ops, row + begin, n, order, top, &affine)) return QUIRE_KERNEL_OUT_OF_RANGE;
        store_pair(side, affine.zero, affine.scale);
        ops.encode_token(row + begin, bits, half_to_float(affine.zero), half_to_float(affine.scale),
                         codes + code_row_bytes(begin, bits), n);
      }
    }
    clear_bytes(section, at.side + 4ull * groups * shape.n_tokens, at.codes);
    const uint64_t codes_bytes = shape.n_tokens * row_bytes;
    clear_bytes(section, at.codes + codes_bytes, at.codes + align_block(codes_bytes));
  }
  return QUIRE_KERNEL_OK;
}

}  // namespace quire_kernels
