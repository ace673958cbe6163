#include "kernels/cuda/load_exponent.cuh"

namespace quire_cuda {

int launch_load_exponent(const SectionPack& pack, uint32_t ctas, void* stream) {
  if (pack.sections[0].spec.bits == 4)
    return QUIRE_LAUNCH(load_exponent<4>, ctas, kWarps * 32, 0, stream, pack);
  return QUIRE_LAUNCH(load_exponent<3>, ctas, kWarps * 32, 0, stream, pack);
}

}  // namespace quire_cuda
