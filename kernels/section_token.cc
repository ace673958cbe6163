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

namespace {

// Rows whose zeros and scales are found together: one at a time, each would wait for the long chain
// of steps that leads to its scale.
constexpr uint32_t kTogetherRows = 16;
static_assert(kTogetherRows <= kBatchRows);

class TokenWriter {
 public:
  TokenWriter(const SectionShape& shape, RowSource& source, Byte* section)
      : shape_(shape),
        source_(source),
        ops_(source.ops()),
        section_(section),
        order_(hadamard_order_of(shape)),
        groups_(token_groups(shape.spec, shape.head_dim)),
        dims_(group_dims(shape.spec, shape.head_dim)),
        format_(row_format(shape, {})),
        row_bytes_(code_row_bytes(shape.head_dim, shape.spec.bits)),
        // A larger element leaves a larger one than halves hold in its turned block, whose norm is
        // the same. Refused here, sums cannot overflow.
        limit_(float_bits(static_cast<float>(kLargestHalf * 1.001 * sqrt(order_)))) {}

  int write(uint32_t head, TokenWalk walk) {
    const TokenHead at = token_head(shape_.spec, shape_.n_tokens, shape_.head_dim, head);
    Byte* side = section_ + at.side;
    Byte* codes = section_ + at.codes;
    for (uint32_t begin = 0; begin < shape_.n_tokens;) {
      const SourceRows source = source_.gather(head, kTogetherRows, shape_.n_tokens - begin, &walk);
      source_.ask_ahead(source.n / 2);
      if (int status = find_ranges(source)) return status;
      const uint32_t n = source.n;
      if (!ops_.affine_halves(minimums_, maximums_, n * groups_, (1u << shape_.spec.bits) - 1,
                              side))
        return QUIRE_KERNEL_OUT_OF_RANGE;
      source_.ask_ahead(n - n / 2);
      ops_.encode_token(format_, rows_, n, side, codes);
      side += 4ull * n * groups_;
      codes += n * row_bytes_;
      begin += n;
    }
    clear_bytes(section_, at.side + 4ull * groups_ * shape_.n_tokens, at.codes);
    const uint64_t codes_bytes = shape_.n_tokens * row_bytes_;
    clear_bytes(section_, at.codes + codes_bytes, at.codes + align_block(codes_bytes));
    return QUIRE_KERNEL_OK;
  }

 private:
  uint32_t dims_of(uint32_t group) const {
    const uint32_t left = shape_.head_dim - group * dims_;
    return left < dims_ ? left : dims_;
  }

  int find_ranges(const SourceRows& source) {
    if (groups_ == 1)
      return source_.fetch_turned(source, order_, limit_, rows_, minimums_, maximums_);
    float* minimum = minimums_;
    float* maximum = maximums_;
    for (uint32_t i = 0; i < source.n; ++i) {
      float* row = rows_ + uint64_t{i} * shape_.head_dim;
      uint32_t largest;
      if (int status = source_.fetch_row(source, i, row, &largest)) return status;
      if (largest > limit_) return QUIRE_KERNEL_OUT_OF_RANGE;
      for (uint32_t group = 0; group < groups_; ++group)
        ops_.turn_range(row + group * dims_, dims_of(group), order_, minimum++, maximum++);
    }
    return QUIRE_KERNEL_OK;
  }

  const SectionShape& shape_;
  RowSource& source_;
  const RowOps& ops_;
  Byte* section_;
  uint32_t order_;
  uint32_t groups_;
  uint32_t dims_;
  RowFormat format_;
  uint64_t row_bytes_;
  uint32_t limit_;
  float minimums_[kRangesMax];
  float maximums_[kRangesMax];
  alignas(64) float rows_[kTogetherRows * QUIRE_KERNEL_DIMS_MAX];
};

}  // namespace

int write_token(const SectionShape& shape, RowSource& source, const TokenWalk& walk,
                Byte* section) {
  TokenWriter writer(shape, source, section);
  // A transform takes longer than memory does.
  if (hadamard_order_of(shape) == 1) source.start_ahead(walk, shape.n_tokens, 2 * kTogetherRows);
  for (uint32_t head = 0; head < shape.n_heads; ++head)
    if (int status = writer.write(head, walk)) return status;
  return QUIRE_KERNEL_OK;
}

}  // namespace quire_kernels
