// The two parts of a section of mixed precision, as loads and stores see them.
#ifndef QUIRE_KERNELS_CUDA_MIXED_CUH_
#define QUIRE_KERNELS_CUDA_MIXED_CUH_

#include "kernels/cuda/section.cuh"

namespace quire_cuda {

constexpr uint32_t kNoToken = 0xffffffff;

template <int32_t kCodec_, int32_t kPlane_>
struct MixedFormat {
  static constexpr int32_t kCodec = kCodec_;
  static constexpr int32_t kPlane = kPlane_;
  static constexpr PlaneSpec kSalient =
      quire_kernels::plane_spec(quire_kernels::mixed_spec(kCodec).salient, kPlane);
  static constexpr PlaneSpec kOther =
      quire_kernels::plane_spec(quire_kernels::mixed_spec(kCodec).other, kPlane);
};

// A sub-section as a section of its own, with the engine's side of the whole.
QUIRE_DEVICE Section part_of(const Section& s, PlaneSpec spec, uint64_t offset, uint32_t tokens) {
  Section part = s;
  part.bytes = s.bytes + offset;
  part.spec = spec;
  part.n_tokens = tokens;
  if (spec.hadamard_max != 0) {
    const uint32_t order = quire_kernels::hadamard_order(s.head_dim, spec.hadamard_max);
    part.hadamard = static_cast<uint8_t>(order);
    if (order > 1) part.limit = s.limit / sqrt(static_cast<double>(order));
  }
  return part;
}

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_MIXED_CUH_
