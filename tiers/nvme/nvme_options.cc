#include "tiers/nvme/nvme_tier.h"

namespace quire {

std::string_view nvme_state_name(NvmeState state) {
  switch (state) {
    case NvmeState::kOk:
      return "ok";
    case NvmeState::kReadOnlyNoSpace:
      return "read-only (no space)";
    case NvmeState::kReadOnlyError:
      return "read-only (write error)";
    case NvmeState::kQuarantined:
      return "quarantined";
    case NvmeState::kStuck:
      return "stuck";
  }
  return "unknown";
}

Status NvmeOptions::validate() const {
  constexpr uint64_t kMebibyte = 1 << 20;
  const auto wrong = [](const char* what) { return Status(StatusCode::kInvalidArgument, what); };
  if (segment_bytes < kSegmentBytesMin || segment_bytes > kSegmentBytesMax ||
      segment_bytes % kMebibyte != 0) {
    return wrong("segment_bytes must be a multiple of 1 MiB from 1 MiB to 1 GiB");
  }
  if (free_segments_min == 0 || free_segments_min > 1024) {
    return wrong("free_segments_min must be 1 to 1024");
  }
  if (!(reinsert_fraction_max >= 0 && reinsert_fraction_max <= 0.9)) {
    return wrong("reinsert_fraction_max must be 0 to 0.9");
  }
  if (static_cast<bool>(offload) != static_cast<bool>(post)) {
    return wrong("offload and post are given both or neither");
  }
  if (stuck_after_ms == 0) return wrong("stuck_after_ms must be positive");
  return Status::ok();
}

}  // namespace quire
