// The two load kernels. Both take a pack of sections of one format and walk over its units of work
// with a grid of any size, so that a quota of CTAs bounds what a load takes from a forward pass.
//
// load_direct: a unit is 32 tokens of one head, moved by one warp straight from device memory or
// mapped host memory. Heads are the inner index: warps of a CTA share the rotation table in L1.
//
// load_ring: a unit is up to 256 tokens of one head. One warp asks for whole units into a ring of
// shared memory, four warps expand them. PCIe needs about 100 KB in flight, which a ring has with
// one CTA and registers have with sixteen. The ring is filled by bulk copies (sm_90), which one
// lane starts, or by cp.async (sm_80 too), 16 bytes of every lane; both end by arriving on the
// stage's barrier, so that those who expand cannot tell which it was.
#ifndef QUIRE_KERNELS_CUDA_LOAD_KERNELS_CUH_
#define QUIRE_KERNELS_CUDA_LOAD_KERNELS_CUH_

#include "kernels/cuda/load_rows.cuh"
#include "kernels/cuda/runtime.cuh"
#include "kernels/cuda/units.h"

namespace quire_cuda {

struct UnitPlace {
  uint32_t head;
  uint32_t first_token;
};
QUIRE_DEVICE UnitPlace unit_place(const Section& s, uint32_t unit) {
  const uint32_t local = unit - s.unit_begin;
  const uint32_t first = s.token_begin / s.unit_tokens + local / s.n_heads;
  return {local % s.n_heads, first * s.unit_tokens};
}

template <typename F>
__global__ void __launch_bounds__(kWarps * 32)
    load_direct(const __grid_constant__ SectionPack pack) {
  QUIRE_SHARED(float, scratch, kWarps* kHeadDimMax);
  for (uint32_t unit = blockIdx.x * kWarps + warp_id(); unit < pack.n_units;
       unit += gridDim.x * kWarps) {
    const Section& s = section_of_unit(pack, unit);
    const UnitPlace at = unit_place(s, unit);
    const Source source{s.bytes, s.bytes, 0, 0};
    load_block<F, true>(s, at.head, at.first_token, source, scratch + warp_id() * kHeadDimMax,
                        pack.status);
  }
}

// The parts of a unit that are copied: whole runs with their side data, or a piece of one run, or
// per-token side data and codes apart. 16-byte multiples.
struct UnitParts {
  uint64_t side_begin;
  uint64_t codes_begin;
  uint32_t side_bytes;  // 0: the side data lie in the codes' part
  uint32_t codes_bytes;
};

QUIRE_DEVICE uint32_t up16(uint64_t bytes) {
  return static_cast<uint32_t>((bytes + 15) / 16 * 16);
}

template <typename F>
QUIRE_DEVICE UnitParts unit_parts(const Section& s, const UnitPlace& at) {
  const uint32_t unit_end = at.first_token + s.unit_tokens;
  const uint32_t end = unit_end < s.token_end ? unit_end : s.token_end;
  const BlockPlace first = block_place<F>(s, at.head, at.first_token);
  const uint64_t skipped = uint64_t{at.first_token - first.first} * first.row_bytes;
  UnitParts parts = {};
  parts.codes_begin = first.codes + skipped;
  parts.codes_bytes = up16(uint64_t{end - at.first_token} * first.row_bytes);
  if constexpr (F::kKind == SectionKind::kChannel) {
    const BlockPlace last = block_place<F>(s, at.head, end - 1);
    if (last.first != first.first || s.unit_tokens >= s.spec.run_tokens) {
      parts.codes_begin = first.channel_side;
      parts.codes_bytes =
          up16(last.codes + uint64_t{end - last.first} * last.row_bytes - first.channel_side);
      parts.side_begin = parts.codes_begin;
    } else {
      parts.side_begin = first.channel_side;
      parts.side_bytes = static_cast<uint32_t>(first.codes - first.channel_side);
    }
  } else if constexpr (!F::kRaw) {
    const uint32_t row_side = F::kKind == SectionKind::kFp8 ? 2 : 4 * first.groups;
    parts.side_begin = first.token_side + uint64_t{at.first_token} * row_side;
    parts.side_bytes = up16(uint64_t{end - at.first_token} * row_side);
  }
  return parts;
}

struct Ring {
  unsigned char* stages;
  uint64_t* full;
  uint64_t* empty;
};

#if QUIRE_HAS_BULK
// By one lane.
QUIRE_DEVICE void fill_stage_bulk(const Section& s, const UnitParts& parts, unsigned char* to,
                                  uint64_t* full) {
  mbarrier_arrive_expect(full, parts.side_bytes + parts.codes_bytes);
  if (parts.side_bytes != 0) bulk_g2s(to, s.bytes + parts.side_begin, parts.side_bytes, full);
  bulk_g2s(to + parts.side_bytes, s.bytes + parts.codes_begin, parts.codes_bytes, full);
}
#endif

QUIRE_DEVICE void copy_async_part(unsigned char* to, const unsigned char* from, uint32_t bytes) {
#pragma unroll 4
  for (uint32_t at = lane_id() * 16; at < bytes; at += 32 * 16) cp_async16(to + at, from + at);
}

// By all lanes of a warp.
QUIRE_DEVICE void fill_stage_async(const Section& s, const UnitParts& parts, unsigned char* to,
                                   uint64_t* full) {
  copy_async_part(to, s.bytes + parts.side_begin, parts.side_bytes);
  copy_async_part(to + parts.side_bytes, s.bytes + parts.codes_begin, parts.codes_bytes);
  cp_async_arrive(full);
}

template <typename F>
QUIRE_DEVICE void fill_ring(const SectionPack& pack, const Ring& ring, bool bulk) {
  uint32_t turn = 0;
  for (uint32_t unit = blockIdx.x; unit < pack.n_units; unit += gridDim.x, ++turn) {
    const uint32_t stage = turn % kRingStages;
    const Section& s = section_of_unit(pack, unit);
    const UnitParts parts = unit_parts<F>(s, unit_place(s, unit));
    unsigned char* to = ring.stages + stage * kRingStageBytes;
    mbarrier_wait(ring.empty + stage, (turn / kRingStages & 1) ^ 1);
#if QUIRE_HAS_BULK
    if (bulk) {
      fill_stage_bulk(s, parts, to, ring.full + stage);
      continue;
    }
#endif
    fill_stage_async(s, parts, to, ring.full + stage);
  }
  // No thread exits with copies on the way.
  if (!bulk) {
    cp_async_commit();
    cp_async_wait<0>();
  }
}

template <typename F>
QUIRE_DEVICE void drain_ring(const SectionPack& pack, const Ring& ring, float* scratch) {
  const uint32_t worker = warp_id() - 1;
  uint32_t turn = 0;
  for (uint32_t unit = blockIdx.x; unit < pack.n_units; unit += gridDim.x, ++turn) {
    const uint32_t stage = turn % kRingStages;
    const Section& s = section_of_unit(pack, unit);
    const UnitPlace at = unit_place(s, unit);
    const UnitParts parts = unit_parts<F>(s, at);
    const unsigned char* from = ring.stages + stage * kRingStageBytes;
    const Source source{from, from + parts.side_bytes, parts.side_begin, parts.codes_begin};
    mbarrier_wait(ring.full + stage, turn / kRingStages & 1);
    for (uint32_t block = worker; block < s.unit_tokens / kBlockTokens; block += kWarps) {
      const uint32_t first = at.first_token + block * kBlockTokens;
      if (first < s.token_end && first + kBlockTokens > s.token_begin)
        load_block<F, false>(s, at.head, first, source, scratch + worker * kHeadDimMax,
                             pack.status);
    }
    sync_warp();
    if (lane_id() == 0) mbarrier_arrive(ring.empty + stage);
  }
}

// One CTA a multiprocessor is what the ring's shared memory allows.
template <typename F>
__global__ void __launch_bounds__((kWarps + 1) * 32, 1)
    load_ring(const __grid_constant__ SectionPack pack, bool by_bulk_copies) {
  const bool bulk = QUIRE_HAS_BULK && by_bulk_copies;
  QUIRE_DYNAMIC_SHARED(stages);
  QUIRE_SHARED(uint64_t, full, kRingStages);
  QUIRE_SHARED(uint64_t, empty, kRingStages);
  QUIRE_SHARED(float, scratch, kWarps* kHeadDimMax);
  if (threadIdx.x == 0) {
    for (uint32_t stage = 0; stage < kRingStages; ++stage) {
      mbarrier_init(full + stage, bulk ? 1 : 32);
      mbarrier_init(empty + stage, kWarps);
    }
    mbarrier_fence_init();
  }
  sync_block();
  const Ring ring{stages, full, empty};
  if (warp_id() == 0) {
    if (!bulk || lane_id() == 0) fill_ring<F>(pack, ring, bulk);
  } else {
    drain_ring<F>(pack, ring, scratch);
  }
}

template <typename F>
int launch_load(const SectionPack& pack, LoadPath path, uint32_t ctas, void* stream) {
  if constexpr (F::kKind != SectionKind::kNormalised) {
    if (path != LoadPath::kDirect)
      return QUIRE_LAUNCH(load_ring<F>, ctas, (kWarps + 1) * 32, kRingStages * kRingStageBytes,
                          stream, pack, path == LoadPath::kRingBulk);
  }
  return QUIRE_LAUNCH(load_direct<F>, ctas, kWarps * 32, 0, stream, pack);
}

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_LOAD_KERNELS_CUH_
