/* KV between the caller's memory and representations: pack encodes, unpack decodes, moves K to its
 * position and scatters. Byte layout: docs/formats/representation.md, codecs.md. Rules of structs,
 * errors and threads: quire.h. Nothing here needs a server but quire_pack_put(). All functions are
 * pure but for the memory they are told to fill and may run on any number of threads at once, on
 * memory that does not overlap.
 */
#ifndef QUIRE_CLIENT_CAPI_QUIRE_KV_H_
#define QUIRE_CLIENT_CAPI_QUIRE_KV_H_

#include "quire.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { QUIRE_ELEMENT_F16 = 1, QUIRE_ELEMENT_BF16 = 2, QUIRE_ELEMENT_F32 = 3 };

/* One plane (K or V) of one layer in the caller's memory. Element (row, KV head, dim) lies at
 *   data + row * token_stride + head * head_stride + dim * dim_stride
 * in bytes; strides may be negative and are multiples of the element's size. Heads count from the
 * model's first. pack only reads; unpack only writes. data NULL: the caller does not keep this
 * plane; unpack leaves it out, pack refuses it unless the model has none. */
typedef struct quire_kv_plane {
  uint32_t struct_bytes;
  uint32_t element; /* QUIRE_ELEMENT_... */
  void* data;
  int64_t n_rows; /* rows that data has; anything outside is refused */
  int64_t token_stride;
  int64_t head_stride;
  int64_t dim_stride;
} quire_kv_plane;

/* EXACT: angles in double from the model's inverse frequencies. ENGINE: the engine's own fp32
 * recurrence (ggml's), for bit parity with K that was computed in place. */
enum { QUIRE_ANGLES_EXACT = 0, QUIRE_ANGLES_ENGINE = 1 };

typedef struct quire_engine_rope {
  uint32_t struct_bytes;
  float base;
  float freq_scale;
  uint32_t n_freq_factors; /* 0 or rotary_dims / 2 */
  const float* freq_factors;
} quire_engine_rope;

/* Where all planes lie, for pack and unpack alike. */
typedef struct quire_kv_memory {
  uint32_t struct_bytes;
  uint32_t angles;              /* QUIRE_ANGLES_... */
  const quire_kv_plane* planes; /* [(layer - layer_begin) * 2 + (0: K, 1: V)] */
  size_t n_planes;              /* 2 * (layer_end - layer_begin) */
  const int64_t* rows;          /* row of each token packed or unpacked, or NULL: */
  size_t n_rows;
  int64_t first_row;                     /* token i in row first_row + i */
  const quire_engine_rope* engine_ropes; /* ENGINE: one for all layers, or one per model layer */
  size_t n_engine_ropes;
} quire_kv_memory;

/* What to store. */
typedef struct quire_pack_spec {
  uint32_t struct_bytes;
  uint32_t codec;         /* number in docs/formats/codecs.md; 0: codec_name says it */
  const char* codec_name; /* "raw-f16", "int8-channel", ...; NULL where codec is set */
  const void* model;      /* canonical bytes of the model descriptor */
  size_t model_bytes;
  const uint32_t* tokens;
  size_t n_tokens;
  const quire_context* context; /* NULL: isolated, prefill */
  uint64_t base_position;       /* K of token i is of position base_position + i */
  uint32_t frame;               /* QUIRE_FRAME_...: how K is stored */
  uint32_t key_before_rope;     /* 1: the caller's K was taken before rope; frame PRE_ROPE only */
  quire_coverage coverage;      /* all zero: every layer and head */
  const void* salt;             /* of the tenant; not used by quire_pack_put() */
  size_t salt_bytes;
  const uint8_t* salient; /* mixed codecs: one byte per token, not 0 = kept at 8 bits; NULL: none */
  size_t n_salient;       /* 0 or n_tokens; other codecs ignore both */
} quire_pack_spec;

/* Encodes into buffer (4-byte aligned, 64 for speed): memory of the caller's, or the window of a
 * quire_reserve() of *representation and *bytes. buffer NULL (source is not looked at): only tells
 * *bytes and *representation. buffer_bytes must equal *bytes. bytes and representation may be NULL.
 * Codecs of variable size (docs/formats/codecs.md): with buffer NULL *bytes is the most it can
 * take; buffer_bytes must be that or more, and *bytes (not NULL then) becomes the size it has:
 * store that many bytes by quire_put(), or use quire_pack_put(), which needs no buffer.
 * QUIRE_NON_FINITE: NaN or infinity in the source. After a failure the buffer's content is
 * unspecified. */
QUIRE_API quire_status quire_pack(const quire_pack_spec* spec, const quire_kv_memory* source,
                                  void* buffer, uint64_t buffer_bytes, uint64_t* bytes,
                                  quire_id* representation);

/* reserve + encode straight into the window (codecs of variable size: by way of memory of this
 * process, at most twice what they take) + commit, with bounded retries while the server is busy;
 * the ids are of the session's tenant. *stored is 0 where the store had it already; then nothing
 * was encoded. representation and stored may be NULL. */
QUIRE_API quire_status quire_pack_put(quire_client* client, const quire_pack_spec* spec,
                                      const quire_kv_memory* source, uint32_t ack, uint32_t pin_ms,
                                      quire_id* representation, uint32_t* stored);

typedef struct quire_representation_info {
  uint32_t struct_bytes;
  uint32_t codec;
  uint32_t frame; /* QUIRE_FRAME_... */
  uint32_t n_tokens;
  uint64_t base_position;
  quire_coverage coverage;
  quire_id model;
  quire_id object;
  quire_id variant;
  quire_id representation;
  uint64_t tokens_offset; /* of n_tokens uint32_t from the representation's first byte */
  uint32_t context_kind;  /* QUIRE_CONTEXT_... */
  uint32_t phase;         /* QUIRE_PHASE_... */
} quire_representation_info;

/* What a representation is; checks its manifest, not its sections. info->struct_bytes must be set.
 */
QUIRE_API quire_status quire_describe(const void* data, uint64_t bytes,
                                      quire_representation_info* info);

typedef struct quire_unpack_options {
  uint32_t struct_bytes;
  uint32_t source_begin; /* first token of the representation that is used */
  uint32_t n_tokens;     /* 0: all from source_begin on */
  uint32_t skip_verify;  /* 1: do not check the sections' checksums */
  const void* model;     /* canonical bytes of the model descriptor */
  size_t model_bytes;
  int64_t position;        /* of that first token in the prompt */
  const uint8_t* row_mask; /* 0 = leave the row as it is; NULL: write all; one byte per token */
  size_t n_row_mask;
} quire_unpack_options;

/* Decodes the bytes of a lease (which must be valid for the call: quire_lease_check() after it) or
 * of any memory, 4-byte aligned. K is rotated once, from what is stored to position; a raw
 * representation at its own position arrives bit for bit. Arguments and checksums are checked
 * before the first byte is written; after QUIRE_NON_FINITE some layers may have been. */
QUIRE_API quire_status quire_unpack(const void* data, uint64_t bytes,
                                    const quire_unpack_options* options,
                                    const quire_kv_memory* destination);

#ifdef __cplusplus
}
#endif

#endif /* QUIRE_CLIENT_CAPI_QUIRE_KV_H_ */
