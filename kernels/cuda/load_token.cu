#include "kernels/cuda/load_kernels.cuh"

namespace quire_cuda {

int launch_load_token(const SectionPack& pack, LoadPath path, uint32_t ctas, void* stream) {
  const PlaneSpec& spec = pack.sections[0].spec;
  if (spec.kind == SectionKind::kFp8)
    return launch_load<Format<SectionKind::kFp8, 8>>(pack, path, ctas, stream);
  switch (spec.bits) {
    case 8:
      return launch_load<Format<SectionKind::kToken, 8>>(pack, path, ctas, stream);
    case 4:
      return launch_load<Format<SectionKind::kToken, 4>>(pack, path, ctas, stream);
    case 3:
      return launch_load<Format<SectionKind::kToken, 3>>(pack, path, ctas, stream);
    default:
      return launch_load<Format<SectionKind::kToken, 2>>(pack, path, ctas, stream);
  }
}

}  // namespace quire_cuda
