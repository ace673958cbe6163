// Choice of the k best tokens in O(n log k) without memory of its own: chosen[] is a heap whose top
// is the worst of the tokens kept.
#include <math.h>

#include <algorithm>

#include "kernels/attention/checks.h"

namespace quire_kernels {
namespace {

double score_of(const quire_top_tokens_params& p, uint32_t token) {
  const auto score = static_cast<double>(p.score[token]);
  return p.weight == nullptr ? score : score * p.weight[token];
}

bool finite(const quire_top_tokens_params& p) {
  for (uint32_t token = 0; token < p.n_tokens; ++token)
    if (!std::isfinite(p.score[token]) ||
        (p.weight != nullptr && !std::isfinite(score_of(p, token))))
      return false;
  return true;
}

void choose(const quire_top_tokens_params& p) {
  const auto better = [&p](uint32_t a, uint32_t b) {
    const double x = score_of(p, a);
    const double y = score_of(p, b);
    return x > y || (x == y && a < b);
  };
  uint32_t* end = p.chosen + p.k;
  for (uint32_t token = 0; token < p.k; ++token) p.chosen[token] = token;
  std::make_heap(p.chosen, end, better);
  for (uint32_t token = p.k; token < p.n_tokens; ++token) {
    if (!better(token, p.chosen[0])) continue;
    std::pop_heap(p.chosen, end, better);
    end[-1] = token;
    std::push_heap(p.chosen, end, better);
  }
  std::sort(p.chosen, end);
}

}  // namespace
}  // namespace quire_kernels

extern "C" int quire_top_tokens(const struct quire_top_tokens_params* params) {
  using namespace quire_kernels;
  const int status = check_top_tokens(params);
  if (status != QUIRE_KERNEL_OK || params->k == 0) return status;
  if (!finite(*params)) return QUIRE_KERNEL_NON_FINITE;
  choose(*params);
  return QUIRE_KERNEL_OK;
}
