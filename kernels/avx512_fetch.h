// What the units that read engine memory share.
#ifndef QUIRE_KERNELS_AVX512_FETCH_H_
#define QUIRE_KERNELS_AVX512_FETCH_H_

#include "kernels/avx512_blocks.h"

namespace quire_kernels {
namespace {

constexpr uint32_t elements_bytes(int32_t dtype, uint32_t n) {
  return dtype == QUIRE_DTYPE_F32 ? 4 * n : 2 * n;
}

// Asks for the row that is kAheadRows after row r.
[[gnu::always_inline]] inline void ask_ahead(const SourceRows& source, uint32_t r,
                                             uint32_t row_bytes) {
  if (r + kAheadRows >= source.n + source.n_ahead) return;
  const Byte* ahead = source.src[r + kAheadRows];
  for (uint32_t line = 0; line < row_bytes; line += 64)
    _mm_prefetch(reinterpret_cast<const char*>(ahead + line), _MM_HINT_T0);
}

}  // namespace
}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_AVX512_FETCH_H_
