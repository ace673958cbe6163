#include "kernels/cuda/load_kernels.cuh"

namespace quire_cuda {

// spec.bits of a raw section's pack entry is the dtype it is stored in.
int launch_load_raw(const SectionPack& pack, LoadPath path, uint32_t ctas, void* stream) {
  switch (pack.sections[0].spec.bits) {
    case QUIRE_DTYPE_F16:
      return launch_load<Format<SectionKind::kRaw, 16, false, QUIRE_DTYPE_F16>>(pack, path, ctas,
                                                                                stream);
    case QUIRE_DTYPE_BF16:
      return launch_load<Format<SectionKind::kRaw, 16, false, QUIRE_DTYPE_BF16>>(pack, path, ctas,
                                                                                 stream);
    default:
      return launch_load<Format<SectionKind::kRaw, 32, false, QUIRE_DTYPE_F32>>(pack, path, ctas,
                                                                                stream);
  }
}

}  // namespace quire_cuda
