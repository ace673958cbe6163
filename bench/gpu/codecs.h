// One section in engine pages and in stored form, for checks and timings.
#ifndef QUIRE_BENCH_GPU_CODECS_H_
#define QUIRE_BENCH_GPU_CODECS_H_

#include <vector>

#include "bench/gpu/gpu.h"
#include "kernels/math/layout.h"
#include "kernels/quire_cuda.h"

namespace quire_gpu {

using quire_kernels::NamedCodec;

// Engine memory is bf16 [row][head][dim].
struct SectionShape {
  int32_t codec;
  int32_t plane;
  uint32_t n_tokens;
  uint32_t n_heads;
  uint32_t head_dim;
  uint64_t engine_bytes(uint64_t rows) const { return rows * n_heads * head_dim * 2; }
  uint64_t stored_bytes = 0;         // of a section of variable size, where it is known
  const uint8_t* salient = nullptr;  // marks, where the kernel can reach them
  // The most that it can take; of fixed sizes, what it takes.
  uint64_t section_bytes() const {
    return quire_section_bytes_max(codec, plane, n_tokens, n_heads, head_dim);
  }
};

inline quire_load_params load_of(const SectionShape& shape, const void* section, void* engine,
                                 const int64_t* rows, uint64_t engine_rows,
                                 const quire_rotation& rotation) {
  quire_load_params p = {};
  p.struct_bytes = sizeof(p);
  p.codec = shape.codec;
  p.plane = shape.plane;
  p.n_tokens = shape.n_tokens;
  p.n_heads = shape.n_heads;
  p.head_dim = shape.head_dim;
  p.token_end = shape.n_tokens;
  p.dst_dtype = QUIRE_DTYPE_BF16;
  p.src = section;
  p.src_bytes = shape.stored_bytes != 0 ? shape.stored_bytes : shape.section_bytes();
  p.dst = engine;
  p.dst_tokens = static_cast<int64_t>(engine_rows);
  p.dst_token_stride = int64_t{shape.n_heads} * shape.head_dim * 2;
  p.dst_head_stride = int64_t{shape.head_dim} * 2;
  p.dst_dim_stride = 2;
  p.dst_token = rows;
  if (shape.plane == QUIRE_PLANE_KEY) p.rotation = rotation;
  return p;
}

inline quire_store_params store_of(const SectionShape& shape, const void* engine, void* section,
                                   const int64_t* rows, uint64_t engine_rows,
                                   const quire_rotation& rotation, uint64_t* written = nullptr) {
  quire_store_params p = {};
  p.struct_bytes = sizeof(p);
  p.codec = shape.codec;
  p.plane = shape.plane;
  p.n_tokens = shape.n_tokens;
  p.n_heads = shape.n_heads;
  p.head_dim = shape.head_dim;
  p.src_dtype = QUIRE_DTYPE_BF16;
  p.src = engine;
  p.src_tokens = static_cast<int64_t>(engine_rows);
  p.src_token_stride = int64_t{shape.n_heads} * shape.head_dim * 2;
  p.src_head_stride = int64_t{shape.head_dim} * 2;
  p.src_dim_stride = 2;
  p.src_token = rows;
  if (shape.plane == QUIRE_PLANE_KEY) p.rotation = rotation;
  p.dst = section;
  p.dst_bytes = shape.section_bytes();
  p.dst_written = written;
  p.salient = shape.salient;
  return p;
}

struct NamedPath {
  int32_t path;
  const char* name;
};
// The ways of a codec's kernels to load and to store on this device.
inline std::vector<NamedPath> load_paths(int32_t codec) {
  std::vector<NamedPath> paths = {{QUIRE_CUDA_PATH_DIRECT, "direct"}};
  if (quire_kernels::variable_size(codec)) return paths;
  if (has_bulk_copies()) paths.push_back({QUIRE_CUDA_PATH_RING, "ring-bulk"});
  paths.push_back({QUIRE_CUDA_PATH_RING_ASYNC, "ring-cp.async"});
  return paths;
}
inline std::vector<NamedPath> store_paths(int32_t codec) {
  std::vector<NamedPath> paths = {{QUIRE_CUDA_STORE_PLAIN, "plain"}};
  if (has_bulk_copies() && !quire_kernels::variable_size(codec))
    paths.push_back({QUIRE_CUDA_STORE_BULK, "bulk"});
  return paths;
}

inline quire_cuda_launch launch_of(void* stream, int32_t* status, int32_t path,
                                   uint32_t max_ctas = 0) {
  quire_cuda_launch launch = {};
  launch.struct_bytes = sizeof(launch);
  launch.stream = stream;
  launch.device_status = status;
  launch.path = path;
  launch.max_ctas = max_ctas;
  return launch;
}

}  // namespace quire_gpu

#endif  // QUIRE_BENCH_GPU_CODECS_H_
