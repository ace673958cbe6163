#include "tiers/evict/k_tuner.h"

#include <algorithm>
#include <cmath>

#include "tiers/evict/decayed_lfu.h"

namespace quire::tiers {

KTuner::KTuner(uint64_t capacity_bytes)
    : capacity_bytes_(capacity_bytes),
      present_(static_cast<uint64_t>(std::ranges::find(kShadowK, kTunedStart) - kShadowK.begin())) {
  for (uint64_t i = 0; i < kShadowK.size(); ++i)
    shadows_[i] = std::make_unique<DecayedLfu>(EvictionOptions{
        .capacity_bytes = capacity_bytes, .k = kShadowK[i], .ghost_keys_max = kShadowGhostKeysMax});
}

KTuner::~KTuner() = default;

// Another hash than the tables', whose order a sample of its own low values would spoil.
bool KTuner::sampled(uint64_t handle) const {
  return mix_handle(~handle) <= threshold_;
}

void KTuner::access(uint64_t handle, uint64_t bytes) {
  if (!sampled(handle)) return;
  bool full = false;
  for (uint64_t i = 0; i < kShadowK.size(); ++i) {
    DecayedLfu& shadow = *shadows_[i];
    if (shadow.contains(handle)) {
      hit_bytes_[i] += static_cast<double>(bytes);
      shadow.touch(handle);
      continue;
    }
    if (bytes > shadow.capacity_bytes()) continue;
    while (shadow.bytes() + bytes > shadow.capacity_bytes())
      shadow.evict(*shadow.victim([](uint64_t) { return true; }));
    shadow.insert(handle, bytes);
    full |= shadow.size() >= kShadowKeysMax;
  }
  window_bytes_ += static_cast<double>(bytes);
  if (full) sample_less();
  if (++window_accesses_ >= kTunerWindowAccesses) choose();
}

void KTuner::remove(uint64_t handle) {
  if (!sampled(handle)) return;
  for (auto& shadow : shadows_) shadow->remove(handle);
}

void KTuner::sample_less() {
  threshold_ /= 2;
  const auto capacity =
      static_cast<uint64_t>(static_cast<double>(capacity_bytes_) * sampled_share());
  for (auto& shadow : shadows_) {
    shadow->remove_if([this](uint64_t handle) { return !sampled(handle); });
    shadow->resize(std::max<uint64_t>(1, capacity));
    while (shadow->bytes() > shadow->capacity_bytes())
      shadow->evict(*shadow->victim([](uint64_t) { return true; }));
  }
  for (double& hits : hit_bytes_) hits /= 2;
}

void KTuner::choose() {
  const auto best =
      static_cast<uint64_t>(std::ranges::max_element(hit_bytes_) - hit_bytes_.begin());
  if (hit_bytes_[best] > (1 + kTunerMargin) * hit_bytes_[present_]) present_ = best;
  const double turnovers =
      window_bytes_ / static_cast<double>(std::max<uint64_t>(1, shadows_[0]->capacity_bytes()));
  const double keep = std::exp2(-turnovers / kTunerHalfLifeTurnovers);
  for (double& hits : hit_bytes_) hits *= keep;
  window_accesses_ = 0;
  window_bytes_ = 0;
}

uint64_t KTuner::keys() const {
  uint64_t keys = 0;
  for (const auto& shadow : shadows_) keys += shadow->size() + shadow->remembered_keys();
  return keys;
}

double KTuner::sampled_share() const {
  return static_cast<double>(threshold_) / static_cast<double>(UINT64_MAX);
}

}  // namespace quire::tiers
