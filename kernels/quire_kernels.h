/* Quire's kernels: one plain C ABI, a scalar reference, AVX2 and AVX-512 implementations behind it
 * (chosen once by cpuid). A kernel moves one section - one layer, one plane (K or V) of a stored
 * representation - between its stored bytes and an engine's memory. Byte layout of sections:
 * docs/formats/codecs.md.
 *
 * Rules that hold for every call:
 *  - Reentrant and without allocation, locks or threads; any number of threads may call at once,
 * also on disjoint token ranges or destinations of one section. Up to 192 KiB of stack.
 *  - Memory is borrowed for the call. Parameter structs start with struct_bytes = sizeof(the
 * struct); another value is refused, so a mismatch of header and library is an error, never a
 * misread.
 *  - All strides are in bytes and signed. Everything is checked before the first byte is written;
 * the result is a status code, never an abort.
 *  - All implementations give equal bytes: fp32 operations in the same order, no fused
 * multiply-add, round to nearest even.
 */
#ifndef QUIRE_KERNELS_QUIRE_KERNELS_H_
#define QUIRE_KERNELS_QUIRE_KERNELS_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QUIRE_KERNEL_TOKENS_MAX (1u << 20)
#define QUIRE_KERNEL_HEADS_MAX 1024u
#define QUIRE_KERNEL_DIMS_MAX 1024u

enum quire_kernel_status {
  QUIRE_KERNEL_OK = 0,
  QUIRE_KERNEL_INVALID_ARGUMENT =
      1,                         /* null, zero, misaligned, out of range, sizes that do not fit */
  QUIRE_KERNEL_BAD_STRUCT = 2,   /* struct_bytes is not this library's */
  QUIRE_KERNEL_UNSUPPORTED = 3,  /* unknown codec, dtype, plane, mode or style */
  QUIRE_KERNEL_NON_FINITE = 4,   /* NaN or infinity in what was to be loaded or stored */
  QUIRE_KERNEL_OUT_OF_RANGE = 5, /* finite, but too large for the target format */
  QUIRE_KERNEL_CORRUPT = 6       /* a section of variable size contradicts itself */
};
/* "OK", "INVALID_ARGUMENT", ...; "UNKNOWN" for other numbers. Never NULL. */
const char* quire_kernel_status_name(int status);

/* The numbers of codecs/codec_ids.h, which has more: codecs that need a library are expanded there
 * into one of these first. Bytes: docs/formats/codecs.md. */
enum quire_codec {
  QUIRE_CODEC_RAW_F16 = 1,
  QUIRE_CODEC_RAW_BF16 = 2,
  QUIRE_CODEC_RAW_F32 = 3,
  QUIRE_CODEC_BF16_EXP4 = 4,    /* lossless, variable size */
  QUIRE_CODEC_BF16_WINDOW3 = 5, /* lossless, variable size */
  QUIRE_CODEC_INT8_CHANNEL = 16,
  QUIRE_CODEC_FP8_TOKEN = 17,
  QUIRE_CODEC_INT4_CHANNEL64 = 32,
  QUIRE_CODEC_INT4_CHANNEL128 = 33,
  QUIRE_CODEC_INT4_KIVI = 34,
  QUIRE_CODEC_INT4_HADAMARD = 35,
  QUIRE_CODEC_INT4_CENTRED = 36,
  QUIRE_CODEC_INT3_CHANNEL64 = 48,
  QUIRE_CODEC_INT2_CHANNEL32 = 56,
  QUIRE_CODEC_INT2_KIVI = 57,
  QUIRE_CODEC_MIXED_INT8_INT4 = 64, /* variable size */
  QUIRE_CODEC_MIXED_INT8_INT2 = 65  /* variable size */
};
enum quire_dtype { QUIRE_DTYPE_F16 = 1, QUIRE_DTYPE_BF16 = 2, QUIRE_DTYPE_F32 = 3 };
enum quire_plane { QUIRE_PLANE_KEY = 0, QUIRE_PLANE_VALUE = 1 };
enum quire_rope_style {
  QUIRE_ROPE_STYLE_NONE = 0,
  QUIRE_ROPE_STYLE_NEOX = 1,       /* pairs (j, j + rotary_dims / 2) */
  QUIRE_ROPE_STYLE_INTERLEAVED = 2 /* pairs (2j, 2j + 1) */
};

/* A rotation of the first rotary_dims dims of every row; the other dims are copied.
 * table: [tokens][rotary_dims / 2][2] floats (cos, sin), token i of the chunk reads
 * table + i * table_token_stride bytes; stride 0 = one rotation for the whole chunk.
 * style NONE or table NULL = no rotation. Tables are made by quire_rope_table(). */
struct quire_rotation {
  int32_t style;
  uint32_t rotary_dims; /* even, <= head_dim */
  const float* table;
  int64_t table_token_stride; /* bytes: 0, or >= rotary_dims * 4, a multiple of 4 */
};

/* Exact size of a section of a codec of fixed size; 0 where an argument is out of limits or
 * unknown, and for codecs of variable size. */
uint64_t quire_section_bytes(int32_t codec, int32_t plane, uint32_t n_tokens, uint32_t n_heads,
                             uint32_t head_dim);
/* The most that a section can take; quire_section_bytes() where the size is fixed. 0 where an
 * argument is out of limits or unknown. Never reached by less than it: encoders of variable size
 * fall back to plain elements. */
uint64_t quire_section_bytes_max(int32_t codec, int32_t plane, uint32_t n_tokens, uint32_t n_heads,
                                 uint32_t head_dim);
/* That a section has the one size its codec, shape and own header allow, and that its header and
 * indexes contradict neither each other nor the codes; values are judged by quire_load(). OK,
 * INVALID_ARGUMENT, UNSUPPORTED or CORRUPT. For fixed sizes only the size is looked at. */
int quire_section_check(int32_t codec, int32_t plane, uint32_t n_tokens, uint32_t n_heads,
                        uint32_t head_dim, const void* section, uint64_t section_bytes);

enum quire_kernel_flag {
  /* Lossless codecs of the engine's own dtype, without rotation: NaN and infinities pass, bit for
   * bit. Refused otherwise. For tools; a store of KV wants them refused. */
  QUIRE_KERNEL_KEEP_NON_FINITE = 1u << 0
};

/* Stored bytes -> engine memory: decode, rotate, scatter.
 * Element (token i, head h, dim d) goes to
 *   dst + row(i) * dst_token_stride + h * dst_head_stride + d * dst_dim_stride,
 *   row(i) = dst_token ? dst_token[i] : i, for i in [token_begin, token_end).
 * A transposed V cache is dst_token_stride = 2, dst_dim_stride = cells * 2.
 *
 * Raw codec, dst_dtype equal to the stored one, no rotation: a bit-exact copy.
 * Payload check: all of the range's values (masked rows included) - or the scales and zeros that
 * make them - are scanned before anything is written. A NaN or infinity gives NON_FINITE. A value
 * that could exceed dst_dtype's largest finite number gives OUT_OF_RANGE (with a rotation the limit
 * is divided by sqrt(2), the most that a rotation can enlarge one dim by; with a Hadamard transform
 * of order o by sqrt(o)). Sections of variable size are judged by quire_section_check() first. */
struct quire_load_params {
  size_t struct_bytes;
  int32_t codec;
  int32_t plane;
  uint32_t n_tokens; /* of the whole section */
  uint32_t n_heads;
  uint32_t head_dim;
  uint32_t token_begin; /* first token to load */
  uint32_t token_end;   /* exclusive; <= n_tokens */
  int32_t dst_dtype;
  const void* src;    /* the section; 4-byte aligned */
  uint64_t src_bytes; /* quire_section_bytes(), or what quire_section_check() accepts */
  void* dst;
  int64_t dst_tokens; /* rows that dst has; a row outside [0, dst_tokens) is refused */
  int64_t dst_token_stride;
  int64_t dst_head_stride;
  int64_t dst_dim_stride;
  const int64_t*
      dst_token; /* n_tokens row numbers (entries of masked rows unused), or NULL = identity */
  const uint8_t* row_mask; /* n_tokens bytes, 0 = never write this row; or NULL = write all */
  struct quire_rotation rotation; /* K only: refused for plane VALUE unless style is NONE */
  uint32_t flags;                 /* quire_kernel_flag */
};
int quire_load(const struct quire_load_params* params);

/* Many sections. The arguments of all are checked before anything is written; then each section's
 * payload is checked before its own first write, in order. On failure *failed_index (may be NULL)
 * names the section; earlier ones are loaded, later ones untouched. n = 0 is OK. Calls that fill
 * 1 MiB or more write rows past the caches where dst, both strides and the rows are multiples of
 * 64 bytes: about one and a half times as fast, so load a representation's layers in one call. */
int quire_load_batch(const struct quire_load_params* params, size_t n, size_t* failed_index);

/* Engine memory -> stored bytes: gather, rotate (for example un-rotate, see quire_rope_table),
 * encode. Source addressing mirrors quire_load's destination. The whole section is written, zero
 * padding included; equal input gives equal bytes. NON_FINITE and OUT_OF_RANGE (|value| beyond the
 * stored format or its side data: fp16 for all quantised codecs but int8's K, which has fp32)
 * leave unspecified bytes in dst. */
struct quire_store_params {
  size_t struct_bytes;
  int32_t codec;
  int32_t plane;
  uint32_t n_tokens;
  uint32_t n_heads;
  uint32_t head_dim;
  int32_t src_dtype;
  const void* src;
  int64_t src_tokens; /* rows that src has */
  int64_t src_token_stride;
  int64_t src_head_stride;
  int64_t src_dim_stride;
  const int64_t* src_token; /* n_tokens row numbers, or NULL = identity */
  struct quire_rotation rotation;
  /* Mixed codecs: n_tokens bytes, not 0 = a salient token. NULL = none. Ignored by others. */
  const uint8_t* salient;
  void* dst;             /* the section; 4-byte aligned */
  uint64_t dst_bytes;    /* quire_section_bytes(); variable sizes: quire_section_bytes_max() */
  uint64_t* dst_written; /* out: the section's size; may be NULL where that is fixed */
  uint32_t flags;        /* quire_kernel_flag */
};
int quire_store(const struct quire_store_params* params);

enum quire_rope_mode {
  /* angle = position delta (integer) * inverse frequency (the fp32 bits as given), in fp64; cos and
   * sin rounded once to fp32. */
  QUIRE_ROPE_MODE_EXACT = 0,
  /* The fp32 arithmetic of ggml (ggml_rope_cache_init): theta = (float)pos; for each pair
   * cosf/sinf(freq_scale * (theta / freq_factor)), then theta *= powf(base, -2.0f / rotary_dims).
   * For parity with an engine; YaRN's ramp is not covered. */
  QUIRE_ROPE_MODE_ENGINE = 1
};
enum quire_rope_flag {
  QUIRE_ROPE_FROM_SRC = 1u << 0, /* undo the rotation of src_pos + i (the rows are rotated there) */
  QUIRE_ROPE_TO_DST = 1u << 1    /* apply the rotation of dst_pos + i */
};

/* Fills table[i][j] = {cos, sin} of the rotation that takes token i from its source frame to its
 * destination frame. A move sets both flags; pre-rope K to a position only TO_DST; storing rotated
 * K un-rotated only FROM_SRC. A magnitude factor (YaRN) is never applied: it stays inside K. EXACT
 * with both flags is the same rotation for every token: n_tokens = 1 and a token stride of 0 serve
 * the whole chunk. ENGINE combines the two fp32 tables in fp64, per token. */
struct quire_rope_params {
  size_t struct_bytes;
  int32_t mode;
  uint32_t flags;  /* at least one; unknown bits are refused */
  int64_t src_pos; /* position of token 0 in the source frame; |pos| < 2^31 */
  int64_t dst_pos;
  uint32_t n_tokens;
  uint32_t rotary_dims;             /* even */
  const float* inverse_frequencies; /* EXACT: rotary_dims / 2 finite values */
  float base;                       /* ENGINE: > 0 */
  float freq_scale;                 /* ENGINE: linear position scale; 0 means 1 */
  const float* freq_factors;        /* ENGINE: rotary_dims / 2 values, or NULL */
  float* table;
  uint64_t table_bytes; /* >= n_tokens * rotary_dims * 4 */
};
int quire_rope_table(const struct quire_rope_params* params);

/* OK, or NON_FINITE where one of n elements is NaN or infinite. */
int quire_scan_finite(int32_t dtype, const void* elements, uint64_t n);

/* Implementations. select() is for tests and comparisons; it changes what later calls of all
 * threads use. UNSUPPORTED where the machine lacks it. */
enum quire_isa {
  QUIRE_ISA_BEST = 0,
  QUIRE_ISA_SCALAR = 1,
  QUIRE_ISA_AVX512 = 2,
  QUIRE_ISA_AVX2 = 3
};
int quire_kernel_select(int32_t isa);
/* "scalar", "avx2" or "avx512": what calls use now. */
const char* quire_kernel_isa_name(void);

#ifdef __cplusplus
}
#endif

#endif /* QUIRE_KERNELS_QUIRE_KERNELS_H_ */
