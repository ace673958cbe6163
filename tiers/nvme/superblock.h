// Opening or making a store: the pair of superblocks. Blocking.
#ifndef QUIRE_TIERS_NVME_SUPERBLOCK_H_
#define QUIRE_TIERS_NVME_SUPERBLOCK_H_

#include "base/clock.h"
#include "base/status.h"
#include "tiers/io/block_device.h"
#include "tiers/nvme/nvme_tier.h"
#include "tiers/nvme/segment_format.h"

namespace quire::nvme {

// Reads both slots and returns the superblock with the highest epoch. Errors as NvmeTier::open();
// kNotFound where both slots are zero. Writes nothing: for offline tools, too.
Expected<Superblock> read_superblock(BlockDevice& device);

// Opens the store, or makes one, and writes the next epoch durably.
Expected<Geometry> open_store(BlockDevice& device, const NvmeOptions& options, Clock& clock);

// Makes a higher epoch durable, never writing over the slot that holds the present one.
// kInvalidArgument where it is not higher.
Status raise_store_epoch(BlockDevice& device, uint64_t epoch, Geometry* geometry);

}  // namespace quire::nvme

#endif  // QUIRE_TIERS_NVME_SUPERBLOCK_H_
