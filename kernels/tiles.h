// Blocks of rows on the stack, for engine memory whose dims are not contiguous (a transposed V
// cache).
#ifndef QUIRE_KERNELS_TILES_H_
#define QUIRE_KERNELS_TILES_H_

#include <stdint.h>

#include "kernels/rows.h"

namespace quire_kernels {

// 32 tokens of two bytes fill a cache line of a transposed cache; larger rows get fewer tokens.
inline constexpr uint32_t kTileTokensMax = 32;
inline constexpr uint32_t kTileBytes = 32 * 1024;
static_assert(kTileBytes / (QUIRE_KERNEL_DIMS_MAX * 4) >= 1);

inline constexpr uint32_t tile_tokens(uint32_t head_dim, uint32_t element) {
  const uint32_t fit = kTileBytes / (head_dim * element);
  return fit < kTileTokensMax ? fit : kTileTokensMax;
}

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_TILES_H_
