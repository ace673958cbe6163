// What hints say of next uses, as a distance in accessed bytes. Measures what it needs for that:
// bytes a nanosecond from tick(), bytes a step from the uses of objects with a steps hint.
#ifndef QUIRE_TIERS_EVICT_NEXT_USES_H_
#define QUIRE_TIERS_EVICT_NEXT_USES_H_

#include <cstdint>
#include <optional>
#include <unordered_map>

#include "tiers/evict/policy.h"

namespace quire::tiers {

// Guesses until something was measured.
inline constexpr uint64_t kTurnoverGuessNs = 60'000'000'000;  // to access capacity_bytes once
inline constexpr double kStepTurnoversGuess = 1.0 / 16;
// A rate is taken over at least so long; the newest counts for a quarter.
inline constexpr uint64_t kRateWindowNs = 1'000'000'000;
inline constexpr double kRateWeight = 0.25;
inline constexpr double kStepWeight = 0.125;
// Slower than this is idle: time alone does not turn a tier over.
inline constexpr uint64_t kTurnoverNsMax = 86'400'000'000'000;
// No use counts as nearer than this.
inline constexpr double kNearestTurnovers = 1.0 / 64;

class NextUses {
 public:
  using Handle = EvictionPolicy::Handle;

  explicit NextUses(uint64_t capacity_bytes);

  void accessed(uint64_t bytes) { position_bytes_ += static_cast<double>(bytes); }
  double position_bytes() const { return position_bytes_; }
  void tick(uint64_t now_ns);

  // True where the hint has a next use; replaces the handle's, or takes it away.
  bool set(Handle handle, const UseHint& hint);
  // It was used: forgotten, and a step measured. False where there was none.
  bool used(Handle handle);
  void forget(Handle handle) { uses_.erase(handle); }
  // Bytes until the next use, at least kNearestTurnovers of the capacity; nullopt where none is
  // known, or where it is overdue by as long as it was away (and then it is forgotten).
  std::optional<double> distance_bytes(Handle handle);
  // The same of a hint given now.
  std::optional<double> distance_bytes(const UseHint& hint) const;
  uint64_t size() const { return uses_.size(); }

 private:
  struct NextUse {
    double hinted_at_bytes = 0;
    uint64_t hinted_at_ns = 0;
    std::optional<uint64_t> at_ns;
    std::optional<uint32_t> steps;
  };
  // Negative where it has passed.
  double distance_of(const NextUse& use) const;
  bool overdue(const NextUse& use) const;

  double capacity_bytes_;
  double position_bytes_ = 0;
  double bytes_per_step_;
  double bytes_per_ns_;
  uint64_t now_ns_ = 0;
  uint64_t window_begin_ns_ = 0;
  double window_begin_bytes_ = 0;
  std::unordered_map<Handle, NextUse> uses_;  // of hinted handles that are held
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_EVICT_NEXT_USES_H_
