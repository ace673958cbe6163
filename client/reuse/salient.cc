#include "client/reuse/salient.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace quire::reuse {

std::vector<uint8_t> salient_tokens(std::span<const float> mass, double share) {
  const size_t n_tokens = mass.size();
  std::vector<uint8_t> marks(n_tokens, 0);
  const double wanted = std::ceil(std::clamp(share, 0.0, 1.0) * static_cast<double>(n_tokens));
  const auto n_salient = static_cast<size_t>(wanted);
  std::vector<uint32_t> order(n_tokens);
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    const bool a_first = a < kSalientFirstTokens;
    const bool b_first = b < kSalientFirstTokens;
    if (a_first || b_first) return a_first && (!b_first || a < b);
    return mass[a] > mass[b];
  });
  for (size_t i = 0; i < n_salient; ++i) marks[order[i]] = 1;
  return marks;
}

}  // namespace quire::reuse
