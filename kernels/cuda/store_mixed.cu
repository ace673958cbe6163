#include "kernels/cuda/prepare.h"
#include "kernels/cuda/store_mixed.cuh"

namespace quire_cuda {

int launch_store_mixed(const SectionPack& pack, int format, uint32_t ctas, void* stream) {
  constexpr int32_t kKey = QUIRE_PLANE_KEY;
  constexpr int32_t kValue = QUIRE_PLANE_VALUE;
  switch (format) {
    case kFormatMixed4Key:
      return launch_mixed_store<MixedFormat<QUIRE_CODEC_MIXED_INT8_INT4, kKey>>(pack, ctas, stream);
    case kFormatMixed4Value:
      return launch_mixed_store<MixedFormat<QUIRE_CODEC_MIXED_INT8_INT4, kValue>>(pack, ctas,
                                                                                  stream);
    case kFormatMixed2Key:
      return launch_mixed_store<MixedFormat<QUIRE_CODEC_MIXED_INT8_INT2, kKey>>(pack, ctas, stream);
    default:
      return launch_mixed_store<MixedFormat<QUIRE_CODEC_MIXED_INT8_INT2, kValue>>(pack, ctas,
                                                                                  stream);
  }
}

}  // namespace quire_cuda
