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
  // and a later success would say nothing about it. Waits for as long as the device takes.
  void sync(std::function<void(Status)> done);
  // The same for the tier's owner, who is not left waiting by a stuck device: kBusy.
  void sync_for_owner(std::function<void(Status)> done);
  // Answers those of the owner's calls that wait.
  void answer_owner(const Status& status);

 private:
  struct Waiter {
    std::function<void(Status)> done;  // null: answered already
    bool is_owner = false;
  };
  void enqueue(Waiter waiter);
  void start();
  void finish(const Status& status);

  StoreContext& context_;
  std::vector<Waiter> waiting_;
  std::vector<Waiter> running_;
  bool failed_ = false;
};

}  // namespace quire::nvme

#endif  // QUIRE_TIERS_NVME_GROUP_SYNC_H_
