#include "kernels/cuda/load_kernels.cuh"

namespace quire_cuda {

int launch_load_channel(const SectionPack& pack, LoadPath path, uint32_t ctas, void* stream) {
  const PlaneSpec& spec = pack.sections[0].spec;
  if (spec.kind == SectionKind::kNormalised)
    return launch_load<Format<SectionKind::kNormalised, 4>>(pack, path, ctas, stream);
  switch (spec.bits) {
    case 8:
      return launch_load<Format<SectionKind::kChannel, 8, true>>(pack, path, ctas, stream);
    case 4:
      return launch_load<Format<SectionKind::kChannel, 4>>(pack, path, ctas, stream);
    case 3:
      return launch_load<Format<SectionKind::kChannel, 3>>(pack, path, ctas, stream);
    default:
      return launch_load<Format<SectionKind::kChannel, 2>>(pack, path, ctas, stream);
  }
}

}  // namespace quire_cuda
