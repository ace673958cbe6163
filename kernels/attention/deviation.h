// Distance of two KV sets per token, for either precision. Math: distance(a, b, n, squared).
#ifndef QUIRE_KERNELS_ATTENTION_DEVIATION_H_
#define QUIRE_KERNELS_ATTENTION_DEVIATION_H_

#include "kernels/math/hd.h"
#include "kernels/quire_attention.h"

namespace quire_kernels {

QUIRE_HD const unsigned char* token_row(const quire_token_rows& rows, uint32_t token,
                                        uint32_t head) {
  const int64_t row = rows.row != nullptr ? rows.row[token] : static_cast<int64_t>(token);
  return static_cast<const unsigned char*>(rows.data) + row * rows.token_stride +
         head * rows.head_stride;
}

template <class Math>
void run_deviation(const quire_deviation_params& p) {
  alignas(64) float a[QUIRE_KERNEL_DIMS_MAX];
  alignas(64) float b[QUIRE_KERNEL_DIMS_MAX];
  for (uint32_t token = 0; token < p.n_tokens; ++token) {
    double sum = 0;
    for (uint32_t head = 0; head < p.n_heads; ++head) {
      Math::widen_row(p.a.dtype, token_row(p.a, token, head), a, p.head_dim);
      Math::widen_row(p.b.dtype, token_row(p.b, token, head), b, p.head_dim);
      sum +=
          static_cast<double>(Math::distance(a, b, p.head_dim, p.norm == QUIRE_DEVIATION_SQUARED));
    }
    p.deviation[token] = static_cast<float>(sum);
  }
}

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_ATTENTION_DEVIATION_H_
