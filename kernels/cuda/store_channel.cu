#include "kernels/cuda/store_kernels.cuh"

namespace quire_cuda {

int launch_store_channel(const SectionPack& pack, uint32_t ctas, void* stream) {
  switch (pack.sections[0].spec.bits) {
    case 8:
      return launch_store_runs<Format<SectionKind::kChannel, 8, true>>(pack, ctas, stream);
    case 4:
      return launch_store_runs<Format<SectionKind::kChannel, 4>>(pack, ctas, stream);
    case 3:
      return launch_store_runs<Format<SectionKind::kChannel, 3>>(pack, ctas, stream);
    default:
      return launch_store_runs<Format<SectionKind::kChannel, 2>>(pack, ctas, stream);
  }
}

}  // namespace quire_cuda
