// Device parts of decode over chunks: the query in a chunk's frame with the channel numbers folded
// in, and codes expanded to the halves that enter the tensor cores.
#ifndef QUIRE_KERNELS_CUDA_ATTENTION_DECODE_FOLD_CUH_
#define QUIRE_KERNELS_CUDA_ATTENTION_DECODE_FOLD_CUH_

#include "kernels/cuda/attention/common.cuh"
#include "kernels/cuda/attention/decode_chunks.h"

namespace quire_cuda {

using quire_kernels::Affine;
using quire_kernels::PlaneView;
using quire_kernels::SectionKind;

constexpr uint32_t kDecodeThreads = 128;
constexpr uint32_t kDecodeWarps = kDecodeThreads / 32;
constexpr uint32_t kHeadsOfWarp = kHeadsOfTile / kDecodeWarps;

// Shared memory of a CTA, carved out of the dynamic allocation.
struct DecodeShared {
  float* query;      // [8][dims], turned into the chunk's frame
  float* w;          // [8][dims], folded; the output at the end
  uint16_t* w_high;  // [8][dims + pad] halves of w / w_greatest ...
  uint16_t* w_low;   // ... and what they leave over
  uint16_t* tile;    // [64][dims + pad] codes of K, then of V
  uint16_t* weight;  // [8][64 + pad]
  float* logit;      // [8][64]
  float* of_head;    // the arrays below, 8 each
  float* w_greatest;
  float* w_sum;
  float* constant;
  float* greatest;
  float* total;
  float* zero_sum;
  float* factor;
  float* value_scale;  // [1]
  float* floor;        // of the first wave's greatest logits
  uint32_t* used;      // [warps]
  uint32_t* far;       // [warps]
  unsigned char* stage;
};

static_assert(2 * kDecodeWarps <= kHeadsOfTile);  // used and far share one of them
constexpr uint32_t kHeadArrays = 10;
constexpr uint32_t kWeightStride = kTileTokens + kRowPad;

QUIRE_HD uint32_t decode_fixed_bytes(uint32_t dims) {
  const uint32_t stride = dims + kRowPad;
  return 2 * kHeadsOfTile * dims * 4 + 2 * kHeadsOfTile * stride * 2 + kTileTokens * stride * 2 +
         kHeadsOfTile * kWeightStride * 2 + kHeadsOfTile * kTileTokens * 4 +
         kHeadArrays * kHeadsOfTile * 4;
}

QUIRE_DEVICE DecodeShared carve(unsigned char* at, uint32_t dims) {
  const uint32_t stride = dims + kRowPad;
  DecodeShared s;
  auto take = [&at](uint32_t bytes) {
    unsigned char* begin = at;
    at += bytes;
    return begin;
  };
  s.query = reinterpret_cast<float*>(take(kHeadsOfTile * dims * 4));
  s.w = reinterpret_cast<float*>(take(kHeadsOfTile * dims * 4));
  s.w_high = reinterpret_cast<uint16_t*>(take(kHeadsOfTile * stride * 2));
  s.w_low = reinterpret_cast<uint16_t*>(take(kHeadsOfTile * stride * 2));
  s.tile = reinterpret_cast<uint16_t*>(take(kTileTokens * stride * 2));
  s.weight = reinterpret_cast<uint16_t*>(take(kHeadsOfTile * kWeightStride * 2));
  s.logit = reinterpret_cast<float*>(take(kHeadsOfTile * kTileTokens * 4));
  s.of_head = reinterpret_cast<float*>(take(kHeadArrays * kHeadsOfTile * 4));
  s.w_greatest = s.of_head;
  s.w_sum = s.of_head + kHeadsOfTile;
  s.constant = s.of_head + 2 * kHeadsOfTile;
  s.greatest = s.of_head + 3 * kHeadsOfTile;
  s.total = s.of_head + 4 * kHeadsOfTile;
  s.zero_sum = s.of_head + 5 * kHeadsOfTile;
  s.factor = s.of_head + 6 * kHeadsOfTile;
  s.value_scale = s.of_head + 7 * kHeadsOfTile;
  s.floor = s.of_head + 8 * kHeadsOfTile;
  s.used = reinterpret_cast<uint32_t*>(s.of_head + 9 * kHeadsOfTile);
  s.far = s.used + kDecodeWarps;
  s.stage = at;
  return s;
}

// The heads' rows, turned by `turns` where there are any; zeros for heads that do not exist.
QUIRE_DEVICE void load_query(const DecodeArguments& a, uint32_t row, uint32_t head, uint32_t heads,
                             const float* turns, const DecodeShared& s) {
  const uint32_t size = quire_kernels::element_bytes(a.query.dtype);
  for (uint32_t i = threadIdx.x; i < kHeadsOfTile * a.dims; i += kDecodeThreads) {
    const uint32_t h = i / a.dims;
    const uint32_t d = i % a.dims;
    s.query[i] = h >= heads
                     ? 0.0f
                     : load_element(a.query.dtype, static_cast<const unsigned char*>(a.query.data) +
                                                       row * a.query.row_stride +
                                                       (head + h) * a.query.head_stride +
                                                       static_cast<int64_t>(d) * size);
  }
  sync_block();
  if (turns == nullptr) return;
  const uint32_t pairs = a.rotary_dims / 2;
  for (uint32_t i = threadIdx.x; i < kHeadsOfTile * pairs; i += kDecodeThreads) {
    const uint32_t j = i % pairs;
    float* q = s.query + i / pairs * a.dims;
    float& x = q[quire_kernels::pair_first(a.rope_style, j)];
    float& y = q[quire_kernels::pair_second(a.rope_style, a.rotary_dims, j)];
    const float cosine = turns[2 * j];
    const float sine = turns[2 * j + 1];
    const float turned = x * cosine - y * sine;
    y = x * sine + y * cosine;
    x = turned;
  }
  sync_block();
}

// H on each of the 8 rows of `rows`; the block is in step before and after.
QUIRE_DEVICE void hadamard_rows(float* rows, uint32_t dims, uint32_t order) {
  for (uint32_t width = 1; width < order; width *= 2) {
    for (uint32_t i = threadIdx.x; i < kHeadsOfTile * dims / 2; i += kDecodeThreads) {
      const uint32_t at = i / width * 2 * width + i % width;
      const float a = rows[at];
      const float b = rows[at + width];
      rows[at] = a + b;
      rows[at + width] = a - b;
    }
    sync_block();
  }
  if (order <= 1) return;
  const float scale = quire_kernels::hadamard_scale(order);
  for (uint32_t i = threadIdx.x; i < kHeadsOfTile * dims; i += kDecodeThreads) rows[i] *= scale;
  sync_block();
}

// w, its sum and constant, and its halves, for the run of `token`. Ends in step.
QUIRE_DEVICE void fold_query(const PlaneView& keys, uint32_t token, bool bf16,
                             const DecodeShared& s) {
  const uint32_t dims = keys.dims;
  const uint32_t stride = dims + kRowPad;
  const bool runs = quire_kernels::has_runs(keys.spec);
  for (uint32_t d = threadIdx.x; d < dims; d += kDecodeThreads) {
    const float scale = runs ? quire_kernels::channel_affine(keys, token, d).scale : 1.0f;
    for (uint32_t h = 0; h < kHeadsOfTile; ++h) s.w[h * dims + d] = s.query[h * dims + d] * scale;
  }
  sync_block();
  hadamard_rows(s.w, dims, quire_kernels::plane_hadamard(keys));
  for (uint32_t i = 0; i < kHeadsOfWarp; ++i) {
    const uint32_t h = warp_id() * kHeadsOfWarp + i;
    float most = 0, sum = 0, constant = 0;
    for (uint32_t d = lane_id(); d < dims; d += 32) {
      const float w = s.w[h * dims + d];
      most = fmaxf(most, fabsf(w));
      sum += w;
      if (runs)
        constant = fmaf(s.query[h * dims + d], quire_kernels::channel_affine(keys, token, d).zero,
                        constant);
    }
    most = reduce_max(most);
    most = most > 0 ? most : 1.0f;
    sum = reduce_sum(sum);
    constant = reduce_sum(constant);
    if (lane_id() == 0) {
      s.w_greatest[h] = most;
      s.w_sum[h] = sum;
      s.constant[h] = constant;
    }
    for (uint32_t d = lane_id(); d < dims; d += 32) {
      const float w = s.w[h * dims + d] / most;
      const uint16_t high = bf16 ? float_to_bf16(w) : float_to_f16(w);
      const float left = w - (bf16 ? bf16_to_float(high) : f16_to_float(high));
      s.w_high[h * stride + d] = high;
      s.w_low[h * stride + d] = bf16 ? float_to_bf16(left) : float_to_f16(left);
    }
  }
  sync_block();
}

// Two codes as halves: 1024 + code is the half 0x6400 | code.
QUIRE_DEVICE uint32_t code_halves(uint32_t two_codes) {
  return half2_sub(two_codes | 0x64006400u, 0x64006400u);
}

// Eight codes (or elements) at `at` in shared memory as four pairs of halves.
QUIRE_DEVICE uint4 expand_unit(const PlaneView& view, const unsigned char* at) {
  if (view.spec.kind == SectionKind::kRaw) return ld_16(at);
  uint32_t r[4];
  if (view.spec.bits == 8) {
    const uint2 bytes = *reinterpret_cast<const uint2*>(at);
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t word = i < 2 ? bytes.x : bytes.y;
      // Bytes 2i and 2i + 1 into the low bytes of two halves.
      const uint32_t two = byte_perm(word, 0, i % 2 == 0 ? 0x4140 : 0x4342);
      if (view.spec.kind == SectionKind::kFp8)
        // e4m3 shifted is a half with a bias of 15 instead of 7.
        r[i] = half2_mul((two & 0x00800080u) << 8 | (two & 0x007f007fu) << 7, 0x5c005c00u);
      else
        r[i] = code_halves(two);
    }
  } else if (view.spec.bits == 4) {
    const uint32_t word = *reinterpret_cast<const uint32_t*>(at);
    for (uint32_t i = 0; i < 4; ++i) r[i] = code_halves(word >> (4 * i) & 0x000f000fu);
  } else {
    const uint32_t bits = view.spec.bits;
    const uint32_t mask = (1u << bits) - 1;
    const uint32_t word = at[0] | at[1] << 8 | (bits == 3 ? at[2] << 16 : 0);
    for (uint32_t i = 0; i < 4; ++i)
      r[i] = code_halves((word >> (2 * i * bits) & mask) | (word >> ((2 * i + 1) * bits) & mask)
                                                               << 16);
  }
  return make_uint4(r[0], r[1], r[2], r[3]);
}

// Grouped values are decoded here: their scales do not fold into a weight.
QUIRE_DEVICE uint4 decode_unit(const PlaneView& view, uint32_t token, uint32_t dim, uint4 codes) {
  const Affine affine = quire_kernels::token_affine(view, token, dim / view.spec.group_dims);
  uint32_t r[4] = {codes.x, codes.y, codes.z, codes.w};
  for (uint32_t i = 0; i < 4; ++i)
    r[i] = pack_f16x2(
        fmaf(f16_to_float(static_cast<uint16_t>(r[i] & 0xffff)), affine.scale, affine.zero),
        fmaf(f16_to_float(static_cast<uint16_t>(r[i] >> 16)), affine.scale, affine.zero));
  return make_uint4(r[0], r[1], r[2], r[3]);
}

// n rows of codes in shared memory -> the tile; the rest of its rows are zeros.
QUIRE_DEVICE void expand_tile(const PlaneView& view, const unsigned char* codes, uint32_t token,
                              uint32_t n, uint16_t* tile) {
  const uint32_t units = view.dims / 8;
  const uint32_t unit_bytes = view.spec.kind == SectionKind::kRaw ? 16 : view.spec.bits;
  const auto stride = static_cast<uint32_t>(quire_kernels::row_stride(view));
  const bool grouped = view.spec.kind == SectionKind::kToken && view.spec.group_dims != 0;
  for (uint32_t i = threadIdx.x; i < kTileTokens * units; i += kDecodeThreads) {
    const uint32_t row = i / units;
    const uint32_t unit = i % units;
    uint4 halves = make_uint4(0, 0, 0, 0);
    if (row < n) {
      halves = expand_unit(view, codes + row * stride + unit * unit_bytes);
      if (grouped) halves = decode_unit(view, token + row, unit * 8, halves);
    }
    st_16(tile + row * (view.dims + kRowPad) + unit * 8, halves);
  }
}

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_ATTENTION_DECODE_FOLD_CUH_
