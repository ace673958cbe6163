/* libquire, C ABI (libquire.so). Opaque handles, no exceptions, plain C11 types.
 *
 * Versions: quire_abi_version() is QUIRE_ABI_VERSION of the library; a caller compiled against
 * another number must not go on. Structs that may grow begin with struct_bytes = sizeof(the
 * struct): the caller sets it in what it passes in; the library sets it in what it returns (the
 * stride of returned arrays is the first element's struct_bytes). Fields beyond the caller's
 * struct_bytes take their defaults. Bytes a newer caller sets beyond the library's struct must be
 * zero, else QUIRE_INVALID_ARGUMENT.
 *
 * Errors: every fallible function returns a status number (see QUIRE_OK ...; stable, the same as on
 * the wire). quire_last_error() is the message of the last failed call on this thread. On failure
 * outputs are set to NULL / 0.
 *
 * Threads: a client may be used from several threads; its calls are serialised inside. A lease or
 * window belongs to one thread at a time. Every call ends by the client's timeout_ms.
 *
 * KV arrays into representations and back: quire_kv.h.
 *
 * Lifetimes: leases and windows keep their client's memory mapped, so quire_close() before their
 * ..._free() is safe. After QUIRE_UNAVAILABLE (server gone) connect anew.
 */
#ifndef QUIRE_CLIENT_CAPI_QUIRE_H_
#define QUIRE_CLIENT_CAPI_QUIRE_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define QUIRE_API __attribute__((visibility("default")))
#else
#define QUIRE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define QUIRE_ABI_VERSION 1u

typedef uint32_t quire_status;
enum {
  QUIRE_OK = 0,
  QUIRE_INVALID_ARGUMENT = 1,
  QUIRE_NOT_FOUND = 2,
  QUIRE_ALREADY_EXISTS = 3,
  QUIRE_BUSY = 4,
  QUIRE_DEADLINE_EXCEEDED = 5,
  QUIRE_CANCELLED = 6,
  QUIRE_CORRUPT = 7,
  QUIRE_IO_ERROR = 8,
  QUIRE_NO_SPACE = 9,
  QUIRE_UNSUPPORTED = 10,
  QUIRE_MODEL_MISMATCH = 11,
  QUIRE_STALE_LEASE = 12,
  QUIRE_UNAVAILABLE = 13,
  QUIRE_PERMISSION_DENIED = 14,
  QUIRE_RESOURCE_EXHAUSTED = 15,
  QUIRE_INTERNAL = 16,
  QUIRE_VERSION_MISMATCH = 17,
  QUIRE_NON_FINITE = 18,
  QUIRE_FAILED_PRECONDITION = 19
};

QUIRE_API uint32_t quire_abi_version(void);
/* "0.1.0" */
QUIRE_API const char* quire_version(void);
/* "NOT_FOUND" and so on. */
QUIRE_API const char* quire_status_name(quire_status status);
/* Message of the last failed call on this thread, valid until the next call on it. Never NULL. */
QUIRE_API const char* quire_last_error(void);
/* After QUIRE_BUSY on this thread: the server's advice when to try again. */
QUIRE_API uint32_t quire_last_retry_after_ms(void);
/* Frees an array this library returned; NULL is fine. */
QUIRE_API void quire_free(void* array);

/* ---- Identities: pure functions, rules in docs/formats/ids.md ---- */

typedef struct quire_id {
  uint8_t bytes[32];
} quire_id;

enum {
  QUIRE_CONTEXT_ISOLATED = 0,
  QUIRE_CONTEXT_FIXED_PREFIX = 1,
  QUIRE_CONTEXT_DUMMY_SINK = 2,
  QUIRE_CONTEXT_CONTEXTUAL = 3,
  QUIRE_CONTEXT_SYNTHETIC = 4,
  QUIRE_CONTEXT_DELTA_OF = 5
};
enum { QUIRE_PHASE_PREFILL = 0, QUIRE_PHASE_DECODE = 1 };
enum { QUIRE_FRAME_PRE_ROPE = 0, QUIRE_FRAME_LOCAL = 1 };

typedef struct quire_context {
  uint32_t struct_bytes;
  uint32_t kind;  /* QUIRE_CONTEXT_... */
  uint32_t phase; /* QUIRE_PHASE_... */
  uint32_t dropped_tokens;
  quire_id reference;           /* fixed_prefix, contextual: prefix digest; delta_of: variant id */
  const uint32_t* dummy_tokens; /* dummy_sink */
  size_t n_dummy_tokens;
  const quire_id* neighbours; /* synthetic: object ids in order */
  size_t n_neighbours;
  quire_id
      scope; /* of quire_scope_id(): synthetic, delta_of, decode only; zero: the tenant's own */
} quire_context;

typedef struct quire_coverage {
  uint32_t layer_begin;
  uint32_t layer_end;
  uint32_t head_begin;
  uint32_t head_end;
} quire_coverage;

/* descriptor: the canonical bytes of a model descriptor. salt: NULL, 0 for the default tenant. */
QUIRE_API quire_status quire_model_id(const void* descriptor, size_t descriptor_bytes,
                                      quire_id* id);
QUIRE_API quire_status quire_object_id(const quire_id* model, const uint32_t* tokens,
                                       size_t n_tokens, const void* salt, size_t salt_bytes,
                                       quire_id* id);
QUIRE_API quire_status quire_prefix_digest(const quire_id* model, const uint32_t* tokens,
                                           size_t n_tokens, const void* salt, size_t salt_bytes,
                                           quire_id* digest);
QUIRE_API quire_status quire_variant_id(const quire_id* object, const quire_context* context,
                                        quire_id* id);
QUIRE_API quire_status quire_representation_id(const quire_id* variant, uint16_t codec,
                                               uint8_t frame, const quire_coverage* coverage,
                                               quire_id* id);

/* A trust domain inside a tenant: at most 64 bytes of label; none: zeros, the tenant's own. */
QUIRE_API quire_status quire_scope_id(const void* salt, size_t salt_bytes, const char* label,
                                      size_t label_bytes, quire_id* id);

/* ---- Session ---- */

typedef struct quire_client quire_client;

typedef struct quire_connect_options {
  uint32_t struct_bytes;
  uint32_t timeout_ms;     /* deadline of each call; 0 = 10,000 */
  const char* socket_path; /* NULL: $QUIRE_SOCKET, else the user's default */
  const char* client_name; /* NULL: "libquire" */
  const char* tenant;      /* NULL: the default tenant */
  uint64_t staging_bytes;  /* 0 = the server's default */
  const char* scope;       /* label, as quire_enter_scope(); NULL: the tenant's own scope */
} quire_connect_options;

typedef struct quire_client_info {
  uint32_t struct_bytes;
  uint32_t salt_bytes;
  uint64_t server_epoch;
  uint64_t object_bytes_max;
  uint8_t salt[64]; /* of this session's tenant: for the id functions */
} quire_client_info;

/* options NULL: all defaults. */
QUIRE_API quire_status quire_connect(const quire_connect_options* options, quire_client** client);
/* Ends the use of this handle; NULL is fine. */
QUIRE_API void quire_close(quire_client* client);
QUIRE_API quire_status quire_ping(quire_client* client);
/* info->struct_bytes must be set. */
QUIRE_API quire_status quire_client_get_info(quire_client* client, quire_client_info* info);
/* Needed once per model before the first put of its objects. */
QUIRE_API quire_status quire_register_model(quire_client* client, const char* name,
                                            const void* descriptor, size_t descriptor_bytes,
                                            quire_id* model);

/* ---- Finding ---- */

enum { QUIRE_MATCH_PREFIX = 0, QUIRE_MATCH_CHUNK = 1 };
enum {
  QUIRE_TIER_GPU = 0,
  QUIRE_TIER_HOST = 1,
  QUIRE_TIER_NVME = 2,
  QUIRE_TIER_ROCKS = 3,
  QUIRE_TIER_NONE = 255
};

typedef struct quire_match {
  uint32_t struct_bytes;
  uint32_t kind; /* QUIRE_MATCH_... */
  uint32_t token_begin;
  uint32_t n_tokens;
  quire_id representation;
  quire_id variant;
  quire_id context_reference;
  uint32_t context_kind; /* QUIRE_CONTEXT_... */
  uint32_t phase;        /* QUIRE_PHASE_... */
  uint32_t codec;
  uint32_t frame; /* QUIRE_FRAME_... */
  uint64_t base_position;
  uint64_t bytes;
  uint32_t tier; /* QUIRE_TIER_... */
  uint32_t load_us;
  uint32_t recompute_us;
  uint32_t strikes; /* uses that were thrown away (quire_feedback), since it was stored */
  float deviation;  /* told last by quire_feedback; 0 = never */
  uint32_t hits;    /* uses so far */
} quire_match;

/* STATISTICS: also list representations of codec QUIRE_CODEC_STATISTICS of the ranges found. */
enum { QUIRE_RESOLVE_PREFIX = 1, QUIRE_RESOLVE_CHUNKS = 2, QUIRE_RESOLVE_STATISTICS = 4 };
enum { QUIRE_CODEC_STATISTICS = 128 };

/* What the store has for this prompt; never pins. flags: QUIRE_RESOLVE_..., 0 = PREFIX | CHUNKS.
 * recompute_us_per_token: the caller's prefill speed, 0 = unknown. Free *matches with quire_free().
 */
QUIRE_API quire_status quire_resolve(quire_client* client, const quire_id* model,
                                     const uint32_t* tokens, size_t n_tokens, uint32_t flags,
                                     float recompute_us_per_token, quire_match** matches,
                                     size_t* n_matches);

/* ---- Leases: pinned, read-only objects ---- */

typedef struct quire_lease quire_lease;

/* *data stays readable until quire_lease_free(); its content is only promised until release or
 * expiry (quire_lease_check() after a long read). */
QUIRE_API quire_status quire_acquire(quire_client* client, const quire_id* representation,
                                     quire_lease** lease, const void** data, uint64_t* bytes);
/* Many under one deadline. leases[i] is NULL where statuses[i] is not QUIRE_OK. The result is the
 * status of the call as a whole; QUIRE_DEADLINE_EXCEEDED is a single status where others came in
 * time. At most 1,000,000 ids. */
QUIRE_API quire_status quire_acquire_many(quire_client* client, const quire_id* representations,
                                          size_t n_representations, quire_lease** leases,
                                          quire_status* statuses);
QUIRE_API const void* quire_lease_data(const quire_lease* lease);
QUIRE_API uint64_t quire_lease_bytes(const quire_lease* lease);
QUIRE_API quire_status quire_lease_check(const quire_lease* lease);
QUIRE_API quire_status quire_lease_renew(quire_lease* lease, uint32_t lease_ms);
/* Gives the pin back, at once and without waiting; the memory stays mapped until
 * quire_lease_free(). */
QUIRE_API void quire_lease_release(quire_lease* lease);
/* Releases too; NULL is fine. */
QUIRE_API void quire_lease_free(quire_lease* lease);

/* ---- Storing ---- */

typedef struct quire_window quire_window;

enum { QUIRE_ACK_MEMORY = 0, QUIRE_ACK_DURABLE = 1 };

/* A writable window of `bytes` bytes. QUIRE_ALREADY_EXISTS: this id is stored; send nothing. */
QUIRE_API quire_status quire_reserve(quire_client* client, const quire_id* representation,
                                     uint64_t bytes, quire_window** window, void** data);
/* Checksums the window and waits for the acknowledgement. The window cannot be used again but still
 * has to be freed. pin_ms: keep at least this long, 0 = no pin. */
QUIRE_API quire_status quire_window_commit(quire_window* window, uint32_t ack, uint32_t pin_ms);
/* Gives the reservation back unless committed. */
QUIRE_API void quire_window_abort(quire_window* window);
/* Aborts too; NULL is fine. */
QUIRE_API void quire_window_free(quire_window* window);
/* reserve + copy + commit, with bounded retries while the server is busy. QUIRE_OK where it was
 * stored already. */
QUIRE_API quire_status quire_put(quire_client* client, const quire_id* representation,
                                 const void* data, uint64_t bytes, uint32_t ack);

/* ---- Variants: scopes, feedback, statistics ---- */

/* The trust domain of what this session stores and finds from now on (docs/CONTRACT.md); its id for
 * contexts of synthetic, delta and decode variants. No label: the tenant's own. scope may be NULL.
 */
QUIRE_API quire_status quire_enter_scope(quire_client* client, const char* label,
                                         size_t label_bytes, quire_id* scope);

enum { QUIRE_FEEDBACK_STRIKE = 1, QUIRE_FEEDBACK_DEVIATION = 2 };

typedef struct quire_use {
  uint32_t struct_bytes;
  uint32_t flags;          /* QUIRE_FEEDBACK_...; at least one */
  quire_id representation; /* any of the variant */
  float deviation;         /* relative; finite, not negative */
  uint32_t reserved0;
} quire_use;

/* What came of uses. *applied (may be NULL): how many were noted; others are not stored. */
QUIRE_API quire_status quire_feedback(quire_client* client, const quire_use* uses, size_t n_uses,
                                      uint32_t* applied);

typedef struct quire_statistics_spec {
  uint32_t struct_bytes;
  uint32_t reserved0;
  const void* model; /* canonical descriptor */
  size_t model_bytes;
  const uint32_t* tokens;
  size_t n_tokens;
  const quire_context* context; /* NULL: isolated */
  const void* salt;
  size_t salt_bytes;
} quire_statistics_spec;

/* block: docs/formats/statistics.md. QUIRE_CORRUPT or QUIRE_VERSION_MISMATCH where it is none. */
QUIRE_API quire_status quire_statistics_check(const void* block, uint64_t block_bytes);
/* The representation around a block. data NULL: only *bytes, its size. */
QUIRE_API quire_status quire_statistics_pack(const quire_statistics_spec* spec, const void* block,
                                             uint64_t block_bytes, void* data, uint64_t data_bytes,
                                             uint64_t* bytes, quire_id* representation);
/* Where the block lies in a verified representation. QUIRE_UNSUPPORTED where that holds KV. */
QUIRE_API quire_status quire_statistics_unpack(const void* data, uint64_t data_bytes,
                                               uint64_t* block_offset, uint64_t* block_bytes);

/* ---- Reuse: plans and rows (contracts: client/reuse/plan.h, policy.h) ---- */

enum { QUIRE_SEGMENT_FRESH = 0, QUIRE_SEGMENT_PREFIX = 1, QUIRE_SEGMENT_CHUNK = 2 };

typedef struct quire_segment {
  uint32_t struct_bytes;
  uint32_t kind; /* QUIRE_SEGMENT_... */
  uint32_t token_begin;
  uint32_t n_tokens;
  uint32_t source_begin; /* first token of the representation that is used */
  int32_t match_index;   /* into the matches given; -1 in fresh segments */
  uint32_t exact;        /* 1: a chunk that stands behind the very tokens it was computed behind */
} quire_segment;

typedef struct quire_plan_options {
  uint32_t struct_bytes;
  uint32_t fresh_tail_tokens; /* at least this many tokens at the end are fresh; 0 = 1 */
  const char* policy;         /* NULL: the default, "query-value:0.15"; shapes what is reused */
  const quire_id*
      fixed_prefixes; /* prefix digests of the deployment's system prompts, best first */
  size_t n_fixed_prefixes;
  uint32_t keep_slow; /* 1: use matches whose load_us exceeds recompute_us, too */
  uint32_t reserved0;
  /* The prompt itself: n_tokens ids, the model's id, the session's salt and scope (NULL: the
   * tenant's own). With them exact chunks are preferred and marked; NULL: no chunk is exact. */
  const uint32_t* tokens;
  const quire_id* model;
  const void* salt;
  size_t salt_bytes;
  const quire_id* scope;
} quire_plan_options;

/* options NULL: all defaults. Free *segments with quire_free(). */
QUIRE_API quire_status quire_plan(uint32_t n_tokens, const quire_match* matches, size_t n_matches,
                                  const quire_plan_options* options, quire_segment** segments,
                                  size_t* n_segments);
/* How many layers, from the first on, the question's first pass runs through under the policy
 * (NULL: "query-value:0.15"); 0: none. full_layers: those of the model's n_layers that see the
 * whole prompt, ascending. */
QUIRE_API quire_status quire_question_layers(const char* policy, uint32_t n_tokens,
                                             const quire_segment* segments, size_t n_segments,
                                             uint32_t n_layers, const uint32_t* full_layers,
                                             size_t n_full_layers, uint32_t* layers_run);

/* A first pass of the question. */
typedef struct quire_question_pass {
  uint32_t struct_bytes;
  uint32_t layers_run; /* of the model's n_layers, from the first on; 0: there was no pass */
  uint32_t n_layers;
  uint32_t reserved0;
  /* n_tokens values; NULL where there was no pass: attention that the question pays to each token,
   * mean over heads and full-attention layers of the pass. "query-value:B": times the norm of the
   * token's value; where B is above .05, plus min(B - .05, .1) times the mean over the pass's
   * sliding-window layers, where the model has any. */
  const float* column_mass;
} quire_question_pass;

/* Tokens of reused segments to compute again under the policy (NULL: "query-value:0.15"),
 * ascending. pass may be NULL for policies that do not look at the question. Free *rows with
 * quire_free(). */
QUIRE_API quire_status quire_select_rows_after(const char* policy, uint32_t n_tokens,
                                               const quire_segment* segments, size_t n_segments,
                                               const quire_question_pass* pass, uint32_t** rows,
                                               size_t* n_rows);
/* The same after a pass through all layers, which "query-value:B" is charged for. policy NULL:
 * "query:0.15", not the default of the other functions, since mass of older callers is not weighed
 * by values. column_mass: n_tokens values, needed by policies that look at the question's
 * attention, else NULL. */
QUIRE_API quire_status quire_select_rows(const char* policy, uint32_t n_tokens,
                                         const quire_segment* segments, size_t n_segments,
                                         const float* column_mass, uint32_t** rows, size_t* n_rows);

#ifdef __cplusplus
}
#endif

#endif /* QUIRE_CLIENT_CAPI_QUIRE_H_ */
