/* CUDA implementations of Quire's load and store: the parameter structs, bytes and statuses of
 * quire_kernels.h, for memory that a GPU can reach. Source: kernels/cuda. The library links the
 * CUDA runtime statically; where there is no driver every call returns QUIRE_KERNEL_UNSUPPORTED.
 *
 *  - Pointers in the parameters are for the device: device memory, managed memory, or host memory
 * that is pinned and mapped (then the kernel reads or writes it over the bus: zero-copy).
 * dst_token, src_token, row_mask and rotation tables too. Only the parameter structs themselves are
 * host memory; they are read before the call returns.
 *  - What the host can see - sizes, strides, formats, alignment, null - is checked for all sections
 * before anything is launched; a wrong one launches nothing. Row numbers and payloads are seen by
 * the kernels alone: the first failure is left in *device_status and the rows concerned are not
 * written (never outside the destination). Look at it after the stream.
 *  - Work is queued on launch->stream of the current device, in waves of up to 24 sections a
 * launch, ordered by format: sections of one batch must not overlap each other's destinations.
 * Calls are reentrant and allocate nothing; they can be captured in a graph.
 *  - Supported, head_dim <= 256: loads and stores of all codecs of quire_kernels.h; loads of
 * lossless bf16 (4, 5), of mixed precision (64, 65) and of K of INT4_CENTRED take the path DIRECT.
 * Others: QUIRE_KERNEL_UNSUPPORTED. Bytes and values equal the CPU's.
 *  - Stores of variable size (4, 5, 64, 65): dst_written is 8-byte aligned memory of the device
 * and may not be NULL; the kernel leaves the section's size there, which holds where *device_status
 * is still 0 after the stream (until then look at dst_bytes for room). `salient` is the device's
 * too. Sections of more than 2^32 - 1 elements are UNSUPPORTED. Of fixed sizes dst_written is host
 * memory and filled before the call returns. One CTA makes a section of lossless bf16, so a batch
 * of all layers fills the device where a single section does not.
 *  - The headers of sections of variable size are read by the kernels. A section that contradicts
 * itself gives QUIRE_KERNEL_CORRUPT and none of the rows concerned is written; of lossless bf16 a
 * load of some tokens looks at the header and at the blocks of 64 rows that it reads, not at the
 * whole index as the CPU does. src_bytes that no such section has give CORRUPT from the call.
 */
#ifndef QUIRE_KERNELS_QUIRE_CUDA_H_
#define QUIRE_KERNELS_QUIRE_CUDA_H_

#include "kernels/quire_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

enum quire_cuda_path {
  QUIRE_CUDA_PATH_AUTO = 0,   /* from `table` where there is one, else DIRECT */
  QUIRE_CUDA_PATH_DIRECT = 1, /* threads read the section where it is: device memory, sm_80 */
  /* Bulk copies into a ring of shared memory: many bytes in flight with few CTAs. Sections 16-byte
   * aligned, 142 KB of shared memory (A100, H100; not sm_86, sm_89); DIRECT is taken where that
   * does not hold, RING_ASYNC where there are no bulk copies (before sm_90). */
  QUIRE_CUDA_PATH_RING = 2,
  /* Loads of raw sections without rotation, mask and row numbers into contiguous rows: the copy
   * engines, one batched copy. DIRECT is taken where that does not hold. No payload check. */
  QUIRE_CUDA_PATH_COPY = 3,
  /* The ring of RING filled by cp.async: sm_80 and newer. */
  QUIRE_CUDA_PATH_RING_ASYNC = 4
};

/* How stores write sections of fixed size; those of variable size (4, 5, 64, 65) are written
 * plainly: their CTAs wait for counts, not for what they write. */
enum quire_cuda_store_path {
  QUIRE_CUDA_STORE_AUTO = 0,  /* from `table` where there is one, else PLAIN */
  QUIRE_CUDA_STORE_PLAIN = 1, /* every lane its own codes */
  /* Tiles of shared memory and bulk copies. sm_90, two tiles of a run or eight of 32 rows in 100 KB
   * (head_dim <= 128, raw fp32: <= 96), or 12 KB less than a block may have where that is fewer;
   * PLAIN is taken where that does not hold. */
  QUIRE_CUDA_STORE_BULK = 2
};

/* The paths that were fastest on this machine: filled by quire_cuda_calibrate(), plain data. Times
 * of 0 were not measured: the path is none of this device, or the cell was too large. */
#define QUIRE_CUDA_TABLE_BYTES 6u /* contiguous bytes per run: 4 KiB * 4^i */
#define QUIRE_CUDA_TABLE_RUNS 4u  /* runs per call: 8^i */
struct quire_cuda_table {
  size_t struct_bytes;
  uint8_t from_host[QUIRE_CUDA_TABLE_BYTES][QUIRE_CUDA_TABLE_RUNS];     /* quire_cuda_path */
  float microseconds[3][QUIRE_CUDA_TABLE_BYTES][QUIRE_CUDA_TABLE_RUNS]; /* by path - 1 */
  uint32_t host_ctas; /* the fewest that reach 95 % of the best rate from pinned memory */
  float async_microseconds[QUIRE_CUDA_TABLE_BYTES]
                          [QUIRE_CUDA_TABLE_RUNS]; /* RING_ASYNC, as above */
  /* The same from device memory, where COPY is not measured. For raw sections: others are decoded
   * at the memory's speed, not the bus's, and take DIRECT there. */
  uint8_t from_device[QUIRE_CUDA_TABLE_BYTES][QUIRE_CUDA_TABLE_RUNS];
  float device_microseconds[4][QUIRE_CUDA_TABLE_BYTES][QUIRE_CUDA_TABLE_RUNS]; /* by path - 1 */
  /* quire_cuda_store_path, [0] to device memory, [1] to pinned host memory, by what is stored: [0]
   * rows, raw or with their own scale; [1] runs with scales per channel. */
  uint8_t store_path[2][2];
  float store_microseconds[2][2][2]; /* by path - 1, then as store_path */
};

struct quire_cuda_launch {
  size_t struct_bytes;
  void* stream;           /* cudaStream_t */
  uint32_t max_ctas;      /* at most so many CTAs run; 0 = as many as fit the work */
  int32_t path;           /* quire_cuda_path, loads only */
  int32_t* device_status; /* 4-byte aligned device memory, 0 before the first call; never cleared */
  const struct quire_cuda_table* table; /* host memory, or NULL */
  int32_t store_path;                   /* quire_cuda_store_path, stores only */
};

/* OK when everything was queued. On failure *failed_index (may be NULL) names the section, and
 * nothing was queued, unless the runtime itself failed in between (QUIRE_KERNEL_UNSUPPORTED). */
int quire_cuda_load_batch(const struct quire_load_params* params, size_t n,
                          const struct quire_cuda_launch* launch, size_t* failed_index);
int quire_cuda_store_batch(const struct quire_store_params* params, size_t n,
                           const struct quire_cuda_launch* launch, size_t* failed_index);

/* Measures the paths on the current device with scratch memory of its own (at most 96 MiB pinned
 * and 192 MiB of device memory, freed again). Takes about a second. */
int quire_cuda_calibrate(struct quire_cuda_table* table);

#ifdef __cplusplus
}
#endif

#endif /* QUIRE_KERNELS_QUIRE_CUDA_H_ */
