#include "tiers/evict/next_uses.h"

#include <algorithm>
#include <limits>

namespace quire::tiers {
namespace {

// The step that runs now is half over.
double step_count(uint32_t steps) {
  return std::max(0.5, static_cast<double>(steps));
}

}  // namespace

NextUses::NextUses(uint64_t capacity_bytes)
    : capacity_bytes_(std::max(1.0, static_cast<double>(capacity_bytes))),
      bytes_per_step_(capacity_bytes_ * kStepTurnoversGuess),
      bytes_per_ns_(capacity_bytes_ / static_cast<double>(kTurnoverGuessNs)) {}

void NextUses::tick(uint64_t now_ns) {
  if (now_ns <= now_ns_) return;
  if (now_ns_ == 0) {
    window_begin_ns_ = now_ns;
    window_begin_bytes_ = position_bytes_;
  }
  now_ns_ = now_ns;
  const uint64_t window_ns = now_ns_ - window_begin_ns_;
  if (window_ns < kRateWindowNs) return;
  const double rate = (position_bytes_ - window_begin_bytes_) / static_cast<double>(window_ns);
  bytes_per_ns_ = std::max(bytes_per_ns_ + kRateWeight * (rate - bytes_per_ns_),
                           capacity_bytes_ / static_cast<double>(kTurnoverNsMax));
  window_begin_ns_ = now_ns_;
  window_begin_bytes_ = position_bytes_;
}

bool NextUses::set(Handle handle, const UseHint& hint) {
  if (!hint.steps_to_next_use && !hint.next_use_ns) {
    uses_.erase(handle);
    return false;
  }
  uses_[handle] = {position_bytes_, now_ns_, hint.next_use_ns, hint.steps_to_next_use};
  return true;
}

bool NextUses::used(Handle handle) {
  if (uses_.empty()) return false;
  const auto found = uses_.find(handle);
  if (found == uses_.end()) return false;
  const NextUse& use = found->second;
  if (use.steps) {
    const double measured = (position_bytes_ - use.hinted_at_bytes) / step_count(*use.steps);
    bytes_per_step_ += kStepWeight * (measured - bytes_per_step_);
  }
  uses_.erase(found);
  return true;
}

double NextUses::distance_of(const NextUse& use) const {
  double distance = std::numeric_limits<double>::infinity();
  if (use.steps)
    distance = use.hinted_at_bytes + step_count(*use.steps) * bytes_per_step_ - position_bytes_;
  if (use.at_ns) {
    const double left_ns = *use.at_ns > now_ns_ ? static_cast<double>(*use.at_ns - now_ns_)
                                                : -static_cast<double>(now_ns_ - *use.at_ns);
    distance = std::min(distance, left_ns * bytes_per_ns_);
  }
  return distance;
}

// As long after the expected use as that was after the hint. Both must have passed.
bool NextUses::overdue(const NextUse& use) const {
  const double nearest_bytes = kNearestTurnovers * capacity_bytes_;
  if (use.steps) {
    const double away = std::max(nearest_bytes, step_count(*use.steps) * bytes_per_step_);
    if (position_bytes_ < use.hinted_at_bytes + 2 * away) return false;
  }
  if (use.at_ns) {
    const double away_ns =
        *use.at_ns > use.hinted_at_ns ? static_cast<double>(*use.at_ns - use.hinted_at_ns) : 0.0;
    const double limit_ns = 2 * std::max(away_ns, nearest_bytes / bytes_per_ns_);
    if (static_cast<double>(now_ns_ - use.hinted_at_ns) < limit_ns) return false;
  }
  return true;
}

std::optional<double> NextUses::distance_bytes(Handle handle) {
  const auto found = uses_.find(handle);
  if (found == uses_.end()) return std::nullopt;
  if (overdue(found->second)) {
    uses_.erase(found);
    return std::nullopt;
  }
  return std::max(kNearestTurnovers * capacity_bytes_, distance_of(found->second));
}

std::optional<double> NextUses::distance_bytes(const UseHint& hint) const {
  if (!hint.steps_to_next_use && !hint.next_use_ns) return std::nullopt;
  return std::max(
      kNearestTurnovers * capacity_bytes_,
      distance_of({position_bytes_, now_ns_, hint.next_use_ns, hint.steps_to_next_use}));
}

}  // namespace quire::tiers
