// S3-FIFO (Yang et al., SOSP 2023): a small queue of a tenth of the bytes filters what is used
// once, a main queue gives second chances, a ghost queue lets returning keys in at once.
#include <list>
#include <unordered_map>

#include "tiers/evict/ghost_keys.h"
#include "tiers/evict/policies.h"

namespace quire::tiers {
namespace {

constexpr uint8_t kHitsMax = 3;
constexpr uint64_t kSmallShare = 10;  // one tenth

class S3Fifo final : public EvictionPolicy {
 public:
  explicit S3Fifo(const EvictionOptions& options)
      : small_bytes_target_(options.capacity_bytes / kSmallShare) {}

  std::string_view name() const override { return "s3_fifo"; }

  bool insert(Handle handle, uint64_t bytes) override {
    if (contains(handle)) {
      touch(handle);
      return false;
    }
    const bool to_small = !ghosts_.take(handle).has_value();
    std::list<Node>& queue = to_small ? small_ : main_;
    queue.push_back({handle, bytes, 0, to_small});
    if (to_small) small_bytes_ += bytes;
    by_handle_.emplace(handle, std::prev(queue.end()));
    bytes_ += bytes;
    most_keys_ = std::max<uint64_t>(most_keys_, by_handle_.size());
    return true;
  }

  void touch(Handle handle) override {
    const auto found = by_handle_.find(handle);
    if (found == by_handle_.end()) return;
    found->second->hits = std::min<uint8_t>(kHitsMax, found->second->hits + 1);
  }

  void remove(Handle handle) override {
    ghosts_.take(handle);
    const auto found = by_handle_.find(handle);
    if (found == by_handle_.end()) return;
    const auto node = found->second;
    bytes_ -= node->bytes;
    if (node->in_small) small_bytes_ -= node->bytes;
    (node->in_small ? small_ : main_).erase(node);
    by_handle_.erase(found);
  }

  void evict(Handle handle) override {
    const auto found = by_handle_.find(handle);
    if (found == by_handle_.end()) return;
    const bool was_small = found->second->in_small;
    remove(handle);
    if (was_small) ghosts_.put(handle, {}, ghost_keys_limit(most_keys_));
  }

  std::optional<Handle> victim(const Predicate& evictable) override {
    // Every step asks about a node, moves one to the main queue, or takes a hit from one.
    const uint64_t steps_max =
        std::min<uint64_t>((kHitsMax + 2) * by_handle_.size(), kVictimScanMax);
    for (uint64_t i = 0; i < steps_max; ++i) {
      // The small queue also where all of the main queue is in use.
      const bool from_small =
          !small_.empty() && (small_bytes_ > small_bytes_target_ || main_refusals_ >= main_.size());
      std::list<Node>& queue = from_small ? small_ : main_;
      Node& node = queue.front();
      if (node.hits > 0) {
        node.hits = from_small ? 0 : node.hits - 1;
        to_main_end(queue);
        continue;
      }
      if (evictable(node.handle)) {
        main_refusals_ = 0;
        return node.handle;
      }
      if (!from_small) ++main_refusals_;
      to_main_end(queue);
    }
    return std::nullopt;
  }

  bool contains(Handle handle) const override { return by_handle_.contains(handle); }
  uint64_t size() const override { return by_handle_.size(); }
  uint64_t bytes() const override { return bytes_; }

 private:
  struct Node {
    Handle handle;
    uint64_t bytes;
    uint8_t hits;
    bool in_small;
  };
  struct Nothing {};

  void to_main_end(std::list<Node>& queue) {
    if (queue.front().in_small) small_bytes_ -= queue.front().bytes;
    queue.front().in_small = false;
    main_.splice(main_.end(), queue, queue.begin());
  }

  uint64_t small_bytes_target_;
  uint64_t small_bytes_ = 0;
  uint64_t bytes_ = 0;
  uint64_t most_keys_ = 0;
  uint64_t main_refusals_ = 0;  // since the last victim
  std::list<Node> small_;       // oldest first
  std::list<Node> main_;
  std::unordered_map<Handle, std::list<Node>::iterator> by_handle_;
  GhostKeys<Nothing> ghosts_;
};

}  // namespace

std::unique_ptr<EvictionPolicy> make_s3_fifo(const EvictionOptions& options) {
  return std::make_unique<S3Fifo>(options);
}

}  // namespace quire::tiers
