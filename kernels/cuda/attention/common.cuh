// What the attention kernels share: element conversions by dtype, checks of a launch.
#ifndef QUIRE_KERNELS_CUDA_ATTENTION_COMMON_CUH_
#define QUIRE_KERNELS_CUDA_ATTENTION_COMMON_CUH_

#include "kernels/attention/plane_view.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/runtime.cuh"
#include "kernels/quire_cuda_attention.h"

namespace quire_cuda {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.69314718055994531f;
constexpr uint32_t kWorkspaceAlignment = 256;
constexpr uint32_t kMmaRows = 16;  // of m16n8k16
constexpr uint32_t kMmaColumns = 8;
constexpr uint32_t kMmaDepth = 16;
// Halves between rows of a tile in shared memory beyond the row itself: 16-byte rows at an odd
// distance, so that ldmatrix meets no bank twice.
constexpr uint32_t kRowPad = 8;

QUIRE_DEVICE float load_element(int32_t dtype, const unsigned char* at) {
  if (dtype == QUIRE_DTYPE_F32) return *reinterpret_cast<const float*>(at);
  const uint16_t bits = *reinterpret_cast<const uint16_t*>(at);
  return dtype == QUIRE_DTYPE_F16 ? f16_to_float(bits) : bf16_to_float(bits);
}
QUIRE_DEVICE void store_element(int32_t dtype, float value, unsigned char* at) {
  if (dtype == QUIRE_DTYPE_F32)
    *reinterpret_cast<float*>(at) = value;
  else
    *reinterpret_cast<uint16_t*>(at) =
        dtype == QUIRE_DTYPE_F16 ? float_to_f16(value) : float_to_bf16(value);
}

template <bool kBf16>
QUIRE_DEVICE uint16_t to_half(float value) {
  return kBf16 ? float_to_bf16(value) : float_to_f16(value);
}
template <bool kBf16>
QUIRE_DEVICE uint32_t pack_halves(float low, float high) {
  return kBf16 ? pack_bf16x2(low, high) : pack_f16x2(low, high);
}
template <bool kBf16>
QUIRE_DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if (kBf16)
    mma_bf16(d, a, b);
  else
    mma_f16(d, a, b);
}

QUIRE_DEVICE uint32_t count_bits(uint32_t x) {
  x -= x >> 1 & 0x55555555u;
  x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
  return ((x + (x >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24;
}

// cap * tanh(x / cap); 0 = no cap.
QUIRE_DEVICE float cap_logit(float x, float cap) {
  if (cap == 0) return x;
  const float e = exp2_fast(x / cap * (2 * kLog2E));
  return cap * (1 - 2 / (e + 1));
}

QUIRE_HD int check_launch(const quire_cuda_attention_launch* launch, uint64_t workspace_bytes) {
  if (launch == nullptr) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (launch->struct_bytes != sizeof(*launch)) return QUIRE_KERNEL_BAD_STRUCT;
  if (launch->device_status == nullptr ||
      reinterpret_cast<uintptr_t>(launch->device_status) % 4 != 0)
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (workspace_bytes == 0) return QUIRE_KERNEL_OK;
  const bool good = launch->workspace != nullptr && launch->workspace_bytes >= workspace_bytes &&
                    reinterpret_cast<uintptr_t>(launch->workspace) % kWorkspaceAlignment == 0;
  return good ? QUIRE_KERNEL_OK : QUIRE_KERNEL_INVALID_ARGUMENT;
}

// Rows that kernels read 16 bytes at a time.
QUIRE_HD bool vector_aligned(uint64_t value) {
  return value % 16 == 0;
}
QUIRE_HD bool vector_pages(const quire_paged_kv& kv) {
  return vector_aligned(reinterpret_cast<uintptr_t>(kv.key)) &&
         vector_aligned(reinterpret_cast<uintptr_t>(kv.value)) &&
         vector_aligned(static_cast<uint64_t>(kv.key_page_stride)) &&
         vector_aligned(static_cast<uint64_t>(kv.key_token_stride)) &&
         vector_aligned(static_cast<uint64_t>(kv.key_head_stride)) &&
         vector_aligned(static_cast<uint64_t>(kv.value_page_stride)) &&
         vector_aligned(static_cast<uint64_t>(kv.value_token_stride)) &&
         vector_aligned(static_cast<uint64_t>(kv.value_head_stride));
}

QUIRE_HD uint64_t align_workspace(uint64_t bytes) {
  return (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
}

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_ATTENTION_COMMON_CUH_
