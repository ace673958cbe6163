// Bounded memory of keys that were evicted: first in, first out.
#ifndef QUIRE_TIERS_EVICT_GHOST_KEYS_H_
#define QUIRE_TIERS_EVICT_GHOST_KEYS_H_

#include <cstdint>
#include <iterator>
#include <list>
#include <optional>
#include <unordered_map>

namespace quire::tiers {

template <typename Value>
class GhostKeys {
 public:
  // Remembers key, at most limit keys in all.
  void put(uint64_t key, const Value& value, uint64_t limit) {
    take(key);
    order_.push_back({key, value});
    by_key_.emplace(key, std::prev(order_.end()));
    while (order_.size() > limit) {
      by_key_.erase(order_.front().key);
      order_.pop_front();
    }
  }

  // The key's value, which is forgotten.
  std::optional<Value> take(uint64_t key) {
    const auto found = by_key_.find(key);
    if (found == by_key_.end()) return std::nullopt;
    const Value value = found->second->value;
    order_.erase(found->second);
    by_key_.erase(found);
    return value;
  }

  uint64_t size() const { return order_.size(); }

 private:
  struct Ghost {
    uint64_t key;
    Value value;
  };
  std::list<Ghost> order_;  // oldest first
  std::unordered_map<uint64_t, typename std::list<Ghost>::iterator> by_key_;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_EVICT_GHOST_KEYS_H_
