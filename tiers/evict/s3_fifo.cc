// S3-FIFO (Yang et al., SOSP 2023): a small queue of a tenth of the bytes filters what is used
// once, a main queue gives second chances, a ghost queue lets returning keys in at once.
// Hints move an object once: finished, or used later than after a turnover, to those that leave
// first; used sooner, it gets all hits there are. No priorities.
#include <list>
#include <unordered_map>

#include "tiers/evict/ghost_keys.h"
#include "tiers/evict/next_uses.h"
#include "tiers/evict/policies.h"

namespace quire::tiers {
namespace {

constexpr uint8_t kHitsMax = 3;
constexpr uint64_t kSmallShare = 10;  // one tenth

class S3Fifo final : public EvictionPolicy {
 public:
  explicit S3Fifo(const EvictionOptions& options)
      : capacity_bytes_(options.capacity_bytes),
        small_bytes_target_(options.capacity_bytes / kSmallShare),
        ghost_keys_max_(options.ghost_keys_max),
        clock_(options.capacity_bytes) {}

  std::string_view name() const override { return "s3_fifo"; }

  bool insert(Handle handle, uint64_t bytes) override {
    if (contains(handle)) {
      touch(handle);
      return false;
    }
    clock_.accessed(bytes);
    const bool to_small = !ghosts_.take(handle).has_value();
    Nodes& queue = to_small ? small_ : main_;
    queue.push_back({handle, bytes, 0, to_small ? Queue::kSmall : Queue::kMain});
    if (to_small) small_bytes_ += bytes;
    by_handle_.emplace(handle, std::prev(queue.end()));
    bytes_ += bytes;
    most_keys_ = std::max<uint64_t>(most_keys_, by_handle_.size());
    return true;
  }

  void touch(Handle handle) override {
    const auto found = by_handle_.find(handle);
    if (found == by_handle_.end()) return;
    const auto node = found->second;
    clock_.accessed(node->bytes);
    if (node->queue == Queue::kLeaving) move_to(Queue::kMain, node);
    node->hits = std::min<uint8_t>(kHitsMax, node->hits + 1);
  }

  void remove(Handle handle) override {
    ghosts_.take(handle);
    const auto found = by_handle_.find(handle);
    if (found == by_handle_.end()) return;
    const auto node = found->second;
    bytes_ -= node->bytes;
    if (node->queue == Queue::kSmall) small_bytes_ -= node->bytes;
    list_of(node->queue).erase(node);
    by_handle_.erase(found);
  }

  void evict(Handle handle) override {
    const auto found = by_handle_.find(handle);
    if (found == by_handle_.end()) return;
    const bool was_small = found->second->queue == Queue::kSmall;
    remove(handle);
    if (was_small) ghosts_.put(handle, {}, std::min(ghost_keys_limit(most_keys_), ghost_keys_max_));
  }

  std::optional<Handle> victim(const Predicate& evictable) override {
    const uint64_t leaving = std::min<uint64_t>(leaving_.size(), kFinishedScanMax);
    for (uint64_t i = 0; i < leaving; ++i) {
      if (evictable(leaving_.front().handle)) return leaving_.front().handle;
      move_to(Queue::kLeaving, leaving_.begin());
    }
    // Every step asks about a node, moves one to the main queue, or takes a hit from one.
    const uint64_t steps_max =
        std::min<uint64_t>((kHitsMax + 2) * by_handle_.size(), kVictimScanMax);
    for (uint64_t i = 0; i < steps_max; ++i) {
      // The small queue also where all of the main queue is in use.
      if (small_.empty() && main_.empty()) break;
      const bool from_small =
          !small_.empty() && (small_bytes_ > small_bytes_target_ || main_refusals_ >= main_.size());
      Nodes& queue = from_small ? small_ : main_;
      Node& node = queue.front();
      if (node.hits > 0) {
        node.hits = from_small ? 0 : node.hits - 1;
        move_to(Queue::kMain, queue.begin());
        continue;
      }
      if (evictable(node.handle)) {
        main_refusals_ = 0;
        return node.handle;
      }
      if (!from_small) ++main_refusals_;
      move_to(Queue::kMain, queue.begin());
    }
    return std::nullopt;
  }

  void hint(Handle handle, const UseHint& hint) override {
    const auto found = by_handle_.find(handle);
    if (found == by_handle_.end()) return;
    const auto node = found->second;
    const auto distance = clock_.distance_bytes(hint);
    if (hint.finished || (distance && *distance > static_cast<double>(capacity_bytes_))) {
      move_to(Queue::kLeaving, node);
      return;
    }
    if (node->queue == Queue::kLeaving) move_to(Queue::kMain, node);
    if (distance) node->hits = kHitsMax;
  }

  void tick(uint64_t now_ns) override { clock_.tick(now_ns); }
  uint64_t remembered_keys() const override { return ghosts_.size(); }
  bool contains(Handle handle) const override { return by_handle_.contains(handle); }
  uint64_t size() const override { return by_handle_.size(); }
  uint64_t bytes() const override { return bytes_; }

 private:
  enum class Queue : uint8_t { kSmall, kMain, kLeaving };
  struct Node {
    Handle handle;
    uint64_t bytes;
    uint8_t hits;
    Queue queue;
  };
  using Nodes = std::list<Node>;
  struct Nothing {};

  Nodes& list_of(Queue queue) {
    return queue == Queue::kSmall ? small_ : queue == Queue::kMain ? main_ : leaving_;
  }

  // To the end of the queue, not kSmall.
  void move_to(Queue queue, Nodes::iterator node) {
    if (node->queue == Queue::kSmall) small_bytes_ -= node->bytes;
    Nodes& to = list_of(queue);
    to.splice(to.end(), list_of(node->queue), node);
    node->queue = queue;
  }

  uint64_t capacity_bytes_;
  uint64_t small_bytes_target_;
  uint64_t ghost_keys_max_;
  NextUses clock_;
  uint64_t small_bytes_ = 0;
  uint64_t bytes_ = 0;
  uint64_t most_keys_ = 0;
  uint64_t main_refusals_ = 0;  // since the last victim
  Nodes small_;                 // oldest first
  Nodes main_;
  Nodes leaving_;  // first victims, in the order of their hints
  std::unordered_map<Handle, Nodes::iterator> by_handle_;
  GhostKeys<Nothing> ghosts_;
};

}  // namespace

std::unique_ptr<EvictionPolicy> make_s3_fifo(const EvictionOptions& options) {
  return std::make_unique<S3Fifo>(options);
}

}  // namespace quire::tiers
