// Loads of mixed precision. A warp takes up to 32 consecutive tokens of one of the two sub-sections
// (a block of its codec, so that channel scales are read once), finds in the map which tokens of
// the section they are, and loads them as that codec's loads do. The header may be device memory:
// only the kernel knows how many tokens are salient, and the units of a head suffice for any split.
// Nothing of a section that contradicts itself is written; sub-sections lie inside the section
// whatever the map says.
#ifndef QUIRE_KERNELS_CUDA_LOAD_MIXED_CUH_
#define QUIRE_KERNELS_CUDA_LOAD_MIXED_CUH_

#include "kernels/cuda/load_rows.cuh"
#include "kernels/cuda/mixed.cuh"
#include "kernels/cuda/runtime.cuh"
#include "kernels/cuda/units.h"

namespace quire_cuda {

constexpr uint32_t kMixedHeaderWords = sizeof(quire_kernels::MixedHeader) / 4;

// What header and map say; equal in all lanes.
struct MixedPlan {
  quire_kernels::MixedBlocks at;
  uint32_t salient;         // tokens
  uint32_t salient_before;  // those before token_begin
  uint32_t salient_until;   // those before token_end
};

// Bits of the map's word that stand for tokens below a limit.
QUIRE_DEVICE uint32_t bits_below(uint32_t word, uint32_t limit) {
  const uint32_t first = 32 * word;
  if (limit <= first) return 0;
  return limit - first >= 32 ? 0xffffffff : (1u << (limit - first)) - 1;
}

QUIRE_DEVICE uint32_t map_word(const Section& s, const MixedPlan& plan, uint32_t word) {
  return *reinterpret_cast<const uint32_t*>(s.bytes + plan.at.map + 4ull * word);
}

// False where header, map and the section's size contradict each other. All lanes of the warp call.
template <typename M>
QUIRE_DEVICE bool read_plan(const Section& s, MixedPlan* plan) {
  const uint32_t lane = lane_id();
  const uint32_t header =
      lane < kMixedHeaderWords ? *reinterpret_cast<const uint32_t*>(s.bytes + 4 * lane) : 0;
  plan->salient = shfl(header, 0);
  if (warp_any(lane != 0 && header != 0) || plan->salient > s.n_tokens) return false;
  plan->at = quire_kernels::mixed_blocks(M::kCodec, M::kPlane, s.n_tokens, s.n_heads, s.head_dim,
                                         plan->salient);
  if (plan->at.total != s.n_bytes) return false;
  const auto words = static_cast<uint32_t>((plan->at.salient - plan->at.map) / 4);
  uint32_t all = 0;
  uint32_t before = 0;
  uint32_t until = 0;
  bool beyond = false;
  for (uint32_t word = lane; word < words; word += 32) {
    const uint32_t bits = map_word(s, *plan, word);
    beyond |= (bits & ~bits_below(word, s.n_tokens)) != 0;
    all += popcount(bits);
    before += popcount(bits & bits_below(word, s.token_begin));
    until += popcount(bits & bits_below(word, s.token_end));
  }
  plan->salient_before = reduce_sum(before);
  plan->salient_until = reduce_sum(until);
  return reduce_sum(all) == plan->salient && !warp_any(beyond);
}

// Tokens of the section that are numbers first .. first + kBlockTokens - 1 of the salient ones, or
// of the others; those that are at least `count` are kNoToken. Each lane gets its own. All lanes of
// the warp call.
QUIRE_DEVICE uint32_t find_tokens(const Section& s, const MixedPlan& plan, bool salient,
                                  uint32_t first, uint32_t count, uint32_t* tokens) {
  const uint32_t lane = lane_id();
  const uint32_t end = count - first < kBlockTokens ? count : first + kBlockTokens;
  tokens[lane] = kNoToken;
  sync_warp();
  const uint32_t words = (s.n_tokens + 31) / 32;
  uint32_t before = 0;  // of the kind wanted, in the words before these 32
  for (uint32_t begin = 0; begin < words && before < end; begin += 32) {
    const uint32_t word = begin + lane;
    uint32_t bits = word < words ? map_word(s, plan, word) : 0;
    if (!salient) bits = ~bits;
    bits &= bits_below(word, s.n_tokens);
    const uint32_t own = popcount(bits);
    const uint32_t sum = inclusive_sum(own);
    uint32_t number = before + sum - own;
    const bool concerns = number < end && number + own > first;
    for (uint32_t bit = 0; concerns && bit < 32; ++bit) {
      if ((bits >> bit & 1) == 0) continue;
      if (number >= first && number < end) tokens[number - first] = 32 * word + bit;
      ++number;
    }
    before += shfl(sum, 31);
  }
  sync_warp();
  const uint32_t token = tokens[lane];
  sync_warp();  // the next block writes there
  return token;
}

template <typename F>
QUIRE_DEVICE void load_part(const Section& part, uint32_t head, uint32_t first, uint32_t token,
                            float* scratch, int32_t* status) {
  const Source source{part.bytes, part.bytes, 0, 0};
  load_block<F, true, true>(part, head, first, source, scratch, status, token);
}

QUIRE_DEVICE uint32_t blocks_between(uint32_t begin, uint32_t end) {
  return begin == end ? 0 : (end + kBlockTokens - 1) / kBlockTokens - begin / kBlockTokens;
}

template <typename M>
QUIRE_DEVICE void load_mixed_unit(const Section& s, uint32_t head, uint32_t block, float* scratch,
                                  uint32_t* tokens, int32_t* status) {
  using Salient = Format<M::kSalient.kind, M::kSalient.bits, M::kSalient.wide_side>;
  using Other = Format<M::kOther.kind, M::kOther.bits, M::kOther.wide_side>;
  constexpr PlaneSpec kSalient = M::kSalient;
  constexpr PlaneSpec kOther = M::kOther;
  MixedPlan plan;
  if (!read_plan<M>(s, &plan)) {
    set_status(status, QUIRE_KERNEL_CORRUPT);
    return;
  }
  const uint32_t salient_blocks = blocks_between(plan.salient_before, plan.salient_until);
  if (block < salient_blocks) {
    const uint32_t first = (plan.salient_before / kBlockTokens + block) * kBlockTokens;
    const uint32_t token = find_tokens(s, plan, true, first, plan.salient, tokens);
    load_part<Salient>(part_of(s, kSalient, plan.at.salient, plan.salient), head, first, token,
                       scratch, status);
    return;
  }
  const uint32_t others = s.n_tokens - plan.salient;
  const uint32_t others_before = s.token_begin - plan.salient_before;
  const uint32_t others_until = s.token_end - plan.salient_until;
  if (block - salient_blocks >= blocks_between(others_before, others_until)) return;
  const uint32_t first = (others_before / kBlockTokens + block - salient_blocks) * kBlockTokens;
  const uint32_t token = find_tokens(s, plan, false, first, others, tokens);
  load_part<Other>(part_of(s, kOther, plan.at.other, others), head, first, token, scratch, status);
}

// Three CTAs a multiprocessor leave registers enough for the two codecs.
template <typename M>
__global__ void __launch_bounds__(kWarps * 32, 3)
    load_mixed(const __grid_constant__ SectionPack pack) {
  QUIRE_SHARED(float, scratch, kWarps* kHeadDimMax);
  QUIRE_SHARED(uint32_t, tokens, kWarps * kBlockTokens);
  const uint32_t warp = warp_id();
  for (uint32_t unit = blockIdx.x * kWarps + warp; unit < pack.n_units;
       unit += gridDim.x * kWarps) {
    const Section& s = section_of_unit(pack, unit);
    const uint32_t local = unit - s.unit_begin;
    load_mixed_unit<M>(s, local % s.n_heads, local / s.n_heads, scratch + warp * kHeadDimMax,
                       tokens + warp * kBlockTokens, pack.status);
  }
}

template <typename M>
int launch_mixed(const SectionPack& pack, uint32_t ctas, void* stream) {
  return QUIRE_LAUNCH(load_mixed<M>, ctas, kWarps * 32, 0, stream, pack);
}

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_LOAD_MIXED_CUH_
