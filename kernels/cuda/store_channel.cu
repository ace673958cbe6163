#include "kernels/cuda/store_bulk.cuh"

namespace quire_cuda {

int launch_store_channel(const SectionPack& pack, uint32_t tile_bytes, uint32_t ctas,
                         void* stream) {
  switch (pack.sections[0].spec.bits) {
    case 8:
      return launch_store_runs<Format<SectionKind::kChannel, 8, true>>(pack, tile_bytes, ctas,
                                                                       stream);
    case 4:
      return launch_store_runs<Format<SectionKind::kChannel, 4>>(pack, tile_bytes, ctas, stream);
    case 3:
      return launch_store_runs<Format<SectionKind::kChannel, 3>>(pack, tile_bytes, ctas, stream);
    default:
      return launch_store_runs<Format<SectionKind::kChannel, 2>>(pack, tile_bytes, ctas, stream);
  }
}

}  // namespace quire_cuda
