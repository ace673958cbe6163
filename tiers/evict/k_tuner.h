// Chooses k of the decayed LFU by what it would have hit: shadow copies of the tier, each with
// another k, see a sample of the accesses. The sample is spatial (SHARDS, Waldspurger et al., FAST
// 2015): a handle is in it where its hash lies below a threshold, and a shadow's capacity is
// the tier's times the sampled share. Where the keys become too many the threshold is halved.
// k moves to the shadow that hits most, by bytes; old accesses count for less.
//
// Memory: kShadowKeysMax keys and as many ghosts as ghost_keys_limit() gives for them in each of
// kShadows copies, whatever the size of the tier.
#ifndef QUIRE_TIERS_EVICT_K_TUNER_H_
#define QUIRE_TIERS_EVICT_K_TUNER_H_

#include <array>
#include <cstdint>
#include <memory>

namespace quire::tiers {

class DecayedLfu;

// Doublings from nearly LRU to nearly LFU.
inline constexpr std::array<double, 6> kShadowK = {0.5, 1, 2, 4, 8, 16};
inline constexpr double kTunedStart = 1;
inline constexpr uint64_t kShadowKeysMax = 512;
inline constexpr uint64_t kShadowGhostKeysMax = 4 * kShadowKeysMax;
// Sampled accesses between two looks at who leads.
inline constexpr uint32_t kTunerWindowAccesses = 128;
// Hits lose half of their weight in so many turnovers of a shadow.
inline constexpr double kTunerHalfLifeTurnovers = 8;
// The leader must have hit this much more than the present k to take over.
inline constexpr double kTunerMargin = 0.01;

class KTuner {
 public:
  explicit KTuner(uint64_t capacity_bytes);
  ~KTuner();

  // An access of the tier, hit or not. O(1) but for the sampled ones, O(log kShadowKeysMax) then.
  void access(uint64_t handle, uint64_t bytes);
  // Deleted: shadows forget it too.
  void remove(uint64_t handle);
  double k() const { return kShadowK[present_]; }

  // Keys that are held in all shadows and their ghosts.
  uint64_t keys() const;
  // 1 where every access is sampled.
  double sampled_share() const;
  // Bytes hit by a shadow, decayed.
  double hit_bytes(uint64_t shadow) const { return hit_bytes_[shadow]; }

 private:
  bool sampled(uint64_t handle) const;
  void sample_less();
  void choose();

  uint64_t capacity_bytes_;
  uint64_t threshold_ = UINT64_MAX;
  uint64_t present_;
  uint32_t window_accesses_ = 0;
  double window_bytes_ = 0;
  std::array<std::unique_ptr<DecayedLfu>, kShadowK.size()> shadows_;
  std::array<double, kShadowK.size()> hit_bytes_{};
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_EVICT_K_TUNER_H_
