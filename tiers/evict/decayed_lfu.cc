// Decayed LFU. Time runs in accessed bytes, in units of k times the capacity, so that an object's
// age is counted in turnovers of the tier. Each access weighs exp(-age): frequency f at the last
// access t gives
//   score = ln(f) + t,   and an access at time u makes   f = 1 + f * exp(-(u - t)).
// Later decay lowers all scores alike, so the order only changes for what is accessed (Lee et al.,
// LRFU, IEEE ToC 2001) and an ordered set is enough. Evicted keys keep (f, t) for a while: a key
// that returns goes on where it was.
#include <cmath>
#include <set>
#include <unordered_map>

#include "tiers/evict/ghost_keys.h"
#include "tiers/evict/policies.h"

namespace quire::tiers {
namespace {

class DecayedLfu final : public EvictionPolicy {
 public:
  explicit DecayedLfu(const EvictionOptions& options)
      : unit_bytes_(std::max(
            1.0, std::max(options.k, 1e-3) * static_cast<double>(options.capacity_bytes))) {}

  std::string_view name() const override { return "decayed_lfu"; }

  bool insert(Handle handle, uint64_t bytes) override {
    if (contains(handle)) {
      touch(handle);
      return false;
    }
    advance(bytes);
    Node node;
    node.bytes = bytes;
    if (const auto ghost = ghosts_.take(handle)) node.heat = *ghost;
    access(node);
    order_.insert(order_key(handle, node));
    by_handle_.emplace(handle, node);
    bytes_ += bytes;
    most_keys_ = std::max<uint64_t>(most_keys_, by_handle_.size());
    return true;
  }

  void touch(Handle handle) override {
    const auto found = by_handle_.find(handle);
    if (found == by_handle_.end()) return;
    advance(found->second.bytes);
    order_.erase(order_key(handle, found->second));
    access(found->second);
    order_.insert(order_key(handle, found->second));
  }

  void remove(Handle handle) override {
    ghosts_.take(handle);
    const auto found = by_handle_.find(handle);
    if (found == by_handle_.end()) return;
    bytes_ -= found->second.bytes;
    order_.erase(order_key(handle, found->second));
    by_handle_.erase(found);
  }

  void evict(Handle handle) override {
    const auto found = by_handle_.find(handle);
    if (found == by_handle_.end()) return;
    const Heat heat = found->second.heat;
    remove(handle);
    ghosts_.put(handle, heat, ghost_keys_limit(most_keys_));
  }

  std::optional<Handle> victim(const Predicate& evictable) override {
    const uint64_t scans = std::min<uint64_t>(order_.size(), kVictimScanMax);
    for (uint64_t i = 0; i < scans; ++i) {
      const Handle handle = order_.begin()->handle;
      if (evictable(handle)) return handle;
      defer(handle);
    }
    return std::nullopt;
  }

  bool contains(Handle handle) const override { return by_handle_.contains(handle); }
  uint64_t size() const override { return by_handle_.size(); }
  uint64_t bytes() const override { return bytes_; }

 private:
  struct Heat {
    double frequency = 0;
    double time = 0;  // of the last access
  };
  struct Node {
    Heat heat;
    uint64_t bytes = 0;
    double score = 0;
    uint64_t sequence = 0;  // breaks ties: the earlier access goes first
  };
  struct OrderKey {
    double score;
    uint64_t sequence;
    Handle handle;
    auto operator<=>(const OrderKey&) const = default;
  };

  static OrderKey order_key(Handle handle, const Node& node) {
    return {node.score, node.sequence, handle};
  }

  void advance(uint64_t bytes) { now_ += static_cast<double>(bytes) / unit_bytes_; }

  void access(Node& node) {
    node.heat.frequency = 1 + node.heat.frequency * std::exp(node.heat.time - now_);
    node.heat.time = now_;
    node.score = std::log(node.heat.frequency) + now_;
    node.sequence = next_sequence_++;
  }

  // In use, so not a victim: behind all others, without counting as an access.
  void defer(Handle handle) {
    Node& node = by_handle_.at(handle);
    order_.erase(order_key(handle, node));
    node.score = order_.empty() ? node.score : order_.rbegin()->score;
    node.sequence = next_sequence_++;
    order_.insert(order_key(handle, node));
  }

  double unit_bytes_;
  double now_ = 0;
  uint64_t next_sequence_ = 0;
  uint64_t bytes_ = 0;
  uint64_t most_keys_ = 0;
  std::unordered_map<Handle, Node> by_handle_;
  std::set<OrderKey> order_;
  GhostKeys<Heat> ghosts_;
};

}  // namespace

std::unique_ptr<EvictionPolicy> make_decayed_lfu(const EvictionOptions& options) {
  return std::make_unique<DecayedLfu>(options);
}

}  // namespace quire::tiers
