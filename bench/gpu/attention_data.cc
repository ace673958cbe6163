#include "bench/gpu/attention_data.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>

#include "kernels/quire_kernels.h"

namespace quire_gpu {
namespace {

constexpr uint32_t kPageTokens = 16;
constexpr uint64_t kSectionAlignment = 256;

void check_kernel(int status, const char* what) {
  if (status == QUIRE_KERNEL_OK) return;
  fprintf(stderr, "gpu_check: %s: %s\n", what, quire_kernel_status_name(status));
  exit(1);
}

uint64_t align(uint64_t bytes) {
  return (bytes + kSectionAlignment - 1) / kSectionAlignment * kSectionAlignment;
}

std::vector<int32_t> shuffled_pages(uint32_t tokens, uint32_t seed) {
  std::vector<int32_t> pages((tokens + kPageTokens - 1) / kPageTokens);
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), std::mt19937(seed));
  return pages;
}

uint64_t page_elements(const AttentionShape& shape) {
  return uint64_t{kPageTokens} * shape.kv_heads * shape.dims;
}

std::vector<unsigned char> section_of(const AttentionShape& shape, int32_t codec, int32_t plane,
                                      uint32_t tokens, uint32_t seed) {
  const std::vector<uint16_t> rows =
      normal_bf16(uint64_t{tokens} * shape.kv_heads * shape.dims, seed);
  std::vector<unsigned char> section(
      quire_section_bytes(codec, plane, tokens, shape.kv_heads, shape.dims));
  quire_store_params p = {};
  p.struct_bytes = sizeof(p);
  p.codec = codec;
  p.plane = plane;
  p.n_tokens = tokens;
  p.n_heads = shape.kv_heads;
  p.head_dim = shape.dims;
  p.src_dtype = QUIRE_DTYPE_BF16;
  p.src = rows.data();
  p.src_tokens = tokens;
  p.src_token_stride = int64_t{shape.kv_heads} * shape.dims * 2;
  p.src_head_stride = int64_t{shape.dims} * 2;
  p.src_dim_stride = 2;
  p.dst = section.data();
  p.dst_bytes = section.size();
  check_kernel(quire_store(&p), "a chunk's section");
  return section;
}

std::vector<float> bounds_of(const AttentionShape& shape, int32_t codec, uint32_t tokens,
                             uint32_t page_tokens, const std::vector<unsigned char>& key) {
  if (page_tokens == 0) return {};
  const uint64_t pages = (tokens + page_tokens - 1) / page_tokens;
  std::vector<float> bounds(shape.kv_heads * pages * 2 * shape.dims);
  quire_key_bounds_params p = {};
  p.struct_bytes = sizeof(p);
  p.codec = codec;
  p.n_tokens = tokens;
  p.n_heads = shape.kv_heads;
  p.head_dim = shape.dims;
  p.page_tokens = page_tokens;
  p.key = key.data();
  p.key_bytes = key.size();
  p.bounds = bounds.data();
  p.bounds_bytes = bounds.size() * 4;
  check_kernel(quire_key_bounds(&p), "key bounds");
  return bounds;
}

}  // namespace

uint16_t bf16_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
double bf16_value(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

std::vector<uint16_t> normal_bf16(uint64_t n, uint32_t seed, float spread) {
  // Large arrays repeat: filling gigabytes from a generator takes longer than the measurement.
  constexpr uint64_t kPeriod = 1000003;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<uint16_t> values(n);
  for (uint64_t i = 0; i < n; ++i)
    values[i] = i < kPeriod ? bf16_bits(normal(random)) : values[i - kPeriod];
  return values;
}

std::vector<float> inverse_frequencies(uint32_t dims) {
  std::vector<float> frequencies(dims / 2);
  for (size_t j = 0; j < frequencies.size(); ++j)
    frequencies[j] = std::pow(10000.0f, -2.0f * static_cast<float>(j) / static_cast<float>(dims));
  return frequencies;
}

float AttentionShape::scale() const {
  return 1.0f / std::sqrt(static_cast<float>(dims));
}

PagedSequence::PagedSequence(const AttentionShape& s, uint32_t n, uint32_t seed)
    : shape(s),
      tokens(n),
      key(normal_bf16((n + kPageTokens - 1) / kPageTokens * page_elements(s), seed)),
      value(normal_bf16((n + kPageTokens - 1) / kPageTokens * page_elements(s), seed + 1)),
      table(shuffled_pages(n, seed)) {}

quire_paged_kv PagedSequence::view(bool on_device) {
  quire_paged_kv kv = {};
  kv.dtype = QUIRE_DTYPE_BF16;
  kv.page_tokens = kPageTokens;
  kv.key = key.at(on_device);
  kv.value = value.at(on_device);
  kv.key_page_stride = kv.value_page_stride = static_cast<int64_t>(page_elements(shape)) * 2;
  kv.key_token_stride = kv.value_token_stride = int64_t{shape.kv_heads} * shape.dims * 2;
  kv.key_head_stride = kv.value_head_stride = int64_t{shape.dims} * 2;
  kv.n_pages = static_cast<int64_t>(table.host.size());
  kv.block_table = table.at(on_device);
  kv.block_table_entries = table.host.size();
  return kv;
}

AttentionLaunch::AttentionLaunch(uint64_t workspace_bytes)
    : workspace_(workspace_bytes + 1, Where::kDevice), status_(4, Where::kDevice) {
  status_.fill(0);
  launch_.struct_bytes = sizeof(launch_);
  launch_.stream = stream();
  launch_.device_status = reinterpret_cast<int32_t*>(status_.data());
  launch_.workspace = workspace_.data();  // of cudaMalloc: 256-byte aligned
  launch_.workspace_bytes = workspace_bytes;
}

int32_t AttentionLaunch::finish() {
  synchronize();
  int32_t status = 0;
  memcpy(&status, status_.get().data(), 4);
  status_.fill(0);
  return status;
}

ChunkData::ChunkData(const AttentionShape& shape, int32_t codec_, uint32_t tokens_, uint32_t copies,
                     uint32_t page_tokens, uint32_t seed)
    : codec(codec_),
      tokens(tokens_),
      key(section_of(shape, codec_, QUIRE_PLANE_KEY, tokens_, seed)),
      value(section_of(shape, codec_, QUIRE_PLANE_VALUE, tokens_, seed + 1)),
      device((align(key.size()) + align(value.size())) * copies, Where::kDevice),
      bounds(bounds_of(shape, codec_, tokens_, page_tokens, key)),
      stride_(align(key.size()) + align(value.size())) {
  for (uint32_t copy = 0; copy < copies; ++copy) {
    unsigned char* at = device.data() + copy * stride_;
    check_cuda(cudaMemcpy(at, key.data(), key.size(), cudaMemcpyDefault), "a chunk's keys");
    check_cuda(cudaMemcpy(at + align(key.size()), value.data(), value.size(), cudaMemcpyDefault),
               "a chunk's values");
  }
}

quire_chunk_kv ChunkData::view(uint32_t copy, bool on_device) {
  quire_chunk_kv kv = {};
  kv.key_codec = kv.value_codec = codec;
  kv.frame = QUIRE_FRAME_LOCAL;
  kv.n_tokens = tokens;
  kv.key_bytes = key.size();
  kv.value_bytes = value.size();
  const unsigned char* at = device.data() + copy * stride_;
  kv.key = on_device ? at : key.data();
  kv.value = on_device ? at + align(key.size()) : value.data();
  kv.key_bounds = bounds.host.empty() ? nullptr : bounds.at(on_device);
  return kv;
}

}  // namespace quire_gpu
