// Block-diagonal Walsh-Hadamard transform of a row, in place: for stage widths 1, 2, 4, ... the
// pair (a, b) at distance width becomes (a + b, a - b); at last every element is multiplied by
// fp32(1 / sqrt(order)). Its own inverse up to rounding. Fixed order of operations: all
// implementations give equal bits.
#ifndef QUIRE_KERNELS_MATH_HADAMARD_H_
#define QUIRE_KERNELS_MATH_HADAMARD_H_

#include <stdint.h>

#include "kernels/math/hd.h"

namespace quire_kernels {

// The largest power of two that divides head_dim and does not exceed order_max (a power of two).
QUIRE_HD uint32_t hadamard_order(uint32_t head_dim, uint32_t order_max) {
  uint32_t order = order_max;
  while (order > 1 && head_dim % order != 0) order /= 2;
  return order;
}

// 1 / sqrt(order), rounded once to fp32; orders 1..128.
QUIRE_HD float hadamard_scale(uint32_t order) {
  float scale = 1.0f;
  for (; order >= 4; order /= 4) scale *= 0.5f;
  return order == 2 ? scale * 0.70710678118654752f : scale;
}

QUIRE_HD void hadamard_row(float* row, uint32_t head_dim, uint32_t order) {
  if (order <= 1) return;
  for (uint32_t width = 1; width < order; width *= 2)
    for (uint32_t begin = 0; begin < head_dim; begin += 2 * width)
      for (uint32_t i = begin; i < begin + width; ++i) {
        const float a = row[i];
        const float b = row[i + width];
        row[i] = a + b;
        row[i + width] = a - b;
      }
  const float scale = hadamard_scale(order);
  for (uint32_t i = 0; i < head_dim; ++i) row[i] *= scale;
}

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_MATH_HADAMARD_H_
