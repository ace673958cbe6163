// Checks of untrusted parameters for the attention kernels: QUIRE_KERNEL_OK, or why a call is
// refused. `on_host` is false where arrays that only kernels read (positions, block tables, chunk
// numbers, row numbers) are a device's: their contents are then checked by the kernels.
#ifndef QUIRE_KERNELS_ATTENTION_CHECKS_H_
#define QUIRE_KERNELS_ATTENTION_CHECKS_H_

#include "kernels/quire_attention.h"

namespace quire_kernels {

int check_attend_rows(const quire_attend_rows_params* params, bool on_host);
int check_decode_chunks(const quire_decode_chunks_params* params, bool on_host);
int check_key_bounds(const quire_key_bounds_params* params);
int check_deviation(const quire_deviation_params* params, bool on_host);
int check_top_tokens(const quire_top_tokens_params* params);
int check_rotate(const quire_rotate_params* params, bool on_host);

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_ATTENTION_CHECKS_H_
