// The vocabulary kernels are written in. Two implementations with one meaning: device_ptx.cuh
// (nvcc; the only file with PTX) and kernels/executor/device_on_cpu.h (g++ with QUIRE_ON_CPU, run
// by kernels/executor). A kernel includes this file and nothing of CUDA's.
//
//   QUIRE_SHARED(type, name, count)   static shared array, 16-byte aligned; type without commas
//   QUIRE_DYNAMIC_SHARED(name)        unsigned char[], what the launch gave, 1024-byte aligned
//   QUIRE_HAS_BULK                    1 where bulk_* exist: sm_90 and the executor
//   threadIdx, blockIdx, blockDim, gridDim as in CUDA
//
// namespace quire_cuda, all callable from device code only:
//   lane_id() warp_id()               of a one-dimensional block
//   sync_block() sync_warp(mask)      sync_named(id, threads) arrive_named(id, threads): id 1..15
//   shfl(v, lane) shfl_xor(v, m) shfl_up(v, n) shfl_down(v, n)   4-byte v; all 32 lanes call
//   warp_ballot(p) warp_any(p) warp_all(p) reduce_sum/max/min(v): butterfly, equal in all lanes
//   ld_nc_16(p) ld_nc_8(p) ld_nc_4(p) read-only global, streaming (not kept in L1)
//   st_cs_16(p, v) st_cs_8 st_cs_4    global, streaming
//   ld_16(p) st_16(p, v)              plain, any memory; all of these want natural alignment
//   cp_async16(shared, global, valid) cp_async4; valid = false fills zeros and does not read
//   cp_async_commit() cp_async_wait<N>()
//   cp_async_arrive(b)                arrives on an mbarrier once this thread's cp_async so far
//                                     have landed; one of the arrivals that mbarrier_init counts
//   mbarrier_init(b, count) mbarrier_fence_init() mbarrier_arrive(b)
//   mbarrier_try_wait(b, parity) mbarrier_wait(b, parity)
//   ldmatrix_x4(r, row) ldmatrix_x4_trans(r, row) ldmatrix_x2(r, row) ldmatrix_x2_trans(r, row)
//   mma_bf16(d, a, b) mma_f16(d, a, b)   m16n8k16, d += a * b, fp32 accumulators
//   atomic_add(p, v) atomic_max(p, v) atomic_min(p, v) atomic_cas(p, expected, v): the old value
//   set_status(word, code)            first failure wins
//   fence_device()                    __threadfence
//   pack_bf16x2(lo, hi) pack_f16x2(lo, hi)   round to nearest even; lo in the low half
//   bf16_to_float(bits) f16_to_float(bits) float_to_bf16(v) float_to_f16(v)
//   half2_add/sub/mul(a, b) half2_fma(a, b, c)   f16x2 in uint32_t, one rounding each
//   lop3<LUT>(a, b, c) byte_perm(a, b, selector) popcount(v) exp2_fast(v) log2_fast(v)
//   sm_90: mbarrier_arrive_expect(b, bytes)
//     bulk_g2s(shared, global, bytes, b) bulk_s2g(global, shared, bytes): 16-byte multiples
//     bulk_commit() bulk_wait_read<N>() bulk_wait<N>() fence_async_shared()
#ifndef QUIRE_KERNELS_CUDA_DEVICE_CUH_
#define QUIRE_KERNELS_CUDA_DEVICE_CUH_

#ifdef QUIRE_ON_CPU
#include "kernels/executor/device_on_cpu.h"
#else
#include "kernels/cuda/device_ptx.cuh"
#endif

#include "kernels/math/hd.h"

namespace quire_cuda {

// y of every lane combined in a fixed order: lane distances 16, 8, 4, 2, 1.
template <typename T>
QUIRE_DEVICE T reduce_sum(T value QUIRE_SITE) {
#pragma unroll
  for (int mask = 16; mask > 0; mask >>= 1) value += shfl_xor(value, mask QUIRE_PASS_SITE);
  return value;
}
template <typename T>
QUIRE_DEVICE T reduce_max(T value QUIRE_SITE) {
#pragma unroll
  for (int mask = 16; mask > 0; mask >>= 1) {
    const T other = shfl_xor(value, mask QUIRE_PASS_SITE);
    value = other > value ? other : value;
  }
  return value;
}
template <typename T>
QUIRE_DEVICE T reduce_min(T value QUIRE_SITE) {
#pragma unroll
  for (int mask = 16; mask > 0; mask >>= 1) {
    const T other = shfl_xor(value, mask QUIRE_PASS_SITE);
    value = other < value ? other : value;
  }
  return value;
}

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_DEVICE_CUH_
