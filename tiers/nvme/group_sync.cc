#include "tiers/nvme/group_sync.h"

#include <utility>

#include "tiers/io/kill_point.h"

namespace quire::nvme {

void GroupSync::sync(std::function<void(Status)> done) {
  Status refusal = context_.health.check_readable();
  if (refusal.is_ok() && failed_) refusal = context_.health.check_writable();
  if (!refusal.is_ok()) {
    context_.device->defer([done = std::move(done), refusal] { done(refusal); });
    return;
  }
  waiting_.push_back(std::move(done));
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
    context_.health.write_failed(status);
  }
  QUIRE_KILL_POINT("nvme_sync_done");
  auto finished = std::exchange(running_, {});
  if (failed_) {
    for (auto& done : std::exchange(waiting_, {})) finished.push_back(std::move(done));
  }
  if (!waiting_.empty()) start();
  const Status answer = failed_ && status.is_ok() ? context_.health.check_writable() : status;
  for (const auto& done : finished) done(answer);
}

}  // namespace quire::nvme
