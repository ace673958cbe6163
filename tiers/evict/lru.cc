#include <list>
#include <unordered_map>

#include "tiers/evict/policies.h"

namespace quire::tiers {
namespace {

class Lru final : public EvictionPolicy {
 public:
  std::string_view name() const override { return "lru"; }

  bool insert(Handle handle, uint64_t bytes) override {
    if (contains(handle)) {
      touch(handle);
      return false;
    }
    order_.push_back({handle, bytes});
    by_handle_.emplace(handle, std::prev(order_.end()));
    bytes_ += bytes;
    return true;
  }

  void touch(Handle handle) override {
    const auto found = by_handle_.find(handle);
    if (found != by_handle_.end()) order_.splice(order_.end(), order_, found->second);
  }

  void remove(Handle handle) override {
    const auto found = by_handle_.find(handle);
    if (found == by_handle_.end()) return;
    bytes_ -= found->second->bytes;
    order_.erase(found->second);
    by_handle_.erase(found);
  }

  void evict(Handle handle) override { remove(handle); }

  std::optional<Handle> victim(const Predicate& evictable) override {
    const uint64_t scans = std::min<uint64_t>(order_.size(), kVictimScanMax);
    for (uint64_t i = 0; i < scans; ++i) {
      if (evictable(order_.front().handle)) return order_.front().handle;
      order_.splice(order_.end(), order_, order_.begin());
    }
    return std::nullopt;
  }

  bool contains(Handle handle) const override { return by_handle_.contains(handle); }
  uint64_t size() const override { return order_.size(); }
  uint64_t bytes() const override { return bytes_; }

 private:
  struct Node {
    Handle handle;
    uint64_t bytes;
  };
  std::list<Node> order_;  // least recently used first
  std::unordered_map<Handle, std::list<Node>::iterator> by_handle_;
  uint64_t bytes_ = 0;
};

}  // namespace

std::unique_ptr<EvictionPolicy> make_lru() {
  return std::make_unique<Lru>();
}

}  // namespace quire::tiers
