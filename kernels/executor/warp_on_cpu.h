// Warp operations of the executor: each lane leaves its operands where the lanes meet, the last one
// computes for all.
#ifndef QUIRE_KERNELS_EXECUTOR_WARP_ON_CPU_H_
#define QUIRE_KERNELS_EXECUTOR_WARP_ON_CPU_H_

#include "kernels/executor/device_on_cpu.h"

namespace quire_executor {

constexpr uint32_t kAllLanes = 0xffffffffu;

enum class Shuffle { kIndex, kXor, kUp, kDown };
struct ShuffleOperand {
  uint32_t value;
  uint32_t argument;
  Shuffle kind;
};
uint32_t shuffle(const char* what, Shuffle kind, uint32_t value, uint32_t argument,
                 const Site& site);
uint32_t ballot(const char* what, bool predicate, const Site& site);
void ldmatrix(uint32_t* registers, uint32_t matrices, bool transposed, const void* row,
              const Site& site);
void mma(float* d, const uint32_t* a, const uint32_t* b, bool bf16, const Site& site);

template <typename T>
T shuffle_value(const char* what, Shuffle kind, T value, uint32_t argument, const Site& site) {
  static_assert(sizeof(T) == 4 && std::is_trivially_copyable_v<T>);
  uint32_t bits;
  memcpy(&bits, &value, 4);
  bits = shuffle(what, kind, bits, argument, site);
  memcpy(&value, &bits, 4);
  return value;
}

}  // namespace quire_executor

namespace quire_cuda {

inline void sync_warp(uint32_t mask = quire_executor::kAllLanes QUIRE_SITE) {
  char none;
  quire_executor::meet_warp("sync_warp", mask, &none, nullptr, site);
}
template <typename T>
T shfl(T value, uint32_t lane QUIRE_SITE) {
  return quire_executor::shuffle_value("shfl", quire_executor::Shuffle::kIndex, value, lane, site);
}
template <typename T>
T shfl_xor(T value, uint32_t mask QUIRE_SITE) {
  return quire_executor::shuffle_value("shfl_xor", quire_executor::Shuffle::kXor, value, mask,
                                       site);
}
template <typename T>
T shfl_up(T value, uint32_t lanes QUIRE_SITE) {
  return quire_executor::shuffle_value("shfl_up", quire_executor::Shuffle::kUp, value, lanes, site);
}
template <typename T>
T shfl_down(T value, uint32_t lanes QUIRE_SITE) {
  return quire_executor::shuffle_value("shfl_down", quire_executor::Shuffle::kDown, value, lanes,
                                       site);
}
inline uint32_t warp_ballot(bool predicate QUIRE_SITE) {
  return quire_executor::ballot("warp_ballot", predicate, site);
}
inline bool warp_any(bool predicate QUIRE_SITE) {
  return quire_executor::ballot("warp_any", predicate, site) != 0;
}
inline bool warp_all(bool predicate QUIRE_SITE) {
  return quire_executor::ballot("warp_all", !predicate, site) == 0;
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row QUIRE_SITE) {
  quire_executor::ldmatrix(r, 4, false, row, site);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row QUIRE_SITE) {
  quire_executor::ldmatrix(r, 4, true, row, site);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row QUIRE_SITE) {
  quire_executor::ldmatrix(r, 2, false, row, site);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row QUIRE_SITE) {
  quire_executor::ldmatrix(r, 2, true, row, site);
}
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] QUIRE_SITE) {
  quire_executor::mma(d, a, b, true, site);
}
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] QUIRE_SITE) {
  quire_executor::mma(d, a, b, false, site);
}

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_EXECUTOR_WARP_ON_CPU_H_
