// What the tiers have in common: a name, a promise and a cost model. Moving objects between tiers
// is the server's business (placement); a tier only keeps bytes.
#ifndef QUIRE_TIERS_TIER_H_
#define QUIRE_TIERS_TIER_H_

#include <cstdint>
#include <string_view>

namespace quire {

// Nearest first. The numbers are those of wire::TierId and travel in frames.
enum class TierId : uint8_t { kGpu = 0, kHost = 1, kNvme = 2, kRocks = 3, kNone = 255 };

// "gpu", "host", "nvme", "rocks", "none".
std::string_view tier_name(TierId tier);

// What a tier promises about an object whose write it acknowledged, as shown on the status page.
std::string_view tier_promise(TierId tier);

// A straight line through measured loads: latency for the first byte, then bandwidth. Measured when
// the tier opens; a tier that was never measured has bytes_per_us 0 and is never estimated as
// cheap.
struct TierCost {
  double bytes_per_us = 0;  // 1 byte/us = 1 MB/s
  double latency_us = 0;

  // Estimated microseconds to bring `bytes` into the host tier; kNeverUs where not measured.
  uint32_t load_us(uint64_t bytes) const;
  static constexpr uint32_t kNeverUs = UINT32_MAX;
};

}  // namespace quire

#endif  // QUIRE_TIERS_TIER_H_
