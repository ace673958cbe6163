// Recompute attention on the CPU, for either precision (tile.h). A tile is up to kTileQueries query
// rows of one KV head: the heads of its group times as many token rows as fit, so that a block of
// keys is widened once for all of them.
#ifndef QUIRE_KERNELS_ATTENTION_ATTEND_ROWS_H_
#define QUIRE_KERNELS_ATTENTION_ATTEND_ROWS_H_

#include "kernels/attention/tile.h"

namespace quire_kernels {

struct RowsTile {
  uint32_t kv_head;
  uint32_t row_begin;
  uint32_t rows;
  uint32_t head_begin;  // query heads [head_begin, head_begin + heads) of each row
  uint32_t heads;
  uint32_t low[kTileQueries];  // tokens [low, high) are seen
  uint32_t high[kTileQueries];
  uint32_t tokens_begin;
  uint32_t tokens_end;
};

template <class Math>
void load_queries(const quire_attend_rows_params& p, RowsTile& rows, QueryTile<Math>& tile) {
  alignas(64) float wide[QUIRE_ATTENTION_DIMS_MAX];
  tile.start(rows.rows * rows.heads, p.value_dims);
  rows.tokens_begin = p.kv_tokens;
  rows.tokens_end = 0;
  for (uint32_t q = 0; q < tile.n_queries; ++q) {
    const uint32_t row = rows.row_begin + q / rows.heads;
    const uint32_t head = rows.head_begin + q % rows.heads;
    const auto* at = static_cast<const unsigned char*>(p.query.data) + row * p.query.row_stride +
                     head * p.query.head_stride;
    Math::widen_row(p.query.dtype, at, wide, p.key_dims);
    for (uint32_t d = 0; d < p.key_dims; ++d) tile.w[q][d] = wide[d];
    const auto high = static_cast<uint32_t>(p.q_pos[row]) + 1;
    rows.high[q] = high;
    rows.low[q] = p.window > 0 && high > p.window ? high - p.window : 0;
    if (rows.low[q] < rows.tokens_begin) rows.tokens_begin = rows.low[q];
    if (high > rows.tokens_end) rows.tokens_end = high;
  }
}

// The tokens of block [token, token + n) that each query sees.
template <class Math>
void limit_block(const RowsTile& rows, QueryTile<Math>& tile, uint32_t token, uint32_t n) {
  for (uint32_t q = 0; q < tile.n_queries; ++q) {
    const uint32_t low = rows.low[q] > token ? rows.low[q] - token : 0;
    const uint32_t high = rows.high[q] > token ? rows.high[q] - token : 0;
    tile.begin[q] = low < n ? low : n;
    tile.end[q] = high < n ? high : n;
  }
}

// Probabilities of a block into the sums.
template <class Math>
void add_side_outputs(const quire_attend_rows_params& p, const RowsTile& rows,
                      QueryTile<Math>& tile, uint32_t token, const double* lse) {
  for (uint32_t q = 0; q < tile.n_queries; ++q) {
    const uint32_t begin = tile.begin[q];
    if (begin >= tile.end[q]) continue;
    Math::exp_row(tile.weight[q] + begin, static_cast<typename Math::Real>(lse[q]),
                  tile.end[q] - begin);
    double* mass = p.chunk_mass == nullptr
                       ? nullptr
                       : p.chunk_mass + uint64_t{rows.row_begin + q / rows.heads} * p.n_chunks;
    for (uint32_t t = begin; t < tile.end[q]; ++t) {
      const auto probability = static_cast<double>(tile.weight[q][t]);
      if (p.column_sums != nullptr) p.column_sums[token + t] += probability;
      if (mass != nullptr && p.token_chunk[token + t] >= 0)
        mass[p.token_chunk[token + t]] += probability;
    }
  }
}

template <class Math>
void attend_tile(const quire_attend_rows_params& p, RowsTile& rows, QueryTile<Math>& tile) {
  typename Math::Real block_greatest[kTileQueries];
  load_queries(p, rows, tile);
  auto each_block = [&](auto&& body) {
    for (uint32_t token = rows.tokens_begin; token < rows.tokens_end; token += kBlockTokens) {
      const uint32_t left = rows.tokens_end - token;
      const uint32_t n = left < kBlockTokens ? left : kBlockTokens;
      limit_block(rows, tile, token, n);
      paged_logits(tile, p.kv, p.kv.block_table, rows.kv_head, p.key_dims, token, n);
      finish_logits(tile, p.scale, p.softcap, block_greatest);
      body(token, n);
    }
  };
  each_block([&](uint32_t token, uint32_t n) {
    if (weigh_block(tile, n, 0, block_greatest))
      add_paged_values(tile, p.kv, p.kv.block_table, rows.kv_head, token, n);
  });
  alignas(64) float out[kTileQueries][QUIRE_ATTENTION_DIMS_MAX];
  double lse[kTileQueries];
  finish_tile(tile, 1, out, lse);
  for (uint32_t q = 0; q < tile.n_queries; ++q) {
    const uint32_t row = rows.row_begin + q / rows.heads;
    const uint32_t head = rows.head_begin + q % rows.heads;
    write_row<Math>(p.out, row, head, out[q], p.value_dims);
    if (p.lse != nullptr)
      p.lse[uint64_t{row} * p.n_query_heads + head] = static_cast<float>(lse[q]);
  }
  if (p.column_sums == nullptr && p.chunk_mass == nullptr) return;
  each_block([&](uint32_t token, uint32_t) { add_side_outputs(p, rows, tile, token, lse); });
}

template <class Math>
void run_attend_rows(const quire_attend_rows_params& p) {
  if (p.column_sums != nullptr) memset(p.column_sums, 0, uint64_t{p.kv_tokens} * 8);
  if (p.chunk_mass != nullptr) memset(p.chunk_mass, 0, uint64_t{p.n_rows} * p.n_chunks * 8);
  const uint32_t group = p.n_query_heads / p.n_kv_heads;
  const uint32_t heads_max = group < kTileQueries ? group : kTileQueries;
  const uint32_t rows_max = kTileQueries / heads_max;
  QueryTile<Math> tile;
  RowsTile rows;
  for (uint32_t kv_head = 0; kv_head < p.n_kv_heads; ++kv_head)
    for (uint32_t row = 0; row < p.n_rows; row += rows_max)
      for (uint32_t head = 0; head < group; head += heads_max) {
        rows.kv_head = kv_head;
        rows.row_begin = row;
        rows.rows = p.n_rows - row < rows_max ? p.n_rows - row : rows_max;
        rows.head_begin = kv_head * group + head;
        rows.heads = group - head < heads_max ? group - head : heads_max;
        attend_tile(p, rows, tile);
      }
}

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_ATTENTION_ATTEND_ROWS_H_
