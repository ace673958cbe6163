#include "kernels/cuda/store_exponent.cuh"

namespace quire_cuda {

int launch_store_exponent(const SectionPack& pack, uint32_t ctas, void* stream) {
  if (pack.sections[0].spec.bits == 4)
    return QUIRE_LAUNCH(store_exponent<4>, ctas, kStoreThreads, 0, stream, pack);
  return QUIRE_LAUNCH(store_exponent<3>, ctas, kStoreThreads, 0, stream, pack);
}

}  // namespace quire_cuda
