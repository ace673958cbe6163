// Mean and deviation per channel and run taken off, then codes per token with a Hadamard transform:
// kept to be compared with, so its statistics are plain loops.
#include <math.h>
#include <string.h>

#include "kernels/math/bits.h"
#include "kernels/math/quantise.h"
#include "kernels/section.h"

namespace quire_kernels {
namespace {

struct ChannelStatistics {
  alignas(64) float means[QUIRE_KERNEL_DIMS_MAX];
  alignas(64) float deviations[QUIRE_KERNEL_DIMS_MAX];
};

uint32_t run_tokens(const SectionShape& shape, uint32_t run) {
  const uint32_t left = shape.n_tokens - run * shape.spec.run_tokens;
  return left < shape.spec.run_tokens ? left : shape.spec.run_tokens;
}

// The smallest half that is not below value >= 0; 1 for 0.
uint16_t half_deviation(double value) {
  return value == 0 ? float_to_half(1.0f) : half_scale(value, 1.0);
}

// One head of one run: three passes over its rows, which come from cache after the first.
class RunWriter {
 public:
  RunWriter(const SectionShape& shape, RowSource& source, Byte* section)
      : shape_(shape), source_(source), ops_(source.ops()), section_(section) {}

  int write(uint32_t head, uint32_t run, TokenWalk* walk) {
    const uint32_t n_tokens = run_tokens(shape_, run);
    const ChannelRun at = channel_run(shape_.spec, shape_.n_tokens, shape_.head_dim, head, run);
    const TokenWalk begin = *walk;
    if (int status = find_means(head, n_tokens, begin)) return status;
    if (int status = find_deviations(head, n_tokens, begin)) return status;
    for (uint32_t dim = 0; dim < shape_.head_dim; ++dim)
      store_pair(section_ + at.side + 4ull * dim, means_[dim], deviations_[dim]);
    clear_bytes(section_, at.side + 4ull * shape_.head_dim, at.token_side);
    const uint64_t row_bytes = code_row_bytes(shape_.head_dim, shape_.spec.bits);
    for (uint32_t i = 0; i < n_tokens; ++i) {
      if (int status = source_.fetch(head, walk->next(), row_, nullptr)) return status;
      if (!write_row(at.token_side + 4ull * i, at.codes + i * row_bytes))
        return QUIRE_KERNEL_OUT_OF_RANGE;
    }
    clear_bytes(section_, at.token_side + 4ull * n_tokens, at.codes);
    const uint64_t codes_bytes = n_tokens * row_bytes;
    clear_bytes(section_, at.codes + codes_bytes, at.codes + align_block(codes_bytes));
    return QUIRE_KERNEL_OK;
  }

 private:
  int find_means(uint32_t head, uint32_t n_tokens, TokenWalk walk) {
    memset(sums_, 0, sizeof(sums_));
    for (uint32_t i = 0; i < n_tokens; ++i) {
      if (int status = source_.fetch(head, walk.next(), row_, nullptr)) return status;
      for (uint32_t dim = 0; dim < shape_.head_dim; ++dim)
        sums_[dim] += static_cast<double>(row_[dim]);
    }
    for (uint32_t dim = 0; dim < shape_.head_dim; ++dim) {
      // + 0: one form of zero.
      const float mean = static_cast<float>(sums_[dim] / n_tokens) + 0.0f;
      means_[dim] = float_to_half(mean);
      if ((means_[dim] & 0x7fff) == 0) means_[dim] = 0;
      if ((means_[dim] & 0x7fff) >= infinity_bits(QUIRE_DTYPE_F16))
        return QUIRE_KERNEL_OUT_OF_RANGE;
      statistics_.means[dim] = half_to_float(means_[dim]);
    }
    return QUIRE_KERNEL_OK;
  }

  int find_deviations(uint32_t head, uint32_t n_tokens, TokenWalk walk) {
    memset(sums_, 0, sizeof(sums_));
    for (uint32_t i = 0; i < n_tokens; ++i) {
      if (int status = source_.fetch(head, walk.next(), row_, nullptr)) return status;
      for (uint32_t dim = 0; dim < shape_.head_dim; ++dim) {
        const double difference =
            static_cast<double>(row_[dim]) - static_cast<double>(statistics_.means[dim]);
        sums_[dim] += difference * difference;
      }
    }
    for (uint32_t dim = 0; dim < shape_.head_dim; ++dim) {
      deviations_[dim] = half_deviation(sqrt(sums_[dim] / n_tokens));
      if (deviations_[dim] >= infinity_bits(QUIRE_DTYPE_F16)) return QUIRE_KERNEL_OUT_OF_RANGE;
      statistics_.deviations[dim] = half_to_float(deviations_[dim]);
    }
    return QUIRE_KERNEL_OK;
  }

  bool write_row(uint64_t side, uint64_t codes) {
    const uint32_t bits = shape_.spec.bits;
    ops_.normalise(row_, statistics_.means, statistics_.deviations, shape_.head_dim);
    float minimum;
    float maximum;
    ops_.turn_range(row_, shape_.head_dim, hadamard_order_of(shape_), &minimum, &maximum);
    if (!ops_.affine_halves(&minimum, &maximum, 1, (1u << bits) - 1, section_ + side)) return false;
    ops_.encode_token(row_format(shape_, {}), row_, 1, section_ + side, section_ + codes);
    return true;
  }

  const SectionShape& shape_;
  RowSource& source_;
  const RowOps& ops_;
  Byte* section_;
  uint16_t means_[QUIRE_KERNEL_DIMS_MAX];
  uint16_t deviations_[QUIRE_KERNEL_DIMS_MAX];
  ChannelStatistics statistics_;
  double sums_[QUIRE_KERNEL_DIMS_MAX];
  alignas(64) float row_[QUIRE_KERNEL_DIMS_MAX];
};

// |y| <= the ends of its code times sqrt(order); then times deviation, plus mean.
int check_run(const SectionShape& shape, const LoadTarget& target, const Byte* side,
              uint32_t token_bits) {
  const double turned = static_cast<double>(bits_float(token_bits)) *
                        sqrt(static_cast<double>(hadamard_order_of(shape)));
  double largest = 0;
  for (uint32_t dim = 0; dim < shape.head_dim; ++dim) {
    const double mean = static_cast<double>(load_half(side + 4ull * dim));
    const double deviation = static_cast<double>(load_half(side + 4ull * dim + 2));
    if (!isfinite(mean) || !isfinite(deviation)) return QUIRE_KERNEL_NON_FINITE;
    largest = fmax(largest, turned * fabs(deviation) + fabs(mean));
  }
  return check_magnitude(largest, 1.0001, target);
}

}  // namespace

int check_normalised(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                     uint32_t token_begin, uint32_t token_end) {
  const uint32_t run_size = shape.spec.run_tokens;
  const uint32_t top = (1u << shape.spec.bits) - 1;
  for (uint32_t head = 0; head < shape.n_heads; ++head)
    for (uint32_t token = token_begin; token < token_end;) {
      const uint32_t run = token / run_size;
      const uint32_t run_end = run * run_size + run_tokens(shape, run);
      const uint32_t end = run_end < token_end ? run_end : token_end;
      const ChannelRun at = channel_run(shape.spec, shape.n_tokens, shape.head_dim, head, run);
      const uint32_t bits = target.ops->max_affine_bits(
          section + at.token_side + 4ull * (token - run * run_size), end - token, top);
      if (bits >= infinity_bits(QUIRE_DTYPE_F32)) return QUIRE_KERNEL_NON_FINITE;
      if (int status = check_run(shape, target, section + at.side, bits)) return status;
      token = end;
    }
  return QUIRE_KERNEL_OK;
}

void read_normalised(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                     const RowBatch& batch) {
  const RowFormat format = row_format(shape, target);
  const uint64_t row_bytes = code_row_bytes(shape.head_dim, shape.spec.bits);
  ChannelStatistics statistics;
  for (uint32_t i = 0; i < batch.n;) {
    const uint32_t run = batch.token[i] / shape.spec.run_tokens;
    const uint32_t run_begin = run * shape.spec.run_tokens;
    const ChannelRun at = channel_run(shape.spec, shape.n_tokens, shape.head_dim, batch.head, run);
    CodeRows rows;
    for (; i < batch.n && batch.token[i] - run_begin < shape.spec.run_tokens; ++i, ++rows.n) {
      const uint64_t inside = batch.token[i] - run_begin;
      rows.codes[rows.n] = section + at.codes + inside * row_bytes;
      rows.side[rows.n] = section + at.token_side + inside * 4;
      rows.table[rows.n] = batch.table[i];
      rows.out[rows.n] = batch.out[i];
    }
    target.ops->widen_pairs(section + at.side, statistics.means, statistics.deviations,
                            shape.head_dim);
    target.ops->decode_normalised(format, statistics.means, statistics.deviations, rows);
  }
}

int write_normalised(const SectionShape& shape, RowSource& source, const TokenWalk& walk,
                     Byte* section) {
  RunWriter writer(shape, source, section);
  const uint32_t runs = (shape.n_tokens + shape.spec.run_tokens - 1) / shape.spec.run_tokens;
  for (uint32_t head = 0; head < shape.n_heads; ++head) {
    TokenWalk tokens = walk;
    for (uint32_t run = 0; run < runs; ++run)
      if (int status = writer.write(head, run, &tokens)) return status;
  }
  return QUIRE_KERNEL_OK;
}

}  // namespace quire_kernels
