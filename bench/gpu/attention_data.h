// Inputs of the attention kernels in host and device memory at once: the same parameter structs for
// both, so that the GPU's answer can be compared with the scalar kernels', which compute in
// float64.
#ifndef QUIRE_BENCH_GPU_ATTENTION_DATA_H_
#define QUIRE_BENCH_GPU_ATTENTION_DATA_H_

#include <cstring>
#include <vector>

#include "bench/gpu/gpu.h"
#include "kernels/quire_cuda_attention.h"

namespace quire_gpu {

uint16_t bf16_bits(float value);
double bf16_value(uint16_t bits);

// One array on both sides.
template <typename T>
struct Twin {
  explicit Twin(std::vector<T> values) : host(std::move(values)), device(bytes(), Where::kDevice) {
    upload();
  }
  uint64_t bytes() const { return (host.empty() ? 1 : host.size()) * sizeof(T); }
  void upload() {
    if (!host.empty()) device.put(host.data(), host.size() * sizeof(T));
  }
  T* at(bool on_device) { return on_device ? reinterpret_cast<T*>(device.data()) : host.data(); }
  std::vector<T> download() const {
    std::vector<T> values(host.size());
    const std::vector<unsigned char> raw = device.get();
    if (!values.empty()) memcpy(values.data(), raw.data(), values.size() * sizeof(T));
    return values;
  }
  std::vector<T> host;
  Buffer device;
};

// bf16 of a normal distribution.
std::vector<uint16_t> normal_bf16(uint64_t n, uint32_t seed, float spread = 1.0f);

std::vector<float> inverse_frequencies(uint32_t dims);

struct AttentionShape {
  uint32_t query_heads = 32;
  uint32_t kv_heads = 8;
  uint32_t dims = 128;
  float scale() const;
};

// Tokens of one sequence in pages of 16 that lie in a random order, [page][token][head][dim].
struct PagedSequence {
  PagedSequence(const AttentionShape& shape, uint32_t tokens, uint32_t seed);
  quire_paged_kv view(bool on_device);
  AttentionShape shape;
  uint32_t tokens;
  Twin<uint16_t> key;
  Twin<uint16_t> value;
  Twin<int32_t> table;
};

// A launch with a workspace of its own.
class AttentionLaunch {
 public:
  explicit AttentionLaunch(uint64_t workspace_bytes);
  const quire_cuda_attention_launch* get() const { return &launch_; }
  // The status after the stream, and 0 from then on.
  int32_t finish();

 private:
  Buffer workspace_;
  Buffer status_;
  quire_cuda_attention_launch launch_{};
};

// Sections of one chunk in one codec; copies of it lie side by side on the device, so that requests
// do not share what they read.
struct ChunkData {
  ChunkData(const AttentionShape& shape, int32_t codec, uint32_t tokens, uint32_t copies,
            uint32_t page_tokens, uint32_t seed);
  quire_chunk_kv view(uint32_t copy, bool on_device);
  uint64_t bytes() const { return key.size() + value.size(); }
  int32_t codec;
  uint32_t tokens;
  std::vector<unsigned char> key;
  std::vector<unsigned char> value;
  Buffer device;  // [copy]{key, value}
  Twin<float> bounds;

 private:
  uint64_t stride_;
};

}  // namespace quire_gpu

#endif  // QUIRE_BENCH_GPU_ATTENTION_DATA_H_
