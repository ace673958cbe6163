// The load and store kernels as the dispatcher sees them: one function per family of formats, each
// compiled in its own unit.
#ifndef QUIRE_KERNELS_CUDA_UNITS_H_
#define QUIRE_KERNELS_CUDA_UNITS_H_

#include <stdint.h>

namespace quire_cuda {

struct SectionPack;

constexpr uint32_t kRingStages = 4;
constexpr uint32_t kRingStageBytes = 34u << 10;  // 128 rows of 256 bytes with their side data
constexpr uint32_t kRingUnitTokensMax = 256;

enum class LoadPath : uint8_t {
  kDirect,
  kRingBulk,   // the ring filled by bulk copies: sm_90
  kRingAsync,  // by cp.async
};
constexpr int kLoadPaths = 3;

// 0, or a cudaError_t. All sections of the pack have the format of the first.
int launch_load_raw(const SectionPack& pack, LoadPath path, uint32_t ctas, void* stream);
int launch_load_channel(const SectionPack& pack, LoadPath path, uint32_t ctas, void* stream);
int launch_load_token(const SectionPack& pack, LoadPath path, uint32_t ctas, void* stream);
// Without a ring. format: FormatIndex (prepare.h).
int launch_load_exponent(const SectionPack& pack, uint32_t ctas, void* stream);
int launch_load_mixed(const SectionPack& pack, int format, uint32_t ctas, void* stream);
// tile_bytes: room for the largest tile of the pack's sections (store_tile.cuh), for stores by bulk
// copies; 0 for plain stores.
int launch_store_raw(const SectionPack& pack, uint32_t tile_bytes, uint32_t ctas, void* stream);
int launch_store_channel(const SectionPack& pack, uint32_t tile_bytes, uint32_t ctas, void* stream);
int launch_store_normalised(const SectionPack& pack, uint32_t tile_bytes, uint32_t ctas,
                            void* stream);
int launch_store_token(const SectionPack& pack, uint32_t tile_bytes, uint32_t ctas, void* stream);
int launch_store_exponent(const SectionPack& pack, uint32_t ctas, void* stream);
int launch_store_mixed(const SectionPack& pack, int format, uint32_t ctas, void* stream);

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_UNITS_H_
