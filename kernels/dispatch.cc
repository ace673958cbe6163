// Choice of implementation, names, sizes: everything of the ABI that touches no payload.
#include <atomic>

#include "kernels/math/layout.h"
#include "kernels/params.h"
#include "kernels/quire_kernels.h"
#include "kernels/rows.h"

namespace quire_kernels {
namespace {

const RowOps* usable_avx512_rows() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("bmi2"))
    return avx512_rows();
#endif
  return nullptr;
}

const RowOps* usable_avx2_rows() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return avx2_rows();
#endif
  return nullptr;
}

const RowOps* best_rows() {
  for (const RowOps* rows : {usable_avx512_rows(), usable_avx2_rows()})
    if (rows != nullptr) return rows;
  return scalar_rows();
}

std::atomic<const RowOps*>& selected_rows() {
  static std::atomic<const RowOps*> rows{best_rows()};
  return rows;
}

}  // namespace

const RowOps* active_rows() {
  return selected_rows().load(std::memory_order_relaxed);
}

}  // namespace quire_kernels

extern "C" {

const char* quire_kernel_status_name(int status) {
  switch (status) {
    case QUIRE_KERNEL_OK:
      return "OK";
    case QUIRE_KERNEL_INVALID_ARGUMENT:
      return "INVALID_ARGUMENT";
    case QUIRE_KERNEL_BAD_STRUCT:
      return "BAD_STRUCT";
    case QUIRE_KERNEL_UNSUPPORTED:
      return "UNSUPPORTED";
    case QUIRE_KERNEL_NON_FINITE:
      return "NON_FINITE";
    case QUIRE_KERNEL_OUT_OF_RANGE:
      return "OUT_OF_RANGE";
    case QUIRE_KERNEL_CORRUPT:
      return "CORRUPT";
    default:
      return "UNKNOWN";
  }
}

uint64_t quire_section_bytes(int32_t codec, int32_t plane, uint32_t n_tokens, uint32_t n_heads,
                             uint32_t head_dim) {
  using namespace quire_kernels;
  return variable_size(codec) ? 0
                              : quire_section_bytes_max(codec, plane, n_tokens, n_heads, head_dim);
}

uint64_t quire_section_bytes_max(int32_t codec, int32_t plane, uint32_t n_tokens, uint32_t n_heads,
                                 uint32_t head_dim) {
  using namespace quire_kernels;
  if (n_tokens == 0 || n_tokens > QUIRE_KERNEL_TOKENS_MAX || n_heads == 0 ||
      n_heads > QUIRE_KERNEL_HEADS_MAX || head_dim == 0 || head_dim > QUIRE_KERNEL_DIMS_MAX)
    return 0;
  if (plane != QUIRE_PLANE_KEY && plane != QUIRE_PLANE_VALUE) return 0;
  return section_bytes_max(codec, plane, n_tokens, n_heads, head_dim);
}

int quire_section_check(int32_t codec, int32_t plane, uint32_t n_tokens, uint32_t n_heads,
                        uint32_t head_dim, const void* section, uint64_t section_bytes) {
  using namespace quire_kernels;
  return check_section(codec, plane, n_tokens, n_heads, head_dim, section, section_bytes);
}

int quire_scan_finite(int32_t dtype, const void* elements, uint64_t n) {
  using namespace quire_kernels;
  if (element_bytes(dtype) == 0) return QUIRE_KERNEL_UNSUPPORTED;
  if (n == 0) return QUIRE_KERNEL_OK;
  if (elements == nullptr) return QUIRE_KERNEL_INVALID_ARGUMENT;
  const uint32_t bits = active_rows()->max_abs_bits(dtype, static_cast<const Byte*>(elements), n);
  return bits < infinity_bits(dtype) ? QUIRE_KERNEL_OK : QUIRE_KERNEL_NON_FINITE;
}

int quire_kernel_select(int32_t isa) {
  using namespace quire_kernels;
  const RowOps* rows = nullptr;
  if (isa == QUIRE_ISA_BEST) rows = best_rows();
  if (isa == QUIRE_ISA_SCALAR) rows = scalar_rows();
  if (isa == QUIRE_ISA_AVX2) rows = usable_avx2_rows();
  if (isa == QUIRE_ISA_AVX512) rows = usable_avx512_rows();
  if (rows == nullptr) return QUIRE_KERNEL_UNSUPPORTED;
  selected_rows().store(rows, std::memory_order_relaxed);
  return QUIRE_KERNEL_OK;
}

const char* quire_kernel_isa_name(void) {
  return quire_kernels::active_rows()->name;
}

}  // extern "C"
