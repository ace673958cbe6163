#include "tiers/nvme/group_sync.h"

#include <utility>

#include "tiers/io/kill_point.h"

namespace quire::nvme {

void GroupSync::sync(std::function<void(Status)> done) {
  enqueue({std::move(done), false});
}

void GroupSync::sync_for_owner(std::function<void(Status)> done) {
  if (context_.health.is_stuck()) {
    const Status refusal = context_.health.check_writable();
    context_.device->defer([done = std::move(done), refusal] { done(refusal); });
    return;
  }
  enqueue({std::move(done), true});
}

void GroupSync::enqueue(Waiter waiter) {
  Status refusal = context_.health.state() == NvmeState::kQuarantined
                       ? context_.health.check_readable()
                       : Status::ok();
  if (refusal.is_ok() && failed_) refusal = context_.health.check_writable();
  if (!refusal.is_ok()) {
    context_.device->defer([done = std::move(waiter.done), refusal] { done(refusal); });
    return;
  }
  waiting_.push_back(std::move(waiter));
  if (running_.empty()) start();
}

void GroupSync::start() {
  running_.swap(waiting_);
  ++context_.counters.syncs;
  QUIRE_KILL_POINT("nvme_sync_start");
  context_.device->sync([this](const Status& status) { finish(status); });
}

void GroupSync::finish(const Status& status) {
  if (!status.is_ok()) {
    failed_ = true;
    ++context_.counters.write_errors;
    context_.health.sync_failed(status);
  }
  QUIRE_KILL_POINT("nvme_sync_done");
  auto finished = std::exchange(running_, {});
  if (failed_) {
    for (Waiter& waiter : std::exchange(waiting_, {})) finished.push_back(std::move(waiter));
  }
  if (!waiting_.empty()) start();
  const Status answer = failed_ && status.is_ok() ? context_.health.check_writable() : status;
  for (const Waiter& waiter : finished) {
    if (waiter.done) waiter.done(answer);
  }
}

void GroupSync::answer_owner(const Status& status) {
  std::vector<std::function<void(Status)>> answered;
  for (auto* waiters : {&running_, &waiting_}) {
    for (Waiter& waiter : *waiters) {
      if (waiter.is_owner && waiter.done) answered.push_back(std::exchange(waiter.done, nullptr));
    }
  }
  // Those in running_ stay as they are: it says that a sync is in flight.
  std::erase_if(waiting_, [](const Waiter& waiter) { return !waiter.done; });
  for (const auto& done : answered) done(status);
}

}  // namespace quire::nvme
