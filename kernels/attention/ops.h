// The attention kernels that have several implementations. Chosen with the rows of rows.h: by
// cpuid, or by quire_kernel_select(). Parameters have been checked.
#ifndef QUIRE_KERNELS_ATTENTION_OPS_H_
#define QUIRE_KERNELS_ATTENTION_OPS_H_

#include "kernels/quire_attention.h"

namespace quire_kernels {

struct AttentionOps {
  void (*attend_rows)(const quire_attend_rows_params& params);
  void (*decode_chunks)(const quire_decode_chunks_params& params);
  void (*deviation)(const quire_deviation_params& params);
};

const AttentionOps* scalar_attention();
// Null where this build has no AVX-512.
const AttentionOps* avx512_attention();

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_ATTENTION_OPS_H_
