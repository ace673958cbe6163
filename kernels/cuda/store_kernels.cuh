// The store kernels: pages of an engine -> stored bytes, equal to those the CPU makes. Here the
// plain ones, whose lanes store their codes; store_bulk.cuh has those with bulk copies.
//
// store_tokens: everything that is encoded row by row. A unit is 32 tokens of one head, of one
// warp. store_runs: scales per channel over a run. A unit is one run of one head, of one CTA, which
// reads its rows twice: for the range and for the codes. A run of 64 rows of 256 bytes is in L1 the
// second time, so memory sees one pass; keep it in shared memory where a profile shows otherwise.
#ifndef QUIRE_KERNELS_CUDA_STORE_KERNELS_CUH_
#define QUIRE_KERNELS_CUDA_STORE_KERNELS_CUH_

#include "kernels/cuda/runtime.cuh"
#include "kernels/cuda/store_rows.cuh"
#include "kernels/cuda/units.h"

namespace quire_cuda {

// Raw elements from the lane's bits or values, and the status of the row's part.
template <typename F>
QUIRE_DEVICE int32_t element_words(const Section& s, const EngineLane& lane,
                                   const float (&v)[kVectorDims], int32_t bad,
                                   uint32_t (&words)[kVectorDims]) {
  const bool copies = (s.flags & kCopies) != 0;
#pragma unroll
  for (uint32_t i = 0; i < kVectorDims; ++i) words[i] = 0;
#pragma unroll
  for (uint32_t i = 0; i < kVectorDims; ++i) {
    if (F::kBits == 32) {
      words[i] = copies ? lane.words[i] : __float_as_uint(v[i]);
    } else if (i % 2 == 0) {
      words[i / 2] = copies                           ? lane.words[i / 2]
                     : F::kElement == QUIRE_DTYPE_F16 ? pack_f16x2(v[i], v[i + 1])
                                                      : pack_bf16x2(v[i], v[i + 1]);
    }
  }
  bool finite = true;
#pragma unroll
  for (uint32_t i = 0; i < kVectorDims; ++i) {
    const uint32_t bits =
        F::kBits == 32 ? words[i] & 0x7fffffff : words[i / 2] >> (16 * (i % 2)) & 0x7fff;
    finite &= bits < quire_kernels::infinity_bits(F::kElement);
  }
  if (copies)
    bad = finite || (s.flags & kKeepNonFinite) ? 0 : QUIRE_KERNEL_NON_FINITE;
  else if (bad == 0 && !finite)
    bad = QUIRE_KERNEL_OUT_OF_RANGE;
  return bad;
}

template <typename F, bool kShared>
QUIRE_DEVICE void write_elements(const Section& s, const RowShape& shape,
                                 const uint32_t (&words)[kVectorDims], unsigned char* row) {
  unsigned char* at = row + shape.dim * (F::kBits / 8);
  if (s.flags & kVectorBytes) {
    put_16<kShared>(at, make_uint4(words[0], words[1], words[2], words[3]));
    if (F::kBits == 32)
      put_16<kShared>(at + 16, make_uint4(words[4], words[5], words[6], words[7]));
    return;
  }
#pragma unroll
  for (uint32_t i = 0; i < kVectorDims; ++i) {
    if (i >= shape.dims) break;
    if (F::kBits == 32)
      *reinterpret_cast<uint32_t*>(at + 4 * i) = words[i];
    else
      *reinterpret_cast<uint16_t*>(at + 2 * i) =
          static_cast<uint16_t>(words[i / 2] >> (16 * (i % 2)));
  }
}

// Rows with their own scale. All lanes of the warp call; rows that are not there write nothing.
template <typename F, bool kShared>
QUIRE_DEVICE int32_t store_token_lane(const Section& s, const RowShape& shape, const BlockPlace& at,
                                      const Sink<kShared>& sink, bool present, uint32_t inside,
                                      float (&v)[kVectorDims]) {
  constexpr bool kFp8 = F::kKind == SectionKind::kFp8;
  hadamard_lanes(v, s.hadamard);
  const uint32_t lane_of_row = shape.dim / kVectorDims;
  const uint32_t segment = at.groups > 1 ? s.spec.group_dims / kVectorDims : shape.lanes;
  const uint32_t group = lane_of_row / segment;
  const uint32_t index = lane_of_row - group * segment;
  const uint32_t left = shape.lanes - group * segment;
  float low = v[0];
  float high = v[0];
#pragma unroll
  for (uint32_t i = 0; i < kVectorDims; ++i) {
    if (i >= shape.dims) break;
    const float x = kFp8 ? fabsf(v[i]) : v[i];
    low = i == 0 || x < low ? x : low;
    high = i == 0 || x > high ? x : high;
  }
  segment_range(index, left < segment ? left : segment, &low, &high);
  if (!present) return 0;
  uint16_t zero = 0;
  uint16_t scale = 0;
  bool fits = true;
  if (kFp8) {
    scale = quire_kernels::half_scale(static_cast<double>(high), 448.0);
    fits = scale < 0x7c00;
  } else {
    fits = quire_kernels::half_affine(low, high, (1u << F::kBits) - 1, &zero, &scale);
  }
  if (index == 0) {
    unsigned char* side = sink.side_at(at.token_side);
    if (kFp8)
      *reinterpret_cast<uint16_t*>(side + 2 * uint64_t{inside}) = scale;
    else
      *reinterpret_cast<uint32_t*>(side + 4 * (uint64_t{inside} * at.groups + group)) =
          zero | static_cast<uint32_t>(scale) << 16;
  }
  const float zero_value = f16_to_float(zero);
  const float scale_value = f16_to_float(scale);
  uint32_t codes[kVectorDims];
#pragma unroll
  for (uint32_t i = 0; i < kVectorDims; ++i)
    codes[i] =
        kFp8 ? (scale_value == 0 ? 0 : fp8_code(v[i] / scale_value))
             : quire_kernels::encode_code(v[i], zero_value, scale_value, (1u << F::kBits) - 1);
  write_codes<F::kBits, kShared>(sink.codes_at(at.codes + uint64_t{inside} * at.row_bytes), shape,
                                 (s.flags & kVectorBytes) != 0, codes);
  return fits ? 0 : QUIRE_KERNEL_OUT_OF_RANGE;
}

// Rows first .. first + kBlockTokens - 1 of one head. kListed: each lane says in `listed` which
// token of the engine one of them is; else they are first and those after it. All lanes of the warp
// call.
template <typename F, bool kListed, bool kShared>
QUIRE_DEVICE void store_block(const Section& s, uint32_t head, uint32_t first,
                              const Sink<kShared>& sink, float* scratch, int32_t* status,
                              uint32_t listed = 0) {
  const RowShape shape = row_shape(s.head_dim);
  const BlockPlace at = block_place<F>(s, head, first);
  const int64_t own_row = engine_row_of(s, kListed ? listed : first + lane_id(), status);
  const uint32_t steps = (kBlockTokens + shape.rows - 1) / shape.rows;
  int32_t bad = 0;
  for (uint32_t step = 0; step < steps; ++step) {
    const uint32_t local = step * shape.rows + shape.row;
    const uint32_t inside = first + local;
    const uint32_t token = kListed ? shfl(listed, local & 31) : inside;
    const int64_t row = shfl_row(own_row, local & 31);
    const bool present = shape.row < shape.rows && local < kBlockTokens && inside < s.n_tokens;
    EngineLane lane;
    read_engine(s, shape, head, present ? row : -1, &lane);
    float v[kVectorDims];
    int32_t wrong = fetch_lane(s, shape, lane, present, token, scratch, v);
    if constexpr (F::kRaw) {
      uint32_t words[kVectorDims];
      if (present) {
        wrong = element_words<F>(s, lane, v, wrong, words);
        write_elements<F, kShared>(s, shape, words,
                                   sink.codes_at(at.codes + uint64_t{inside} * at.row_bytes));
      }
    } else {
      // A NaN spreads over its row: what is reported is the NaN.
      const bool spreads = warp_any(wrong != 0);
      const int32_t encoded = store_token_lane<F, kShared>(s, shape, at, sink, present, inside, v);
      if (!spreads) wrong = encoded;
    }
    if (wrong != 0) bad = wrong;
  }
  if (bad != 0) set_status(status, bad);
  if (!F::kRaw && first + kBlockTokens >= s.n_tokens) {
    const uint64_t row_side = F::kKind == SectionKind::kFp8 ? 2 : 4 * at.groups;
    const uint64_t side_end = at.token_side + row_side * s.n_tokens;
    clear_bytes(sink.side_at(side_end), 0, at.codes - side_end, lane_id(), 32);
    const uint64_t bytes = uint64_t{s.n_tokens} * at.row_bytes;
    clear_bytes(sink.codes_at(at.codes + bytes), 0, quire_kernels::align_block(bytes) - bytes,
                lane_id(), 32);
  }
}

template <typename F>
__global__ void __launch_bounds__(kWarps * 32)
    store_tokens(const __grid_constant__ SectionPack pack) {
  QUIRE_SHARED(float, all_scratch, kWarps* kHeadDimMax);
  float* scratch = all_scratch + warp_id() * kHeadDimMax;
  for (uint32_t unit = blockIdx.x * kWarps + warp_id(); unit < pack.n_units;
       unit += gridDim.x * kWarps) {
    const Section& s = section_of_unit(pack, unit);
    const uint32_t local = unit - s.unit_begin;
    store_block<F, false, false>(s, local % s.n_heads, local / s.n_heads * kBlockTokens,
                                 Sink<false>{s}, scratch, pack.status);
  }
}

// Ranges of the channels of a run, a line of floats for every row that the CTA holds at once; in
// the end line 0 has zeros or minimums, and scales.
struct RunShared {
  float* low;
  float* high;
};
constexpr uint32_t kLineFloats = kWarps * 32 * kVectorDims;  // all lines together

// A run of one head: n tokens from `first` on.
struct RunPlace {
  uint32_t head;
  uint32_t first;
  uint32_t n;
};
QUIRE_DEVICE RunPlace run_of(const Section& s, uint32_t head, uint32_t run) {
  const uint32_t first = run * s.spec.run_tokens;
  const uint32_t left = s.n_tokens - first;
  return {head, first, left < s.spec.run_tokens ? left : s.spec.run_tokens};
}
QUIRE_DEVICE RunPlace run_place(const Section& s, uint32_t unit) {
  const uint32_t local = unit - s.unit_begin;
  return run_of(s, local % s.n_heads, local / s.n_heads);
}

template <typename F, bool kShared>
QUIRE_DEVICE int32_t channel_sides(const Section& s, const BlockPlace& at,
                                   const Sink<kShared>& sink, uint32_t lines, uint32_t line_floats,
                                   const RunShared& shared) {
  constexpr uint32_t kTop = (1u << F::kBits) - 1;
  int32_t bad = 0;
  for (uint32_t dim = threadIdx.x; dim < s.head_dim; dim += kWarps * 32) {
    float low = shared.low[dim];
    float high = shared.high[dim];
    for (uint32_t line = 1; line < lines; ++line) {
      const float other_low = shared.low[line * line_floats + dim];
      const float other_high = shared.high[line * line_floats + dim];
      low = other_low < low ? other_low : low;
      high = other_high > high ? other_high : high;
    }
    float scale = 0.0f;
    bool fits;
    if (F::kWide) {
      low += 0.0f;
      fits = quire_kernels::float_scale(low, high, kTop, &scale);
      reinterpret_cast<float*>(sink.side_at(at.channel_side))[dim] = low;
      reinterpret_cast<float*>(sink.side_at(at.wide_scales))[dim] = scale;
    } else {
      uint16_t zero_bits = 0;
      uint16_t scale_bits = 0;
      fits = quire_kernels::half_affine(low, high, kTop, &zero_bits, &scale_bits);
      reinterpret_cast<uint32_t*>(sink.side_at(at.channel_side))[dim] =
          zero_bits | static_cast<uint32_t>(scale_bits) << 16;
      low = f16_to_float(zero_bits);
      scale = f16_to_float(scale_bits);
    }
    if (!fits) bad = QUIRE_KERNEL_OUT_OF_RANGE;
    shared.low[dim] = low;
    shared.high[dim] = scale;
  }
  return bad;
}

// kListed: the run's rows are the engine's tokens listed[0], listed[1], ... All threads of the
// block call.
template <typename F, bool kListed, bool kShared>
QUIRE_DEVICE void store_run(const Section& s, const RunPlace& run, const Sink<kShared>& sink,
                            const RunShared& shared, float* scratch, int32_t* status,
                            const uint32_t* listed = nullptr) {
  const RowShape shape = row_shape(s.head_dim);
  const uint32_t n = run.n;
  const BlockPlace at = block_place<F>(s, run.head, run.first);
  const uint32_t group_rows = kWarps * shape.rows;
  const uint32_t line = warp_id() * shape.rows + shape.row;
  const uint32_t line_floats = shape.lanes * kVectorDims;
  const bool holds = shape.row < shape.rows;
  float low[kVectorDims] = {};
  float high[kVectorDims] = {};
  int32_t bad = 0;
  for (uint32_t pass = 0; pass < 2; ++pass) {
    for (uint32_t begin = 0; begin < n; begin += group_rows) {
      const uint32_t inside = begin + line;
      const bool present = holds && inside < n;
      const uint32_t token = kListed && present ? listed[inside] : run.first + inside;
      int64_t row = present ? (s.token_row != nullptr ? s.token_row[token] : token) : -1;
      if (present && (row < 0 || row >= s.engine_tokens)) {
        bad = QUIRE_KERNEL_INVALID_ARGUMENT;
        row = -1;
      }
      EngineLane lane;
      read_engine(s, shape, run.head, row, &lane);
      float v[kVectorDims];
      const int32_t wrong = fetch_lane(s, shape, lane, present, token, scratch, v);
      if (bad == 0) bad = wrong;
      if (!present) continue;
      if (pass == 0) {
#pragma unroll
        for (uint32_t i = 0; i < kVectorDims; ++i) {
          low[i] = begin == 0 || v[i] < low[i] ? v[i] : low[i];
          high[i] = begin == 0 || v[i] > high[i] ? v[i] : high[i];
        }
        continue;
      }
      uint32_t codes[kVectorDims];
#pragma unroll
      for (uint32_t i = 0; i < kVectorDims; ++i)
        codes[i] = quire_kernels::encode_code(v[i], low[i], high[i], (1u << F::kBits) - 1);
      write_codes<F::kBits, kShared>(sink.codes_at(at.codes + uint64_t{inside} * at.row_bytes),
                                     shape, (s.flags & kVectorBytes) != 0, codes);
    }
    if (pass == 1) break;
    if (holds && line < n) {
#pragma unroll
      for (uint32_t i = 0; i < kVectorDims; ++i) {
        if (i >= shape.dims) break;
        shared.low[line * line_floats + shape.dim + i] = low[i];
        shared.high[line * line_floats + shape.dim + i] = high[i];
      }
    }
    sync_block();
    const int32_t wrong = channel_sides<F, kShared>(s, at, sink, n < group_rows ? n : group_rows,
                                                    line_floats, shared);
    if (bad == 0) bad = wrong;
    sync_block();
#pragma unroll
    for (uint32_t i = 0; i < kVectorDims; ++i) {
      const bool exists = i < shape.dims;
      low[i] = exists ? shared.low[shape.dim + i] : 0.0f;
      high[i] = exists ? shared.high[shape.dim + i] : 0.0f;
    }
  }
  if (bad != 0) set_status(status, bad);
  const uint64_t side_bytes = 4ull * s.head_dim;
  const uint64_t side_padding = quire_kernels::align_block(side_bytes) - side_bytes;
  clear_bytes(sink.side_at(at.channel_side + side_bytes), 0, side_padding, threadIdx.x,
              kWarps * 32);
  if (F::kWide)
    clear_bytes(sink.side_at(at.wide_scales + side_bytes), 0, side_padding, threadIdx.x,
                kWarps * 32);
  const uint64_t bytes = uint64_t{n} * at.row_bytes;
  clear_bytes(sink.codes_at(at.codes + bytes), 0, quire_kernels::align_block(bytes) - bytes,
              threadIdx.x, kWarps * 32);
  finish_tile<kShared>();
  sync_block();  // the next run uses the shared lines again
}

template <typename F>
__global__ void __launch_bounds__(kWarps * 32)
    store_runs(const __grid_constant__ SectionPack pack) {
  QUIRE_SHARED(float, low, kLineFloats);
  QUIRE_SHARED(float, high, kLineFloats);
  QUIRE_SHARED(float, scratch, kWarps* kHeadDimMax);
  const RunShared shared{low, high};
  for (uint32_t unit = blockIdx.x; unit < pack.n_units; unit += gridDim.x) {
    const Section& s = section_of_unit(pack, unit);
    store_run<F, false, false>(s, run_place(s, unit), Sink<false>{s}, shared,
                               scratch + warp_id() * kHeadDimMax, pack.status);
  }
}

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_STORE_KERNELS_CUH_
