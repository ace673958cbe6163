// Decode over chunks, one piece: up to 256 tokens of one chunk ref or tail against up to eight
// query heads of one KV head. Keys and values are the rows of the mma and the heads its eight
// columns, so that small groups waste no shared memory traffic on padding. Codes come by cp.async,
// two tiles deep, and are expanded to halves in shared memory: integers up to 255 are exact there.
// The query is split into two halves, which keeps its fp32 precision; zeros and channel constants
// are added in fp32. Bound by bytes of codes and by the expansion; the products are a few per cent.
#include "kernels/cuda/attention/decode_fold.cuh"

namespace quire_cuda {
namespace {

// Registers are held to what lets so many CTAs of raw 128-dim pages share an SM.
constexpr uint32_t kCtasOfMultiprocessor = 3;
constexpr uint32_t kDimBlocksOfWarp =
    QUIRE_ATTENTION_DIMS_MAX / kMmaRows / kDecodeWarps;  // of 16 dims

struct Piece {
  PlaneView keys;
  PlaneView values;
  const int32_t* table;  // tails: the request's pages; else NULL
  const float* turns;    // NULL = the query as it is
  const float* bounds;   // of the KV head's pages; NULL = nothing is skipped
  uint32_t row;
  uint32_t kv_head;
  uint32_t begin;
  uint32_t end;
  bool bf16_keys;
  bool bf16_values;
};

QUIRE_DEVICE uint32_t last_not_above(const uint32_t* begins, uint32_t n, uint32_t value) {
  uint32_t low = 0;
  uint32_t high = n;
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    if (begins[middle] <= value)
      low = middle;
    else
      high = middle;
  }
  return low;
}

QUIRE_DEVICE PlaneView view_of(int32_t codec, int32_t plane, const void* section, uint32_t tokens,
                               uint32_t dims, uint32_t head) {
  return quire_kernels::plane_view(codec, plane, section, tokens, dims, head);
}

QUIRE_DEVICE Piece find_piece(const DecodeArguments& a, uint32_t index, uint32_t kv_head) {
  Piece piece;
  const uint32_t item = last_not_above(a.piece_begin, a.n_items, index);
  piece.row = last_not_above(a.item_begin, a.n_requests, item);
  piece.kv_head = kv_head;
  const quire_decode_request& request = a.requests[piece.row];
  const uint32_t nth = item - a.item_begin[piece.row];
  const uint32_t first = (index - a.piece_begin[item]) * kPieceTokens;
  piece.table = nullptr;
  piece.turns = nullptr;
  piece.bounds = nullptr;
  uint32_t last;
  if (nth < request.ref_end - request.ref_begin) {
    const quire_chunk_ref& ref = a.refs[request.ref_begin + nth];
    const quire_chunk_kv& chunk = a.chunks[ref.chunk];
    piece.keys =
        view_of(chunk.key_codec, QUIRE_PLANE_KEY, chunk.key, chunk.n_tokens, a.dims, kv_head);
    piece.values =
        view_of(chunk.value_codec, QUIRE_PLANE_VALUE, chunk.value, chunk.n_tokens, a.dims, kv_head);
    if (a.rope_style != QUIRE_ROPE_STYLE_NONE && chunk.base_position != ref.start_position)
      piece.turns = a.turns + static_cast<uint64_t>(request.ref_begin + nth) * a.rotary_dims;
    if (a.page_threshold > 0 && chunk.key_bounds != nullptr) {
      const uint32_t pages = (chunk.n_tokens + a.page_tokens - 1) / a.page_tokens;
      piece.bounds = chunk.key_bounds + static_cast<uint64_t>(kv_head) * pages * 2 * a.dims;
    }
    piece.begin = ref.token_begin + first;
    last = ref.token_end;
  } else {
    piece.keys =
        view_of(a.tail.dtype, QUIRE_PLANE_KEY, nullptr, request.tail_tokens, a.dims, kv_head);
    piece.values = piece.keys;
    piece.table = a.tail.block_table + request.tail_table_begin;
    piece.begin = first;
    last = request.tail_tokens;
  }
  piece.end = last - piece.begin < kPieceTokens ? last : piece.begin + kPieceTokens;
  piece.bf16_keys = piece.keys.codec == QUIRE_CODEC_RAW_BF16;
  piece.bf16_values = piece.values.codec == QUIRE_CODEC_RAW_BF16;
  return piece;
}

QUIRE_DEVICE uint32_t tile_tokens(const Piece& piece, uint32_t token) {
  const uint32_t left = piece.end - token;
  const uint32_t in_run = quire_kernels::run_left(piece.keys, token);
  const uint32_t n = left < in_run ? left : in_run;
  return n < kTileTokens ? n : kTileTokens;
}

// Where a plane's codes of a tile begin in its stage: code rows are only 2-byte aligned in general.
QUIRE_DEVICE uint32_t skew_of(const PlaneView& view, uint32_t token, bool paged) {
  return paged ? 0
               : static_cast<uint32_t>(
                     reinterpret_cast<uintptr_t>(quire_kernels::code_row(view, token)) % 16);
}

QUIRE_DEVICE void copy_codes(const PlaneView& view, uint32_t token, uint32_t n,
                             unsigned char* stage) {
  const unsigned char* from = quire_kernels::code_row(view, token);
  const uint32_t skew = skew_of(view, token, false);
  const auto bytes = static_cast<uint32_t>(n * quire_kernels::row_stride(view));
  for (uint32_t at = threadIdx.x * 16; at < skew + bytes; at += kDecodeThreads * 16)
    cp_async16(stage + at, from - skew + at);
}

QUIRE_DEVICE void copy_pages(const DecodeArguments& a, const Piece& piece, uint32_t token,
                             uint32_t n, unsigned char* keys, unsigned char* values) {
  const uint32_t pieces = a.dims / 8;
  for (uint32_t i = threadIdx.x; i < n * pieces; i += kDecodeThreads) {
    const uint32_t at = token + i / pieces;
    const int64_t page = piece.table[at / a.tail.page_tokens];
    const uint32_t in_page = at % a.tail.page_tokens;
    const uint32_t offset = i % pieces * 16;
    cp_async16(keys + i * 16, static_cast<const unsigned char*>(a.tail.key) +
                                  page * a.tail.key_page_stride +
                                  in_page * a.tail.key_token_stride +
                                  piece.kv_head * a.tail.key_head_stride + offset);
    cp_async16(values + i * 16, static_cast<const unsigned char*>(a.tail.value) +
                                    page * a.tail.value_page_stride +
                                    in_page * a.tail.value_token_stride +
                                    piece.kv_head * a.tail.value_head_stride + offset);
  }
}

QUIRE_DEVICE void copy_stage(const DecodeArguments& a, const Piece& piece, uint32_t token,
                             unsigned char* keys, unsigned char* values) {
  const uint32_t n = tile_tokens(piece, token);
  if (piece.table != nullptr) {
    copy_pages(a, piece, token, n, keys, values);
  } else {
    copy_codes(piece.keys, token, n, keys);
    copy_codes(piece.values, token, n, values);
  }
}

// This warp's 16 tokens against all heads, scaled to base 2, into s.logit.
QUIRE_DEVICE void tile_logits(const DecodeArguments& a, const Piece& piece, uint32_t token,
                              uint32_t n, const DecodeShared& s) {
  const uint32_t lane = lane_id();
  const uint32_t stride = a.dims + kRowPad;
  const uint32_t first = warp_id() * kMmaRows;
  float sum[4] = {0, 0, 0, 0};
  for (uint32_t k = 0; k < a.dims; k += kMmaDepth) {
    uint32_t codes[4];
    uint32_t high[2];
    uint32_t low[2];
    ldmatrix_x4(codes, s.tile + (first + lane % 16) * stride + k + lane / 16 * 8);
    ldmatrix_x2(high, s.w_high + lane % 8 * stride + k + lane / 8 % 2 * 8);
    ldmatrix_x2(low, s.w_low + lane % 8 * stride + k + lane / 8 % 2 * 8);
    if (piece.bf16_keys) {
      mma_bf16(sum, codes, high);
      mma_bf16(sum, codes, low);
    } else {
      mma_f16(sum, codes, high);
      mma_f16(sum, codes, low);
    }
  }
  const bool per_token =
      piece.keys.spec.kind != SectionKind::kChannel && piece.keys.spec.kind != SectionKind::kRaw;
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t t = first + lane / 4 + i / 2 * 8;
    const uint32_t h = lane % 4 * 2 + i % 2;
    Affine affine{0, 1};
    if (per_token && t < n) affine = quire_kernels::token_affine(piece.keys, token + t, 0);
    const float product = sum[i] * s.w_greatest[h];
    const float logit =
        fmaf(product, affine.scale, fmaf(affine.zero, s.w_sum[h], s.constant[h])) * a.scale;
    s.logit[h * kTileTokens + t] =
        t < n ? cap_logit(logit, a.softcap) * kLog2E : -static_cast<float>(INFINITY);
  }
}

// Weights of this warp's heads, with the values' scales folded in, relative to the tile's largest.
QUIRE_DEVICE void weigh_tile(const DecodeArguments& a, const Piece& piece, uint32_t token,
                             uint32_t n, uint32_t heads, const DecodeShared& s) {
  const uint32_t lane = lane_id();
  const quire_kernels::PlaneSpec& spec = piece.values.spec;
  const bool folds =
      spec.kind == SectionKind::kFp8 || (spec.kind == SectionKind::kToken && spec.group_dims == 0);
  Affine affine[2] = {{0, 0}, {0, 0}};
  float most_scale = 0;
  for (uint32_t i = 0; i < 2; ++i) {
    const uint32_t t = lane + 32 * i;
    if (t < n)
      affine[i] = folds ? quire_kernels::token_affine(piece.values, token + t, 0) : Affine{0, 1};
    most_scale = fmaxf(most_scale, fabsf(affine[i].scale));
  }
  most_scale = reduce_max(most_scale);
  most_scale = most_scale > 0 ? most_scale : 1.0f;
  uint32_t used = 0;
  for (uint32_t j = 0; j < kHeadsOfWarp; ++j) {
    const uint32_t h = warp_id() * kHeadsOfWarp + j;
    const float logit[2] = {s.logit[h * kTileTokens + lane], s.logit[h * kTileTokens + lane + 32]};
    const float most = reduce_max(fmaxf(logit[0], logit[1]));
    const float before = s.greatest[h];
    const bool skip = a.block_threshold > 0 && most < before - a.block_threshold * kLog2E;
    const float now = fmaxf(before, most);
    float total = 0;
    float zeros = 0;
    for (uint32_t i = 0; i < 2; ++i) {
      const float p = skip ? 0.0f : exp2_fast(logit[i] - now);
      total += p;
      zeros = fmaf(p, affine[i].zero, zeros);
      const float folded = p * (affine[i].scale / most_scale);
      s.weight[h * kWeightStride + lane + 32 * i] =
          piece.bf16_values ? float_to_bf16(folded) : float_to_f16(folded);
    }
    total = reduce_sum(total);
    zeros = reduce_sum(zeros);
    used |= skip || h >= heads ? 0u : 1u;
    sync_warp();
    if (lane == 0) {
      const float factor = exp2_fast(before - now);
      s.factor[h] = factor;
      s.greatest[h] = now;
      s.total[h] = fmaf(s.total[h], factor, total);
      s.zero_sum[h] = fmaf(s.zero_sum[h], factor, zeros);
    }
  }
  if (lane != 0) return;
  s.used[warp_id()] = used;
  if (warp_id() == 0) *s.value_scale = most_scale;
}

// out += values * weights, for this warp's blocks of 16 dims.
QUIRE_DEVICE void add_values(const DecodeArguments& a, const Piece& piece, const DecodeShared& s,
                             float (&out)[kDimBlocksOfWarp][4]) {
  const uint32_t lane = lane_id();
  const uint32_t stride = a.dims + kRowPad;
  const float factor[2] = {s.factor[lane % 4 * 2], s.factor[lane % 4 * 2 + 1]};
#pragma unroll
  for (uint32_t j = 0; j < kDimBlocksOfWarp; ++j) {
    const uint32_t dim = (warp_id() + j * kDecodeWarps) * kMmaRows;
    if (dim >= a.dims) continue;
    float sum[4] = {0, 0, 0, 0};
#pragma unroll
    for (uint32_t k = 0; k < kTileTokens; k += kMmaDepth) {
      uint32_t values[4];
      uint32_t weights[2];
      ldmatrix_x4_trans(values,
                        s.tile + (k + lane / 16 * 8 + lane % 8) * stride + dim + lane / 8 % 2 * 8);
      ldmatrix_x2(weights, s.weight + lane % 8 * kWeightStride + k + lane / 8 % 2 * 8);
      if (piece.bf16_values)
        mma_bf16(sum, values, weights);
      else
        mma_f16(sum, values, weights);
    }
    for (uint32_t i = 0; i < 4; ++i)
      out[j][i] = fmaf(out[j][i], factor[i % 2], sum[i] * *s.value_scale);
  }
}

QUIRE_DEVICE void write_partial(const DecodeArguments& a, const Piece& piece, uint32_t index,
                                uint32_t head, uint32_t heads, const DecodeShared& s,
                                const float (&out)[kDimBlocksOfWarp][4]) {
  const uint32_t lane = lane_id();
#pragma unroll
  for (uint32_t j = 0; j < kDimBlocksOfWarp; ++j) {
    const uint32_t dim = (warp_id() + j * kDecodeWarps) * kMmaRows;
    if (dim >= a.dims) continue;
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t h = lane % 4 * 2 + i % 2;
      s.w[h * a.dims + dim + lane / 4 + i / 2 * 8] = out[j][i] + s.zero_sum[h];
    }
  }
  sync_block();
  hadamard_rows(s.w, a.dims, quire_kernels::plane_hadamard(piece.values));
  const uint64_t first = static_cast<uint64_t>(index) * a.n_query_heads + head;
  for (uint32_t i = threadIdx.x; i < heads * a.dims; i += kDecodeThreads)
    a.partial[first * a.dims + i] = s.w[i];
  if (threadIdx.x < heads) {
    a.state[2 * (first + threadIdx.x)] = s.greatest[threadIdx.x];
    a.state[2 * (first + threadIdx.x) + 1] = s.total[threadIdx.x];
  }
}

QUIRE_DEVICE bool is_in_first_wave(const DecodeArguments& a, const Piece& piece, uint32_t index) {
  return piece.table != nullptr || index == a.piece_begin[a.item_begin[piece.row]];
}

// The greatest logit of each head in the pieces of the first wave.
QUIRE_DEVICE void find_floor(const DecodeArguments& a, const Piece& piece, uint32_t head,
                             uint32_t heads, const DecodeShared& s) {
  if (threadIdx.x >= kHeadsOfTile) return;
  float most = -static_cast<float>(INFINITY);
  if (a.wave == DecodeWave::kRest && threadIdx.x < heads) {
    auto greatest_of = [&](uint32_t index) {
      return a.state[2 * (static_cast<uint64_t>(index) * a.n_query_heads + head + threadIdx.x)];
    };
    const uint32_t last = a.item_begin[piece.row + 1] - 1;
    most = greatest_of(a.piece_begin[a.item_begin[piece.row]]);
    if (a.requests[piece.row].tail_tokens > 0)
      for (uint32_t i = a.piece_begin[last]; i < a.piece_begin[last + 1]; ++i)
        most = fmaxf(most, greatest_of(i));
  }
  s.floor[threadIdx.x] = most;
}

// Covers what the sums below and the query's turn lose in fp32, as a share of their terms.
constexpr float kBoundSlack = 0x1p-19f;

// Whether no key of the tile's pages can come within the threshold of any head's greatest logit. In
// step before and after.
QUIRE_DEVICE bool tile_is_far(const DecodeArguments& a, const Piece& piece, uint32_t token,
                              uint32_t n, uint32_t heads, const DecodeShared& s) {
  const uint32_t first = token / a.page_tokens;
  const uint32_t last = (token + n - 1) / a.page_tokens;
  bool far = true;
  for (uint32_t j = 0; j < kHeadsOfWarp; ++j) {
    const uint32_t h = warp_id() * kHeadsOfWarp + j;
    if (h >= heads) break;
    const float limit = fmaxf(s.greatest[h], s.floor[h]) - a.page_threshold * kLog2E;
    for (uint32_t page = first; far && page <= last; ++page) {
      const float* bounds = piece.bounds + static_cast<uint64_t>(page) * 2 * a.dims;
      float most = 0;
      float terms = 0;
      for (uint32_t d = lane_id(); d < a.dims; d += 32) {
        const float x = s.query[h * a.dims + d] * a.scale;
        const float at_least = x * bounds[d];
        const float at_most = x * bounds[a.dims + d];
        const float term = at_least > at_most ? at_least : at_most;
        most += term;
        terms += fabsf(term);
      }
      most = fmaf(reduce_sum(terms), kBoundSlack, reduce_sum(most));
      far = cap_logit(most, a.softcap) * kLog2E < limit;
    }
  }
  if (lane_id() == 0) s.far[warp_id()] = far ? 1 : 0;
  sync_block();
  uint32_t all = 1;
  for (uint32_t warp = 0; warp < kDecodeWarps; ++warp) all &= s.far[warp];
  sync_block();
  return all != 0;
}

// The first tile from `token` on that has to be looked at, or the piece's end.
QUIRE_DEVICE uint32_t next_tile(const DecodeArguments& a, const Piece& piece, uint32_t token,
                                uint32_t heads, const DecodeShared& s) {
  if (piece.bounds == nullptr) return token;
  while (token < piece.end) {
    const uint32_t n = tile_tokens(piece, token);
    if (!tile_is_far(a, piece, token, n, heads, s)) break;
    token += n;
  }
  return token;
}

// The query and what is added up, and the copy of the first tile to be looked at, which it returns.
QUIRE_DEVICE uint32_t start_piece(const DecodeArguments& a, const Piece& piece, uint32_t head,
                                  uint32_t heads, const DecodeShared& s) {
  unsigned char* const values = s.stage + a.stage_bytes;
  const bool skips = piece.bounds != nullptr;
  uint32_t token = piece.begin;
  if (!skips) copy_stage(a, piece, token, s.stage, values);
  cp_async_commit();
  load_query(a, piece.row, head, heads, piece.turns, s);
  if (threadIdx.x < kHeadsOfTile) {
    s.greatest[threadIdx.x] = -static_cast<float>(INFINITY);
    s.total[threadIdx.x] = 0;
    s.zero_sum[threadIdx.x] = 0;
  }
  if (!skips) return token;
  find_floor(a, piece, head, heads, s);
  sync_block();
  token = next_tile(a, piece, token, heads, s);
  if (token < piece.end) copy_stage(a, piece, token, s.stage, values);
  cp_async_commit();
  return token;
}

__global__ void __launch_bounds__(kDecodeThreads, kCtasOfMultiprocessor)
    decode_pieces(const __grid_constant__ DecodeArguments a) {
  QUIRE_DYNAMIC_SHARED(shared);
  if (*a.status != 0) return;
  const uint32_t group = a.n_query_heads / a.n_kv_heads;
  const uint32_t in_group = blockIdx.z * kHeadsOfTile;
  const uint32_t head = blockIdx.y * group + in_group;
  const uint32_t heads = group - in_group < kHeadsOfTile ? group - in_group : kHeadsOfTile;
  const Piece piece = find_piece(a, blockIdx.x, blockIdx.y);
  if (a.wave != DecodeWave::kAll &&
      is_in_first_wave(a, piece, blockIdx.x) != (a.wave == DecodeWave::kFirst))
    return;
  const DecodeShared s = carve(shared, a.dims);
  auto stage_of = [&](uint32_t stage, uint32_t plane) {
    return s.stage + (stage * 2 + plane) * a.stage_bytes;
  };
  uint32_t token = start_piece(a, piece, head, heads, s);
  float out[kDimBlocksOfWarp][4];
#pragma unroll
  for (uint32_t j = 0; j < kDimBlocksOfWarp; ++j)
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) out[j][i] = 0;
  const bool paged = piece.table != nullptr;
  uint32_t stage = 0;
  const bool runs = quire_kernels::has_runs(piece.keys.spec);
  uint32_t folded = ~0u;  // the run that the query is folded for
  while (token < piece.end) {
    const uint32_t n = tile_tokens(piece, token);
    cp_async_wait<0>();
    sync_block();
    const uint32_t next = next_tile(a, piece, token + n, heads, s);
    if (next < piece.end)
      copy_stage(a, piece, next, stage_of(stage ^ 1, 0), stage_of(stage ^ 1, 1));
    cp_async_commit();
    const uint32_t run = runs ? token / piece.keys.spec.run_tokens : 0;
    if (run != folded) fold_query(piece.keys, token, piece.bf16_keys, s);
    folded = run;
    expand_tile(piece.keys, stage_of(stage, 0) + skew_of(piece.keys, token, paged), token, n,
                s.tile);
    sync_block();
    tile_logits(a, piece, token, n, s);
    sync_block();
    weigh_tile(a, piece, token, n, heads, s);
    expand_tile(piece.values, stage_of(stage, 1) + skew_of(piece.values, token, paged), token, n,
                s.tile);
    sync_block();
    uint32_t used = 0;
    for (uint32_t warp = 0; warp < kDecodeWarps; ++warp) used |= s.used[warp];
    if (used != 0) add_values(a, piece, s, out);
    stage ^= 1;
    token = next;
  }
  cp_async_wait<0>();
  // The other warps may still add values up: they look at nothing that is written now.
  write_partial(a, piece, blockIdx.x, head, heads, s, out);
}

}  // namespace

size_t decode_shared_bytes(uint32_t dims, uint32_t stage_bytes) {
  return decode_fixed_bytes(dims) + 4ull * stage_bytes;
}

int launch_decode_pieces(const DecodeArguments& arguments, size_t shared_bytes, void* stream) {
  const uint32_t group = arguments.n_query_heads / arguments.n_kv_heads;
  const Dim3 grid(arguments.n_pieces, arguments.n_kv_heads,
                  (group + kHeadsOfTile - 1) / kHeadsOfTile);
  return QUIRE_LAUNCH(decode_pieces, grid, kDecodeThreads, shared_bytes, stream, arguments);
}

}  // namespace quire_cuda
