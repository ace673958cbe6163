// Rotation alone, batched. Rows go through fp32, like those of a load.
#include <math.h>

#include "kernels/attention/checks.h"
#include "kernels/attention/deviation.h"
#include "kernels/denormals.h"
#include "kernels/math/bits.h"
#include "kernels/math/layout.h"
#include "kernels/rows.h"

namespace quire_kernels {
namespace {

float largest_finite(int32_t dtype) {
  if (dtype == QUIRE_DTYPE_F16) return 65504.0f;
  return dtype == QUIRE_DTYPE_BF16 ? 0x1.fep127f : 0x1.fffffep127f;
}

int scan(const quire_rotate_params& p) {
  const RowOps* ops = active_rows();
  uint32_t most = 0;
  for (uint32_t token = 0; token < p.n_tokens; ++token)
    for (uint32_t head = 0; head < p.n_heads; ++head) {
      const uint32_t bits =
          ops->max_abs_bits(p.src.dtype, token_row(p.src, token, head), p.head_dim);
      most = bits > most ? bits : most;
    }
  if (most >= infinity_bits(p.src.dtype)) return QUIRE_KERNEL_NON_FINITE;
  const auto half = static_cast<uint16_t>(most);
  const float value = p.src.dtype == QUIRE_DTYPE_F32   ? bits_float(most)
                      : p.src.dtype == QUIRE_DTYPE_F16 ? half_to_float(half)
                                                       : bf16_to_float(half);
  return static_cast<double>(value) * M_SQRT2 <= static_cast<double>(largest_finite(p.dst.dtype))
             ? QUIRE_KERNEL_OK
             : QUIRE_KERNEL_OUT_OF_RANGE;
}

void rotate(const quire_rotate_params& p) {
  const RowOps* ops = active_rows();
  alignas(64) float row[QUIRE_KERNEL_DIMS_MAX];
  for (uint32_t token = 0; token < p.n_tokens; ++token) {
    const auto* table =
        reinterpret_cast<const float*>(reinterpret_cast<const unsigned char*>(p.rotation.table) +
                                       token * p.rotation.table_token_stride);
    for (uint32_t head = 0; head < p.n_heads; ++head) {
      ops->widen(p.src.dtype, token_row(p.src, token, head), row, p.head_dim);
      ops->rotate(p.rotation.style, table, row, p.rotation.rotary_dims);
      ops->narrow(p.dst.dtype, row, const_cast<unsigned char*>(token_row(p.dst, token, head)),
                  p.head_dim);
    }
  }
}

int rotate_checked(const quire_rotate_params& p) {
  if (p.n_tokens == 0) return QUIRE_KERNEL_OK;
  const int status = scan(p);
  if (status == QUIRE_KERNEL_OK) rotate(p);
  return status;
}

}  // namespace
}  // namespace quire_kernels

extern "C" {

int quire_rotate(const struct quire_rotate_params* params) {
  return quire_rotate_batch(params, 1, nullptr);
}

int quire_rotate_batch(const struct quire_rotate_params* params, size_t n, size_t* failed_index) {
  using namespace quire_kernels;
  const KeepDenormals keep_denormals;
  if (n > 0 && params == nullptr) return QUIRE_KERNEL_INVALID_ARGUMENT;
  for (int pass = 0; pass < 2; ++pass)
    for (size_t i = 0; i < n; ++i) {
      const int status = pass == 0 ? check_rotate(params + i, true) : rotate_checked(params[i]);
      if (status == QUIRE_KERNEL_OK) continue;
      if (failed_index != nullptr) *failed_index = i;
      return status;
    }
  return QUIRE_KERNEL_OK;
}

}  // extern "C"
