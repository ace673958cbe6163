// Binary heap of slot numbers, lowest score first, that finds a slot's place: O(log n) to move or
// erase any of them, no allocation but when it grows.
#ifndef QUIRE_TIERS_EVICT_SCORE_HEAP_H_
#define QUIRE_TIERS_EVICT_SCORE_HEAP_H_

#include <cassert>
#include <cstdint>
#include <vector>

namespace quire::tiers {

class ScoreHeap {
 public:
  // Equal scores: the lower sequence first.
  struct Key {
    double score = 0;
    uint64_t sequence = 0;
    bool operator<(const Key& other) const {
      return score < other.score || (score == other.score && sequence < other.sequence);
    }
  };

  bool empty() const { return items_.empty(); }
  uint64_t size() const { return items_.size(); }
  uint32_t top() const { return items_.front().slot; }
  const Key& top_key() const { return items_.front().key; }
  bool contains(uint32_t slot) const { return slot < place_.size() && place_[slot] != kNone; }
  const Key& key(uint32_t slot) const { return items_[place_[slot]].key; }

  // Inserts the slot, or moves it.
  void set(uint32_t slot, const Key& key) {
    if (!contains(slot)) {
      if (slot >= place_.size()) place_.resize(slot + 1, kNone);
      place_[slot] = static_cast<uint32_t>(items_.size());
      items_.push_back({key, slot});
      up(place_[slot]);
      return;
    }
    const uint32_t at = place_[slot];
    items_[at].key = key;
    up(at);
    down(place_[slot]);
  }

  void erase(uint32_t slot) {
    if (!contains(slot)) return;
    const uint32_t at = place_[slot];
    place_[slot] = kNone;
    const Item last = items_.back();
    items_.pop_back();
    if (last.slot == slot) return;
    items_[at] = last;
    place_[last.slot] = at;
    up(at);
    down(place_[last.slot]);
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Item {
    Key key;
    uint32_t slot;
  };

  void up(uint32_t at) {
    const Item item = items_[at];
    while (at > 0 && item.key < items_[(at - 1) / 2].key) {
      put(at, items_[(at - 1) / 2]);
      at = (at - 1) / 2;
    }
    put(at, item);
  }

  void down(uint32_t at) {
    const Item item = items_[at];
    while (true) {
      uint64_t child = 2ull * at + 1;
      if (child >= items_.size()) break;
      if (child + 1 < items_.size() && items_[child + 1].key < items_[child].key) ++child;
      if (!(items_[child].key < item.key)) break;
      put(at, items_[child]);
      at = static_cast<uint32_t>(child);
    }
    put(at, item);
  }

  void put(uint32_t at, const Item& item) {
    items_[at] = item;
    place_[item.slot] = at;
  }

  std::vector<Item> items_;
  std::vector<uint32_t> place_;  // by slot
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_EVICT_SCORE_HEAP_H_
