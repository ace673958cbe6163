#include "kernels/attention/ops.h"
namespace quire_kernels {
const AttentionOps* avx512_attention() {
  return nullptr;
}
}  // namespace quire_kernels
