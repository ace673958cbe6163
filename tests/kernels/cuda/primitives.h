// Kernels that use every primitive of kernels/cuda/device.cuh, and deliberately wrong ones.
#ifndef QUIRE_TESTS_KERNELS_CUDA_PRIMITIVES_H_
#define QUIRE_TESTS_KERNELS_CUDA_PRIMITIVES_H_

#include <stddef.h>
#include <stdint.h>

// out[32 * 8]: results of shuffles and ballots, eight words a lane. One warp.
int run_warp_operations(uint32_t* out, void* stream);
// d[16 * 8] = a[16 * 16] * b[16 * 8] + d, halves row-major, through ldmatrix and mma.
int run_matrix_product(const uint16_t* a, const uint16_t* b, float* d, bool bf16, void* stream);
// to = from; n_vectors of 16 bytes, by a ring of cp.async stages.
int run_async_copy(const void* from, void* to, uint32_t n_vectors, void* stream);
// to = from; bytes a multiple of 1024; a loader warp with bulk copies and mbarriers. sm_90.
int run_bulk_copy(const void* from, void* to, uint32_t bytes, void* stream);
// to = from; bytes a multiple of 1024: one warp fills stages by cp.async that arrive on mbarriers,
// another stores what came in bulk from two tiles. sm_90.
int run_async_ring(const void* from, void* to, uint32_t bytes, void* stream);
// out[0..7] = conversions and packed arithmetic of x, y.
int run_arithmetic(float x, float y, uint32_t* out, void* stream);
// sums[block] = sum of values[block * 256 ..]; *largest = of all.
int run_reductions(const float* values, uint32_t blocks, float* sums, int32_t* largest,
                   void* stream);

enum WrongKernel {
  kMissingSync,
  kReadBeforeOverwrite,
  kArrivalIsNoWait,
  kLanesOutOfStep,
  kMissingCopyWait,
  kDivergentBarrier,
  kBarrierOneThreadMisses,
  kDivergentWarp,
  kSharedIndex,
  kSharedWrite,
  kMisaligned,
  kNobodyArrives,
  kExitsWithCopies,
  kRingWithoutEmptyBarrier,
  kAsyncArrivesEarly,
  kAsyncNeverArrives,
  kAsyncExitsEarly,
  kBulkStoreWithoutFence,
  kBulkStoreFencedEarly,
  kBulkTileWithoutWait,
};
int run_wrong(WrongKernel which, uint32_t* out, const uint32_t* in, void* stream);

#endif  // QUIRE_TESTS_KERNELS_CUDA_PRIMITIVES_H_
