// Least recently used first. Hints move an object once: finished, or used later than after a
// turnover, to those that leave first; used sooner, to the recent end. No priorities.
#include <list>
#include <unordered_map>

#include "tiers/evict/next_uses.h"
#include "tiers/evict/policies.h"

namespace quire::tiers {
namespace {

class Lru final : public EvictionPolicy {
 public:
  explicit Lru(const EvictionOptions& options)
      : capacity_bytes_(options.capacity_bytes), clock_(options.capacity_bytes) {}

  std::string_view name() const override { return "lru"; }

  bool insert(Handle handle, uint64_t bytes) override {
    if (contains(handle)) {
      touch(handle);
      return false;
    }
    clock_.accessed(bytes);
    order_.push_back({handle, bytes, false});
    by_handle_.emplace(handle, std::prev(order_.end()));
    bytes_ += bytes;
    return true;
  }

  void touch(Handle handle) override {
    const auto found = by_handle_.find(handle);
    if (found == by_handle_.end()) return;
    clock_.accessed(found->second->bytes);
    to_recent_end(found->second);
  }

  void remove(Handle handle) override {
    const auto found = by_handle_.find(handle);
    if (found == by_handle_.end()) return;
    const auto node = found->second;
    bytes_ -= node->bytes;
    (node->leaving ? leaving_ : order_).erase(node);
    by_handle_.erase(found);
  }

  void evict(Handle handle) override { remove(handle); }

  std::optional<Handle> victim(const Predicate& evictable) override {
    uint64_t scans = std::min<uint64_t>(leaving_.size(), kFinishedScanMax);
    for (; scans > 0; --scans) {
      if (evictable(leaving_.front().handle)) return leaving_.front().handle;
      leaving_.splice(leaving_.end(), leaving_, leaving_.begin());
    }
    for (scans = std::min<uint64_t>(order_.size(), kVictimScanMax); scans > 0; --scans) {
      if (evictable(order_.front().handle)) return order_.front().handle;
      order_.splice(order_.end(), order_, order_.begin());
    }
    return std::nullopt;
  }

  void hint(Handle handle, const UseHint& hint) override {
    const auto found = by_handle_.find(handle);
    if (found == by_handle_.end()) return;
    const auto node = found->second;
    const auto distance = clock_.distance_bytes(hint);
    if (hint.finished || (distance && *distance > static_cast<double>(capacity_bytes_))) {
      leaving_.splice(leaving_.end(), node->leaving ? leaving_ : order_, node);
      node->leaving = true;
    } else if (distance || node->leaving) {
      to_recent_end(node);
    }
  }

  void tick(uint64_t now_ns) override { clock_.tick(now_ns); }
  bool contains(Handle handle) const override { return by_handle_.contains(handle); }
  uint64_t size() const override { return by_handle_.size(); }
  uint64_t bytes() const override { return bytes_; }

 private:
  struct Node {
    Handle handle;
    uint64_t bytes;
    bool leaving = false;
  };

  void to_recent_end(std::list<Node>::iterator node) {
    order_.splice(order_.end(), node->leaving ? leaving_ : order_, node);
    node->leaving = false;
  }

  uint64_t capacity_bytes_;
  NextUses clock_;
  std::list<Node> leaving_;  // first victims, in the order of their hints
  std::list<Node> order_;    // least recently used first
  std::unordered_map<Handle, std::list<Node>::iterator> by_handle_;
  uint64_t bytes_ = 0;
};

}  // namespace

std::unique_ptr<EvictionPolicy> make_lru(const EvictionOptions& options) {
  return std::make_unique<Lru>(options);
}

}  // namespace quire::tiers
