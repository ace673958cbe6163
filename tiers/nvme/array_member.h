// What an array of devices needs of its members beyond NvmeTier. Internal.
#ifndef QUIRE_TIERS_NVME_ARRAY_MEMBER_H_
#define QUIRE_TIERS_NVME_ARRAY_MEMBER_H_

#include <cstdint>
#include <memory>

#include "base/status.h"
#include "tiers/nvme/nvme_tier.h"

namespace quire::nvme {

class ArrayMember {
 public:
  virtual ~ArrayMember() = default;

  // How well a write would fare; cheap, unlike stats().
  virtual NvmeState state() const = 0;
  virtual uint32_t segments_free() const = 0;
  virtual uint64_t epoch() const = 0;
  // Blocking; before recover(). Makes `epoch`, larger than the present one, durable.
  virtual Status raise_epoch(uint64_t epoch) = 0;
  // Held before recover(): reclaiming does not start until released, when all devices are
  // recovered.
  virtual void hold_reclaiming(bool held) = 0;
  virtual uint64_t last_sequence() const = 0;
  // Draws sequences from *sequence (each: ++*sequence) from now on.
  virtual void share_sequence(std::shared_ptr<uint64_t> sequence) = 0;
};

}  // namespace quire::nvme

#endif  // QUIRE_TIERS_NVME_ARRAY_MEMBER_H_
