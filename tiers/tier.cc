#include "tiers/tier.h"

#include <cmath>

namespace quire {

std::string_view tier_name(TierId tier) {
  switch (tier) {
    case TierId::kGpu:
      return "gpu";
    case TierId::kHost:
      return "host";
    case TierId::kNvme:
      return "nvme";
    case TierId::kRocks:
      return "rocks";
    case TierId::kNone:
      break;
  }
  return "none";
}

std::string_view tier_promise(TierId tier) {
  switch (tier) {
    case TierId::kGpu:
      return "until evicted or the server stops";
    case TierId::kHost:
      return "until evicted or the server stops";
    case TierId::kNvme:
      return "until evicted; survives a crash once synced";
    case TierId::kRocks:
      return "until evicted; survives a crash once synced";
    case TierId::kNone:
      break;
  }
  return "nothing";
}

uint32_t TierCost::load_us(uint64_t bytes) const {
  if (!(bytes_per_us > 0)) return kNeverUs;
  const double estimate_us = latency_us + static_cast<double>(bytes) / bytes_per_us;
  if (!(estimate_us < static_cast<double>(kNeverUs))) return kNeverUs;
  return static_cast<uint32_t>(std::ceil(estimate_us));
}

}  // namespace quire
