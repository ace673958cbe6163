// Decode over chunks: what the host plans and the kernels share.
#ifndef QUIRE_KERNELS_CUDA_ATTENTION_DECODE_CHUNKS_H_
#define QUIRE_KERNELS_CUDA_ATTENTION_DECODE_CHUNKS_H_

#include "kernels/attention/plane_view.h"
#include "kernels/quire_cuda_attention.h"

namespace quire_cuda {

constexpr uint32_t kPieceTokens = 256;  // of one chunk ref or tail: the work of a CTA
constexpr uint32_t kPiecesMax = 1u << 24;
constexpr uint32_t kTileTokens = 64;
constexpr uint32_t kHeadsOfTile = 8;  // query heads of one CTA: the columns of an mma

// With a page threshold, pieces run in two waves. What a request is likely to look at - its first
// piece, where attention sinks are, and its tail - comes first; all others leave out pages that lie
// far below the greatest logit found there. The same pages every time, whatever runs when.
enum class DecodeWave : uint32_t { kAll, kFirst, kRest };

// An item is a chunk ref or the tail of one request, in that order; a piece a part of an item.
struct DecodeArguments {
  quire_head_rows query;
  quire_head_rows out;
  quire_paged_kv tail;
  float* lse;
  const quire_chunk_kv* chunks;
  const quire_chunk_ref* refs;
  const quire_decode_request* requests;
  const float* inverse_frequencies;
  uint32_t* item_begin;   // [n_requests + 1]
  uint32_t* piece_begin;  // [n_items + 1]
  float* turns;           // [n_refs][rotary_dims / 2]{cos, sin}
  float* partial;         // [piece][query head][dims]
  float* state;           // [piece][query head]{greatest logit, total}, base 2
  int32_t* status;
  uint32_t n_requests;
  uint32_t n_refs;
  uint32_t n_items;
  uint32_t n_pieces;
  uint32_t n_query_heads;
  uint32_t n_kv_heads;
  uint32_t dims;
  uint32_t rotary_dims;
  int32_t rope_style;
  float scale;
  float softcap;
  float block_threshold;
  float page_threshold;  // 0 where no chunk has bounds
  uint32_t page_tokens;
  DecodeWave wave;
  uint32_t stage_bytes;  // of the codes of one tile of K or V
};

QUIRE_HD uint32_t pieces_of(uint32_t tokens) {
  return (tokens + kPieceTokens - 1) / kPieceTokens;
}

int launch_decode_pieces(const DecodeArguments& arguments, size_t shared_bytes, void* stream);
size_t decode_shared_bytes(uint32_t dims, uint32_t stage_bytes);

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_ATTENTION_DECODE_CHUNKS_H_
