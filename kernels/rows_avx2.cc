// The reference again, compiled for AVX2: the compiler vectorises what it can, in the order of
// operations that the reference has.
#include "kernels/rows.h"

#if defined(__AVX2__)
#include "kernels/rows_portable.h"

namespace quire_kernels {
namespace {

constexpr RowOps kAvx2Rows = portable_rows("avx2");

}  // namespace

const RowOps* avx2_rows() {
  return &kAvx2Rows;
}

}  // namespace quire_kernels

#else

namespace quire_kernels {
const RowOps* avx2_rows() {
  return nullptr;
}
}  // namespace quire_kernels

#endif
