// The reference: plain C++ for every machine.
#include "kernels/rows_portable.h"

namespace quire_kernels {
namespace {

constexpr RowOps kScalarRows = portable_rows("scalar");

}  // namespace

const RowOps* scalar_rows() {
  return &kScalarRows;
}

}  // namespace quire_kernels
