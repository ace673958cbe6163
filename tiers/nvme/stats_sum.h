// The figures of several devices as one. Internal.
#ifndef QUIRE_TIERS_NVME_STATS_SUM_H_
#define QUIRE_TIERS_NVME_STATS_SUM_H_

#include <vector>

#include "tiers/nvme/nvme_tier.h"

namespace quire::nvme {

// Sums; the best state, since an array works as long as one device does, with the reasons of all
// that are not well; the cost of the slowest latency and the mean bandwidth. `devices` is kept.
NvmeStats sum_of(std::vector<NvmeStats> devices);

}  // namespace quire::nvme

#endif  // QUIRE_TIERS_NVME_STATS_SUM_H_
