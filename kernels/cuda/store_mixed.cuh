// Stores of mixed precision. A CTA takes one head of a section: it counts the salient tokens, which
// says where both parts lie, and then walks the marks once for each part, listing as many tokens as
// a run of channel scales has (or a block of tokens for each warp) and storing them as that part's
// codec does. The CTA of head 0 writes header and map as well. Marks that change meanwhile make
// wrong bytes, and none outside the section. Lanes store their codes, without
// bulk copies: listing tokens, not storing them, is what a CTA waits for.
#ifndef QUIRE_KERNELS_CUDA_STORE_MIXED_CUH_
#define QUIRE_KERNELS_CUDA_STORE_MIXED_CUH_

#include "kernels/cuda/mixed.cuh"
#include "kernels/cuda/store_kernels.cuh"

namespace quire_cuda {

constexpr uint32_t kThreads = kWarps * 32;
constexpr uint32_t kListedTokensMax = 256;  // of the longest run

struct MixedShared {
  RunShared run;
  float* scratch;     // kHeadDimMax of this warp
  uint32_t* tokens;   // kListedTokensMax
  uint32_t* counts;   // kWarps
  uint32_t* resumes;  // the token to go on from
};

QUIRE_DEVICE bool is_marked(const Section& s, uint32_t token) {
  return s.salient != nullptr && s.salient[token] != 0;
}

// The sum of the warps' counts in all threads; before: of the warps before this one. All threads of
// the block call.
QUIRE_DEVICE uint32_t sum_of_warps(uint32_t* counts, uint32_t own, uint32_t* before) {
  if (lane_id() == 0) counts[warp_id()] = own;
  sync_block();
  uint32_t all = 0;
  *before = 0;
  for (uint32_t warp = 0; warp < kWarps; ++warp) {
    if (warp == warp_id()) *before = all;
    all += counts[warp];
  }
  sync_block();
  return all;
}

QUIRE_DEVICE uint32_t count_salient(const Section& s, uint32_t* counts) {
  uint32_t count = 0;
  for (uint32_t token = threadIdx.x; token < s.n_tokens; token += kThreads)
    count += is_marked(s, token) ? 1 : 0;
  uint32_t before;
  return sum_of_warps(counts, reduce_sum(count), &before);
}

// Lists the next `wanted` tokens of one kind from *cursor on and moves it past them. Where the
// marks have fewer than they had, the rest are token 0. All threads of the block call.
QUIRE_DEVICE void list_tokens(const Section& s, bool salient, uint32_t wanted,
                              const MixedShared& shared, uint32_t* cursor) {
  for (uint32_t i = threadIdx.x; i < wanted; i += kThreads) shared.tokens[i] = 0;
  sync_block();
  uint32_t n = 0;
  while (n < wanted && *cursor < s.token_end) {
    const uint32_t token = *cursor + threadIdx.x;
    const bool takes = token < s.token_end && is_marked(s, token) == salient;
    const uint32_t lanes = warp_ballot(takes);
    if (threadIdx.x == 0) *shared.resumes = *cursor + kThreads;
    uint32_t before;
    const uint32_t all = sum_of_warps(shared.counts, popcount(lanes), &before);
    const uint32_t place = n + before + popcount(lanes & ((1u << lane_id()) - 1));
    if (takes && place < wanted) shared.tokens[place] = token;
    if (takes && place == wanted - 1) *shared.resumes = token + 1;
    sync_block();
    n += all;
    *cursor = *shared.resumes;
    sync_block();
  }
}

template <typename F>
QUIRE_DEVICE void store_part(const Section& part, uint32_t head, bool salient,
                             const MixedShared& shared, int32_t* status) {
  constexpr uint32_t kStep = F::kChannelSide ? 0 : kWarps * kBlockTokens;
  const uint32_t step = F::kChannelSide ? part.spec.run_tokens : kStep;
  uint32_t cursor = 0;
  for (uint32_t first = 0; first < part.n_tokens; first += step) {
    const uint32_t left = part.n_tokens - first;
    const uint32_t n = left < step ? left : step;
    list_tokens(part, salient, n, shared, &cursor);
    if constexpr (F::kChannelSide) {
      store_run<F, true, false>(part, run_of(part, head, first / step), Sink<false>{part},
                                shared.run, shared.scratch, status, shared.tokens);
    } else {
      const uint32_t own = warp_id() * kBlockTokens;
      const uint32_t listed = own + lane_id() < n ? shared.tokens[own + lane_id()] : kNoToken;
      if (own < n)
        store_block<F, true, false>(part, head, first + own, Sink<false>{part}, shared.scratch,
                                    status, listed);
      sync_block();
    }
  }
}

QUIRE_DEVICE void write_map(const Section& s, const quire_kernels::MixedBlocks& at,
                            uint32_t salient) {
  auto* header = reinterpret_cast<uint32_t*>(s.bytes);
  for (uint32_t word = threadIdx.x; word < at.map / 4; word += kThreads)
    header[word] = word == 0 ? salient : 0;
  auto* map = reinterpret_cast<uint32_t*>(s.bytes + at.map);
  const auto words = static_cast<uint32_t>((at.salient - at.map) / 4);
  for (uint32_t word = warp_id(); word < words; word += kWarps) {
    const uint32_t token = 32 * word + lane_id();
    const uint32_t bits = warp_ballot(token < s.n_tokens && is_marked(s, token));
    if (lane_id() == 0) map[word] = bits;
  }
  if (threadIdx.x == 0) *s.written = at.total;
}

template <typename M>
__global__ void __launch_bounds__(kThreads, 3)
    store_mixed(const __grid_constant__ SectionPack pack) {
  using Salient = Format<M::kSalient.kind, M::kSalient.bits, M::kSalient.wide_side>;
  using Other = Format<M::kOther.kind, M::kOther.bits, M::kOther.wide_side>;
  constexpr PlaneSpec kSalient = M::kSalient;
  constexpr PlaneSpec kOther = M::kOther;
  static_assert(kSalient.run_tokens <= kListedTokensMax && kOther.run_tokens <= kListedTokensMax);
  QUIRE_SHARED(float, low, kLineFloats);
  QUIRE_SHARED(float, high, kLineFloats);
  QUIRE_SHARED(float, scratch, kWarps* kHeadDimMax);
  QUIRE_SHARED(uint32_t, tokens, kListedTokensMax);
  QUIRE_SHARED(uint32_t, counts, kWarps);
  QUIRE_SHARED(uint32_t, resumes, 1);
  const MixedShared shared{{low, high}, scratch + warp_id() * kHeadDimMax, tokens, counts, resumes};
  for (uint32_t unit = blockIdx.x; unit < pack.n_units; unit += gridDim.x) {
    const Section& s = section_of_unit(pack, unit);
    const uint32_t head = unit - s.unit_begin;
    const uint32_t salient = count_salient(s, counts);
    const quire_kernels::MixedBlocks at = quire_kernels::mixed_blocks(
        M::kCodec, M::kPlane, s.n_tokens, s.n_heads, s.head_dim, salient);
    if (head == 0) write_map(s, at, salient);
    store_part<Salient>(part_of(s, kSalient, at.salient, salient), head, true, shared, pack.status);
    store_part<Other>(part_of(s, kOther, at.other, s.n_tokens - salient), head, false, shared,
                      pack.status);
  }
}

template <typename M>
int launch_mixed_store(const SectionPack& pack, uint32_t ctas, void* stream) {
  return QUIRE_LAUNCH(store_mixed<M>, ctas, kThreads, 0, stream, pack);
}

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_STORE_MIXED_CUH_
