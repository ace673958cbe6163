// The primitives of device.cuh in CUDA: the only file with PTX.
#ifndef QUIRE_KERNELS_CUDA_DEVICE_PTX_CUH_
#define QUIRE_KERNELS_CUDA_DEVICE_PTX_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#define QUIRE_DEVICE __device__ __forceinline__
#define QUIRE_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define QUIRE_DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define QUIRE_HAS_BULK 1
#else
#define QUIRE_HAS_BULK 0
#endif
// Only the executor wants to know where a primitive was called.
#define QUIRE_SITE
#define QUIRE_PASS_SITE

namespace quire_cuda {

QUIRE_DEVICE uint32_t lane_id() {
  return threadIdx.x & 31;
}
QUIRE_DEVICE uint32_t warp_id() {
  return threadIdx.x >> 5;
}
QUIRE_DEVICE uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

QUIRE_DEVICE void sync_block() {
  __syncthreads();
}
QUIRE_DEVICE void sync_warp(uint32_t mask = 0xffffffffu) {
  __syncwarp(mask);
}
QUIRE_DEVICE void sync_named(uint32_t id, uint32_t threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
QUIRE_DEVICE void arrive_named(uint32_t id, uint32_t threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

template <typename T>
QUIRE_DEVICE T shfl(T value, uint32_t lane) {
  return __shfl_sync(0xffffffffu, value, static_cast<int>(lane));
}
template <typename T>
QUIRE_DEVICE T shfl_xor(T value, uint32_t mask) {
  return __shfl_xor_sync(0xffffffffu, value, static_cast<int>(mask));
}
template <typename T>
QUIRE_DEVICE T shfl_up(T value, uint32_t lanes) {
  return __shfl_up_sync(0xffffffffu, value, lanes);
}
template <typename T>
QUIRE_DEVICE T shfl_down(T value, uint32_t lanes) {
  return __shfl_down_sync(0xffffffffu, value, lanes);
}
QUIRE_DEVICE uint32_t warp_ballot(bool predicate) {
  return __ballot_sync(0xffffffffu, predicate);
}
QUIRE_DEVICE uint32_t popcount(uint32_t value) {
  return static_cast<uint32_t>(__popc(value));
}
QUIRE_DEVICE bool warp_any(bool predicate) {
  return __any_sync(0xffffffffu, predicate) != 0;
}
QUIRE_DEVICE bool warp_all(bool predicate) {
  return __all_sync(0xffffffffu, predicate) != 0;
}

QUIRE_DEVICE uint4 ld_nc_16(const void* pointer) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(pointer));
  return v;
}
QUIRE_DEVICE uint2 ld_nc_8(const void* pointer) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];"
               : "=r"(v.x), "=r"(v.y)
               : "l"(pointer));
  return v;
}
QUIRE_DEVICE uint32_t ld_nc_4(const void* pointer) {
  uint32_t v;
  asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(pointer));
  return v;
}
QUIRE_DEVICE void st_cs_16(void* pointer, uint4 v) {
  asm volatile("st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(pointer), "r"(v.x), "r"(v.y),
               "r"(v.z), "r"(v.w)
               : "memory");
}
QUIRE_DEVICE void st_cs_8(void* pointer, uint2 v) {
  asm volatile("st.global.cs.v2.u32 [%0], {%1, %2};" ::"l"(pointer), "r"(v.x), "r"(v.y) : "memory");
}
QUIRE_DEVICE void st_cs_4(void* pointer, uint32_t v) {
  asm volatile("st.global.cs.u32 [%0], %1;" ::"l"(pointer), "r"(v) : "memory");
}
QUIRE_DEVICE uint4 ld_16(const void* pointer) {
  return *static_cast<const uint4*>(pointer);
}
QUIRE_DEVICE void st_16(void* pointer, uint4 v) {
  *static_cast<uint4*>(pointer) = v;
}

QUIRE_DEVICE void cp_async16(void* shared, const void* global, bool valid = true) {
  const uint32_t bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(bytes)
               : "memory");
}
QUIRE_DEVICE void cp_async4(void* shared, const void* global, bool valid = true) {
  const uint32_t bytes = valid ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(bytes)
               : "memory");
}
QUIRE_DEVICE void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int N>
QUIRE_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

QUIRE_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
QUIRE_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
QUIRE_DEVICE void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
QUIRE_DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}

QUIRE_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
QUIRE_DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <typename T>
QUIRE_DEVICE T atomic_add(T* pointer, T value) {
  return atomicAdd(pointer, value);
}
template <typename T>
QUIRE_DEVICE T atomic_max(T* pointer, T value) {
  return atomicMax(pointer, value);
}
template <typename T>
QUIRE_DEVICE T atomic_min(T* pointer, T value) {
  return atomicMin(pointer, value);
}
template <typename T>
QUIRE_DEVICE T atomic_cas(T* pointer, T expected, T value) {
  return atomicCAS(pointer, expected, value);
}
QUIRE_DEVICE void set_status(int32_t* word, int32_t code) {
  atomicCAS(word, 0, code);
}
QUIRE_DEVICE void fence_device() {
  __threadfence();
}

QUIRE_DEVICE uint32_t pack_bf16x2(float lo, float hi) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(hi), "f"(lo));
  return packed;
}
QUIRE_DEVICE uint32_t pack_f16x2(float lo, float hi) {
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(hi), "f"(lo));
  return packed;
}
QUIRE_DEVICE float bf16_to_float(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}
QUIRE_DEVICE float f16_to_float(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}
QUIRE_DEVICE uint16_t float_to_bf16(float value) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}
QUIRE_DEVICE uint16_t float_to_f16(float value) {
  return __half_as_ushort(__float2half_rn(value));
}

QUIRE_DEVICE uint32_t half2_add(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
QUIRE_DEVICE uint32_t half2_sub(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
QUIRE_DEVICE uint32_t half2_mul(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
QUIRE_DEVICE uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
template <uint32_t kLut>
QUIRE_DEVICE uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(kLut));
  return d;
}
QUIRE_DEVICE uint32_t byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  return __byte_perm(a, b, selector);
}
QUIRE_DEVICE float exp2_fast(float value) {
  float d;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(value));
  return d;
}
QUIRE_DEVICE float log2_fast(float value) {
  float d;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(value));
  return d;
}

QUIRE_DEVICE void mbarrier_init(uint64_t* barrier, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count)
               : "memory");
}
// Makes initialised barriers visible to bulk copies; a sync_block() makes them so to the block.
QUIRE_DEVICE void mbarrier_fence_init() {
#if QUIRE_HAS_BULK
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
// Arrivals release and waits acquire what the block's threads wrote: the defaults.
QUIRE_DEVICE void mbarrier_arrive(uint64_t* barrier) {
  asm volatile(
      "{\n.reg .b64 state;\n"
      "mbarrier.arrive.shared::cta.b64 state, [%0];\n}" ::"r"(shared_address(barrier))
      : "memory");
}
QUIRE_DEVICE void cp_async_arrive(uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
QUIRE_DEVICE bool mbarrier_try_wait(uint64_t* barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n.reg .pred p;\n"
#if QUIRE_HAS_BULK
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
#else
      "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
#endif
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(done)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return done != 0;
}
QUIRE_DEVICE void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  while (!mbarrier_try_wait(barrier, parity)) {
#if !QUIRE_HAS_BULK
    // test_wait does not suspend the thread: leave the issue slots to those who have work.
    asm volatile("nanosleep.u32 32;");
#endif
  }
}

#if QUIRE_HAS_BULK
QUIRE_DEVICE void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(
                   shared_address(barrier)),
               "r"(bytes)
               : "memory");
}
QUIRE_DEVICE void bulk_g2s(void* shared, const void* global, uint32_t bytes, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}
QUIRE_DEVICE void bulk_s2g(void* global, const void* shared, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global),
               "r"(shared_address(shared)), "r"(bytes)
               : "memory");
}
QUIRE_DEVICE void bulk_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
template <int N>
QUIRE_DEVICE void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
template <int N>
QUIRE_DEVICE void bulk_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
}
// Between ordinary writes to shared memory and a bulk copy that reads them.
QUIRE_DEVICE void fence_async_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
#endif

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_DEVICE_PTX_CUH_
