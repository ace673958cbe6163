// Grouped fdatasync: one serves all that asked while the last one ran.
#ifndef QUIRE_TIERS_NVME_GROUP_SYNC_H_
#define QUIRE_TIERS_NVME_GROUP_SYNC_H_

#include <functional>
#include <vector>

#include "tiers/nvme/store_context.h"

namespace quire::nvme {

class GroupSync {
 public:
  explicit GroupSync(StoreContext& context) : context_(context) {}

  // After one failure every call fails: the system may have dropped the data it could not write,
  // and a later success would say nothing about it.
  void sync(std::function<void(Status)> done);

 private:
  void start();
  void finish(const Status& status);

  StoreContext& context_;
  std::vector<std::function<void(Status)>> waiting_;
  std::vector<std::function<void(Status)>> running_;
  bool failed_ = false;
};

}  // namespace quire::nvme

#endif  // QUIRE_TIERS_NVME_GROUP_SYNC_H_
