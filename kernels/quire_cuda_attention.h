/* CUDA implementations of quire_attention.h: the same parameter structs and meanings, for memory
 * that the current device can reach. Source: kernels/cuda/attention.
 *
 *  - Payload, outputs, q_pos, block tables, token_chunk, row numbers and rotation tables are device
 * memory. The parameter structs, and of quire_decode_chunks_params `chunks`, `refs`, `requests` and
 * `inverse_frequencies`, are host memory; the latter are copied to the workspace on the stream
 * (pinned: keep them until the stream has passed; pageable: the copy may wait for the stream).
 *  - What the host can see is checked before anything is queued. What only the device sees -
 * positions, page numbers, row numbers, chunk numbers, scores, payload of quire_cuda_rotate - is
 * checked by a kernel first: the first failure is left in *device_status, and while that is not 0
 * the calls of this header write nothing.
 *  - Calls allocate nothing and are reentrant with distinct workspaces. The workspace is 256-byte
 * aligned device memory of at least the bytes that the _workspace_bytes function of the call
 * returns (0 where the parameters are refused); it may be reused by calls on the same stream.
 *  - Beyond the CPU's limits: dims are multiples of 16 (decode) or 8 (rows) up to 256, key_dims =
 * value_dims; pages and chunks of f16 or bf16 elements or codes (no raw-f32), 16-byte aligned with
 * strides that are multiples of 16; no frame PRE_ROPE under a rotation. Otherwise UNSUPPORTED, or
 * INVALID_ARGUMENT where it is the alignment.
 *  - page_threshold: key_bounds are device memory. Pages are left out by tiles of up to 64 tokens
 * whose pages are all far below the greatest logit of the request's first 256 tokens, of its tail
 * and of the tile's own 256 tokens before it (the CPU: of all tokens before); always the same ones.
 * block_threshold looks at the tile's own 256 tokens alone.
 *  - Tokens that some row of a tile may see and another may not are multiplied by zero: they must
 * be finite. */
#ifndef QUIRE_KERNELS_QUIRE_CUDA_ATTENTION_H_
#define QUIRE_KERNELS_QUIRE_CUDA_ATTENTION_H_

#include "kernels/quire_attention.h"

#ifdef __cplusplus
extern "C" {
#endif

struct quire_cuda_attention_launch {
  size_t struct_bytes;
  void* stream;           /* cudaStream_t */
  int32_t* device_status; /* 4-byte aligned device memory; see above */
  void* workspace;
  uint64_t workspace_bytes;
};

uint64_t quire_cuda_attend_rows_workspace_bytes(const struct quire_attend_rows_params* params);
int quire_cuda_attend_rows(const struct quire_attend_rows_params* params,
                           const struct quire_cuda_attention_launch* launch);

uint64_t quire_cuda_decode_chunks_workspace_bytes(const struct quire_decode_chunks_params* params);
int quire_cuda_decode_chunks(const struct quire_decode_chunks_params* params,
                             const struct quire_cuda_attention_launch* launch);

/* No workspace. */
int quire_cuda_deviation(const struct quire_deviation_params* params,
                         const struct quire_cuda_attention_launch* launch);
int quire_cuda_top_tokens(const struct quire_top_tokens_params* params,
                          const struct quire_cuda_attention_launch* launch);
int quire_cuda_rotate(const struct quire_rotate_params* params,
                      const struct quire_cuda_attention_launch* launch);

#ifdef __cplusplus
}
#endif

#endif /* QUIRE_KERNELS_QUIRE_CUDA_ATTENTION_H_ */
