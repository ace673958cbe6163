// What a tier's loads cost: bandwidth and latency, measured at start and followed by the real
// loads.
#ifndef QUIRE_SERVER_STORE_COST_METER_H_
#define QUIRE_SERVER_STORE_COST_METER_H_

#include <algorithm>
#include <cstdint>

#include "tiers/tier.h"

namespace quire::server {

class CostMeter {
 public:
  explicit CostMeter(TierCost initial) : cost_(initial) {}

  // Small loads move the latency, large ones the bandwidth, each by an eighth of the difference.
  void observe(uint64_t bytes, uint64_t elapsed_ns) {
    const double us = std::max(0.1, static_cast<double>(elapsed_ns) / 1e3);
    if (bytes < kSmallBytes) {
      cost_.latency_us += (us - cost_.latency_us) / kWeight;
    } else {
      const double transfer_us = std::max(us - cost_.latency_us, us / 8);
      const double bytes_per_us = static_cast<double>(bytes) / transfer_us;
      cost_.bytes_per_us += (bytes_per_us - cost_.bytes_per_us) / kWeight;
    }
  }
  const TierCost& cost() const { return cost_; }

 private:
  static constexpr uint64_t kSmallBytes = 64 * 1024;
  static constexpr double kWeight = 8;
  TierCost cost_;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_COST_METER_H_
