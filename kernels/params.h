// Checks of untrusted parameters, shared by load and store.
#ifndef QUIRE_KERNELS_PARAMS_H_
#define QUIRE_KERNELS_PARAMS_H_

#include "kernels/quire_kernels.h"

namespace quire_kernels {

// QUIRE_KERNEL_OK, or why the call is refused. Reads the parameter struct, the row numbers and the
// mask; no payload.
int check_load(const quire_load_params* params);
int check_store(const quire_store_params* params);
// check_load() without what concerns the section itself: for callers that cannot read it.
int check_load_engine(const quire_load_params& params);
// quire_section_check().
int check_section(int32_t codec, int32_t plane, uint32_t n_tokens, uint32_t n_heads,
                  uint32_t head_dim, const void* bytes, uint64_t n_bytes);

inline bool rotates(const quire_rotation& rotation) {
  return rotation.style != QUIRE_ROPE_STYLE_NONE && rotation.table != nullptr;
}

inline const float* rotation_of_token(const quire_rotation& rotation, uint32_t token) {
  return reinterpret_cast<const float*>(reinterpret_cast<const unsigned char*>(rotation.table) +
                                        token * rotation.table_token_stride);
}

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_PARAMS_H_
