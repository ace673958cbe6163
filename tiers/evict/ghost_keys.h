// Bounded memory of keys that were evicted: first in, first out. A ring of entries and a flat table
// over it: at most 1.5 * (8 + sizeof(Value)) + 43 bytes a key.
#ifndef QUIRE_TIERS_EVICT_GHOST_KEYS_H_
#define QUIRE_TIERS_EVICT_GHOST_KEYS_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "tiers/evict/handle_map.h"

namespace quire::tiers {

template <typename Value>
class GhostKeys {
 public:
  // Remembers key, at most limit keys in all. limit > 0.
  void put(uint64_t key, const Value& value, uint64_t limit) {
    take(key);
    while (by_key_.size() >= limit) forget_oldest();
    // Taken entries leave gaps: those at the old end go, and a full ring without live entries to
    // spare grows.
    while (used_ > 0 && !live(begin_)) drop_begin();
    if (used_ == ring_.size()) make_room();
    const auto at = static_cast<uint32_t>((begin_ + used_) % ring_.size());
    ring_[at] = {key, value};
    ++used_;
    by_key_.set(key, at);
  }

  // The key's value, which is forgotten.
  std::optional<Value> take(uint64_t key) {
    const uint32_t at = by_key_.find(key);
    if (at == HandleMap::kNone) return std::nullopt;
    by_key_.erase(key);
    return ring_[at].value;
  }

  uint64_t size() const { return by_key_.size(); }
  // Entries that are allocated: at most 1.5 times the most keys held, at least kEntriesMin.
  uint64_t capacity() const { return ring_.size(); }

 private:
  static constexpr uint64_t kEntriesMin = 16;
  struct Ghost {
    uint64_t key = 0;
    [[no_unique_address]] Value value{};
  };

  bool live(uint64_t at) const { return by_key_.find(ring_[at].key) == at; }

  void drop_begin() {
    begin_ = (begin_ + 1) % ring_.size();
    --used_;
  }

  void forget_oldest() {
    while (!live(begin_)) drop_begin();
    by_key_.erase(ring_[begin_].key);
    drop_begin();
  }

  // Live entries in order at the front of a ring that they fill by two thirds.
  void make_room() {
    std::vector<Ghost> next(std::max(kEntriesMin, by_key_.size() + by_key_.size() / 2));
    uint64_t kept = 0;
    for (uint64_t i = 0; i < used_; ++i) {
      const uint64_t at = (begin_ + i) % ring_.size();
      if (live(at)) next[kept++] = ring_[at];
    }
    for (uint64_t at = 0; at < kept; ++at) by_key_.set(next[at].key, static_cast<uint32_t>(at));
    ring_ = std::move(next);
    begin_ = 0;
    used_ = kept;
  }

  std::vector<Ghost> ring_;
  uint64_t begin_ = 0;
  uint64_t used_ = 0;  // from begin_ on, live or taken
  HandleMap by_key_;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_EVICT_GHOST_KEYS_H_
