// Streaming softmax over blocks of tokens for up to kTileQueries query rows that read one KV head:
// what recompute attention and decode have in common, written once for both precisions. `Math` is
// a type of the including translation unit (internal linkage, see rows.h):
//   Real                                       double or float
//   widen_row(dtype, src, row, n)              elements -> fp32, exact
//   code_row(codec, spec, src, row, n)         codes (or elements) -> fp32, exact
//   dot(w, row, n)  axpy(p, row, acc, n)  scale_row(s, acc, n)
//   dots(w, queries, row, n, out, stride)      out[q * stride] = dot(w[q], row, n)
//   dots2(...)                                 for two rows: out[q * stride] and out[q * stride +
//   1] axpy4(p, rows, first, acc, n)              acc += p[i] * (rows[i] + first) of four rows
//   exp_row(x, shift, n)                       x[i] = exp(x[i] - shift), returns their sum
//   max_row(x, n)   cap_row(x, n, cap)         cap * tanh(x / cap)
//   exp_of(x)   hadamard(row, n, order)
//   narrow_row(dtype, row, dst, n)             fp32 -> elements, to nearest even; NaN stays NaN
#ifndef QUIRE_KERNELS_ATTENTION_TILE_H_
#define QUIRE_KERNELS_ATTENTION_TILE_H_

#include <math.h>

#include "kernels/attention/plane_view.h"
#include "kernels/quire_attention.h"

namespace quire_kernels {

inline constexpr uint32_t kTileQueries = 16;
inline constexpr uint32_t kBlockTokens = 64;

template <class Math>
struct QueryTile {
  using Real = typename Math::Real;
  uint32_t n_queries = 0;
  uint32_t value_dims = 0;
  // Key side: rows that meet codes, the sum of each, and what is added to every logit.
  alignas(64) Real w[kTileQueries][QUIRE_ATTENTION_DIMS_MAX];
  Real w_sum[kTileQueries];
  Real constant[kTileQueries];
  // Running state.
  Real greatest[kTileQueries];
  Real total[kTileQueries];
  alignas(64) Real plain[kTileQueries][QUIRE_ATTENTION_DIMS_MAX];
  alignas(64) Real turned[kTileQueries][QUIRE_ATTENTION_DIMS_MAX];  // in H's space
  bool any_turned = false;
  // Of the current block: logits, then weights; zero outside of [begin, end).
  alignas(64) Real weight[kTileQueries][kBlockTokens];
  uint32_t begin[kTileQueries];
  uint32_t end[kTileQueries];

  void start(uint32_t queries, uint32_t dims) {
    n_queries = queries;
    value_dims = dims;
    any_turned = false;
    for (uint32_t q = 0; q < queries; ++q) {
      greatest[q] = -static_cast<Real>(INFINITY);
      total[q] = 0;
      for (uint32_t d = 0; d < dims; ++d) plain[q][d] = turned[q][d] = 0;
    }
  }
};

// Logits of the block: scaled, capped; the largest of each query.
template <class Math>
void finish_logits(QueryTile<Math>& tile, float scale, float softcap,
                   typename Math::Real (&block_greatest)[kTileQueries]) {
  using Real = typename Math::Real;
  for (uint32_t q = 0; q < tile.n_queries; ++q) {
    const uint32_t begin = tile.begin[q];
    block_greatest[q] = -static_cast<Real>(INFINITY);
    if (begin >= tile.end[q]) continue;
    Real* row = tile.weight[q] + begin;
    const uint32_t n = tile.end[q] - begin;
    Math::scale_row(static_cast<Real>(scale), row, n);
    if (softcap > 0) Math::cap_row(row, n, static_cast<Real>(softcap));
    block_greatest[q] = Math::max_row(row, n);
  }
}

// Turns logits into weights relative to the new running maximum and rescales what was added up.
// Queries whose block lies more than `threshold` below it (0 = never) are left out; false where all
// are.
template <class Math>
bool weigh_block(QueryTile<Math>& tile, uint32_t n_tokens, float threshold,
                 const typename Math::Real (&block_greatest)[kTileQueries]) {
  using Real = typename Math::Real;
  bool any = false;
  for (uint32_t q = 0; q < tile.n_queries; ++q) {
    Real* row = tile.weight[q];
    const uint32_t begin = tile.begin[q];
    const uint32_t end = tile.end[q];
    const bool skip =
        begin >= end ||
        (threshold > 0 && block_greatest[q] < tile.greatest[q] - static_cast<Real>(threshold));
    if (skip) {
      for (uint32_t t = 0; t < n_tokens; ++t) row[t] = 0;
      continue;
    }
    any = true;
    if (block_greatest[q] > tile.greatest[q]) {
      const Real factor =
          tile.total[q] > 0 ? Math::exp_of(tile.greatest[q] - block_greatest[q]) : 0;
      tile.total[q] *= factor;
      Math::scale_row(factor, tile.plain[q], tile.value_dims);
      if (tile.any_turned) Math::scale_row(factor, tile.turned[q], tile.value_dims);
      tile.greatest[q] = block_greatest[q];
    }
    tile.total[q] += Math::exp_row(row + begin, tile.greatest[q], end - begin);
    for (uint32_t t = 0; t < begin; ++t) row[t] = 0;
    for (uint32_t t = end; t < n_tokens; ++t) row[t] = 0;
  }
  return any;
}

// out = the weighted mean, lse = log of the sum; turned values are turned back first.
template <class Math>
void finish_tile(QueryTile<Math>& tile, uint32_t hadamard, float (*out)[QUIRE_ATTENTION_DIMS_MAX],
                 double* lse) {
  using Real = typename Math::Real;
  for (uint32_t q = 0; q < tile.n_queries; ++q) {
    if (tile.any_turned) {
      Math::hadamard(tile.turned[q], tile.value_dims, hadamard);
      Math::axpy(Real{1}, tile.turned[q], tile.plain[q], tile.value_dims);
    }
    for (uint32_t d = 0; d < tile.value_dims; ++d)
      out[q][d] = static_cast<float>(tile.plain[q][d] / tile.total[q]);
    lse[q] = static_cast<double>(tile.greatest[q]) + log(static_cast<double>(tile.total[q]));
  }
}

// Block tables: where a token's rows lie.
struct PagedPlane {
  const unsigned char* base;
  int64_t page_stride;
  int64_t token_stride;
};
QUIRE_HD PagedPlane paged_keys(const quire_paged_kv& kv, uint32_t head) {
  return {static_cast<const unsigned char*>(kv.key) + head * kv.key_head_stride, kv.key_page_stride,
          kv.key_token_stride};
}
QUIRE_HD PagedPlane paged_values(const quire_paged_kv& kv, uint32_t head) {
  return {static_cast<const unsigned char*>(kv.value) + head * kv.value_head_stride,
          kv.value_page_stride, kv.value_token_stride};
}
// The rows of consecutive tokens: one division for the first.
struct PagedRows {
  const PagedPlane plane;
  const int32_t* page;
  uint32_t in_page;
  uint32_t page_tokens;
};
QUIRE_HD PagedRows paged_rows(const PagedPlane& plane, const int32_t* table, uint32_t page_tokens,
                              uint32_t token) {
  return {plane, table + token / page_tokens, token % page_tokens, page_tokens};
}
QUIRE_HD const unsigned char* next_row(PagedRows& rows) {
  const unsigned char* row = rows.plane.base + *rows.page * rows.plane.page_stride +
                             rows.in_page * rows.plane.token_stride;
  if (++rows.in_page == rows.page_tokens) {
    rows.in_page = 0;
    ++rows.page;
  }
  return row;
}
// Rows lie apart by all heads of a token, which hardware does not prefetch.
QUIRE_HD void prefetch_row(const unsigned char* row, uint32_t bytes) {
  constexpr uint32_t kLineBytes = 64;
  for (uint32_t at = 0; at < bytes; at += kLineBytes) __builtin_prefetch(row + at);
}

// The tokens of a block that some query sees.
template <class Math>
void visible_tokens(const QueryTile<Math>& tile, uint32_t n, uint32_t* begin, uint32_t* end) {
  *begin = n;
  *end = 0;
  for (uint32_t q = 0; q < tile.n_queries; ++q) {
    *begin = tile.begin[q] < *begin ? tile.begin[q] : *begin;
    *end = tile.end[q] > *end ? tile.end[q] : *end;
  }
}

inline constexpr uint32_t kPrefetchRows = 8;

// Raw logits of tokens [token, token + n) in engine pages; their values are fetched along the way.
template <class Math>
void paged_logits(QueryTile<Math>& tile, const quire_paged_kv& kv, const int32_t* table,
                  uint32_t head, uint32_t dims, uint32_t token, uint32_t n) {
  alignas(64) float row[2][QUIRE_ATTENTION_DIMS_MAX];
  uint32_t begin;
  uint32_t end;
  visible_tokens(tile, n, &begin, &end);
  if (begin >= end) return;
  const uint32_t size = element_bytes(kv.dtype);
  const PagedPlane keys = paged_keys(kv, head);
  PagedRows rows = paged_rows(keys, table, kv.page_tokens, token + begin);
  PagedRows ahead = rows;
  PagedRows values = paged_rows(paged_values(kv, head), table, kv.page_tokens, token + begin);
  for (uint32_t t = begin; t < end && t < begin + kPrefetchRows; ++t)
    prefetch_row(next_row(ahead), dims * size);
  for (uint32_t t = begin; t < end; t += 2) {
    const uint32_t count = end - t < 2 ? 1 : 2;
    for (uint32_t i = 0; i < count; ++i) {
      if (t + i + kPrefetchRows < end) prefetch_row(next_row(ahead), dims * size);
      prefetch_row(next_row(values), tile.value_dims * size);
      Math::widen_row(kv.dtype, next_row(rows), row[i], dims);
    }
    if (count == 2)
      Math::dots2(tile.w, tile.n_queries, row, dims, &tile.weight[0][t], kBlockTokens);
    else
      Math::dots(tile.w, tile.n_queries, row[0], dims, &tile.weight[0][t], kBlockTokens);
  }
}

inline constexpr uint32_t kValueRows = 4;

// sum[q] += weights of tokens [t, t + rows) times their rows; a null scale is 1.
template <class Math>
void add_value_rows(QueryTile<Math>& tile, uint32_t t, uint32_t rows,
                    const float (*values)[QUIRE_ATTENTION_DIMS_MAX], const float* scale,
                    uint32_t first, uint32_t dims, bool turned) {
  using Real = typename Math::Real;
  for (uint32_t q = 0; q < tile.n_queries; ++q) {
    Real weight[kValueRows] = {};
    uint32_t used = 0;  // a row of weight 0 may be NaN: it is not for this query to see
    for (uint32_t i = 0; i < rows; ++i) {
      weight[i] = tile.weight[q][t + i];
      used += weight[i] != 0;
    }
    Real* sum = (turned ? tile.turned[q] : tile.plain[q]) + first;
    Real factor[kValueRows];
    for (uint32_t i = 0; i < rows; ++i)
      factor[i] = scale == nullptr ? weight[i] : weight[i] * static_cast<Real>(scale[i]);
    if (used == kValueRows) {
      Math::axpy4(factor, values, first, sum, dims);
      continue;
    }
    for (uint32_t i = 0; i < rows; ++i)
      if (weight[i] != 0) Math::axpy(factor[i], values[i] + first, sum, dims);
  }
}

template <class Math>
void add_paged_values(QueryTile<Math>& tile, const quire_paged_kv& kv, const int32_t* table,
                      uint32_t head, uint32_t token, uint32_t n) {
  alignas(64) float rows[kValueRows][QUIRE_ATTENTION_DIMS_MAX];
  uint32_t begin;
  uint32_t end;
  visible_tokens(tile, n, &begin, &end);
  PagedRows values = paged_rows(paged_values(kv, head), table, kv.page_tokens, token + begin);
  for (uint32_t t = begin; t < end; t += kValueRows) {
    const uint32_t count = end - t < kValueRows ? end - t : kValueRows;
    for (uint32_t i = 0; i < count; ++i)
      Math::widen_row(kv.dtype, next_row(values), rows[i], tile.value_dims);
    add_value_rows(tile, t, count, rows, nullptr, 0, tile.value_dims, false);
  }
}

template <class Math>
void write_row(const quire_head_rows& rows, uint32_t row, uint32_t head, const float* values,
               uint32_t n) {
  auto* at =
      static_cast<unsigned char*>(rows.data) + row * rows.row_stride + head * rows.head_stride;
  Math::narrow_row(rows.dtype, values, at, n);
}

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_ATTENTION_TILE_H_
