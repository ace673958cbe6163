// One section in engine pages and in stored form, for checks and timings.
#ifndef QUIRE_BENCH_GPU_CODECS_H_
#define QUIRE_BENCH_GPU_CODECS_H_

#include <vector>

#include "kernels/quire_cuda.h"

namespace quire_gpu {

struct CodecName {
  int32_t codec;
  const char* name;
};
inline constexpr CodecName kCodecs[] = {
    {QUIRE_CODEC_RAW_BF16, "raw-bf16"},
    {QUIRE_CODEC_RAW_F16, "raw-f16"},
    {QUIRE_CODEC_RAW_F32, "raw-f32"},
    {QUIRE_CODEC_INT8_CHANNEL, "int8-channel"},
    {QUIRE_CODEC_FP8_TOKEN, "fp8-token"},
    {QUIRE_CODEC_INT4_CHANNEL64, "int4-channel64"},
    {QUIRE_CODEC_INT4_CHANNEL128, "int4-channel128"},
    {QUIRE_CODEC_INT4_KIVI, "int4-kivi"},
    {QUIRE_CODEC_INT4_HADAMARD, "int4-hadamard"},
    {QUIRE_CODEC_INT4_CENTRED, "int4-centred"},
    {QUIRE_CODEC_INT3_CHANNEL64, "int3-channel64"},
    {QUIRE_CODEC_INT2_CHANNEL32, "int2-channel32"},
    {QUIRE_CODEC_INT2_KIVI, "int2-kivi"},
};

// Engine memory is bf16 [row][head][dim].
struct SectionShape {
  int32_t codec;
  int32_t plane;
  uint32_t n_tokens;
  uint32_t n_heads;
  uint32_t head_dim;
  uint64_t engine_bytes(uint64_t rows) const { return rows * n_heads * head_dim * 2; }
  uint64_t section_bytes() const {
    return quire_section_bytes(codec, plane, n_tokens, n_heads, head_dim);
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
  p.src_bytes = shape.section_bytes();
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
                                   const quire_rotation& rotation) {
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
  return p;
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
