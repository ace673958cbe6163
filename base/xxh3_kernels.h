// XXH3 compiled for two instruction sets; hash.cc picks one at start. The results are the same.
// (gcc 12 makes slow code of xxhash's AVX-512 streaming: 9 GB/s of copy and hash where AVX2
// gives 18.) Private to base/hash.cc.
#ifndef QUIRE_BASE_XXH3_KERNELS_H_
#define QUIRE_BASE_XXH3_KERNELS_H_

#include <cstddef>
#include <cstdint>

namespace quire::internal {

constexpr size_t kXxh3StateBytes = 576;

struct Xxh3Kernels {
  uint64_t (*hash_64)(const void* bytes, size_t size, uint64_t seed);
  // result: low, high
  void (*hash_128)(const void* bytes, size_t size, uint64_t* result);
  // state: kXxh3StateBytes, 64-byte aligned. One stream serves both digests.
  void (*reset)(void* state);
  void (*update)(void* state, const void* bytes, size_t size);
  uint64_t (*digest_64)(const void* state);
  void (*digest_128)(const void* state, uint64_t* result);
};

extern const Xxh3Kernels kXxh3Baseline;
#if defined(__x86_64__)
extern const Xxh3Kernels kXxh3Avx2;
#endif

}  // namespace quire::internal

#endif  // QUIRE_BASE_XXH3_KERNELS_H_
