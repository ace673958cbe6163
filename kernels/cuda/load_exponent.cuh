// Loads of bf16 without loss. A warp takes the 64 rows between two entries of the escape index (or
// those of them that belong to its head): it first counts the escape codes, which must be as many
// as the index says, and keeps the codes in shared memory; then a running prefix over the warp
// finds each lane's escapes. Nothing of a block that contradicts its index is written, and no
// escape is read that lies beyond the header's count, whatever changes meanwhile.
#ifndef QUIRE_KERNELS_CUDA_LOAD_EXPONENT_CUH_
#define QUIRE_KERNELS_CUDA_LOAD_EXPONENT_CUH_

#include "kernels/cuda/load_rows.cuh"
#include "kernels/cuda/runtime.cuh"
#include "kernels/cuda/units.h"

namespace quire_cuda {

using quire_kernels::kEscapeIndexRows;

using PlainElements = Format<SectionKind::kRaw, 16, false, QUIRE_DTYPE_BF16>;
using ByteCodes = Format<SectionKind::kFp8, 8>;

// Escapes of a block that are brought to shared memory, all at once; of more, each is read alone.
constexpr uint32_t kStagedEscapes = 512;
constexpr uint32_t kHeaderWords = sizeof(quire_kernels::ExponentHeader) / 4;

// Of one warp.
struct ExponentShared {
  float* scratch;          // kHeadDimMax
  uint32_t* codes;         // [step][lane]: steps are at most the rows of a block
  int64_t* engine_rows;    // kEscapeIndexRows
  unsigned char* escapes;  // kStagedEscapes
};

// What the section's header says; equal in all lanes.
struct ExponentPlan {
  quire_kernels::ExponentBlocks at;
  uint32_t escape_count;
  uint32_t table[4];  // exp4: the exponents of codes 0..15, a byte each
  bool plain;
};

// Rows of the block: [0, n) exist, [begin, end) are to be loaded and are of this head.
struct ExponentBlock {
  uint64_t index;
  uint64_t first;     // row number of row 0
  uint64_t head_row;  // row number of the head's token 0
  uint32_t head;
  uint32_t n;
  uint32_t begin;
  uint32_t end;
};
QUIRE_DEVICE uint32_t token_of(const ExponentBlock& block, uint32_t row) {
  return static_cast<uint32_t>(block.first + row - block.head_row);
}

// Of a codec's group of eight codes: where each code's lowest bit lies.
template <uint32_t kBits>
QUIRE_DEVICE uint32_t code_places(uint32_t dims) {
  uint32_t places = 0;
#pragma unroll
  for (uint32_t e = 0; e < kVectorDims; ++e)
    if (e < dims) places |= 1u << quire_kernels::code_shift(kBits, e);
  return places;
}
// The places of those codes that are escapes.
template <uint32_t kBits>
QUIRE_DEVICE uint32_t escape_places(uint32_t codes, uint32_t places) {
  uint32_t all = codes & codes >> 1 & codes >> 2;
  if (kBits == 4) all &= codes >> 3;
  return all & places;
}

// False where the header contradicts itself or the section's size. All lanes of the warp call.
template <uint32_t kBits>
QUIRE_DEVICE bool read_plan(const Section& s, ExponentPlan* plan) {
  const uint32_t lane = lane_id();
  const uint32_t word =
      lane < kHeaderWords ? *reinterpret_cast<const uint32_t*>(s.bytes + 4 * lane) : 0;
  const uint32_t mode = shfl(word, 0);
  plan->escape_count = shfl(word, 1);
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) plan->table[i] = shfl(word, 2 + i);
  plan->plain = mode == quire_kernels::kExponentPlain;
  uint32_t reserved = lane < 2 ? 0 : word;
  if (kBits == 4 && !plan->plain) {
    if (lane < 5) reserved = 0;
    if (lane == 5) reserved = word >> 24;  // after the 15th exponent
  }
  if (warp_any(reserved != 0)) return false;
  if (plan->plain)
    return plan->escape_count == 0 &&
           s.n_bytes == quire_kernels::exponent_plain_bytes(s.n_tokens, s.n_heads, s.head_dim);
  plan->at =
      quire_kernels::exponent_blocks(s.spec, s.n_tokens, s.n_heads, s.head_dim, plan->escape_count);
  return mode == quire_kernels::kExponentCoded && plan->at.total == s.n_bytes;
}

QUIRE_DEVICE const unsigned char* tops_of(const Section& s, const ExponentPlan& plan, uint32_t head,
                                          uint32_t token) {
  const uint32_t runs = (s.n_tokens + s.spec.run_tokens - 1) / s.spec.run_tokens;
  return s.bytes + plan.at.tops + (uint64_t{head} * runs + token / s.spec.run_tokens) * s.head_dim;
}

// Part of the warp's answer: whether this lane saw a top that codes could count below zero from.
QUIRE_DEVICE bool tops_are_low(const Section& s, const ExponentPlan& plan,
                               const ExponentBlock& block) {
  const uint32_t run_tokens = s.spec.run_tokens;
  const uint32_t last = token_of(block, block.end - 1) / run_tokens;
  bool low = false;
  for (uint32_t run = token_of(block, block.begin) / run_tokens; run <= last; ++run) {
    const unsigned char* tops = tops_of(s, plan, block.head, run * run_tokens);
    for (uint32_t dim = lane_id(); dim < s.head_dim; dim += 32)
      low |= tops[dim] < quire_kernels::kWindow - 1;
  }
  return low;
}

// The escapes of the block, in global or shared memory; before: of rows that are in steps before
// the first one with a row to load.
struct BlockEscapes {
  const unsigned char* from;
  uint32_t n;
  uint32_t before;
};

// Counts and keeps the codes of all rows of the block. False where the block contradicts the index
// or, window3, a top is too low. All lanes of the warp call.
template <uint32_t kBits>
QUIRE_DEVICE bool gather_codes(const Section& s, const ExponentPlan& plan,
                               const ExponentBlock& block, const RowShape& shape,
                               uint32_t first_step, const ExponentShared& shared,
                               BlockEscapes* escapes) {
  const auto row_bytes = static_cast<uint32_t>(quire_kernels::code_row_bytes(s.head_dim, kBits));
  const unsigned char* rows = s.bytes + plan.at.codes + block.first * row_bytes;
  const uint32_t places = code_places<kBits>(shape.dims);
  const uint32_t steps = (block.n + shape.rows - 1) / shape.rows;
  uint32_t count = 0;
  uint32_t before = 0;
#pragma unroll 4
  for (uint32_t step = 0; step < steps; ++step) {
    const uint32_t row = step * shape.rows + shape.row;
    if (shape.row >= shape.rows || row >= block.n) continue;
    LaneCodes<Format<SectionKind::kChannel, kBits>> codes;
    read_codes<Format<SectionKind::kChannel, kBits>, true>(rows + uint64_t{row} * row_bytes, shape,
                                                           false, &codes);
    shared.codes[step * 32 + lane_id()] = codes.words[0];
    const uint32_t n = popcount(escape_places<kBits>(codes.words[0], places));
    count += n;
    if (step < first_step) before += n;
  }
  count = reduce_sum(count);
  escapes->before = reduce_sum(before);
  const unsigned char* index = s.bytes + plan.at.escape_index + 4 * block.index;
  const bool last = block.first + block.n == uint64_t{s.n_heads} * s.n_tokens;
  const uint32_t begin = *reinterpret_cast<const uint32_t*>(index);
  const uint32_t end = last ? plan.escape_count : *reinterpret_cast<const uint32_t*>(index + 4);
  bool bad =
      uint64_t{begin} + count != end || end > plan.escape_count || (block.index == 0 && begin != 0);
  if (s.spec.run_tokens != 0) bad |= tops_are_low(s, plan, block);
  if (warp_any(bad)) return false;
  // Lanes may have read different words where the section changes under the kernel.
  const uint32_t start = shfl(begin, 0);
  escapes->n = count;
  escapes->from = s.bytes + plan.at.escapes + start;
  if (count <= kStagedEscapes) {
    for (uint32_t i = lane_id(); i < count; i += 32) shared.escapes[i] = escapes->from[i];
    escapes->from = shared.escapes;
  }
  return true;
}

// Exponents of a lane's elements 0, 2, 4, 6 and 1, 3, 5, 7, a byte each.
struct LaneExponents {
  uint32_t even;
  uint32_t odd;
};

QUIRE_DEVICE uint32_t look_up(const uint32_t (&table)[4], uint32_t codes) {
  const uint32_t low = byte_perm(table[0], table[1], codes & 0x7777);
  const uint32_t high = byte_perm(table[2], table[3], codes & 0x7777);
  const uint32_t upper = byte_perm(0xff00, 0, codes >> 3 & 0x1111);
  return (low & ~upper) | (high & upper);
}
// Bytes of tops less bytes of codes, each by itself.
QUIRE_DEVICE uint32_t count_down(uint32_t tops, uint32_t codes) {
  constexpr uint32_t kSigns = 0x80808080;
  return ((tops | kSigns) - codes) ^ (~tops & kSigns);
}
QUIRE_DEVICE uint32_t spread_codes(uint32_t codes) {
  return (codes & 7) | (codes << 2 & 0x700) | (codes << 4 & 0x70000) | (codes << 6 & 0x7000000);
}

template <uint32_t kBits>
QUIRE_DEVICE LaneExponents decode_exponents(const ExponentPlan& plan, uint32_t codes,
                                            const uint32_t* tops) {
  if constexpr (kBits == 4) {
    return {look_up(plan.table, codes), look_up(plan.table, codes >> 16)};
  } else {
    return {count_down(byte_perm(tops[0], tops[1], 0x6420), spread_codes(codes)),
            count_down(byte_perm(tops[0], tops[1], 0x7531), spread_codes(codes >> 3))};
  }
}

template <uint32_t kBits>
QUIRE_DEVICE void put_escapes(const BlockEscapes& escapes, uint32_t at, uint32_t places,
                              LaneExponents* exponents) {
  if (places == 0) return;
#pragma unroll
  for (uint32_t e = 0; e < kVectorDims; ++e) {
    if ((places >> quire_kernels::code_shift(kBits, e) & 1) == 0) continue;
    const uint32_t exponent = at < escapes.n ? escapes.from[at] : 0;
    ++at;
    const uint32_t shift = e / 2 * 8;
    uint32_t* to = e % 2 == 0 ? &exponents->even : &exponents->odd;
    *to = (*to & ~(0xffu << shift)) | exponent << shift;
  }
}

// Sign and mantissa bytes with their exponents -> the lane's bf16 elements; 0 beyond its dims.
QUIRE_DEVICE void join_elements(const uint32_t (&sign_mantissa)[2], const LaneExponents& exponents,
                                uint32_t dims, uint32_t* elements) {
#pragma unroll
  for (uint32_t k = 0; k < kVectorDims / 2; ++k) {
    const uint32_t rest = byte_perm(sign_mantissa[k / 2], 0, k % 2 == 0 ? 0x4140 : 0x4342);
    const uint32_t pick = k | k << 4 | (k + 4) << 8 | (k + 4) << 12;
    const uint32_t pair = byte_perm(exponents.even, exponents.odd, pick) & 0x00ff00ff;
    uint32_t element = (rest & 0x007f007f) | (rest & 0x00800080) << 8 | pair << 7;
    if (2 * k + 1 >= dims) element &= 0xffff;
    elements[k] = 2 * k < dims ? element : 0;
  }
}

// Where each of the lane's rows begins among the block's escapes; moves `before` past these rows.
// Two counts share a word: those of a step reach 256.
QUIRE_DEVICE void place_escapes(const uint32_t (&places)[kUnroll], uint32_t* before,
                                uint32_t (&at)[kUnroll] QUIRE_SITE) {
  static_assert(kUnroll % 2 == 0);
#pragma unroll
  for (uint32_t u = 0; u < kUnroll; u += 2) {
    const uint32_t own = popcount(places[u]) | popcount(places[u + 1]) << 16;
    const uint32_t sum = inclusive_sum(own QUIRE_PASS_SITE);
    const uint32_t all = shfl(sum, 31 QUIRE_PASS_SITE);
    const uint32_t less = sum - own;
    at[u] = *before + (less & 0xffff);
    at[u + 1] = *before + (all & 0xffff) + (less >> 16);
    *before += (all & 0xffff) + (all >> 16);
  }
}

// All lanes of the warp call.
template <uint32_t kBits>
QUIRE_DEVICE void load_exponent_block(const Section& s, const ExponentBlock& block,
                                      const ExponentShared& shared, int32_t* status) {
  ExponentPlan plan = {};
  if (!read_plan<kBits>(s, &plan)) {
    set_status(status, QUIRE_KERNEL_CORRUPT);
    return;
  }
  const RowShape shape = row_shape(s.head_dim);
  const bool holds = shape.row < shape.rows;
  const uint32_t first_step = block.begin / shape.rows;
  BlockEscapes escapes = {};
  if (!plan.plain && !gather_codes<kBits>(s, plan, block, shape, first_step, shared, &escapes)) {
    set_status(status, QUIRE_KERNEL_CORRUPT);
    return;
  }
  for (uint32_t row = lane_id(); row < kEscapeIndexRows; row += 32)
    shared.engine_rows[row] =
        row >= block.begin && row < block.end ? engine_row_of(s, token_of(block, row), status) : -1;
  sync_warp();
  const unsigned char* rows = s.bytes + (plan.plain ? kHeaderWords * 4 : plan.at.sign_mantissa);
  const uint32_t row_bytes = s.head_dim * (plan.plain ? 2u : 1u);
  const uint32_t places_of_lane = code_places<kBits>(shape.dims);
  const bool vectors = (s.flags & kVectorBytes) != 0;
  const bool rotates = s.table != nullptr;
  LaneRotation rotation = {};
  if (rotates && s.table_token_stride == 0) load_rotation(s, shape, 0, &rotation);

  uint32_t before = escapes.before;
  int32_t bad = 0;
  const uint32_t steps = (block.end + shape.rows - 1) / shape.rows;
  for (uint32_t step = first_step; step < steps; step += kUnroll) {
    LaneCodes<PlainElements> elements[kUnroll];  // coded: sign and mantissa, then tops
    uint32_t codes[kUnroll];
    uint32_t places[kUnroll];
    uint32_t at[kUnroll];
    bool present[kUnroll];
#pragma unroll
    for (uint32_t u = 0; u < kUnroll; ++u) {
      const uint32_t row = (step + u) * shape.rows + shape.row;
      present[u] = holds && row >= block.begin && row < block.end;
      elements[u] = {};
      const bool coded = !plan.plain && holds && row < block.n;
      codes[u] = coded ? shared.codes[(step + u) * 32 + lane_id()] : 0;
      places[u] = coded ? escape_places<kBits>(codes[u], places_of_lane) : 0;
      if (!present[u]) continue;
      const unsigned char* from = rows + (block.first + row) * row_bytes;
      if (plan.plain) {
        read_codes<PlainElements, true>(from, shape, vectors, &elements[u]);
        continue;
      }
      LaneCodes<ByteCodes> bytes;
      read_codes<ByteCodes, true>(from, shape, vectors, &bytes);
      elements[u].words[0] = bytes.words[0];
      elements[u].words[1] = bytes.words[1];
      if constexpr (kBits == 3) {
        read_codes<ByteCodes, true>(tops_of(s, plan, block.head, token_of(block, row)), shape,
                                    vectors, &bytes);
        elements[u].words[2] = bytes.words[0];
        elements[u].words[3] = bytes.words[1];
      }
    }
    if (!plan.plain) place_escapes(places, &before, at);
#pragma unroll
    for (uint32_t u = 0; u < kUnroll; ++u) {
      if (step + u >= steps) break;
      if (!plan.plain && present[u]) {
        LaneExponents exponents = decode_exponents<kBits>(plan, codes[u], elements[u].words + 2);
        put_escapes<kBits>(escapes, at[u], places[u], &exponents);
        const uint32_t rest[2] = {elements[u].words[0], elements[u].words[1]};
        join_elements(rest, exponents, shape.dims, elements[u].words);
      }
      const uint32_t row = (step + u) * shape.rows + shape.row;
      float v[kVectorDims];
      const int32_t wrong = decode_lane<PlainElements>(s, shape, elements[u], {}, v);
      if (present[u] && wrong != 0) bad = wrong;
      if (rotates) {
        if (s.table_token_stride != 0 && present[u])
          load_rotation(s, shape, token_of(block, row), &rotation);
        rotate_lanes(s, shape, rotation, shared.scratch, v);
      }
      const int64_t to = present[u] ? shared.engine_rows[row] : -1;
      if (to >= 0 && bad == 0) write_lane<PlainElements>(s, shape, block.head, to, elements[u], v);
    }
  }
  if (holds && bad != 0) set_status(status, bad);
  sync_warp();  // the next block uses the shared memory again
}

template <uint32_t kBits>
__global__ void __launch_bounds__(kWarps * 32)
    load_exponent(const __grid_constant__ SectionPack pack) {
  QUIRE_SHARED(float, scratch, kWarps* kHeadDimMax);
  QUIRE_SHARED(uint32_t, codes, kWarps * 32 * kEscapeIndexRows);
  QUIRE_SHARED(int64_t, engine_rows, kWarps * kEscapeIndexRows);
  QUIRE_SHARED(unsigned char, escapes, kWarps* kStagedEscapes);
  const uint32_t warp = warp_id();
  const ExponentShared shared{scratch + warp * kHeadDimMax, codes + warp * 32 * kEscapeIndexRows,
                              engine_rows + warp * kEscapeIndexRows,
                              escapes + warp * kStagedEscapes};
  for (uint32_t unit = blockIdx.x * kWarps + warp; unit < pack.n_units;
       unit += gridDim.x * kWarps) {
    const Section& s = section_of_unit(pack, unit);
    const uint32_t local = unit - s.unit_begin;
    ExponentBlock block;
    block.head = local % s.n_heads;
    block.head_row = uint64_t{block.head} * s.n_tokens;
    const uint64_t begin = block.head_row + s.token_begin;
    const uint64_t end = block.head_row + s.token_end;
    block.index = begin / kEscapeIndexRows + local / s.n_heads;
    block.first = block.index * kEscapeIndexRows;
    if (block.first >= end) continue;  // heads may begin inside a block: then some have one less
    const uint64_t left = uint64_t{s.n_heads} * s.n_tokens - block.first;
    block.n = left < kEscapeIndexRows ? static_cast<uint32_t>(left) : kEscapeIndexRows;
    block.begin = begin > block.first ? static_cast<uint32_t>(begin - block.first) : 0;
    block.end = end - block.first < block.n ? static_cast<uint32_t>(end - block.first) : block.n;
    load_exponent_block<kBits>(s, block, shared, pack.status);
  }
}

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_LOAD_EXPONENT_CUH_
