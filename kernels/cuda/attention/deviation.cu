// quire_cuda_deviation, quire_cuda_rotate, quire_cuda_top_tokens: one pass each over what they
// read.
#include "kernels/attention/checks.h"
#include "kernels/attention/deviation.h"
#include "kernels/cuda/attention/common.cuh"

namespace quire_cuda {
namespace {

constexpr uint32_t kThreads = 128;
constexpr uint32_t kWarps = kThreads / 32;
constexpr uint32_t kTopThreads = 512;
constexpr uint32_t kTopWarps = kTopThreads / 32;
constexpr uint32_t kDigitBits = 8;
constexpr uint32_t kDigits = 1u << kDigitBits;

QUIRE_DEVICE bool row_exists(const quire_token_rows& rows, uint32_t token) {
  return rows.row == nullptr || (rows.row[token] >= 0 && rows.row[token] < rows.n_rows);
}

__global__ void __launch_bounds__(kThreads)
    check_row_numbers(const __grid_constant__ quire_token_rows a,
                      const __grid_constant__ quire_token_rows b, uint32_t n_tokens,
                      int32_t* status) {
  const uint32_t token = blockIdx.x * kThreads + threadIdx.x;
  if (token < n_tokens && (!row_exists(a, token) || !row_exists(b, token)))
    set_status(status, QUIRE_KERNEL_INVALID_ARGUMENT);
}

// A warp for each token.
__global__ void __launch_bounds__(kThreads)
    deviation(const __grid_constant__ quire_deviation_params p, const int32_t* status) {
  if (*status != 0) return;
  const uint32_t token = blockIdx.x * kWarps + warp_id();
  if (token >= p.n_tokens) return;
  const uint32_t size_a = quire_kernels::element_bytes(p.a.dtype);
  const uint32_t size_b = quire_kernels::element_bytes(p.b.dtype);
  double total = 0;
  for (uint32_t head = 0; head < p.n_heads; ++head) {
    const unsigned char* a = quire_kernels::token_row(p.a, token, head);
    const unsigned char* b = quire_kernels::token_row(p.b, token, head);
    float sum = 0;
    for (uint32_t d = lane_id(); d < p.head_dim; d += 32) {
      const float difference =
          load_element(p.a.dtype, a + d * size_a) - load_element(p.b.dtype, b + d * size_b);
      sum = p.norm == QUIRE_DEVIATION_SQUARED ? fmaf(difference, difference, sum)
                                              : sum + fabsf(difference);
    }
    total += static_cast<double>(reduce_sum(sum));
  }
  if (lane_id() == 0) p.deviation[token] = static_cast<float>(total);
}

QUIRE_DEVICE float largest_finite(int32_t dtype) {
  if (dtype == QUIRE_DTYPE_F16) return 65504.0f;
  return dtype == QUIRE_DTYPE_BF16 ? 0x1.fep127f : 0x1.fffffep127f;
}

__global__ void __launch_bounds__(kThreads)
    scan_rows(const __grid_constant__ quire_rotate_params p, int32_t* status) {
  if (*status != 0) return;
  const uint32_t token = blockIdx.x * kWarps + warp_id();
  if (token >= p.n_tokens) return;
  const uint32_t size = quire_kernels::element_bytes(p.src.dtype);
  const double limit = static_cast<double>(largest_finite(p.dst.dtype)) / 1.4142135623730951;
  bool finite = true;
  bool in_range = true;
  for (uint32_t head = 0; head < p.n_heads; ++head) {
    const unsigned char* src = quire_kernels::token_row(p.src, token, head);
    for (uint32_t d = lane_id(); d < p.head_dim; d += 32) {
      const float x = fabsf(load_element(p.src.dtype, src + d * size));
      finite &= x <= 0x1.fffffep127f;
      in_range &= static_cast<double>(x) <= limit;
    }
  }
  if (!finite)
    set_status(status, QUIRE_KERNEL_NON_FINITE);
  else if (!in_range)
    set_status(status, QUIRE_KERNEL_OUT_OF_RANGE);
}

// A warp for each token; a lane owns whole pairs, so in place is safe.
__global__ void __launch_bounds__(kThreads)
    rotate_rows(const __grid_constant__ quire_rotate_params p, const int32_t* status) {
  if (*status != 0) return;
  const uint32_t token = blockIdx.x * kWarps + warp_id();
  if (token >= p.n_tokens) return;
  const uint32_t from = quire_kernels::element_bytes(p.src.dtype);
  const uint32_t to = quire_kernels::element_bytes(p.dst.dtype);
  const uint32_t rotary = p.rotation.rotary_dims;
  const auto* table =
      reinterpret_cast<const float*>(reinterpret_cast<const unsigned char*>(p.rotation.table) +
                                     token * p.rotation.table_token_stride);
  for (uint32_t head = 0; head < p.n_heads; ++head) {
    const unsigned char* src = quire_kernels::token_row(p.src, token, head);
    auto* dst = const_cast<unsigned char*>(quire_kernels::token_row(p.dst, token, head));
    for (uint32_t j = lane_id(); j < rotary / 2; j += 32) {
      const uint32_t a = quire_kernels::pair_first(p.rotation.style, j);
      const uint32_t b = quire_kernels::pair_second(p.rotation.style, rotary, j);
      const float x = load_element(p.src.dtype, src + a * from);
      const float y = load_element(p.src.dtype, src + b * from);
      const float cosine = table[2 * j];
      const float sine = table[2 * j + 1];
      store_element(p.dst.dtype, x * cosine - y * sine, dst + a * to);
      store_element(p.dst.dtype, x * sine + y * cosine, dst + b * to);
    }
    for (uint32_t d = rotary + lane_id(); d < p.head_dim; d += 32)
      store_element(p.dst.dtype, load_element(p.src.dtype, src + d * from), dst + d * to);
  }
}

// A score as an integer of the same order; -0 counts as 0.
QUIRE_DEVICE uint64_t rank_of(const quire_top_tokens_params& p, uint32_t token, bool* finite) {
  double score = static_cast<double>(p.score[token]);
  if (p.weight != nullptr) score *= p.weight[token];
  score += 0.0;
  uint64_t bits;
  memcpy(&bits, &score, 8);
  *finite = (bits >> 52 & 0x7ff) != 0x7ff;
  return (bits >> 63) != 0 ? ~bits : bits | uint64_t{1} << 63;
}

// Threads of the block before this one where `flag` is set; *all = in the whole block.
QUIRE_DEVICE uint32_t count_before(bool flag, uint32_t* of_warp, uint32_t* all) {
  const uint32_t ballot = warp_ballot(flag);
  if (lane_id() == 0) of_warp[warp_id()] = static_cast<uint32_t>(count_bits(ballot));
  sync_block();
  uint32_t before = static_cast<uint32_t>(count_bits(ballot & ((1u << lane_id()) - 1)));
  *all = 0;
  for (uint32_t warp = 0; warp < kTopWarps; ++warp) {
    before += warp < warp_id() ? of_warp[warp] : 0;
    *all += of_warp[warp];
  }
  sync_block();
  return before;
}

// One CTA: radix selection of the k-th greatest rank, eight bits at a time, then one pass that
// writes the tokens above it and the first of those equal to it, in order.
__global__ void __launch_bounds__(kTopThreads)
    top_tokens(const __grid_constant__ quire_top_tokens_params p, int32_t* status) {
  QUIRE_SHARED(uint32_t, digits, kDigits);
  QUIRE_SHARED(uint32_t, of_warp, kTopWarps);
  QUIRE_SHARED(uint64_t, prefix, 1);
  QUIRE_SHARED(uint32_t, wanted, 1);
  QUIRE_SHARED(uint32_t, bad, 1);
  if (threadIdx.x == 0) {
    prefix[0] = 0;
    wanted[0] = p.k;
    bad[0] = *status != 0 ? 1u : 0u;
  }
  sync_block();
  bool finite = true;
  for (uint32_t token = threadIdx.x; token < p.n_tokens; token += kTopThreads) {
    rank_of(p, token, &finite);
    if (!finite) {
      set_status(status, QUIRE_KERNEL_NON_FINITE);
      atomic_add(&bad[0], 1u);
    }
  }
  sync_block();
  if (bad[0] != 0) return;
  for (uint32_t shift = 64; shift > 0;) {
    shift -= kDigitBits;
    for (uint32_t i = threadIdx.x; i < kDigits; i += kTopThreads) digits[i] = 0;
    sync_block();
    const uint64_t known = shift == 64 - kDigitBits ? 0 : ~uint64_t{0} << (shift + kDigitBits);
    for (uint32_t token = threadIdx.x; token < p.n_tokens; token += kTopThreads) {
      const uint64_t rank = rank_of(p, token, &finite);
      if ((rank & known) == prefix[0]) atomic_add(&digits[rank >> shift & (kDigits - 1)], 1u);
    }
    sync_block();
    if (threadIdx.x == 0) {
      uint32_t left = wanted[0];
      uint32_t digit = kDigits - 1;
      while (digits[digit] < left) left -= digits[digit--];
      wanted[0] = left;
      prefix[0] |= static_cast<uint64_t>(digit) << shift;
    }
    sync_block();
  }
  const uint64_t threshold = prefix[0];
  uint32_t ties_left = wanted[0];
  uint32_t written = 0;
  for (uint32_t first = 0; first < p.n_tokens; first += kTopThreads) {
    const uint32_t token = first + threadIdx.x;
    const uint64_t rank = token < p.n_tokens ? rank_of(p, token, &finite) : 0;
    uint32_t ties;
    const bool tie = token < p.n_tokens && rank == threshold;
    const bool takes_tie = count_before(tie, of_warp, &ties) < ties_left && tie;
    ties_left -= ties < ties_left ? ties : ties_left;
    uint32_t chosen;
    const bool takes = token < p.n_tokens && (rank > threshold || takes_tie);
    const uint32_t at = written + count_before(takes, of_warp, &chosen);
    if (takes) p.chosen[at] = token;
    written += chosen;
  }
}

int finish(int error) {
  return error == 0 ? QUIRE_KERNEL_OK : QUIRE_KERNEL_UNSUPPORTED;
}
uint32_t blocks_of(uint32_t n, uint32_t in_block) {
  return (n + in_block - 1) / in_block;
}

}  // namespace
}  // namespace quire_cuda

extern "C" {

int quire_cuda_deviation(const struct quire_deviation_params* params,
                         const struct quire_cuda_attention_launch* launch) {
  using namespace quire_cuda;
  int status = quire_kernels::check_deviation(params, false);
  if (status == QUIRE_KERNEL_OK) status = check_launch(launch, 0);
  if (status != QUIRE_KERNEL_OK || params->n_tokens == 0) return status;
  const uint32_t n = params->n_tokens;
  int error = QUIRE_LAUNCH(check_row_numbers, blocks_of(n, kThreads), kThreads, 0, launch->stream,
                           params->a, params->b, n, launch->device_status);
  if (error == 0)
    error = QUIRE_LAUNCH(deviation, blocks_of(n, kWarps), kThreads, 0, launch->stream, *params,
                         launch->device_status);
  return finish(error);
}

int quire_cuda_rotate(const struct quire_rotate_params* params,
                      const struct quire_cuda_attention_launch* launch) {
  using namespace quire_cuda;
  int status = quire_kernels::check_rotate(params, false);
  if (status == QUIRE_KERNEL_OK) status = check_launch(launch, 0);
  if (status != QUIRE_KERNEL_OK || params->n_tokens == 0) return status;
  const uint32_t n = params->n_tokens;
  int error = QUIRE_LAUNCH(check_row_numbers, blocks_of(n, kThreads), kThreads, 0, launch->stream,
                           params->src, params->dst, n, launch->device_status);
  if (error == 0)
    error = QUIRE_LAUNCH(scan_rows, blocks_of(n, kWarps), kThreads, 0, launch->stream, *params,
                         launch->device_status);
  if (error == 0)
    error = QUIRE_LAUNCH(rotate_rows, blocks_of(n, kWarps), kThreads, 0, launch->stream, *params,
                         launch->device_status);
  return finish(error);
}

int quire_cuda_top_tokens(const struct quire_top_tokens_params* params,
                          const struct quire_cuda_attention_launch* launch) {
  using namespace quire_cuda;
  int status = quire_kernels::check_top_tokens(params);
  if (status == QUIRE_KERNEL_OK) status = check_launch(launch, 0);
  if (status != QUIRE_KERNEL_OK || params->k == 0) return status;
  return finish(
      QUIRE_LAUNCH(top_tokens, 1, kTopThreads, 0, launch->stream, *params, launch->device_status));
}

}  // extern "C"
