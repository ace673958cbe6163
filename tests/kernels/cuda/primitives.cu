#include "kernels/cuda/device.cuh"
#include "kernels/cuda/runtime.cuh"
#include "tests/kernels/cuda/primitives.h"

namespace {

using namespace quire_cuda;

__global__ void warp_operations(uint32_t* out) {
  const uint32_t lane = lane_id();
  uint32_t* row = out + lane * 8;
  row[0] = shfl(lane * 3, 5);
  row[1] = shfl_xor(lane, 9);
  row[2] = shfl_up(lane, 4);
  row[3] = shfl_down(lane, 7);
  row[4] = warp_ballot(lane % 3 == 0);
  row[5] = (warp_any(lane == 31) ? 1u : 0u) | (warp_all(lane < 31) ? 2u : 0u) |
           (warp_all(lane < 32) ? 4u : 0u);
  row[6] = reduce_sum(lane) + 1000 * reduce_min(lane + 2);
  sync_warp();
  row[7] = reduce_max(lane ^ 13);
}

template <bool kBf16>
__global__ void matrix_product(const uint16_t* a, const uint16_t* b, float* d) {
  QUIRE_SHARED(uint16_t, tile_a, 16 * 16);
  QUIRE_SHARED(uint16_t, tile_b, 16 * 8);
  const uint32_t lane = lane_id();
  st_16(tile_a + lane * 8, ld_nc_16(a + lane * 8));
  if (lane < 16) st_16(tile_b + lane * 8, ld_16(b + lane * 8));
  sync_warp();
  uint32_t fragment_a[4];
  uint32_t fragment_b[2];
  ldmatrix_x4(fragment_a, tile_a + lane % 16 * 16 + lane / 16 * 8);
  ldmatrix_x2_trans(fragment_b, tile_b + lane % 16 * 8);
  float sum[4];
  for (uint32_t i = 0; i < 4; ++i) sum[i] = d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2];
  if (kBf16)
    mma_bf16(sum, fragment_a, fragment_b);
  else
    mma_f16(sum, fragment_a, fragment_b);
  for (uint32_t i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

// Each thread takes the vector its neighbour copied, so that the block's barrier matters too.
__global__ void async_copy(const uint4* from, uint4* to, uint32_t n_vectors) {
  constexpr uint32_t kStages = 3;
  QUIRE_DYNAMIC_SHARED(ring);
  const uint32_t threads = blockDim.x;
  const uint32_t turns = (n_vectors + threads - 1) / threads;
  auto issue = [&](uint32_t turn) {
    const uint32_t index = turn * threads + threadIdx.x;
    if (turn < turns)
      cp_async16(ring + (turn % kStages * threads + threadIdx.x) * 16, from + index,
                 index < n_vectors);
    cp_async_commit();
  };
  issue(0);
  issue(1);
  for (uint32_t turn = 0; turn < turns; ++turn) {
    cp_async_wait<1>();
    sync_block();
    issue(turn + 2);
    const uint32_t other = threads - 1 - threadIdx.x;
    const uint32_t index = turn * threads + other;
    const uint4 v = ld_16(ring + (turn % kStages * threads + other) * 16);
    if (index < n_vectors) st_cs_16(to + index, v);
  }
  cp_async_wait<0>();
}

// Warp 0 loads, warps 1 and 2 hand on, thread 32 stores.
template <bool kWaitForEmpty>
__global__ void bulk_copy(const unsigned char* from, unsigned char* to, uint32_t bytes) {
#if QUIRE_HAS_BULK
  constexpr uint32_t kStages = 2;
  constexpr uint32_t kStageBytes = 1024;
  QUIRE_SHARED(uint64_t, full, kStages);
  QUIRE_SHARED(uint64_t, empty, kStages);
  QUIRE_SHARED(unsigned char, in, kStages* kStageBytes);
  QUIRE_SHARED(unsigned char, out, kStageBytes);
  if (threadIdx.x == 0) {
    for (uint32_t i = 0; i < kStages; ++i) {
      mbarrier_init(full + i, 1);
      mbarrier_init(empty + i, 64);
    }
    mbarrier_fence_init();
  }
  sync_block();
  const uint32_t turns = bytes / kStageBytes;
  if (warp_id() == 0) {
    if (lane_id() != 0) return;
    for (uint32_t turn = 0; turn < turns; ++turn) {
      const uint32_t stage = turn % kStages;
      if (kWaitForEmpty) mbarrier_wait(empty + stage, (turn / kStages & 1) ^ 1);
      mbarrier_arrive_expect(full + stage, kStageBytes);
      bulk_g2s(in + stage * kStageBytes, from + turn * kStageBytes, kStageBytes, full + stage);
    }
    return;
  }
  const uint32_t worker = threadIdx.x - 32;
  for (uint32_t turn = 0; turn < turns; ++turn) {
    const uint32_t stage = turn % kStages;
    while (!mbarrier_try_wait(full + stage, turn / kStages & 1)) {
    }
    if (worker == 0) bulk_wait_read<0>();
    sync_named(1, 64);
    st_16(out + worker * 16, ld_16(in + stage * kStageBytes + worker * 16));
    mbarrier_arrive(empty + stage);
    fence_async_shared();
    sync_named(1, 64);
    if (worker == 0) {
      bulk_s2g(to + turn * kStageBytes, out, kStageBytes);
      bulk_commit();
    }
  }
  if (worker == 0) bulk_wait<0>();
#else
  (void)from, (void)to, (void)bytes;
#endif
}

enum class Mistake {
  kNone,
  kArrivesEarly,
  kNeverArrives,
  kNoFence,
  kFencedEarly,
  kNoWait,
  kExitsEarly,
};

// Warp 0 fills two stages by cp.async, warp 1 hands them on to two tiles that go out in bulk.
template <Mistake kMistake>
__global__ void async_ring(const unsigned char* from, unsigned char* to, uint32_t bytes) {
#if QUIRE_HAS_BULK
  constexpr uint32_t kStages = 2;
  constexpr uint32_t kStageBytes = 1024;
  QUIRE_SHARED(uint64_t, full, kStages);
  QUIRE_SHARED(uint64_t, empty, kStages);
  QUIRE_SHARED(unsigned char, in, kStages* kStageBytes);
  QUIRE_SHARED(unsigned char, out, kStages* kStageBytes);
  if (threadIdx.x < kStages) {
    mbarrier_init(full + threadIdx.x, 32);
    mbarrier_init(empty + threadIdx.x, 1);
  }
  mbarrier_fence_init();
  sync_block();
  const uint32_t own = lane_id() * 32;
  for (uint32_t turn = 0; turn < bytes / kStageBytes; ++turn) {
    const uint32_t stage = turn % kStages;
    unsigned char* stage_in = in + stage * kStageBytes;
    if (warp_id() == 0) {
      mbarrier_wait(empty + stage, (turn / kStages & 1) ^ 1);
      if (kMistake == Mistake::kArrivesEarly) cp_async_arrive(full + stage);
      cp_async16(stage_in + own, from + turn * kStageBytes + own);
      cp_async16(stage_in + own + 16, from + turn * kStageBytes + own + 16);
      if (kMistake != Mistake::kArrivesEarly && kMistake != Mistake::kNeverArrives)
        cp_async_arrive(full + stage);
      if (kMistake == Mistake::kNeverArrives) {
        cp_async_wait<0>();
        cp_async_commit();
      }
      continue;
    }
    mbarrier_wait(full + stage, turn / kStages & 1);
    if (lane_id() == 0 && kMistake != Mistake::kNoWait) bulk_wait_read<kStages - 1>();
    sync_warp();
    unsigned char* tile = out + stage * kStageBytes;
    if (kMistake == Mistake::kFencedEarly) fence_async_shared();
    st_16(tile + own, ld_16(stage_in + own));
    st_16(tile + own + 16, ld_16(stage_in + own + 16));
    if (kMistake != Mistake::kNoFence && kMistake != Mistake::kFencedEarly) fence_async_shared();
    sync_warp();
    if (lane_id() != 0) continue;
    mbarrier_arrive(empty + stage);
    bulk_s2g(to + turn * kStageBytes, tile, kStageBytes);
    bulk_commit();
  }
  if (warp_id() == 1 && lane_id() == 0) bulk_wait_read<0>();
  if (warp_id() == 0 && kMistake != Mistake::kExitsEarly && kMistake != Mistake::kArrivesEarly) {
    cp_async_commit();
    cp_async_wait<0>();
  }
#else
  (void)from, (void)to, (void)bytes;
#endif
}

__global__ void arithmetic(float x, float y, uint32_t* out) {
  const uint32_t a = pack_f16x2(x, y);
  const uint32_t b = pack_f16x2(y, 1.5f);
  out[0] = pack_bf16x2(x, y);
  out[1] = a;
  out[2] = half2_add(a, b);
  out[3] = half2_sub(a, b);
  out[4] = half2_fma(a, b, half2_mul(a, a));
  out[5] = lop3<0xea>(a, 0x000f000fu, 0x64006400u);
  out[6] = byte_perm(a, b, 0x7214);
  out[7] = float_to_bf16(exp2_fast(bf16_to_float(float_to_bf16(x)))) |
           static_cast<uint32_t>(float_to_f16(log2_fast(f16_to_float(float_to_f16(y))))) << 16;
}

__global__ void reductions(const float* values, float* sums, int32_t* largest) {
  QUIRE_SHARED(float, partial, 8);
  const float value = values[blockIdx.x * blockDim.x + threadIdx.x];
  const float of_warp = reduce_sum(value);
  if (lane_id() == 0) partial[warp_id()] = of_warp;
  sync_block();
  if (threadIdx.x == 0) {
    float sum = 0;
    for (uint32_t warp = 0; warp < blockDim.x / 32; ++warp) sum += partial[warp];
    sums[blockIdx.x] = sum;
  }
  const int32_t most = reduce_max(static_cast<int32_t>(value));
  if (lane_id() == 0) atomic_max(largest, most);
}

// Every case has one mistake.
__global__ void wrong(int which, uint32_t* out, const uint32_t* in) {
  QUIRE_SHARED(uint32_t, shared, 64);
  const uint32_t thread = threadIdx.x;
  switch (which) {
    case kMissingSync:
      shared[thread] = in[thread];
      out[thread] = shared[63 - thread];
      break;
    case kReadBeforeOverwrite:  // a barrier before the read, none after it
      shared[thread] = in[thread];
      sync_block();
      out[thread] = shared[63 - thread];
      shared[thread] = 0;
      break;
    case kArrivalIsNoWait:
      shared[thread] = in[thread];
      if (thread < 32)
        sync_named(1, 64);
      else
        arrive_named(1, 64);
      out[thread] = shared[63 - thread];
      break;
    case kLanesOutOfStep:
      shared[thread] = in[thread];
      out[thread] = shared[thread ^ 1];
      break;
    case kMissingCopyWait:
      cp_async4(shared + thread, in + thread);
      cp_async_commit();
      out[thread] = shared[thread];
      cp_async_wait<0>();
      break;
    case kDivergentBarrier:
      if (thread < 32)
        sync_block();
      else
        sync_block();
      break;
    case kBarrierOneThreadMisses:
      if (thread != 40) sync_block();
      if (thread == 40) out[0] = shfl_xor(thread, 1);
      break;
    case kDivergentWarp:
      if (thread % 2 == 0)
        out[thread] = shfl_xor(thread, 2);
      else
        out[thread] = shfl_xor(thread, 1);
      break;
    case kSharedIndex:
      shared[thread + 1] = thread;
      break;
    case kSharedWrite: {
      uint32_t* raw = shared + thread;
      raw[16] = 1;
      break;
    }
    case kMisaligned:
      out[thread] = ld_nc_16(in + thread).x;
      break;
    case kExitsWithCopies:
      cp_async4(shared + thread, in + thread);
      cp_async_commit();
      break;
#if QUIRE_HAS_BULK
    case kNobodyArrives: {
      QUIRE_SHARED(uint64_t, barrier, 1);
      if (thread == 0) mbarrier_init(barrier, 1);
      sync_block();
      mbarrier_wait(barrier, 0);
      break;
    }
#endif
    default:
      break;
  }
}

}  // namespace

int run_warp_operations(uint32_t* out, void* stream) {
  return QUIRE_LAUNCH(warp_operations, 1, 32, 0, stream, out);
}
int run_matrix_product(const uint16_t* a, const uint16_t* b, float* d, bool bf16, void* stream) {
  return bf16 ? QUIRE_LAUNCH((matrix_product<true>), 1, 32, 0, stream, a, b, d)
              : QUIRE_LAUNCH((matrix_product<false>), 1, 32, 0, stream, a, b, d);
}
int run_async_copy(const void* from, void* to, uint32_t n_vectors, void* stream) {
  return QUIRE_LAUNCH(async_copy, 1, 64, 3 * 64 * 16, stream, static_cast<const uint4*>(from),
                      static_cast<uint4*>(to), n_vectors);
}
int run_bulk_copy(const void* from, void* to, uint32_t bytes, void* stream) {
  return QUIRE_LAUNCH((bulk_copy<true>), 1, 96, 0, stream, static_cast<const unsigned char*>(from),
                      static_cast<unsigned char*>(to), bytes);
}
template <Mistake kMistake>
static int launch_async_ring(const void* from, void* to, uint32_t bytes, void* stream) {
  return QUIRE_LAUNCH((async_ring<kMistake>), 1, 64, 0, stream,
                      static_cast<const unsigned char*>(from), static_cast<unsigned char*>(to),
                      bytes);
}
int run_async_ring(const void* from, void* to, uint32_t bytes, void* stream) {
  return launch_async_ring<Mistake::kNone>(from, to, bytes, stream);
}
int run_arithmetic(float x, float y, uint32_t* out, void* stream) {
  return QUIRE_LAUNCH(arithmetic, 1, 1, 0, stream, x, y, out);
}
int run_reductions(const float* values, uint32_t blocks, float* sums, int32_t* largest,
                   void* stream) {
  return QUIRE_LAUNCH(reductions, blocks, 256, 0, stream, values, sums, largest);
}
int run_wrong(WrongKernel which, uint32_t* out, const uint32_t* in, void* stream) {
  if (which == kRingWithoutEmptyBarrier)
    return QUIRE_LAUNCH((bulk_copy<false>), 1, 96, 0, stream,
                        reinterpret_cast<const unsigned char*>(in),
                        reinterpret_cast<unsigned char*>(out), 8 * 1024u);
  constexpr uint32_t kBytes = 8 * 1024;
  switch (which) {
    case kAsyncArrivesEarly:
      return launch_async_ring<Mistake::kArrivesEarly>(in, out, kBytes, stream);
    case kAsyncNeverArrives:
      return launch_async_ring<Mistake::kNeverArrives>(in, out, kBytes, stream);
    case kAsyncExitsEarly:
      return launch_async_ring<Mistake::kExitsEarly>(in, out, kBytes, stream);
    case kBulkStoreWithoutFence:
      return launch_async_ring<Mistake::kNoFence>(in, out, kBytes, stream);
    case kBulkStoreFencedEarly:
      return launch_async_ring<Mistake::kFencedEarly>(in, out, kBytes, stream);
    case kBulkTileWithoutWait:
      return launch_async_ring<Mistake::kNoWait>(in, out, kBytes, stream);
    default:
      break;
  }
  return QUIRE_LAUNCH(wrong, 1, 64, 0, stream, static_cast<int>(which), out, in);
}
