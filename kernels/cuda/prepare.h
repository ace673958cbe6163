// From the ABI's parameters to pack entries: every check of what the host can see. Host code only,
// no CUDA.
#ifndef QUIRE_KERNELS_CUDA_PREPARE_H_
#define QUIRE_KERNELS_CUDA_PREPARE_H_

#include "kernels/quire_cuda.h"

namespace quire_cuda {

struct Section;

// One kernel instance each; sections of a launch share it.
enum FormatIndex : int {
  kFormatRawF16,
  kFormatRawBf16,
  kFormatRawF32,
  kFormatFp8,
  kFormatChannel8,
  kFormatChannel4,
  kFormatChannel3,
  kFormatChannel2,
  kFormatNormalised,
  kFormatToken8,
  kFormatToken4,
  kFormatToken3,
  kFormatToken2,
  kFormatExponent4,
  kFormatExponent3,
  kFormatMixed4Key,
  kFormatMixed4Value,
  kFormatMixed2Key,
  kFormatMixed2Value,
  kFormats
};
// Elements as they are.
bool is_raw(int32_t codec);
// Of checked parameters.
int format_index(int32_t codec, int32_t plane);

int check_launch(const quire_cuda_launch* launch);
int check_cuda_load(const quire_load_params& params);
int check_cuda_store(const quire_store_params& params);

// Of checked parameters.
void describe_load(const quire_load_params& params, Section* section);
void describe_store(const quire_store_params& params, Section* section);

// Units of work of a section; unit_tokens is set.
uint32_t count_units(const Section& section);
uint32_t count_store_units(const Section& section);
// Tokens of a unit that fits a stage of the ring with its side data; 0 where the ring cannot be.
uint32_t ring_unit_tokens(const Section& section);

// Whether a store of it makes runs with scales per channel.
bool stores_runs(const Section& section);
// Shared memory that one tile of a store by bulk copies takes; 0 where there can be none, on a
// device whose blocks have shared_bytes_max of it.
uint32_t store_tile_bytes(const Section& section, size_t shared_bytes_max);

// A raw section that plain copies can move: `runs` of run_bytes each, or runs = 0.
struct CopyRuns {
  uint32_t runs;
  uint64_t run_bytes;
  uint64_t src_begin;
  int64_t src_stride;
  int64_t dst_begin;
  int64_t dst_stride;
};
CopyRuns copy_runs(const quire_load_params& params);

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_PREPARE_H_
