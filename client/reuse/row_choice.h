// What row policies choose from and how: for policies only.
#ifndef QUIRE_CLIENT_REUSE_ROW_CHOICE_H_
#define QUIRE_CLIENT_REUSE_ROW_CHOICE_H_

#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "client/reuse/plan.h"

namespace quire::reuse {

// Tokens inside chunks, ascending; chunks that stand as they were computed only where asked for.
std::vector<uint32_t> chunk_rows(const Plan& plan, bool with_exact);

// kInvalidArgument: not one value per prompt token. kNonFinite: NaN or infinity inside a chunk.
Status check_column_mass(const Plan& plan, std::span<const float> column_mass,
                         std::string_view policy);

// The n_rows candidates (ascending) of greatest weight, ascending; of equals the first ones.
// weights: one per prompt token.
template <typename Weight>
std::vector<uint32_t> heaviest_rows(std::vector<uint32_t> candidates,
                                    std::span<const Weight> weights, size_t n_rows) {
  if (n_rows >= candidates.size()) return candidates;
  const auto heavier = [&](uint32_t a, uint32_t b) {
    return weights[a] != weights[b] ? weights[a] > weights[b] : a < b;
  };
  const auto middle = candidates.begin() + static_cast<ptrdiff_t>(n_rows);
  std::nth_element(candidates.begin(), middle, candidates.end(), heavier);
  candidates.resize(n_rows);
  std::sort(candidates.begin(), candidates.end());
  return candidates;
}

}  // namespace quire::reuse

#endif  // QUIRE_CLIENT_REUSE_ROW_CHOICE_H_
