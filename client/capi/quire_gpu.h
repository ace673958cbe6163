/* The server's GPU pool in this process: objects that the server keeps on the GPU are leased there,
 * and kernels read them by device address, without a copy through the host. Rules of structs,
 * errors and lifetimes: quire.h. Launching kernels (kernels/quire_cuda.h has the loads) is the
 * caller's.
 *
 * Threads: a pool may be used from several threads; a lease belongs to one at a time.
 *
 * Lifetimes: leases keep their pool, and a pool its client's session, so handles may be freed in
 * any order. A device pointer is valid until its lease is released or expires: wait for the kernels
 * that read it before releasing, and ask quire_gpu_lease_check() when they are done.
 */
#ifndef QUIRE_CLIENT_CAPI_QUIRE_GPU_H_
#define QUIRE_CLIENT_CAPI_QUIRE_GPU_H_

#include "quire.h"
#include "quire_kv.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct quire_gpu_pool quire_gpu_pool;
typedef struct quire_gpu_lease quire_gpu_lease;

typedef struct quire_gpu_options {
  uint32_t struct_bytes;
  uint32_t reserved0;
  /* NULL or "cuda": CUDA's driver, opened at run time. "fake": host memory that poses as a GPU, for
   * tests against a server with the same driver; its device pointers are host addresses. */
  const char* driver;
} quire_gpu_options;

typedef struct quire_gpu_pool_info {
  uint32_t struct_bytes;
  uint32_t read_only; /* 0 where the device cannot map read-only: do not write all the same */
  uint64_t capacity_bytes;
  uint64_t mapped_bytes; /* imported now */
} quire_gpu_pool_info;

/* Imports the pool of the client's server; waits while the server opens it, within the client's
 * timeout. The device is found by its uuid, whatever number it has in this process; its primary
 * context is used, as the CUDA runtime does. options NULL: all defaults.
 * QUIRE_UNAVAILABLE: no CUDA driver or device here, or the server's pool is not there (why: in the
 * message). QUIRE_UNSUPPORTED: the server has no GPU tier. QUIRE_FAILED_PRECONDITION: the server's
 * driver is of another kind. QUIRE_NOT_FOUND: this process does not see the server's device. */
QUIRE_API quire_status quire_gpu_pool_open(quire_client* client, const quire_gpu_options* options,
                                           quire_gpu_pool** pool);
/* Unmaps the pool once its leases are freed, too; NULL is fine. */
QUIRE_API void quire_gpu_pool_free(quire_gpu_pool* pool);
/* info->struct_bytes must be set. */
QUIRE_API quire_status quire_gpu_pool_get_info(const quire_gpu_pool* pool,
                                               quire_gpu_pool_info* info);

/* Where a leased object lies. Exactly one of device_pointer and data is set; after release none. */
typedef struct quire_gpu_lease_info {
  uint32_t struct_bytes;
  uint32_t on_device;
  uint64_t device_pointer; /* 16 KiB aligned, read-only */
  const void* data;        /* not hot enough yet, or no room on the GPU: host memory */
  uint64_t bytes;          /* of the representation */
  uint64_t generation;     /* of the slot: a stale lease is of another one */
} quire_gpu_lease_info;

/* Pins one object where it is. QUIRE_NOT_FOUND on a miss. */
QUIRE_API quire_status quire_gpu_acquire(quire_gpu_pool* pool, const quire_id* representation,
                                         quire_gpu_lease** lease);
/* As quire_acquire_many(). */
QUIRE_API quire_status quire_gpu_acquire_many(quire_gpu_pool* pool, const quire_id* representations,
                                              size_t n_representations, quire_gpu_lease** leases,
                                              quire_status* statuses);
/* info->struct_bytes must be set. */
QUIRE_API quire_status quire_gpu_lease_get_info(const quire_gpu_lease* lease,
                                                quire_gpu_lease_info* info);

/* One layer's K or V, as codecs/ encoded it: what a load kernel takes as source. */
typedef struct quire_gpu_section {
  uint32_t struct_bytes;
  uint32_t layer;
  uint32_t plane; /* 0 K, 1 V */
  uint32_t reserved0;
  uint64_t offset; /* from the object's first byte; 64-byte aligned */
  uint64_t bytes;  /* 0: the layer has no such plane */
} quire_gpu_section;

/* Copies the manifest to the host and checks it, not the sections' checksums. info->struct_bytes
 * must be set. Free *sections and *tokens (info->n_tokens of them; tokens may be NULL) with
 * quire_free(). */
QUIRE_API quire_status quire_gpu_lease_describe(const quire_gpu_lease* lease,
                                                quire_representation_info* info,
                                                quire_gpu_section** sections, size_t* n_sections,
                                                uint32_t** tokens);
/* QUIRE_STALE_LEASE: expired or released, what was read may be of another object: throw it away. */
QUIRE_API quire_status quire_gpu_lease_check(const quire_gpu_lease* lease);
QUIRE_API quire_status quire_gpu_lease_renew(quire_gpu_lease* lease, uint32_t lease_ms);
/* Gives the pin back, at once and without waiting. Host memory stays mapped until
 * quire_gpu_lease_free(), device memory does not. */
QUIRE_API void quire_gpu_lease_release(quire_gpu_lease* lease);
/* Releases too; NULL is fine. */
QUIRE_API void quire_gpu_lease_free(quire_gpu_lease* lease);

#ifdef __cplusplus
}
#endif

#endif /* QUIRE_CLIENT_CAPI_QUIRE_GPU_H_ */
