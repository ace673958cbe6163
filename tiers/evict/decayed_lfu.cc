#include "tiers/evict/decayed_lfu.h"

#include <cassert>
#include <cmath>
#include <numbers>

namespace quire::tiers {
namespace {

constexpr double kSmallestK = 1e-3;
constexpr double kPriorityDoubling = 32;

}  // namespace

DecayedLfu::DecayedLfu(const EvictionOptions& options)
    : capacity_bytes_(options.capacity_bytes),
      k_(options.k.value_or(kTunedStart)),
      ghost_keys_max_(options.ghost_keys_max),
      next_uses_(options.capacity_bytes) {
  if (!options.k) tuner_ = std::make_unique<KTuner>(options.capacity_bytes);
  set_k(k_);
}

DecayedLfu::~DecayedLfu() = default;

bool DecayedLfu::insert(Handle handle, uint64_t bytes) {
  if (contains(handle)) {
    touch(handle);
    return false;
  }
  accessed(handle, bytes);
  uint32_t slot = static_cast<uint32_t>(nodes_.size());
  if (free_slots_.empty()) {
    nodes_.emplace_back();
  } else {
    slot = free_slots_.back();
    free_slots_.pop_back();
  }
  Node node;
  node.handle = handle;
  node.bytes = bytes;
  if (const auto ghost = ghosts_.take(handle)) node.heat = *ghost;
  heat_up(node.heat);
  node.sequence = next_sequence_++;
  nodes_[slot] = node;
  slots_.set(handle, slot);
  place(slot);
  bytes_ += bytes;
  most_keys_ = std::max<uint64_t>(most_keys_, slots_.size());
  return true;
}

void DecayedLfu::touch(Handle handle) {
  const uint32_t slot = slots_.find(handle);
  if (slot == HandleMap::kNone) return;
  Node& node = nodes_[slot];
  accessed(handle, node.bytes);
  if (next_uses_.used(handle)) looks_.erase(slot);
  node.finished = false;
  heat_up(node.heat);
  node.sequence = next_sequence_++;
  place(slot);
}

void DecayedLfu::remove(Handle handle) {
  ghosts_.take(handle);
  if (tuner_) tuner_->remove(handle);
  const uint32_t slot = slots_.find(handle);
  if (slot != HandleMap::kNone) forget(slot);
}

void DecayedLfu::evict(Handle handle) {
  const uint32_t slot = slots_.find(handle);
  if (slot == HandleMap::kNone) return;
  const Heat heat = nodes_[slot].heat;
  forget(slot);
  ghosts_.put(handle, heat, std::min(ghost_keys_limit(most_keys_), ghost_keys_max_));
}

std::optional<EvictionPolicy::Handle> DecayedLfu::victim(const Predicate& evictable) {
  if (const auto finished = finished_victim(evictable)) return finished;
  const uint64_t scans = std::min<uint64_t>(order_.size(), kVictimScanMax);
  for (uint64_t i = 0; i < scans; ++i) {
    const uint32_t slot = order_.top();
    Node& node = nodes_[slot];
    if (looks_.contains(slot)) {
      // Nearer now than when its score was taken, perhaps.
      const double before = order_.top_key().score;
      place(slot);
      if (order_.key(slot).score > before && order_.top() != slot) continue;
    }
    if (evictable(node.handle)) return node.handle;
    // In use, so not a victim: behind all others, without counting as an access.
    node.sequence = next_sequence_++;
    order_.set(slot, {highest_score_, node.sequence});
  }
  return std::nullopt;
}

std::optional<EvictionPolicy::Handle> DecayedLfu::finished_victim(const Predicate& evictable) {
  const uint64_t scans = std::min<uint64_t>(finished_.size(), kFinishedScanMax);
  for (uint64_t i = 0; i < scans; ++i) {
    const uint32_t slot = finished_.top();
    if (evictable(nodes_[slot].handle)) return nodes_[slot].handle;
    finished_.set(slot, {0, next_sequence_++});
  }
  return std::nullopt;
}

void DecayedLfu::hint(Handle handle, const UseHint& hint) {
  const uint32_t slot = slots_.find(handle);
  if (slot == HandleMap::kNone) return;
  Node& node = nodes_[slot];
  if (hint.priority) node.priority = *hint.priority;
  node.finished = hint.finished;
  node.sequence = next_sequence_++;
  next_uses_.set(handle, hint);
  place(slot);
}

std::optional<double> DecayedLfu::tuned_k() const {
  return tuner_ ? std::optional(tuner_->k()) : std::nullopt;
}

uint64_t DecayedLfu::remembered_keys() const {
  return ghosts_.size() + (tuner_ ? tuner_->keys() : 0);
}

void DecayedLfu::resize(uint64_t capacity_bytes) {
  capacity_bytes_ = capacity_bytes;
  set_k(k_);
}

void DecayedLfu::remove_if(const Predicate& named) {
  for (uint32_t slot = 0; slot < nodes_.size(); ++slot)
    if (slots_.find(nodes_[slot].handle) == slot && named(nodes_[slot].handle)) forget(slot);
}

void DecayedLfu::accessed(Handle handle, uint64_t bytes) {
  now_ += static_cast<double>(bytes) / unit_bytes_;
  next_uses_.accessed(bytes);
  look_at_hints();
  if (!tuner_) return;
  tuner_->access(handle, bytes);
  if (tuner_->k() != k_) set_k(tuner_->k());
}

void DecayedLfu::heat_up(Heat& heat) const {
  heat.frequency = 1 + heat.frequency * std::exp(heat.time - now_);
  heat.time = now_;
}

double DecayedLfu::score_of(const Node& node) {
  const double shift = (static_cast<double>(node.priority) - kPriorityNormal) / kPriorityDoubling *
                       std::numbers::ln2;
  if (next_uses_.size() > 0)
    if (const auto distance = next_uses_.distance_bytes(node.handle))
      return now_ + std::log(unit_bytes_ / *distance) + shift;
  return std::log(node.heat.frequency) + node.heat.time + shift;
}

// Into the heap where the slot belongs, by its present score.
void DecayedLfu::place(uint32_t slot) {
  const Node& node = nodes_[slot];
  if (node.finished) {
    order_.erase(slot);
    looks_.erase(slot);
    finished_.set(slot, {0, node.sequence});
    return;
  }
  finished_.erase(slot);
  const double score = score_of(node);
  highest_score_ = std::max(highest_score_, score);
  order_.set(slot, {score, node.sequence});
  if (next_uses_.size() == 0 && looks_.empty()) return;
  if (const auto distance = next_uses_.distance_bytes(node.handle))
    looks_.set(slot, {next_uses_.position_bytes() + *distance / 2, node.sequence});
  else
    looks_.erase(slot);
}

void DecayedLfu::forget(uint32_t slot) {
  const Node& node = nodes_[slot];
  bytes_ -= node.bytes;
  order_.erase(slot);
  finished_.erase(slot);
  looks_.erase(slot);
  next_uses_.forget(node.handle);
  slots_.erase(node.handle);
  free_slots_.push_back(slot);
}

void DecayedLfu::look_at_hints() {
  for (uint32_t i = 0; i < kHintLooksMax && !looks_.empty(); ++i) {
    if (looks_.top_key().score > next_uses_.position_bytes()) return;
    place(looks_.top());
  }
}

void DecayedLfu::set_k(double k) {
  k_ = k;
  unit_bytes_ = std::max(1.0, std::max(k, kSmallestK) * static_cast<double>(capacity_bytes_));
}

std::unique_ptr<EvictionPolicy> make_decayed_lfu(const EvictionOptions& options) {
  return std::make_unique<DecayedLfu>(options);
}

}  // namespace quire::tiers
