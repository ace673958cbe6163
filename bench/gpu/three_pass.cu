// The load pipeline that is common elsewhere, in our own words, to compare with: one copy of the
// chunk's layer into staging memory, K rotated in place there with tables in bf16, then a scatter
// of rows into pages.
#include <cuda_runtime.h>

#include "bench/gpu/gpu.h"

namespace quire_gpu {
namespace {

__device__ float widen(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}
__device__ uint16_t narrow(float value) {
  const uint32_t bits = __float_as_uint(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// One block per token, staging [head][token][dim].
__global__ void rotate_in_place(uint16_t* staging, const uint16_t* cos_sin, uint32_t n_tokens,
                                uint32_t n_heads, uint32_t head_dim) {
  const uint32_t token = blockIdx.x;
  const uint32_t half = head_dim / 2;
  for (uint32_t i = threadIdx.x; i < n_heads * half; i += blockDim.x) {
    const uint32_t head = i / half;
    const uint32_t j = i % half;
    uint16_t* row = staging + (static_cast<uint64_t>(head) * n_tokens + token) * head_dim;
    const float c = widen(cos_sin[(token * half + j) * 2]);
    const float s = widen(cos_sin[(token * half + j) * 2 + 1]);
    const float x0 = widen(row[j]);
    const float x1 = widen(row[j + half]);
    row[j] = narrow(x0 * c - x1 * s);
    row[j + half] = narrow(x1 * c + x0 * s);
  }
}

__global__ void scatter(const uint4* staging, uint4* pages, const int64_t* rows, uint32_t n_tokens,
                        uint32_t n_heads, uint32_t vectors) {
  const uint32_t token = blockIdx.x;
  for (uint32_t i = threadIdx.x; i < n_heads * vectors; i += blockDim.x) {
    const uint32_t head = i / vectors;
    pages[rows[token] * (n_heads * vectors) + i] =
        staging[(static_cast<uint64_t>(head) * n_tokens + token) * vectors + i % vectors];
  }
}

}  // namespace

int run_three_pass(const ThreePass& job, cudaStream_t stream) {
  const uint64_t bytes = static_cast<uint64_t>(job.n_tokens) * job.n_heads * job.head_dim * 2;
  if (int error = cudaMemcpyAsync(job.staging, job.host, bytes, cudaMemcpyDefault, stream))
    return error;
  if (job.cos_sin != nullptr)
    rotate_in_place<<<job.n_tokens, 256, 0, stream>>>(
        static_cast<uint16_t*>(job.staging), job.cos_sin, job.n_tokens, job.n_heads, job.head_dim);
  scatter<<<job.n_tokens, 128, 0, stream>>>(static_cast<const uint4*>(job.staging),
                                            static_cast<uint4*>(job.pages), job.rows, job.n_tokens,
                                            job.n_heads, job.head_dim / 8);
  return cudaGetLastError();
}

}  // namespace quire_gpu
