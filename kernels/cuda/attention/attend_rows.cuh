// Recompute attention: scattered query rows, each with its own causal limit, over pages.
//
// A CTA owns a tile of packed rows - the query heads of one KV head's group, times tokens - so that
// a tile of keys is fetched once for the whole group. The KV loop runs from the least to the
// greatest token that any row of the tile sees and masks only the tiles that some row does not see
// whole: with ascending positions that is the diagonal alone. Two stages of cp.async; K as the
// column operand through ldmatrix, V through ldmatrix.trans; P stays in registers.
// kSums: a second pass that knows each row's log-sum-exp and adds up probabilities instead.
#ifndef QUIRE_KERNELS_CUDA_ATTENTION_ATTEND_ROWS_CUH_
#define QUIRE_KERNELS_CUDA_ATTENTION_ATTEND_ROWS_CUH_

#include "kernels/cuda/attention/common.cuh"

namespace quire_cuda {

struct RowsArguments {
  quire_attend_rows_params p;
  float* lse2;  // [row][query head], base 2, of the scaled logits
  const int32_t* status;
};

template <uint32_t kDims_, bool kBf16_, bool kSums_>
struct RowsConfig {
  static constexpr uint32_t kDims = kDims_;
  static constexpr bool kBf16 = kBf16_;
  static constexpr bool kSums = kSums_;
  static constexpr uint32_t kWarps = kDims > 128 ? 4 : 8;
  static constexpr uint32_t kThreads = kWarps * 32;
  static constexpr uint32_t kRows = kWarps * kMmaRows;
  static constexpr uint32_t kTokens = kDims > 128 ? 32 : 64;
  static constexpr uint32_t kStride = kDims + kRowPad;  // halves
  static constexpr uint32_t kStages = 2;
  static constexpr uint32_t kQueryBytes = kRows * kStride * 2;
  static constexpr uint32_t kTileBytes = kTokens * kStride * 2;
  static constexpr uint32_t kSumStride = kTokens + 1;  // floats
  static constexpr uint32_t kKeysAt = kQueryBytes;
  static constexpr uint32_t kValuesAt = kKeysAt + kStages * kTileBytes;
  static constexpr uint32_t kSharedBytes =
      kValuesAt + (kSums ? kRows * kSumStride * 4 : kStages * kTileBytes);
  static_assert(kDims % kMmaDepth == 0 && kTileBytes % 16 == 0);
};

// What a tile of rows sees of the sequence.
struct TileLimits {
  uint32_t begin;      // first token any row sees
  uint32_t end;        // one past the last
  uint32_t all_begin;  // all rows see [all_begin, all_end)
  uint32_t all_end;
};

// Queries into shared memory, limits into low/high; rows beyond the last see nothing.
template <class C>
QUIRE_DEVICE TileLimits load_query_tile(const quire_attend_rows_params& p, uint32_t first_packed,
                                        uint32_t kv_head, uint16_t* queries, uint32_t* low,
                                        uint32_t* high) {
  const uint32_t group = p.n_query_heads / p.n_kv_heads;
  const uint32_t packed_rows = p.n_rows * group;
  const uint32_t size = quire_kernels::element_bytes(p.query.dtype);
  for (uint32_t i = threadIdx.x; i < C::kRows * C::kDims; i += C::kThreads) {
    const uint32_t row = i / C::kDims;
    const uint32_t dim = i % C::kDims;
    const uint32_t packed = first_packed + row;
    float value = 0;
    if (packed < packed_rows && dim < p.key_dims)
      value =
          load_element(p.query.dtype, static_cast<const unsigned char*>(p.query.data) +
                                          packed / group * p.query.row_stride +
                                          (kv_head * group + packed % group) * p.query.head_stride +
                                          static_cast<int64_t>(dim) * size);
    queries[row * C::kStride + dim] = to_half<C::kBf16>(value);
  }
  if (threadIdx.x < C::kRows) {
    const uint32_t packed = first_packed + threadIdx.x;
    const bool exists = packed < packed_rows;
    const uint32_t end = exists ? static_cast<uint32_t>(p.q_pos[packed / group]) + 1 : 0;
    high[threadIdx.x] = end;
    low[threadIdx.x] = p.window > 0 && end > p.window ? end - p.window : 0;
  }
  sync_block();
  uint32_t most_high = 0, least_high = 0xffffffffu, most_low = 0, least_low = 0xffffffffu;
  for (uint32_t row = lane_id(); row < C::kRows; row += 32) {
    if (high[row] == 0) continue;
    most_high = high[row] > most_high ? high[row] : most_high;
    least_high = high[row] < least_high ? high[row] : least_high;
    most_low = low[row] > most_low ? low[row] : most_low;
    least_low = low[row] < least_low ? low[row] : least_low;
  }
  return {reduce_min(least_low), reduce_max(most_high), reduce_max(most_low),
          reduce_min(least_high)};
}

// Issues the copies of one tile of K and, unless sums are wanted, of V. Tokens outside of the
// limits and dims beyond the head's are zeros.
template <class C>
QUIRE_DEVICE void copy_tile(const quire_attend_rows_params& p, uint32_t kv_head, uint32_t token,
                            const TileLimits& limits, unsigned char* keys, unsigned char* values) {
  constexpr uint32_t kPieces = C::kDims / 8;
  const auto* key_base =
      static_cast<const unsigned char*>(p.kv.key) + kv_head * p.kv.key_head_stride;
  const auto* value_base =
      static_cast<const unsigned char*>(p.kv.value) + kv_head * p.kv.value_head_stride;
  for (uint32_t i = threadIdx.x; i < C::kTokens * kPieces; i += C::kThreads) {
    const uint32_t row = i / kPieces;
    const uint32_t piece = i % kPieces;
    const uint32_t at = token + row;
    const bool seen = at >= limits.begin && at < limits.end && piece * 8 < p.key_dims;
    const uint32_t source = seen ? at : limits.begin;
    const int64_t page = p.kv.block_table[source / p.kv.page_tokens];
    const uint32_t in_page = source % p.kv.page_tokens;
    const uint32_t shared = (row * C::kStride + piece * 8) * 2;
    const int64_t offset = seen ? piece * 16 : 0;
    cp_async16(keys + shared,
               key_base + page * p.kv.key_page_stride + in_page * p.kv.key_token_stride + offset,
               seen);
    if (!C::kSums)
      cp_async16(
          values + shared,
          value_base + page * p.kv.value_page_stride + in_page * p.kv.value_token_stride + offset,
          seen);
  }
}

// Logits of this warp's 16 rows, scaled to base 2; -inf where a row does not see a token.
template <class C>
QUIRE_DEVICE void tile_logits(const quire_attend_rows_params& p, const uint16_t* queries,
                              const uint16_t* keys, uint32_t token, const TileLimits& limits,
                              const uint32_t* low, const uint32_t* high,
                              float (&s)[C::kTokens / 8][4]) {
  const uint32_t lane = lane_id();
  const uint32_t first_row = warp_id() * kMmaRows;
#pragma unroll
  for (uint32_t n = 0; n < C::kTokens / 8; ++n)
    for (uint32_t i = 0; i < 4; ++i) s[n][i] = 0;
#pragma unroll
  for (uint32_t k = 0; k < C::kDims; k += kMmaDepth) {
    uint32_t a[4];
    ldmatrix_x4(a, queries + (first_row + lane % 16) * C::kStride + k + lane / 16 * 8);
#pragma unroll
    for (uint32_t n = 0; n < C::kTokens / 16; ++n) {
      uint32_t b[4];
      ldmatrix_x4(b,
                  keys + (n * 16 + lane / 16 * 8 + lane % 8) * C::kStride + k + lane / 8 % 2 * 8);
      const uint32_t even[2] = {b[0], b[1]};
      const uint32_t odd[2] = {b[2], b[3]};
      multiply<C::kBf16>(s[2 * n], a, even);
      multiply<C::kBf16>(s[2 * n + 1], a, odd);
    }
  }
  const bool whole = token >= limits.all_begin && token + C::kTokens <= limits.all_end;
  const uint32_t upper = first_row + lane / 4;
#pragma unroll
  for (uint32_t n = 0; n < C::kTokens / 8; ++n)
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const float logit = cap_logit(s[n][i] * p.scale, p.softcap) * kLog2E;
      const uint32_t row = upper + i / 2 * 8;
      const uint32_t at = token + n * 8 + lane % 4 * 2 + i % 2;
      const bool seen = whole || (at >= low[row] && at < high[row]);
      s[n][i] = seen ? logit : -INFINITY;
    }
}

// The largest of a row's logits, over the four lanes that hold it.
template <uint32_t kBlocks>
QUIRE_DEVICE float row_max(const float (&s)[kBlocks][4], uint32_t half) {
  float most = -INFINITY;
#pragma unroll
  for (uint32_t n = 0; n < kBlocks; ++n)
    most = fmaxf(most, fmaxf(s[n][half * 2], s[n][half * 2 + 1]));
  most = fmaxf(most, shfl_xor(most, 1));
  return fmaxf(most, shfl_xor(most, 2));
}

template <class C>
struct RowsState {
  float out[C::kDims / 8][4];
  float greatest[2];
  float total[2];  // of this lane's columns
};

template <class C>
QUIRE_DEVICE void weigh_tile(RowsState<C>& state, float (&s)[C::kTokens / 8][4]) {
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    const float most = fmaxf(state.greatest[half], row_max(s, half));
    // A row that has seen nothing yet: any finite number gives weights of 0.
    const float shift = most == -INFINITY ? 0.0f : most;
    const float factor = exp2_fast(state.greatest[half] - shift);
    state.greatest[half] = most;
    state.total[half] *= factor;
#pragma unroll
    for (uint32_t n = 0; n < C::kDims / 8; ++n) {
      state.out[n][half * 2] *= factor;
      state.out[n][half * 2 + 1] *= factor;
    }
#pragma unroll
    for (uint32_t n = 0; n < C::kTokens / 8; ++n)
#pragma unroll
      for (uint32_t i = half * 2; i < half * 2 + 2; ++i) {
        s[n][i] = exp2_fast(s[n][i] - shift);
        state.total[half] += s[n][i];
      }
  }
}

template <class C>
QUIRE_DEVICE void add_values(RowsState<C>& state, const float (&s)[C::kTokens / 8][4],
                             const uint16_t* values) {
  const uint32_t lane = lane_id();
#pragma unroll
  for (uint32_t k = 0; k < C::kTokens / 16; ++k) {
    const uint32_t a[4] = {pack_halves<C::kBf16>(s[2 * k][0], s[2 * k][1]),
                           pack_halves<C::kBf16>(s[2 * k][2], s[2 * k][3]),
                           pack_halves<C::kBf16>(s[2 * k + 1][0], s[2 * k + 1][1]),
                           pack_halves<C::kBf16>(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
    for (uint32_t n = 0; n < C::kDims / 16; ++n) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, values + (k * 16 + lane % 16) * C::kStride + n * 16 + lane / 16 * 8);
      const uint32_t even[2] = {b[0], b[1]};
      const uint32_t odd[2] = {b[2], b[3]};
      multiply<C::kBf16>(state.out[2 * n], a, even);
      multiply<C::kBf16>(state.out[2 * n + 1], a, odd);
    }
  }
}

template <class C>
QUIRE_DEVICE void write_rows(const RowsArguments& arguments, RowsState<C>& state,
                             uint32_t first_packed, uint32_t kv_head) {
  const quire_attend_rows_params& p = arguments.p;
  const uint32_t lane = lane_id();
  const uint32_t group = p.n_query_heads / p.n_kv_heads;
  const uint32_t size = quire_kernels::element_bytes(p.out.dtype);
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    float total = state.total[half];
    total += shfl_xor(total, 1);
    total += shfl_xor(total, 2);
    const uint32_t packed = first_packed + warp_id() * kMmaRows + lane / 4 + half * 8;
    if (packed >= p.n_rows * group) continue;
    const uint32_t row = packed / group;
    const uint32_t head = kv_head * group + packed % group;
    if (lane % 4 == 0) {
      const uint64_t at = static_cast<uint64_t>(row) * p.n_query_heads + head;
      const float lse2 = state.greatest[half] + log2_fast(total);
      if (arguments.lse2 != nullptr) arguments.lse2[at] = lse2;
      if (p.lse != nullptr) p.lse[at] = lse2 * kLn2;
    }
    unsigned char* out =
        static_cast<unsigned char*>(p.out.data) + row * p.out.row_stride + head * p.out.head_stride;
    const float scale = 1 / total;
#pragma unroll
    for (uint32_t n = 0; n < C::kDims / 8; ++n)
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        const uint32_t dim = n * 8 + lane % 4 * 2 + i;
        if (dim < p.value_dims)
          store_element(p.out.dtype, state.out[n][half * 2 + i] * scale,
                        out + static_cast<int64_t>(dim) * size);
      }
  }
}

// Probabilities of a tile to the sums of chunks and columns.
template <class C>
QUIRE_DEVICE void add_sums(const RowsArguments& arguments, const float (&s)[C::kTokens / 8][4],
                           uint32_t first_packed, uint32_t kv_head, uint32_t token,
                           const TileLimits& limits, float* tile) {
  const quire_attend_rows_params& p = arguments.p;
  const uint32_t lane = lane_id();
  const uint32_t group = p.n_query_heads / p.n_kv_heads;
  for (uint32_t half = 0; half < 2; ++half) {
    const uint32_t row = warp_id() * kMmaRows + lane / 4 + half * 8;
    const uint32_t packed = first_packed + row;
    const bool exists = packed < p.n_rows * group;
    const uint64_t at =
        static_cast<uint64_t>(packed / group) * p.n_query_heads + kv_head * group + packed % group;
    const float lse2 = exists ? arguments.lse2[at] : 0;
    for (uint32_t n = 0; n < C::kTokens / 8; ++n)
      for (uint32_t i = 0; i < 2; ++i)
        tile[row * C::kSumStride + n * 8 + lane % 4 * 2 + i] =
            exists ? exp2_fast(s[n][half * 2 + i] - lse2) : 0;
  }
  sync_block();
  if (p.column_sums != nullptr && threadIdx.x < C::kTokens && token + threadIdx.x >= limits.begin &&
      token + threadIdx.x < limits.end) {
    float sum = 0;
    for (uint32_t row = 0; row < C::kRows; ++row) sum += tile[row * C::kSumStride + threadIdx.x];
    atomic_add(p.column_sums + token + threadIdx.x, static_cast<double>(sum));
  }
  const uint32_t packed = first_packed + threadIdx.x;
  if (p.chunk_mass != nullptr && threadIdx.x < C::kRows && packed < p.n_rows * group) {
    double* mass = p.chunk_mass + static_cast<uint64_t>(packed / group) * p.n_chunks;
    int32_t chunk = -1;
    float sum = 0;
    for (uint32_t t = 0; t <= C::kTokens; ++t) {
      const uint32_t at = token + t;
      const int32_t next =
          t < C::kTokens && at >= limits.begin && at < limits.end ? p.token_chunk[at] : -1;
      if (next != chunk) {
        if (chunk >= 0 && sum != 0) atomic_add(mass + chunk, static_cast<double>(sum));
        chunk = next;
        sum = 0;
      }
      if (next >= 0) sum += tile[threadIdx.x * C::kSumStride + t];
    }
  }
  sync_block();
}

template <class C>
__global__ void __launch_bounds__(C::kThreads)
    attend_rows(const __grid_constant__ RowsArguments arguments) {
  QUIRE_DYNAMIC_SHARED(shared);
  QUIRE_SHARED(uint32_t, low, C::kRows);
  QUIRE_SHARED(uint32_t, high, C::kRows);
  if (*arguments.status != 0) return;
  const quire_attend_rows_params& p = arguments.p;
  const uint32_t first_packed = blockIdx.x * C::kRows;
  const uint32_t kv_head = blockIdx.y;
  unsigned char* bytes = shared;
  auto* queries = reinterpret_cast<uint16_t*>(bytes);
  auto* sums = reinterpret_cast<float*>(bytes + C::kValuesAt);
  const TileLimits limits = load_query_tile<C>(p, first_packed, kv_head, queries, low, high);
  auto keys_of = [&](uint32_t stage) { return bytes + C::kKeysAt + stage * C::kTileBytes; };
  auto values_of = [&](uint32_t stage) { return bytes + C::kValuesAt + stage * C::kTileBytes; };

  RowsState<C> state;
#pragma unroll
  for (uint32_t n = 0; n < C::kDims / 8; ++n)
    for (uint32_t i = 0; i < 4; ++i) state.out[n][i] = 0;
  for (uint32_t half = 0; half < 2; ++half) {
    state.greatest[half] = -INFINITY;
    state.total[half] = 0;
  }
  const uint32_t first = limits.begin / C::kTokens * C::kTokens;
  copy_tile<C>(p, kv_head, first, limits, keys_of(0), values_of(0));
  cp_async_commit();
  uint32_t stage = 0;
  for (uint32_t token = first; token < limits.end; token += C::kTokens) {
    if (token + C::kTokens < limits.end)
      copy_tile<C>(p, kv_head, token + C::kTokens, limits, keys_of(stage ^ 1),
                   values_of(stage ^ 1));
    cp_async_commit();
    cp_async_wait<1>();
    sync_block();
    float s[C::kTokens / 8][4];
    tile_logits<C>(p, queries, reinterpret_cast<const uint16_t*>(keys_of(stage)), token, limits,
                   low, high, s);
    if constexpr (C::kSums) {
      add_sums<C>(arguments, s, first_packed, kv_head, token, limits, sums);
    } else {
      weigh_tile<C>(state, s);
      add_values<C>(state, s, reinterpret_cast<const uint16_t*>(values_of(stage)));
    }
    sync_block();
    stage ^= 1;
  }
  cp_async_wait<0>();
  if constexpr (!C::kSums) write_rows<C>(arguments, state, first_packed, kv_head);
}

template <bool kBf16, bool kSums, uint32_t kDims>
int launch_rows(const RowsArguments& arguments, void* stream) {
  using C = RowsConfig<kDims, kBf16, kSums>;
  const quire_attend_rows_params& p = arguments.p;
  const uint32_t packed = p.n_rows * (p.n_query_heads / p.n_kv_heads);
  const Dim3 grid((packed + C::kRows - 1) / C::kRows, p.n_kv_heads);
  return QUIRE_LAUNCH((attend_rows<C>), grid, C::kThreads, C::kSharedBytes, stream, arguments);
}

template <bool kBf16, bool kSums>
int launch_rows_of_dims(const RowsArguments& arguments, void* stream) {
  const uint32_t dims = arguments.p.key_dims;
  if (dims <= 64) return launch_rows<kBf16, kSums, 64>(arguments, stream);
  if (dims <= 96) return launch_rows<kBf16, kSums, 96>(arguments, stream);
  if (dims <= 128) return launch_rows<kBf16, kSums, 128>(arguments, stream);
  return launch_rows<kBf16, kSums, 256>(arguments, stream);
}

// One unit each.
int launch_rows_f16(const RowsArguments& arguments, void* stream);
int launch_rows_bf16(const RowsArguments& arguments, void* stream);
int launch_row_sums_f16(const RowsArguments& arguments, void* stream);
int launch_row_sums_bf16(const RowsArguments& arguments, void* stream);

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_ATTENTION_ATTEND_ROWS_CUH_
