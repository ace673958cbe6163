/* Attention over an engine's pages and over stored chunks, token choice, rotation: the kernels of
 * selective recompute and of decoding from compressed chunks. The same parameter structs serve the
 * CPU (here) and CUDA (quire_cuda_attention.h).
 *
 * The rules of quire_kernels.h hold: reentrant, no allocation, borrowed memory, struct_bytes,
 * signed byte strides, everything checked before the first byte is written, a status and no abort.
 * Payload is not scanned unless said so: a NaN in a key or value makes NaNs in what it reaches.
 *
 * Elements of a row (dims) are contiguous and aligned to their size; strides are multiples of the
 * element size. Outputs must not overlap inputs.
 *
 * Implementations: scalar accumulates in fp64 and is the reference; AVX-512 and CUDA use fp32. With
 * A = sum over dims of |q_d k_d| * scale, the largest over the tokens a row sees
 * (at least softcap), and V = the
 * largest |value| it sees, each output is within
 *   scalar:   2^-23 * V                                    (the rounding of fp32 outputs)
 *   AVX-512:  (2^-21 * (8 + A) + tokens * 2^-24) * V       and lse within 2^-21 * (8 + A)
 *   CUDA:     (2^-11 + 2^-20 * (8 + A)) * V where all elements are f16 or codes,
 *             (2^-8 + 2^-16 * (8 + A)) * V where some are bf16;  lse within the second term
 * of exact arithmetic on the elements as stored, before the one rounding to out_dtype.
 */
#ifndef QUIRE_KERNELS_QUIRE_ATTENTION_H_
#define QUIRE_KERNELS_QUIRE_ATTENTION_H_

#include "kernels/quire_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Dims of a head that the attention kernels take; latent (MLA) caches are wider and UNSUPPORTED. */
#define QUIRE_ATTENTION_DIMS_MAX 256u
#define QUIRE_ATTENTION_ROWS_MAX (1u << 20)
#define QUIRE_ATTENTION_CHUNKS_MAX (1u << 20)

/* An engine's paged cache of one layer. Element (token t of a sequence, head h, dim d):
 *   key + block_table[t / page_tokens] * key_page_stride + (t % page_tokens) * key_token_stride
 *       + h * key_head_stride + d * element size, value likewise. */
struct quire_paged_kv {
  int32_t dtype; /* quire_dtype, of K and V */
  uint32_t page_tokens;
  const void* key;
  const void* value;
  int64_t key_page_stride;
  int64_t key_token_stride;
  int64_t key_head_stride;
  int64_t value_page_stride;
  int64_t value_token_stride;
  int64_t value_head_stride;
  int64_t n_pages; /* a page number outside [0, n_pages) is refused */
  const int32_t* block_table;
  uint64_t block_table_entries;
};

/* What a request looks like in rows of heads: element (row r, head h, dim d) at
 * r * row_stride + h * head_stride + d * element size. */
struct quire_head_rows {
  void* data;
  int32_t dtype;
  int64_t row_stride;
  int64_t head_stride;
};

/* Recompute attention. Rows are scattered tokens of one sequence: row r stands at position q_pos[r]
 * and sees the tokens j with j <= q_pos[r] and, where window > 0, j > q_pos[r] - window. The KV of
 * the rows themselves is in the pages already. Any order of rows; CUDA is faster where q_pos
 * ascends.
 *   logit = scale * q.k; softcap > 0: softcap * tanh(logit / softcap)
 * n_query_heads is a multiple of n_kv_heads; query head h reads KV head h / (their ratio).
 *
 * Side outputs (each NULL or all of its bytes written), of the probabilities p(row, head, token):
 *   lse[row * n_query_heads + head]      natural log of the sum of exp(logit)
 *   chunk_mass[row * n_chunks + c]       sum of p over heads and the tokens with token_chunk == c
 *   column_sums[token]                   sum of p over rows and heads
 * Over all chunks the mass of a row is n_query_heads where every token has a chunk. Both sums are
 * kept in fp64 on the CPU; CUDA adds fp32 probabilities within a tile and fp64 over tiles.
 * UNSUPPORTED: key_dims or value_dims beyond QUIRE_ATTENTION_DIMS_MAX (MLA), sinks. */
struct quire_attend_rows_params {
  size_t struct_bytes;
  uint32_t n_rows; /* 0 is OK; side outputs are then zero */
  uint32_t n_query_heads;
  uint32_t n_kv_heads;
  uint32_t key_dims;
  uint32_t value_dims;
  uint32_t window;              /* 0 = none */
  struct quire_head_rows query; /* rotated at q_pos; key_dims elements a row; only read */
  struct quire_head_rows out;   /* value_dims elements a row */
  const int64_t* q_pos;         /* n_rows positions in [0, kv_tokens) */
  struct quire_paged_kv kv;
  uint32_t kv_tokens; /* tokens in the cache; their pages must be in the block table */
  float scale;        /* finite */
  float softcap;      /* 0 = none */
  float* lse;
  const int32_t* token_chunk; /* kv_tokens numbers < n_chunks; negative = of no chunk */
  uint32_t n_chunks;
  double* chunk_mass; /* needs token_chunk */
  double* column_sums;
};
int quire_attend_rows(const struct quire_attend_rows_params* params);

enum quire_frame {
  QUIRE_FRAME_PRE_ROPE = 0, /* K is not rotated */
  QUIRE_FRAME_LOCAL = 1     /* K is rotated at base_position + t */
};

/* One layer of a stored chunk, where it lies; shared by any number of requests. Codecs: all of a
 * fixed size (quire_section_bytes() != 0); those of variable size are UNSUPPORTED, K and V each. */
struct quire_chunk_kv {
  int32_t key_codec;
  int32_t value_codec;
  int32_t frame; /* quire_frame */
  uint32_t n_tokens;
  int64_t base_position; /* LOCAL: |position| < 2^31 */
  const void* key;       /* the section; 4-byte aligned (CUDA: 16) */
  uint64_t key_bytes;
  const void* value;
  uint64_t value_bytes;
  /* Page bounds for skipping (quire_key_bounds), or NULL:
   * [n_kv_heads][ceil(n_tokens / page_tokens)][2][dims] least and greatest key per dim. */
  const float* key_bounds;
};

/* Tokens [token_begin, token_end) of a chunk in one request; token 0 of the chunk stands at
 * start_position there (also where it is not among them). */
struct quire_chunk_ref {
  uint32_t chunk;
  uint32_t token_begin;
  uint32_t token_end;
  int64_t start_position; /* |position| < 2^31 */
};

/* One query row: sees all of its chunk refs and all of its tail, at whatever positions. */
struct quire_decode_request {
  uint32_t ref_begin;
  uint32_t ref_end;
  uint64_t tail_table_begin; /* first entry of the request's pages in tail.block_table */
  uint32_t tail_tokens;      /* tokens in engine pages, K rotated at their own positions */
};

/* Decode over chunks. Row r of query and out belongs to requests[r]; the query is rotated at its
 * own position, as for the engine's own attention.
 *
 * A chunk of frame LOCAL is never touched: the query is turned once per ref by
 * base_position - start_position (angles in fp64) and multiplied by the chunk's channel scales, so
 * codes enter the product as they are; zeros are one product per query head and run. With a
 * Hadamard codec the query is turned by H as well, values are added up in H's space and turned back
 * once per head. Frame PRE_ROPE needs a rotation per token: it is made on the fly (the query is
 * turned by minus the token's position), several times slower; UNSUPPORTED by CUDA.
 * All parts of a request are merged through their log-sum-exp.
 *
 * Options, 0 = off. Both leave out only tokens whose logit is below the request's running maximum
 * by more than the threshold t, so a request's weights change by less than
 * (tokens left out) * exp(-t), and out by less than twice that times the largest |value|:
 *   page_threshold   whole pages of page_tokens tokens, by the bounds of their keys (LServe);
 *                    chunks without bounds, tails and frame PRE_ROPE under a rotation never skip
 *   block_threshold  V and softmax of blocks of tokens, by their greatest logit (BLASST) */
struct quire_decode_chunks_params {
  size_t struct_bytes;
  uint32_t n_requests; /* 0 is OK */
  uint32_t n_query_heads;
  uint32_t n_kv_heads;
  uint32_t dims; /* of K and V */
  struct quire_head_rows query;
  struct quire_head_rows out;
  float* lse; /* [request][query head], natural log; or NULL */
  float scale;
  float softcap;
  int32_t rope_style; /* quire_rope_style */
  uint32_t rotary_dims;
  const float* inverse_frequencies; /* rotary_dims / 2 finite values; NULL only without RoPE */
  /* Host memory, for CUDA as well; sections and pages are the device's there. */
  const struct quire_chunk_kv* chunks;
  uint32_t n_chunks;
  const struct quire_chunk_ref* refs;
  uint32_t n_refs;
  const struct quire_decode_request* requests;
  struct quire_paged_kv tail; /* all zero where no request has a tail */
  uint32_t page_tokens;       /* of key_bounds; 0 where page_threshold is 0 */
  float page_threshold;
  float block_threshold;
};
int quire_decode_chunks(const struct quire_decode_chunks_params* params);

/* Least and greatest key of each page of a chunk, as quire_chunk_kv.key_bounds wants them: of the
 * decoded values, one step wider. */
struct quire_key_bounds_params {
  size_t struct_bytes;
  int32_t codec;
  uint32_t n_tokens;
  uint32_t n_heads;
  uint32_t head_dim;
  uint32_t page_tokens;
  const void* key;
  uint64_t key_bytes;
  float* bounds;
  uint64_t bounds_bytes; /* >= n_heads * pages * 2 * head_dim * 4 */
};
int quire_key_bounds(const struct quire_key_bounds_params* params);

/* Rows of tokens: element (token i, head h, dim d) at
 * data + (row ? row[i] : i) * token_stride + h * head_stride + d * element size. */
struct quire_token_rows {
  void* data;
  int32_t dtype;
  int64_t token_stride;
  int64_t head_stride;
  const int64_t* row; /* n_tokens row numbers in [0, n_rows), or NULL */
  int64_t n_rows;
};

enum quire_deviation_norm {
  QUIRE_DEVIATION_SQUARED = 0, /* sum of (a - b)^2: CacheBlend */
  QUIRE_DEVIATION_ABSOLUTE = 1 /* sum of |a - b|: KVShare */
};

/* deviation[i] = the norm of a - b of token i, over all heads and dims. Scalar: fp64; AVX-512 and
 * CUDA: fp32 within a head, fp64 over heads; within dims * 2^-23 of it, relatively. */
struct quire_deviation_params {
  size_t struct_bytes;
  uint32_t n_tokens; /* 0 is OK */
  uint32_t n_heads;
  uint32_t head_dim;
  int32_t norm;
  struct quire_token_rows a; /* only read */
  struct quire_token_rows b;
  float* deviation;
};
int quire_deviation(const struct quire_deviation_params* params);

/* The k tokens of greatest score * weight (fp64), ties to the lower token; ascending. NON_FINITE
 * where a score or weight is NaN or infinite; chosen is then untouched. */
struct quire_top_tokens_params {
  size_t struct_bytes;
  uint32_t n_tokens;
  uint32_t k; /* <= n_tokens; 0 is OK */
  const float* score;
  const double* weight; /* column_sums, for example; or NULL = 1 */
  uint32_t* chosen;     /* [k] */
};
int quire_top_tokens(const struct quire_top_tokens_params* params);

/* Rotation alone: dst = src turned by the table; un-rotation is a table of QUIRE_ROPE_FROM_SRC. In
 * place where dst and src are equal in every field; any other overlap is refused. Payload is
 * scanned first, as by quire_load(): NON_FINITE, OUT_OF_RANGE; nothing is written then. */
struct quire_rotate_params {
  size_t struct_bytes;
  uint32_t n_tokens; /* 0 is OK */
  uint32_t n_heads;
  uint32_t head_dim;
  struct quire_token_rows src;
  struct quire_token_rows dst; /* row numbers must differ from each other */
  struct quire_rotation rotation;
};
int quire_rotate(const struct quire_rotate_params* params);
/* As quire_load_batch(). */
int quire_rotate_batch(const struct quire_rotate_params* params, size_t n, size_t* failed_index);

#ifdef __cplusplus
}
#endif

#endif /* QUIRE_KERNELS_QUIRE_ATTENTION_H_ */
