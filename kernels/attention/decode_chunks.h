// Decode over stored chunks on the CPU, for either precision (tile.h): the heads of one group of
// one request against its chunk refs and its tail, in order, with one running softmax.
#ifndef QUIRE_KERNELS_ATTENTION_DECODE_CHUNKS_H_
#define QUIRE_KERNELS_ATTENTION_DECODE_CHUNKS_H_

#include "kernels/attention/tile.h"

namespace quire_kernels {

inline constexpr uint32_t kValueGroupsMax = QUIRE_ATTENTION_DIMS_MAX / 32;

template <class Math>
struct DecodeTile {
  using Real = typename Math::Real;
  QueryTile<Math> queries;
  alignas(64) float query[kTileQueries][QUIRE_ATTENTION_DIMS_MAX];  // as given
  alignas(64) Real turned[kTileQueries][QUIRE_ATTENTION_DIMS_MAX];  // in a chunk's frame
  alignas(64) double cosine[QUIRE_ATTENTION_DIMS_MAX / 2];
  alignas(64) double sine[QUIRE_ATTENTION_DIMS_MAX / 2];
};

// turned = the queries rotated by `position`.
template <class Math>
void turn_queries(const quire_decode_chunks_params& p, int64_t position, DecodeTile<Math>& tile) {
  using Real = typename Math::Real;
  const bool turns = p.rope_style != QUIRE_ROPE_STYLE_NONE && position != 0;
  const uint32_t pairs = p.rotary_dims / 2;
  if (turns) Math::angles(position, p.inverse_frequencies, pairs, tile.cosine, tile.sine);
  for (uint32_t q = 0; q < tile.queries.n_queries; ++q) {
    const float* from = tile.query[q];
    Real* to = tile.turned[q];
    for (uint32_t d = 0; d < p.dims; ++d) to[d] = from[d];
    for (uint32_t j = 0; turns && j < pairs; ++j) {
      const uint32_t a = pair_first(p.rope_style, j);
      const uint32_t b = pair_second(p.rope_style, p.rotary_dims, j);
      const double x = from[a];
      const double y = from[b];
      to[a] = static_cast<Real>(x * tile.cosine[j] - y * tile.sine[j]);
      to[b] = static_cast<Real>(x * tile.sine[j] + y * tile.cosine[j]);
    }
  }
}

// Folds the channel numbers of the run of `token` and the codec's Hadamard into the queries.
template <class Math>
void fold_queries(const PlaneView& view, uint32_t token, DecodeTile<Math>& tile) {
  using Real = typename Math::Real;
  const uint32_t order = plane_hadamard(view);
  alignas(64) float zeros[QUIRE_ATTENTION_DIMS_MAX];
  alignas(64) float scales[QUIRE_ATTENTION_DIMS_MAX];
  const bool runs = has_runs(view.spec);
  for (uint32_t d = 0; runs && d < view.dims; ++d) {
    const Affine affine = channel_affine(view, token, d);
    zeros[d] = affine.zero;
    scales[d] = affine.scale;
  }
  QueryTile<Math>& queries = tile.queries;
  for (uint32_t q = 0; q < queries.n_queries; ++q) {
    const Real* from = tile.turned[q];
    Real* w = queries.w[q];
    for (uint32_t d = 0; d < view.dims; ++d) w[d] = runs ? from[d] * scales[d] : from[d];
    queries.constant[q] = runs ? Math::dot(from, zeros, view.dims) : 0;
    if (order > 1) Math::hadamard(w, view.dims, order);
    Real sum = 0;
    for (uint32_t d = 0; d < view.dims; ++d) sum += w[d];
    queries.w_sum[q] = sum;
  }
}

template <class Math>
void chunk_logits(const PlaneView& view, uint32_t token, uint32_t n, DecodeTile<Math>& tile,
                  uint32_t column) {
  using Real = typename Math::Real;
  QueryTile<Math>& queries = tile.queries;
  alignas(64) float row[QUIRE_ATTENTION_DIMS_MAX];
  const unsigned char* codes = code_row(view, token);
  const uint64_t stride = row_stride(view);
  const bool per_token =
      view.spec.kind != SectionKind::kChannel && view.spec.kind != SectionKind::kRaw;
  for (uint32_t t = 0; t < n; ++t) {
    Math::code_row(view.codec, view.spec, codes + t * stride, row, view.dims);
    const Affine affine = per_token ? token_affine(view, token + t, 0) : Affine{0, 1};
    Real* out = &queries.weight[0][column + t];
    Math::dots(queries.w, queries.n_queries, row, view.dims, out, kBlockTokens);
    for (uint32_t q = 0; q < queries.n_queries; ++q)
      out[q * kBlockTokens] = static_cast<Real>(affine.scale) * out[q * kBlockTokens] +
                              static_cast<Real>(affine.zero) * queries.w_sum[q] +
                              queries.constant[q];
  }
}

template <class Math>
void add_chunk_values(const PlaneView& view, uint32_t token, uint32_t n, DecodeTile<Math>& tile) {
  using Real = typename Math::Real;
  QueryTile<Math>& queries = tile.queries;
  const bool turned = plane_hadamard(view) > 1;
  const bool affine_groups = view.spec.kind == SectionKind::kToken;
  const uint32_t width = affine_groups ? group_dims(view.spec, view.dims) : view.dims;
  const uint32_t groups = (view.dims + width - 1) / width;
  queries.any_turned |= turned;
  alignas(64) float rows[kValueRows][QUIRE_ATTENTION_DIMS_MAX];
  Real zeros[kTileQueries][kValueGroupsMax] = {};
  const unsigned char* codes = code_row(view, token);
  const uint64_t stride = row_stride(view);
  for (uint32_t t = 0; t < n; t += kValueRows) {
    const uint32_t count = n - t < kValueRows ? n - t : kValueRows;
    for (uint32_t i = 0; i < count; ++i)
      Math::code_row(view.codec, view.spec, codes + (t + i) * stride, rows[i], view.dims);
    for (uint32_t g = 0; g < groups; ++g) {
      float scale[kValueRows];
      for (uint32_t i = 0; i < count; ++i) {
        const Affine affine = token_affine(view, token + t + i, g);
        scale[i] = affine.scale;
        for (uint32_t q = 0; affine_groups && q < queries.n_queries; ++q)
          zeros[q][g] += queries.weight[q][t + i] * static_cast<Real>(affine.zero);
      }
      const uint32_t first = g * width;
      const uint32_t dims = view.dims - first < width ? view.dims - first : width;
      add_value_rows(queries, t, count, rows, scale, first, dims, turned);
    }
  }
  for (uint32_t q = 0; affine_groups && q < queries.n_queries; ++q)
    for (uint32_t d = 0; d < view.dims; ++d)
      (turned ? queries.turned[q] : queries.plain[q])[d] += zeros[q][d / width];
}

// Whether no key of a page can come within the threshold of any query's running maximum.
template <class Math>
bool page_is_far(const quire_decode_chunks_params& p, const float* bounds,
                 const DecodeTile<Math>& tile) {
  for (uint32_t q = 0; q < tile.queries.n_queries; ++q) {
    double most = 0;
    for (uint32_t d = 0; d < p.dims; ++d) {
      const double x = static_cast<double>(tile.turned[q][d]) * static_cast<double>(p.scale);
      const double at_least = x * static_cast<double>(bounds[d]);
      const double at_most = x * static_cast<double>(bounds[p.dims + d]);
      most += at_least > at_most ? at_least : at_most;
    }
    if (p.softcap > 0)
      most = static_cast<double>(p.softcap) * tanh(most / static_cast<double>(p.softcap));
    if (!(most <
          static_cast<double>(tile.queries.greatest[q]) - static_cast<double>(p.page_threshold)))
      return false;
  }
  return true;
}

template <class Math>
void attend_ref(const quire_decode_chunks_params& p, const quire_chunk_ref& ref, uint32_t kv_head,
                DecodeTile<Math>& tile) {
  const quire_chunk_kv& chunk = p.chunks[ref.chunk];
  const PlaneView keys =
      plane_view(chunk.key_codec, QUIRE_PLANE_KEY, chunk.key, chunk.n_tokens, p.dims, kv_head);
  const PlaneView values = plane_view(chunk.value_codec, QUIRE_PLANE_VALUE, chunk.value,
                                      chunk.n_tokens, p.dims, kv_head);
  const bool per_token =
      chunk.frame == QUIRE_FRAME_PRE_ROPE && p.rope_style != QUIRE_ROPE_STYLE_NONE;
  const bool pages = p.page_threshold > 0 && chunk.key_bounds != nullptr && !per_token;
  const uint32_t n_pages = pages ? (chunk.n_tokens + p.page_tokens - 1) / p.page_tokens : 0;
  typename Math::Real block_greatest[kTileQueries];
  if (!per_token)
    turn_queries(p, chunk.frame == QUIRE_FRAME_LOCAL ? chunk.base_position - ref.start_position : 0,
                 tile);
  QueryTile<Math>& queries = tile.queries;
  bool folded = false;
  uint32_t n = 0;
  for (uint32_t token = ref.token_begin; token < ref.token_end; token += n) {
    const uint32_t left_in_run = run_left(keys, token);
    n = ref.token_end - token < left_in_run ? ref.token_end - token : left_in_run;
    if (n > kBlockTokens) n = kBlockTokens;
    if (pages) {
      const uint32_t left_in_page = p.page_tokens - token % p.page_tokens;
      const uint64_t page = uint64_t{kv_head} * n_pages + token / p.page_tokens;
      if (n > left_in_page) n = left_in_page;
      if (has_runs(keys.spec) && token % keys.spec.run_tokens == 0) folded = false;
      if (page_is_far(p, chunk.key_bounds + page * 2 * p.dims, tile)) continue;
    }
    if (!folded || (has_runs(keys.spec) && token % keys.spec.run_tokens == 0)) {
      if (!per_token) fold_queries(keys, token, tile);
      folded = true;
    }
    for (uint32_t q = 0; q < queries.n_queries; ++q) {
      queries.begin[q] = 0;
      queries.end[q] = n;
    }
    if (!per_token) chunk_logits(keys, token, n, tile, 0);
    for (uint32_t t = 0; per_token && t < n; ++t) {
      turn_queries(p, -(ref.start_position + token + t), tile);
      fold_queries(keys, token + t, tile);
      chunk_logits(keys, token + t, 1, tile, t);
    }
    finish_logits(queries, p.scale, p.softcap, block_greatest);
    if (weigh_block(queries, n, p.block_threshold, block_greatest))
      add_chunk_values(values, token, n, tile);
  }
}

template <class Math>
void attend_tail(const quire_decode_chunks_params& p, const quire_decode_request& request,
                 uint32_t kv_head, DecodeTile<Math>& tile) {
  typename Math::Real block_greatest[kTileQueries];
  QueryTile<Math>& queries = tile.queries;
  for (uint32_t q = 0; q < queries.n_queries; ++q)
    for (uint32_t d = 0; d < p.dims; ++d) queries.w[q][d] = tile.query[q][d];
  const int32_t* table = p.tail.block_table + request.tail_table_begin;
  for (uint32_t token = 0; token < request.tail_tokens; token += kBlockTokens) {
    const uint32_t left = request.tail_tokens - token;
    const uint32_t n = left < kBlockTokens ? left : kBlockTokens;
    for (uint32_t q = 0; q < queries.n_queries; ++q) {
      queries.begin[q] = 0;
      queries.end[q] = n;
    }
    paged_logits(queries, p.tail, table, kv_head, p.dims, token, n);
    finish_logits(queries, p.scale, p.softcap, block_greatest);
    if (weigh_block(queries, n, p.block_threshold, block_greatest))
      add_paged_values(queries, p.tail, table, kv_head, token, n);
  }
}

template <class Math>
void decode_group(const quire_decode_chunks_params& p, uint32_t row, uint32_t kv_head,
                  uint32_t head_begin, uint32_t heads, DecodeTile<Math>& tile) {
  const quire_decode_request& request = p.requests[row];
  tile.queries.start(heads, p.dims);
  for (uint32_t q = 0; q < heads; ++q)
    Math::widen_row(p.query.dtype,
                    static_cast<const unsigned char*>(p.query.data) + row * p.query.row_stride +
                        (head_begin + q) * p.query.head_stride,
                    tile.query[q], p.dims);
  for (uint32_t i = request.ref_begin; i < request.ref_end; ++i)
    attend_ref(p, p.refs[i], kv_head, tile);
  if (request.tail_tokens > 0) attend_tail(p, request, kv_head, tile);
  alignas(64) float out[kTileQueries][QUIRE_ATTENTION_DIMS_MAX];
  double lse[kTileQueries];
  finish_tile(tile.queries, hadamard_order(p.dims, 64), out, lse);
  for (uint32_t q = 0; q < heads; ++q) {
    write_row<Math>(p.out, row, head_begin + q, out[q], p.dims);
    if (p.lse != nullptr)
      p.lse[uint64_t{row} * p.n_query_heads + head_begin + q] = static_cast<float>(lse[q]);
  }
}

template <class Math>
void run_decode_chunks(const quire_decode_chunks_params& p) {
  const uint32_t group = p.n_query_heads / p.n_kv_heads;
  DecodeTile<Math> tile;
  for (uint32_t row = 0; row < p.n_requests; ++row)
    for (uint32_t kv_head = 0; kv_head < p.n_kv_heads; ++kv_head)
      for (uint32_t head = 0; head < group; head += kTileQueries) {
        const uint32_t heads = group - head < kTileQueries ? group - head : kTileQueries;
        decode_group(p, row, kv_head, kv_head * group + head, heads, tile);
      }
}

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_ATTENTION_DECODE_CHUNKS_H_
