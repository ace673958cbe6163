#include "client/reuse/row_choice.h"

#include <cmath>
#include <string>

namespace quire::reuse {

std::vector<uint32_t> chunk_rows(const Plan& plan, bool with_exact) {
  std::vector<uint32_t> rows;
  for (const Segment& segment : plan.segments) {
    if (segment.kind != SegmentKind::kChunk || (segment.exact && !with_exact)) continue;
    for (uint32_t row = segment.token_begin; row < segment.token_end(); ++row) rows.push_back(row);
  }
  return rows;
}

Status check_column_mass(const Plan& plan, std::span<const float> column_mass,
                         std::string_view policy) {
  if (column_mass.size() != plan.n_tokens)
    return {StatusCode::kInvalidArgument,
            std::string(policy) + " needs one column mass per prompt token (" +
                std::to_string(plan.n_tokens) + "), got " + std::to_string(column_mass.size())};
  for (const Segment& segment : plan.segments) {
    if (segment.kind != SegmentKind::kChunk) continue;
    for (uint32_t row = segment.token_begin; row < segment.token_end(); ++row)
      if (!std::isfinite(column_mass[row]))
        return {StatusCode::kNonFinite,
                "column mass of prompt token " + std::to_string(row) + " is not finite"};
  }
  return Status::ok();
}

}  // namespace quire::reuse
