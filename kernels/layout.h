// Where things lie inside a section (docs/formats/codecs.md), and element sizes.
#ifndef QUIRE_KERNELS_LAYOUT_H_
#define QUIRE_KERNELS_LAYOUT_H_

#include <stdint.h>

#include "kernels/quire_kernels.h"

namespace quire_kernels {

inline constexpr uint64_t kBlockAlignment = 64;

inline constexpr uint64_t align_block(uint64_t bytes) {
  return (bytes + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
}

// 0 for an unknown dtype. Raw codecs carry the number of their dtype.
inline constexpr uint32_t element_bytes(int32_t dtype) {
  if (dtype == QUIRE_DTYPE_F16 || dtype == QUIRE_DTYPE_BF16) return 2;
  return dtype == QUIRE_DTYPE_F32 ? 4 : 0;
}
inline constexpr bool is_raw(int32_t codec) {
  return element_bytes(codec) != 0;
}

// The bits of +infinity; of a positive number's, only those of a NaN are larger.
inline constexpr uint32_t infinity_bits(int32_t dtype) {
  if (dtype == QUIRE_DTYPE_F16) return 0x7c00;
  return dtype == QUIRE_DTYPE_BF16 ? 0x7f80 : 0x7f800000;
}

// int8, plane K: per head, per run of 256 tokens: minimums, scales, codes; each block aligned.
struct ChannelRun {
  uint64_t minimums;  // byte offsets inside the section
  uint64_t scales;
  uint64_t codes;
};

inline constexpr uint64_t channel_run_bytes(uint32_t run_tokens, uint32_t head_dim) {
  return 2 * align_block(4ull * head_dim) + align_block(uint64_t{run_tokens} * head_dim);
}

inline constexpr uint64_t channel_head_bytes(uint32_t n_tokens, uint32_t head_dim) {
  const uint32_t tail = n_tokens % QUIRE_KERNEL_RUN_TOKENS;
  return n_tokens / QUIRE_KERNEL_RUN_TOKENS * channel_run_bytes(QUIRE_KERNEL_RUN_TOKENS, head_dim) +
         (tail ? channel_run_bytes(tail, head_dim) : 0);
}

inline constexpr ChannelRun channel_run(uint32_t n_tokens, uint32_t head_dim, uint32_t head,
                                        uint32_t run) {
  const uint64_t start = head * channel_head_bytes(n_tokens, head_dim) +
                         run * channel_run_bytes(QUIRE_KERNEL_RUN_TOKENS, head_dim);
  const uint64_t values = align_block(4ull * head_dim);
  return {start, start + values, start + 2 * values};
}

// int8, plane V: per head {fp16 zero, fp16 scale} per token, then codes; each block aligned.
struct TokenHead {
  uint64_t scales;
  uint64_t codes;
};

inline constexpr uint64_t token_head_bytes(uint32_t n_tokens, uint32_t head_dim) {
  return align_block(4ull * n_tokens) + align_block(uint64_t{n_tokens} * head_dim);
}

inline constexpr TokenHead token_head(uint32_t n_tokens, uint32_t head_dim, uint32_t head) {
  const uint64_t start = head * token_head_bytes(n_tokens, head_dim);
  return {start, start + align_block(4ull * n_tokens)};
}

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_LAYOUT_H_
