#include "kernels/cuda/store_bulk.cuh"

namespace quire_cuda {

int launch_store_token(const SectionPack& pack, uint32_t tile_bytes, uint32_t ctas, void* stream) {
  const PlaneSpec& spec = pack.sections[0].spec;
  if (spec.kind == SectionKind::kFp8)
    return launch_store_tokens<Format<SectionKind::kFp8, 8>>(pack, tile_bytes, ctas, stream);
  switch (spec.bits) {
    case 8:
      return launch_store_tokens<Format<SectionKind::kToken, 8>>(pack, tile_bytes, ctas, stream);
    case 4:
      return launch_store_tokens<Format<SectionKind::kToken, 4>>(pack, tile_bytes, ctas, stream);
    case 3:
      return launch_store_tokens<Format<SectionKind::kToken, 3>>(pack, tile_bytes, ctas, stream);
    default:
      return launch_store_tokens<Format<SectionKind::kToken, 2>>(pack, tile_bytes, ctas, stream);
  }
}

int launch_store_raw(const SectionPack& pack, uint32_t tile_bytes, uint32_t ctas, void* stream) {
  switch (pack.sections[0].spec.bits) {
    case QUIRE_DTYPE_F16:
      return launch_store_tokens<Format<SectionKind::kRaw, 16, false, QUIRE_DTYPE_F16>>(
          pack, tile_bytes, ctas, stream);
    case QUIRE_DTYPE_BF16:
      return launch_store_tokens<Format<SectionKind::kRaw, 16, false, QUIRE_DTYPE_BF16>>(
          pack, tile_bytes, ctas, stream);
    default:
      return launch_store_tokens<Format<SectionKind::kRaw, 32, false, QUIRE_DTYPE_F32>>(
          pack, tile_bytes, ctas, stream);
  }
}

}  // namespace quire_cuda
