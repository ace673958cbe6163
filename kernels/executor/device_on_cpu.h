// The primitives of kernels/cuda/device.cuh for kernels that the executor runs. Included through
// device.cuh, in translation units compiled with QUIRE_ON_CPU. Warp operations are in
// warp_on_cpu.h.
#ifndef QUIRE_KERNELS_EXECUTOR_DEVICE_ON_CPU_H_
#define QUIRE_KERNELS_EXECUTOR_DEVICE_ON_CPU_H_

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "kernels/executor/block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

#define QUIRE_DEVICE inline
#define QUIRE_HAS_BULK 1
// The caller's place in the source, as the last argument of a primitive.
#define QUIRE_SITE , ::quire_executor::Site site = QUIRE_HERE
#define QUIRE_PASS_SITE , site
#define QUIRE_SITE_ONLY ::quire_executor::Site site = QUIRE_HERE

#define threadIdx (::quire_executor::indices.thread)
#define blockIdx (::quire_executor::indices.block)
#define blockDim (::quire_executor::indices.block_dim)
#define gridDim (::quire_executor::indices.grid_dim)

#define QUIRE_SHARED(type, name, count)                                                   \
  const ::quire_executor::SharedArray<type> name(::quire_executor::static_shared(         \
                                                     [] {                                 \
                                                       static const char tag = 0;         \
                                                       return &tag;                       \
                                                     }(),                                 \
                                                     sizeof(type) * (count), QUIRE_HERE), \
                                                 sizeof(type) * (count))
#define QUIRE_DYNAMIC_SHARED(name)                               \
  size_t name##_bytes_of_launch = 0;                             \
  unsigned char* const name##_of_launch =                        \
      ::quire_executor::dynamic_shared(&name##_bytes_of_launch); \
  const ::quire_executor::SharedArray<unsigned char> name(name##_of_launch, name##_bytes_of_launch)

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
  return {x, y, z, w};
}
inline uint2 make_uint2(uint32_t x, uint32_t y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}
inline float __uint_as_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

namespace quire_executor {

// Shared memory with checked indices. Converts to a pointer, whose writes the red zones check.
template <typename T>
class SharedArray {
 public:
  SharedArray(unsigned char* data, size_t bytes, Site declared = QUIRE_HERE)
      : data_(reinterpret_cast<T*>(data)), count_(bytes / sizeof(T)), declared_(declared) {}

  template <typename Index>
  T& operator[](Index index) const {
    if (static_cast<uint64_t>(index) >= count_)
      fail(declared_, "shared memory declared here: index %lld of %zu elements",
           static_cast<long long>(index), count_);
    return data_[index];
  }
  operator T*() const { return data_; }

 private:
  T* data_;
  size_t count_;
  Site declared_;
};

template <typename T>
T load_aligned(const void* pointer, const char* what, const Site& site) {
  check_aligned(pointer, sizeof(T), what, site);
  T value;
  memcpy(&value, pointer, sizeof(T));
  return value;
}
template <typename T>
void store_aligned(void* pointer, T value, const char* what, const Site& site) {
  check_aligned(pointer, sizeof(T), what, site);
  memcpy(pointer, &value, sizeof(T));
}

float f16_bits_to_float(uint16_t bits);
uint16_t float_to_f16_bits(float value);
uint16_t float_to_bf16_bits(float value);

}  // namespace quire_executor

namespace quire_cuda {

using quire_executor::CopyKind;

inline uint32_t lane_id() {
  return threadIdx.x & 31;
}
inline uint32_t warp_id() {
  return threadIdx.x >> 5;
}

inline void sync_block(QUIRE_SITE_ONLY) {
  quire_executor::meet_block(site);
}
inline void sync_named(uint32_t id, uint32_t threads QUIRE_SITE) {
  quire_executor::meet_named(id, threads, true, site);
}
inline void arrive_named(uint32_t id, uint32_t threads QUIRE_SITE) {
  quire_executor::meet_named(id, threads, false, site);
}

inline uint4 ld_nc_16(const void* pointer QUIRE_SITE) {
  return quire_executor::load_aligned<uint4>(pointer, "ld_nc_16", site);
}
inline uint2 ld_nc_8(const void* pointer QUIRE_SITE) {
  return quire_executor::load_aligned<uint2>(pointer, "ld_nc_8", site);
}
inline uint32_t ld_nc_4(const void* pointer QUIRE_SITE) {
  return quire_executor::load_aligned<uint32_t>(pointer, "ld_nc_4", site);
}
inline void st_cs_16(void* pointer, uint4 v QUIRE_SITE) {
  quire_executor::store_aligned(pointer, v, "st_cs_16", site);
}
inline void st_cs_8(void* pointer, uint2 v QUIRE_SITE) {
  quire_executor::store_aligned(pointer, v, "st_cs_8", site);
}
inline void st_cs_4(void* pointer, uint32_t v QUIRE_SITE) {
  quire_executor::store_aligned(pointer, v, "st_cs_4", site);
}
inline uint4 ld_16(const void* pointer QUIRE_SITE) {
  return quire_executor::load_aligned<uint4>(pointer, "ld_16", site);
}
inline void st_16(void* pointer, uint4 v QUIRE_SITE) {
  quire_executor::store_aligned(pointer, v, "st_16", site);
}

inline void cp_async16(void* shared, const void* global, bool valid = true QUIRE_SITE) {
  quire_executor::check_shared(shared, 16, 16, "cp_async16", site);
  if (valid) quire_executor::check_aligned(global, 16, "cp_async16", site);
  quire_executor::copy_begin(CopyKind::kCpAsync, shared, global, valid ? 16 : 0, valid ? 0 : 16);
}
inline void cp_async4(void* shared, const void* global, bool valid = true QUIRE_SITE) {
  quire_executor::check_shared(shared, 4, 4, "cp_async4", site);
  if (valid) quire_executor::check_aligned(global, 4, "cp_async4", site);
  quire_executor::copy_begin(CopyKind::kCpAsync, shared, global, valid ? 4 : 0, valid ? 0 : 4);
}
inline void cp_async_commit() {
  quire_executor::copy_commit(CopyKind::kCpAsync);
}
template <int N>
void cp_async_wait() {
  quire_executor::copy_wait(CopyKind::kCpAsync, N);
}

// Not reported as plain accesses.
#define QUIRE_ATOMIC __attribute__((noinline, no_sanitize("thread")))
// Threads of a launch take turns on one OS thread: a read-modify-write is never interrupted.
template <typename T>
QUIRE_ATOMIC T atomic_add(T* pointer, T value) {
  const T old = *pointer;
  *pointer = old + value;
  return old;
}
template <typename T>
QUIRE_ATOMIC T atomic_max(T* pointer, T value) {
  const T old = *pointer;
  if (value > old) *pointer = value;
  return old;
}
template <typename T>
QUIRE_ATOMIC T atomic_min(T* pointer, T value) {
  const T old = *pointer;
  if (value < old) *pointer = value;
  return old;
}
template <typename T>
QUIRE_ATOMIC T atomic_cas(T* pointer, T expected, T value) {
  const T old = *pointer;
  if (old == expected) *pointer = value;
  return old;
}
inline void set_status(int32_t* word, int32_t code) {
  atomic_cas(word, 0, code);
}
inline void fence_device() {}

inline float bf16_to_float(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}
inline float f16_to_float(uint16_t bits) {
  return quire_executor::f16_bits_to_float(bits);
}
inline uint16_t float_to_bf16(float value) {
  return quire_executor::float_to_bf16_bits(value);
}
inline uint16_t float_to_f16(float value) {
  return quire_executor::float_to_f16_bits(value);
}
inline uint32_t pack_bf16x2(float lo, float hi) {
  return static_cast<uint32_t>(float_to_bf16(hi)) << 16 | float_to_bf16(lo);
}
inline uint32_t pack_f16x2(float lo, float hi) {
  return static_cast<uint32_t>(float_to_f16(hi)) << 16 | float_to_f16(lo);
}

uint32_t half2_add(uint32_t a, uint32_t b);
uint32_t half2_sub(uint32_t a, uint32_t b);
uint32_t half2_mul(uint32_t a, uint32_t b);
uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c);
template <uint32_t kLut>
uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d = 0;
  for (uint32_t row = 0; row < 8; ++row)
    if (kLut >> row & 1) d |= (row & 4 ? a : ~a) & (row & 2 ? b : ~b) & (row & 1 ? c : ~c);
  return d;
}
inline uint32_t popcount(uint32_t value) {
  return static_cast<uint32_t>(__builtin_popcount(value));
}
uint32_t byte_perm(uint32_t a, uint32_t b, uint32_t selector);
inline float exp2_fast(float value) {
  return exp2f(value);
}
inline float log2_fast(float value) {
  return log2f(value);
}

inline void mbarrier_init(uint64_t* barrier, uint32_t count QUIRE_SITE) {
  quire_executor::mbarrier_init(barrier, count, site);
}
inline void mbarrier_fence_init() {}
inline void cp_async_arrive(uint64_t* barrier QUIRE_SITE) {
  quire_executor::copy_arrive(barrier, site);
}
inline void mbarrier_arrive(uint64_t* barrier QUIRE_SITE) {
  quire_executor::mbarrier_arrive(barrier, 0, site);
}
inline void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes QUIRE_SITE) {
  quire_executor::mbarrier_arrive(barrier, bytes, site);
}
inline bool mbarrier_try_wait(uint64_t* barrier, uint32_t parity QUIRE_SITE) {
  return quire_executor::mbarrier_try_wait(barrier, parity, site);
}
inline void mbarrier_wait(uint64_t* barrier, uint32_t parity QUIRE_SITE) {
  quire_executor::mbarrier_wait(barrier, parity, site);
}
inline void bulk_g2s(void* shared, const void* global, uint32_t bytes,
                     uint64_t* barrier QUIRE_SITE) {
  quire_executor::bulk_load(shared, global, bytes, barrier, site);
}
inline void bulk_s2g(void* global, const void* shared, uint32_t bytes QUIRE_SITE) {
  quire_executor::check_bulk("bulk_s2g", site);
  quire_executor::check_shared(shared, bytes, 16, "bulk_s2g", site);
  quire_executor::check_aligned(global, 16, "bulk_s2g", site);
  if (bytes == 0 || bytes % 16 != 0) quire_executor::fail(site, "bulk_s2g of %u bytes", bytes);
  quire_executor::copy_begin(CopyKind::kBulkStore, global, shared, bytes, 0);
}
inline void bulk_commit() {
  quire_executor::copy_commit(CopyKind::kBulkStore);
}
template <int N>
void bulk_wait_read() {
  quire_executor::copy_wait(CopyKind::kBulkStore, N);
}
template <int N>
void bulk_wait() {
  quire_executor::copy_wait(CopyKind::kBulkStore, N);
}
inline void fence_async_shared() {
  quire_executor::fence_async();
}

}  // namespace quire_cuda

#include "kernels/executor/warp_on_cpu.h"

#endif  // QUIRE_KERNELS_EXECUTOR_DEVICE_ON_CPU_H_
