// Codes per channel over runs of tokens (K).
#include <math.h>
#include <string.h>

#include "kernels/math/bits.h"
#include "kernels/math/quantise.h"
#include "kernels/section.h"

namespace quire_kernels {
namespace {

// Rows of a run that are kept in fp32 between the search for its range and its codes. A run that is
// larger is gathered twice.
constexpr uint64_t kRunScratchBytes = 128 * 1024;
// Rows of fp32 that stay in the L1 cache beside what they are made from.
constexpr uint64_t kBatchScratchBytes = 16 * 1024;
static_assert(kBatchScratchBytes >= QUIRE_KERNEL_DIMS_MAX * 4);

struct ChannelScales {
  alignas(64) float zeros[QUIRE_KERNEL_DIMS_MAX];
  alignas(64) float scales[QUIRE_KERNEL_DIMS_MAX];
};

uint32_t run_tokens(const SectionShape& shape, uint32_t run) {
  const uint32_t left = shape.n_tokens - run * shape.spec.run_tokens;
  return left < shape.spec.run_tokens ? left : shape.spec.run_tokens;
}

// |zero + code * scale| is largest at an end of the codes, as the decoder rounds it.
int check_wide(const SectionShape& shape, const LoadTarget& target, const float* zeros,
               const float* scales) {
  const auto most = [&](const float* values) {
    return static_cast<double>(bits_float(target.ops->max_abs_bits(
        QUIRE_DTYPE_F32, reinterpret_cast<const Byte*>(values), shape.head_dim)));
  };
  // Far inside the limit, as a rule; NaN is not.
  if (most(zeros) + 256.0 * most(scales) < largest_magnitude(target.dtype, target.rotates))
    return QUIRE_KERNEL_OK;
  double largest = 0;
  for (uint32_t dim = 0; dim < shape.head_dim; ++dim) {
    if (!isfinite(zeros[dim]) || !isfinite(scales[dim])) return QUIRE_KERNEL_NON_FINITE;
    const float end = decode_code(255, zeros[dim], scales[dim]);
    if (!isfinite(end)) return QUIRE_KERNEL_OUT_OF_RANGE;
    largest = fmax(largest, static_cast<double>(fmaxf(fabsf(zeros[dim]), fabsf(end))));
  }
  return check_magnitude(largest, 1, target);
}

// Both passes over one run: rows come from the scratch the second time where it holds them.
class RunWriter {
 public:
  RunWriter(const SectionShape& shape, RowSource& source, Byte* section)
      : shape_(shape),
        source_(source),
        ops_(source.ops()),
        section_(section),
        top_((1u << shape.spec.bits) - 1),
        row_bytes_(code_row_bytes(shape.head_dim, shape.spec.bits)),
        format_(row_format(shape, {})),
        batch_rows_(static_cast<uint32_t>(kBatchScratchBytes / (4 * shape.head_dim) < kBatchRows
                                              ? kBatchScratchBytes / (4 * shape.head_dim)
                                              : kBatchRows)),
        keeps_rows_(uint64_t{shape.spec.run_tokens} * shape.head_dim * 4 <= kRunScratchBytes ||
                    uint64_t{shape.n_tokens} * shape.head_dim * 4 <= kRunScratchBytes) {}

  int write(uint32_t head, uint32_t run, TokenWalk* walk) {
    const uint32_t n_tokens = run_tokens(shape_, run);
    const ChannelRun at = channel_run(shape_.spec, shape_.n_tokens, shape_.head_dim, head, run);
    TokenWalk again = *walk;
    if (int status = find_range(head, n_tokens, walk)) return status;
    if (!(shape_.spec.wide_side ? write_wide_side(at) : write_side(at)))
      return QUIRE_KERNEL_OUT_OF_RANGE;
    if (int status = write_codes(head, n_tokens, at.codes, &again)) return status;
    const uint64_t codes_bytes = n_tokens * row_bytes_;
    clear_bytes(section_, at.codes + codes_bytes, at.codes + align_block(codes_bytes));
    return QUIRE_KERNEL_OK;
  }

 private:
  float* scratch_row(uint32_t i) {
    return keeps_rows_ ? scratch_ + uint64_t{i} * shape_.head_dim : scratch_;
  }

  int find_range(uint32_t head, uint32_t n_tokens, TokenWalk* walk) {
    for (uint32_t dim = 0; dim < shape_.head_dim; ++dim) {
      minimums_[dim] = HUGE_VALF;
      maximums_[dim] = -HUGE_VALF;
    }
    for (uint32_t i = 0; i < n_tokens;) {
      const SourceRows source = source_.gather(head, batch_rows_, n_tokens - i, walk);
      source_.ask_ahead(source.n / 2);
      if (int status = source_.fetch_range(source, scratch_row(i), minimums_, maximums_))
        return status;
      i += source.n;
    }
    return QUIRE_KERNEL_OK;
  }

  int write_codes(uint32_t head, uint32_t n_tokens, uint64_t codes, TokenWalk* walk) {
    for (uint32_t i = 0; i < n_tokens;) {
      uint32_t n = n_tokens - i < batch_rows_ ? n_tokens - i : batch_rows_;
      if (!keeps_rows_) {
        const SourceRows source = source_.gather(head, n, n_tokens - i, walk);
        n = source.n;
        if (int status = source_.fetch_range(source, scratch_, minimums_, maximums_)) return status;
      }
      source_.ask_ahead(n - n / 2);
      ops_.encode_channel(format_, scratch_row(i), n, side_.zeros, side_.scales,
                          section_ + codes + i * row_bytes_);
      i += n;
    }
    return QUIRE_KERNEL_OK;
  }

  bool write_side(const ChannelRun& at) {
    if (!ops_.affine_halves(minimums_, maximums_, shape_.head_dim, top_, section_ + at.side))
      return false;
    ops_.widen_pairs(section_ + at.side, side_.zeros, side_.scales, shape_.head_dim);
    clear_bytes(section_, at.side + 4ull * shape_.head_dim, at.codes);
    return true;
  }

  bool write_wide_side(const ChannelRun& at) {
    const uint64_t bytes = 4ull * shape_.head_dim;
    for (uint32_t dim = 0; dim < shape_.head_dim; ++dim) {
      // + 0: one form of zero, whatever order the range was found in.
      side_.zeros[dim] = minimums_[dim] + 0.0f;
      if (!float_scale(side_.zeros[dim], maximums_[dim], top_, &side_.scales[dim])) return false;
    }
    memcpy(section_ + at.side, side_.zeros, bytes);
    clear_bytes(section_, at.side + bytes, at.wide_scales);
    memcpy(section_ + at.wide_scales, side_.scales, bytes);
    clear_bytes(section_, at.wide_scales + bytes, at.codes);
    return true;
  }

  const SectionShape& shape_;
  RowSource& source_;
  const RowOps& ops_;
  Byte* section_;
  uint32_t top_;
  uint64_t row_bytes_;
  RowFormat format_;
  uint32_t batch_rows_;
  bool keeps_rows_;
  ChannelScales side_;
  alignas(64) float minimums_[QUIRE_KERNEL_DIMS_MAX];
  alignas(64) float maximums_[QUIRE_KERNEL_DIMS_MAX];
  alignas(64) float scratch_[kRunScratchBytes / 4];
};
static_assert(kRunScratchBytes >= QUIRE_KERNEL_DIMS_MAX * 4);

}  // namespace

int check_channel(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                  uint32_t token_begin, uint32_t token_end) {
  const uint32_t first = token_begin / shape.spec.run_tokens;
  const uint32_t last = (token_end - 1) / shape.spec.run_tokens;
  const uint32_t top = (1u << shape.spec.bits) - 1;
  for (uint32_t head = 0; head < shape.n_heads; ++head)
    for (uint32_t run = first; run <= last; ++run) {
      const ChannelRun at = channel_run(shape.spec, shape.n_tokens, shape.head_dim, head, run);
      int status;
      if (shape.spec.wide_side)
        status = check_wide(shape, target, reinterpret_cast<const float*>(section + at.side),
                            reinterpret_cast<const float*>(section + at.wide_scales));
      else
        status = check_affine_bits(
            target.ops->max_affine_bits(section + at.side, shape.head_dim, top), 1, target);
      if (status != QUIRE_KERNEL_OK) return status;
    }
  return QUIRE_KERNEL_OK;
}

void read_channel(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                  const RowBatch& batch) {
  const RowFormat format = row_format(shape, target);
  const uint64_t row_bytes = code_row_bytes(shape.head_dim, shape.spec.bits);
  ChannelScales side;
  for (uint32_t i = 0; i < batch.n;) {
    const uint32_t run = batch.token[i] / shape.spec.run_tokens;
    const uint32_t run_begin = run * shape.spec.run_tokens;
    const ChannelRun at = channel_run(shape.spec, shape.n_tokens, shape.head_dim, batch.head, run);
    CodeRows rows;
    for (; i < batch.n && batch.token[i] - run_begin < shape.spec.run_tokens; ++i, ++rows.n) {
      rows.codes[rows.n] = section + at.codes + (batch.token[i] - run_begin) * row_bytes;
      rows.table[rows.n] = batch.table[i];
      rows.out[rows.n] = batch.out[i];
    }
    const float* zeros = side.zeros;
    const float* scales = side.scales;
    if (shape.spec.wide_side) {
      zeros = reinterpret_cast<const float*>(section + at.side);
      scales = reinterpret_cast<const float*>(section + at.wide_scales);
    } else {
      target.ops->widen_pairs(section + at.side, side.zeros, side.scales, shape.head_dim);
    }
    target.ops->decode_channel(format, zeros, scales, rows);
  }
}

int write_channel(const SectionShape& shape, RowSource& source, const TokenWalk& walk,
                  Byte* section) {
  RunWriter writer(shape, source, section);
  source.start_ahead(walk, shape.n_tokens, shape.spec.run_tokens);
  const uint32_t runs = (shape.n_tokens + shape.spec.run_tokens - 1) / shape.spec.run_tokens;
  for (uint32_t head = 0; head < shape.n_heads; ++head) {
    TokenWalk tokens = walk;
    for (uint32_t run = 0; run < runs; ++run)
      if (int status = writer.write(head, run, &tokens)) return status;
  }
  return QUIRE_KERNEL_OK;
}

}  // namespace quire_kernels
