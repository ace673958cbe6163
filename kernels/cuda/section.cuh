// What load and store kernels know of a section, and the pack of sections that a launch takes by
// value: nothing is uploaded, a launch can be captured in a graph.
#ifndef QUIRE_KERNELS_CUDA_SECTION_CUH_
#define QUIRE_KERNELS_CUDA_SECTION_CUH_

#include "kernels/cuda/device.cuh"
#include "kernels/math/hadamard.h"
#include "kernels/math/layout.h"
#include "kernels/math/quantise.h"

namespace quire_cuda {

using quire_kernels::PlaneSpec;
using quire_kernels::SectionKind;

constexpr uint32_t kVectorDims = 8;  // consecutive dims of a row that one lane holds
constexpr uint32_t kHeadDimMax = 32 * kVectorDims;
// Tokens that one warp moves in a row: run lengths are multiples of it, a lane looks up one row.
constexpr uint32_t kBlockTokens = 32;
constexpr uint32_t kWarps = 4;

enum SectionFlag : uint8_t {
  kVectorBytes = 1,   // stored rows may be read and written 16 bytes at a time
  kVectorEngine = 2,  // engine rows: side by side dims, 16-byte aligned
  kVectorTable = 4,   // rotation table rows are 16-byte aligned
  kCopies = 8,        // stored elements go out as they are
  kKeepNonFinite = 16,
};

// Of a load or a store. `bytes` is the stored side.
struct Section {
  unsigned char* bytes;
  unsigned char* engine;
  int64_t engine_tokens;
  int64_t token_stride;
  int64_t head_stride;
  int64_t dim_stride;
  const int64_t* token_row;
  const uint8_t* row_mask;
  const float* table;
  int64_t table_token_stride;
  double limit;  // load: the largest magnitude that may be decoded
  uint64_t n_bytes;
  const uint8_t* salient;  // store of kMixed: a byte per token, or null
  uint64_t* written;       // store of variable size
  PlaneSpec spec;
  uint32_t n_tokens;
  uint32_t n_heads;
  uint32_t token_begin;
  uint32_t token_end;
  uint32_t unit_begin;  // first unit of work of this section in the launch
  uint16_t head_dim;
  uint16_t rotary_dims;
  uint16_t unit_tokens;
  uint8_t hadamard;  // order; 1 = none
  uint8_t style;
  uint8_t engine_dtype;
  uint8_t flags;
};

constexpr uint32_t kPackBytesMax = 4000;  // with the other arguments under 4 KB
constexpr uint32_t kPackSections = (kPackBytesMax - 16) / sizeof(Section);

struct SectionPack {
  uint32_t n_sections;
  uint32_t n_units;
  int32_t* status;
  Section sections[kPackSections];
};
static_assert(sizeof(SectionPack) <= kPackBytesMax);

QUIRE_DEVICE const Section& section_of_unit(const SectionPack& pack, uint32_t unit) {
  uint32_t low = 0;
  uint32_t high = pack.n_sections;
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    if (pack.sections[middle].unit_begin <= unit)
      low = middle;
    else
      high = middle;
  }
  return pack.sections[low];
}

// How rows lie across a warp: `lanes` lanes of eight dims each, as many rows as fit.
struct RowShape {
  uint32_t lanes;
  uint32_t rows;
  uint32_t row;   // of this lane; >= rows: the lane is left over
  uint32_t dim;   // first of this lane
  uint32_t dims;  // that exist: 1..8
};
QUIRE_DEVICE RowShape row_shape(uint32_t head_dim) {
  RowShape shape;
  shape.lanes = (head_dim + kVectorDims - 1) / kVectorDims;
  shape.rows = 32 / shape.lanes;
  shape.row = lane_id() / shape.lanes;
  shape.dim = lane_id() % shape.lanes * kVectorDims;
  shape.dims = head_dim - shape.dim < kVectorDims ? head_dim - shape.dim : kVectorDims;
  return shape;
}

QUIRE_DEVICE int64_t shfl_row(int64_t row, uint32_t lane QUIRE_SITE) {
  const auto low = shfl(static_cast<uint32_t>(row), lane QUIRE_PASS_SITE);
  const auto high =
      shfl(static_cast<uint32_t>(static_cast<uint64_t>(row) >> 32), lane QUIRE_PASS_SITE);
  return static_cast<int64_t>(static_cast<uint64_t>(high) << 32 | low);
}

// Sums over this lane and those before it.
QUIRE_DEVICE uint32_t inclusive_sum(uint32_t value QUIRE_SITE) {
#pragma unroll
  for (uint32_t step = 1; step < 32; step *= 2) {
    const uint32_t other = shfl_up(value, step QUIRE_PASS_SITE);
    if (lane_id() >= step) value += other;
  }
  return value;
}

// The engine's row of a token, or -1: out of range, masked, or a wrong number (status).
QUIRE_DEVICE int64_t engine_row_of(const Section& s, uint32_t token, int32_t* status) {
  if (token < s.token_begin || token >= s.token_end) return -1;
  if (s.row_mask != nullptr && s.row_mask[token] == 0) return -1;
  const int64_t row = s.token_row != nullptr ? s.token_row[token] : token;
  if (row >= 0 && row < s.engine_tokens) return row;
  set_status(status, QUIRE_KERNEL_INVALID_ARGUMENT);
  return -1;
}

// Bits of eight codes of one group, and of one code.
template <uint32_t kBits>
QUIRE_DEVICE uint32_t code_of(const uint32_t (&codes)[2], uint32_t e) {
  if (kBits == 8) return codes[e / 4] >> (8 * (e % 4)) & 0xff;
  return codes[0] >> quire_kernels::code_shift(kBits, e) & ((1u << kBits) - 1);
}

QUIRE_DEVICE void half_pair(uint32_t bits, float* zero, float* scale) {
  *zero = f16_to_float(static_cast<uint16_t>(bits));
  *scale = f16_to_float(static_cast<uint16_t>(bits >> 16));
}

// Butterflies of width 1, 2, 4 inside the lane, the wider ones between lanes; the order of
// operations of math/hadamard.h.
QUIRE_DEVICE void hadamard_lanes(float (&v)[kVectorDims], uint32_t order QUIRE_SITE) {
  if (order <= 1) return;
#pragma unroll
  for (uint32_t width = 1; width < kVectorDims; width *= 2) {
    if (width >= order) break;
#pragma unroll
    for (uint32_t i = 0; i < kVectorDims; ++i) {
      if (i & width) continue;
      const float a = v[i];
      const float b = v[i + width];
      v[i] = a + b;
      v[i + width] = a - b;
    }
  }
  for (uint32_t width = kVectorDims; width < order; width *= 2) {
    const uint32_t mask = width / kVectorDims;
    const bool upper = (lane_id() & mask) != 0;
#pragma unroll
    for (uint32_t i = 0; i < kVectorDims; ++i) {
      const float other = shfl_xor(v[i], mask QUIRE_PASS_SITE);
      v[i] = upper ? other - v[i] : v[i] + other;
    }
  }
  const float scale = quire_kernels::hadamard_scale(order);
#pragma unroll
  for (uint32_t i = 0; i < kVectorDims; ++i) v[i] *= scale;
}

// Rotation tables and partners, as the lane's dims need them.
struct LaneRotation {
  float cosine[kVectorDims];
  float sine[kVectorDims];
};

QUIRE_DEVICE uint32_t pair_of(const Section& s, uint32_t dim) {
  if (s.style == QUIRE_ROPE_STYLE_INTERLEAVED) return dim / 2;
  const uint32_t half = s.rotary_dims / 2u;
  return dim < half ? dim : dim - half;
}

QUIRE_DEVICE void load_rotation(const Section& s, const RowShape& shape, uint32_t token,
                                LaneRotation* r) {
  const float* row = reinterpret_cast<const float*>(
      reinterpret_cast<const unsigned char*>(s.table) + token * s.table_token_stride);
  const bool whole = s.style == QUIRE_ROPE_STYLE_NEOX && (s.flags & kVectorTable) &&
                     s.rotary_dims % (2 * kVectorDims) == 0 && shape.dim < s.rotary_dims;
  if (whole) {
    const float* at = row + 2 * pair_of(s, shape.dim);
#pragma unroll
    for (uint32_t i = 0; i < kVectorDims; i += 2) {
      const uint4 four = ld_16(at + 2 * i);
      r->cosine[i] = __uint_as_float(four.x);
      r->sine[i] = __uint_as_float(four.y);
      r->cosine[i + 1] = __uint_as_float(four.z);
      r->sine[i + 1] = __uint_as_float(four.w);
    }
    return;
  }
#pragma unroll
  for (uint32_t i = 0; i < kVectorDims; ++i) {
    const bool turns = shape.dim + i < s.rotary_dims;
    const float* at = row + 2 * pair_of(s, turns ? shape.dim + i : 0);
    r->cosine[i] = at[0];
    r->sine[i] = at[1];
  }
}

// All lanes of the warp call, those without a row too. scratch: kHeadDimMax floats of this warp.
QUIRE_DEVICE void rotate_lanes(const Section& s, const RowShape& shape, const LaneRotation& r,
                               float* scratch, float (&v)[kVectorDims] QUIRE_SITE) {
  const uint32_t half = s.rotary_dims / 2u;
  if (s.style == QUIRE_ROPE_STYLE_INTERLEAVED) {
#pragma unroll
    for (uint32_t i = 0; i < kVectorDims; i += 2) {
      if (shape.dim + i >= s.rotary_dims) break;
      const float x0 = v[i];
      const float x1 = v[i + 1];
      v[i] = x0 * r.cosine[i] - x1 * r.sine[i];
      v[i + 1] = x1 * r.cosine[i] + x0 * r.sine[i];
    }
    return;
  }
  float partner[kVectorDims];
  if (half % kVectorDims == 0) {
    const uint32_t distance = half / kVectorDims;
    const uint32_t from = shape.dim < half            ? lane_id() + distance
                          : shape.dim < s.rotary_dims ? lane_id() - distance
                                                      : lane_id();
#pragma unroll
    for (uint32_t i = 0; i < kVectorDims; ++i) partner[i] = shfl(v[i], from & 31 QUIRE_PASS_SITE);
  } else {  // pairs are not aligned to lanes
    float* row = scratch + lane_id() / shape.lanes * shape.lanes * kVectorDims;
    const bool holds = shape.row < shape.rows;
    for (uint32_t i = 0; holds && i < kVectorDims; ++i) row[shape.dim + i] = v[i];
    sync_warp(0xffffffffu QUIRE_PASS_SITE);
    for (uint32_t i = 0; i < kVectorDims; ++i) {
      const uint32_t dim = shape.dim + i;
      const bool turns = holds && dim < s.rotary_dims;
      partner[i] = turns ? row[dim < half ? dim + half : dim - half] : 0.0f;
    }
    sync_warp(0xffffffffu QUIRE_PASS_SITE);
  }
#pragma unroll
  for (uint32_t i = 0; i < kVectorDims; ++i) {
    const uint32_t dim = shape.dim + i;
    const float along = v[i] * r.cosine[i];
    const float across = partner[i] * r.sine[i];
    const float turned = dim < half ? along - across : along + across;
    v[i] = dim < s.rotary_dims ? turned : v[i];
  }
}

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_SECTION_CUH_
