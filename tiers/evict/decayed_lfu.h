// Decayed LFU. Time runs in accessed bytes, in units of k times the capacity, so that an object's
// age is counted in turnovers of the tier. Each access weighs exp(-age): frequency f at the last
// access t gives
//   score = ln(f) + t,   and an access at time u makes   f = 1 + f * exp(-(u - t)).
// Later decay lowers all scores alike, so the order only changes for what is accessed (Lee et al.,
// LRFU, IEEE ToC 2001) and a heap is enough. Evicted keys keep (f, t) for a while: a key that
// returns goes on where it was.
//
// A known next use at distance d replaces ln(f) + t by ln(1 / d) + now: objects used every d units
// have f = 1 / d on average. It is taken anew each time half of the distance has gone by. Priority
// adds (priority - 128) / 32 * ln(2).
//
// k is either given or follows a KTuner; a new k counts for the time that passes from then on.
#ifndef QUIRE_TIERS_EVICT_DECAYED_LFU_H_
#define QUIRE_TIERS_EVICT_DECAYED_LFU_H_

#include <memory>
#include <vector>

#include "tiers/evict/ghost_keys.h"
#include "tiers/evict/k_tuner.h"
#include "tiers/evict/next_uses.h"
#include "tiers/evict/policies.h"
#include "tiers/evict/score_heap.h"

namespace quire::tiers {

class DecayedLfu final : public EvictionPolicy {
 public:
  explicit DecayedLfu(const EvictionOptions& options);
  ~DecayedLfu() override;

  std::string_view name() const override { return "decayed_lfu"; }
  bool insert(Handle handle, uint64_t bytes) override;
  void touch(Handle handle) override;
  void remove(Handle handle) override;
  void evict(Handle handle) override;
  std::optional<Handle> victim(const Predicate& evictable) override;
  void hint(Handle handle, const UseHint& hint) override;
  void tick(uint64_t now_ns) override { next_uses_.tick(now_ns); }
  bool contains(Handle handle) const override { return slots_.contains(handle); }
  uint64_t size() const override { return slots_.size(); }
  uint64_t bytes() const override { return bytes_; }
  std::optional<double> tuned_k() const override;
  uint64_t remembered_keys() const override;

  // Another capacity from now on; what is held stays.
  void resize(uint64_t capacity_bytes);
  uint64_t capacity_bytes() const { return capacity_bytes_; }
  // remove() for all handles that the predicate names, ghosts left to age. O(n).
  void remove_if(const Predicate& named);

 private:
  struct Heat {
    double frequency = 0;
    double time = 0;  // of the last access
  };
  struct Node {
    Handle handle = 0;
    uint64_t bytes = 0;
    Heat heat;
    uint64_t sequence = 0;  // breaks ties: the earlier access goes first
    uint8_t priority = kPriorityNormal;
    bool finished = false;
  };

  void accessed(Handle handle, uint64_t bytes);
  void heat_up(Heat& heat) const;
  double score_of(const Node& node);
  void place(uint32_t slot);
  void forget(uint32_t slot);
  void look_at_hints();
  std::optional<Handle> finished_victim(const Predicate& evictable);
  void set_k(double k);

  uint64_t capacity_bytes_;
  double k_;
  double unit_bytes_ = 1;
  double now_ = 0;  // in units
  double highest_score_ = 0;
  uint64_t next_sequence_ = 0;
  uint64_t bytes_ = 0;
  uint64_t most_keys_ = 0;
  uint64_t ghost_keys_max_;
  HandleMap slots_;
  std::vector<Node> nodes_;
  std::vector<uint32_t> free_slots_;
  ScoreHeap order_;     // all but the finished
  ScoreHeap finished_;  // those, in the order of their hints
  ScoreHeap looks_;     // hinted slots, by the position in bytes at which their score is taken anew
  GhostKeys<Heat> ghosts_;
  NextUses next_uses_;
  std::unique_ptr<KTuner> tuner_;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_EVICT_DECAYED_LFU_H_
