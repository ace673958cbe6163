// Gathering and encoding of rows, shared by the store kernels. Lanes hold rows as in load_rows.cuh.
#ifndef QUIRE_KERNELS_CUDA_STORE_ROWS_CUH_
#define QUIRE_KERNELS_CUDA_STORE_ROWS_CUH_

#include "kernels/cuda/load_rows.cuh"
#include "kernels/cuda/store_tile.cuh"

namespace quire_cuda {

// The engine's bits of the lane's eight dims: words of two or one elements. Zero beyond the row.
struct EngineLane {
  uint32_t words[kVectorDims];
};

QUIRE_DEVICE void read_engine(const Section& s, const RowShape& shape, uint32_t head, int64_t row,
                              EngineLane* lane) {
#pragma unroll
  for (uint32_t i = 0; i < kVectorDims; ++i) lane->words[i] = 0;
  if (row < 0) return;
  const unsigned char* at =
      s.engine + row * s.token_stride + head * s.head_stride + shape.dim * s.dim_stride;
  const bool single = s.engine_dtype == QUIRE_DTYPE_F32;
  if (s.flags & kVectorEngine) {
    const uint4 low = ld_16(at);
    const uint4 high = single ? ld_16(at + 16) : make_uint4(0, 0, 0, 0);
    lane->words[0] = low.x, lane->words[1] = low.y, lane->words[2] = low.z, lane->words[3] = low.w;
    lane->words[4] = high.x, lane->words[5] = high.y, lane->words[6] = high.z,
    lane->words[7] = high.w;
    return;
  }
#pragma unroll
  for (uint32_t i = 0; i < kVectorDims; ++i) {
    if (i >= shape.dims) break;
    const unsigned char* element = at + i * s.dim_stride;
    if (single)
      lane->words[i] = *reinterpret_cast<const uint32_t*>(element);
    else
      lane->words[i / 2] |= static_cast<uint32_t>(*reinterpret_cast<const uint16_t*>(element))
                            << (16 * (i % 2));
  }
}

QUIRE_DEVICE bool lane_is_finite(const float (&v)[kVectorDims]) {
  bool finite = true;
#pragma unroll
  for (uint32_t i = 0; i < kVectorDims; ++i)
    finite &= (__float_as_uint(v[i]) & 0x7fffffff) < 0x7f800000;
  return finite;
}

QUIRE_DEVICE void widen_lane(const Section& s, const EngineLane& lane, float (&v)[kVectorDims]) {
#pragma unroll
  for (uint32_t i = 0; i < kVectorDims; ++i) {
    const auto half = static_cast<uint16_t>(lane.words[i / 2] >> (16 * (i % 2)));
    v[i] = s.engine_dtype == QUIRE_DTYPE_F32    ? __uint_as_float(lane.words[i])
           : s.engine_dtype == QUIRE_DTYPE_BF16 ? bf16_to_float(half)
                                                : f16_to_float(half);
  }
}

// The row in fp32, rotated; a status where it must not be stored. All lanes of the warp call.
QUIRE_DEVICE int32_t fetch_lane(const Section& s, const RowShape& shape, const EngineLane& lane,
                                bool present, uint32_t token, float* scratch,
                                float (&v)[kVectorDims]) {
  widen_lane(s, lane, v);
  int32_t bad = lane_is_finite(v) ? 0 : QUIRE_KERNEL_NON_FINITE;
  if (s.table != nullptr) {
    LaneRotation rotation = {};
    if (present) load_rotation(s, shape, token, &rotation);
    rotate_lanes(s, shape, rotation, scratch, v);
    if (bad == 0 && !lane_is_finite(v)) bad = QUIRE_KERNEL_OUT_OF_RANGE;
  }
  return present ? bad : 0;
}

// Eight codes -> the lane's part of a stored row.
template <uint32_t kBits, bool kShared>
QUIRE_DEVICE void write_codes(unsigned char* row, const RowShape& shape, bool vectors,
                              const uint32_t (&codes)[kVectorDims]) {
  unsigned char* at = row + shape.dim / kVectorDims * kBits;
  if constexpr (kBits == 8) {
    uint32_t words[2] = {0, 0};
#pragma unroll
    for (uint32_t i = 0; i < kVectorDims; ++i) words[i / 4] |= codes[i] << (8 * (i % 4));
    if (vectors) {
      put_8<kShared>(at, make_uint2(words[0], words[1]));
      return;
    }
#pragma unroll
    for (uint32_t i = 0; i < kVectorDims; ++i)
      if (i < shape.dims) at[i] = static_cast<unsigned char>(codes[i]);
  } else {
    uint32_t word = 0;
#pragma unroll
    for (uint32_t i = 0; i < kVectorDims; ++i)
      word |= (i < shape.dims ? codes[i] : 0u) << quire_kernels::code_shift(kBits, i);
    if constexpr (kBits == 4) {
      put_4<kShared>(at, word);
    } else if constexpr (kBits == 2) {
      *reinterpret_cast<uint16_t*>(at) = static_cast<uint16_t>(word);
    } else {
      at[0] = static_cast<unsigned char>(word);
      at[1] = static_cast<unsigned char>(word >> 8);
      at[2] = static_cast<unsigned char>(word >> 16);
    }
  }
}

QUIRE_DEVICE uint32_t fp8_code(float value) {
  return quire_kernels::float_to_fp8(value);
}

// The least and greatest of the lanes of one segment (a row, or a group of dims of it), in all of
// them. index: the lane's in the segment of `length` lanes.
QUIRE_DEVICE void segment_range(uint32_t index, uint32_t length, float* low,
                                float* high QUIRE_SITE) {
#pragma unroll
  for (uint32_t step = 16; step > 0; step /= 2) {
    const float other_low = shfl_down(*low, step QUIRE_PASS_SITE);
    const float other_high = shfl_down(*high, step QUIRE_PASS_SITE);
    if (index + step < length) {
      *low = other_low < *low ? other_low : *low;
      *high = other_high > *high ? other_high : *high;
    }
  }
  *low = shfl(*low, lane_id() - index QUIRE_PASS_SITE);
  *high = shfl(*high, lane_id() - index QUIRE_PASS_SITE);
}

QUIRE_DEVICE void clear_bytes(unsigned char* section, uint64_t begin, uint64_t end, uint32_t thread,
                              uint32_t threads) {
  for (uint64_t at = begin + thread; at < end; at += threads) section[at] = 0;
}

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_STORE_ROWS_CUH_
