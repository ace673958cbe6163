// Which object goes first when a tier is full. A policy orders handles; it knows neither leases nor
// pins: victim() asks the caller's predicate.
//
// Handles: chosen by the caller and the same each time the same key is stored (the first 8 bytes of
// its representation id, say), because policies remember the frequency of keys that were evicted.
// Chains: the head of an exact chain is worth nothing to those who lack it, and its tail is worth
// nothing without the head. The caller therefore touches and inserts a chain tail first, head last;
// every policy here then gives up the tail before the head.
//
// Thread rules: one thread. Costs: O(log n) or better per call, but for victim(), which asks the
// predicate for at most kVictimScanMax handles; those it refuses count as in use and move behind
// the others, so that the next call goes on with fresh ones.
#ifndef QUIRE_TIERS_EVICT_POLICY_H_
#define QUIRE_TIERS_EVICT_POLICY_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>

namespace quire::tiers {

inline constexpr uint32_t kVictimScanMax = 4096;
// Evicted keys remembered: this many times the most keys held at once, and never more than the
// maximum.
inline constexpr uint64_t kGhostKeysFactor = 4;
inline constexpr uint64_t kGhostKeysMin = 64;
inline constexpr uint64_t kGhostKeysMax = 1ull << 20;

inline constexpr uint8_t kPriorityNormal = 128;

// What the caller knows of an object's next use, or wants. It overwrites the policy's own estimate.
struct UseHint {
  // Steps of an agent graph before the object is used, 0: by the next one (KVFlow, arXiv
  // 2507.07400: most steps go first). What a step is worth is measured: bytes accessed from hint to
  // use.
  std::optional<uint32_t> steps_to_next_use;
  // Absolute, on the clock that tick() is given (Clock::now_ns): the end of a tool call, the next
  // turn of a session (Continuum, arXiv 2511.02230; SAGA). Where both are set the sooner counts.
  std::optional<uint64_t> next_use_ns;
  // 0 .. 255, 128 normal; 32 above count as twice the frequency, 32 below as half of it.
  std::optional<uint8_t> priority;
  // The session has ended: the first victim, before all estimates.
  bool finished = false;
};

class EvictionPolicy {
 public:
  using Handle = uint64_t;
  using Predicate = std::function<bool(Handle)>;

  virtual ~EvictionPolicy() = default;
  virtual std::string_view name() const = 0;
  // A handle that is here already is touched instead (and false returned).
  virtual bool insert(Handle handle, uint64_t bytes) = 0;
  // An access. Unknown handles are ignored.
  virtual void touch(Handle handle) = 0;
  // Deleted: forgotten altogether. Unknown handles are ignored.
  virtual void remove(Handle handle) = 0;
  // Evicted: leaves the order, its frequency is remembered. Unknown handles are ignored.
  virtual void evict(Handle handle) = 0;
  // The first in order that evictable() grants; it stays until evict() or remove(). nullopt where
  // none of those asked is granted.
  virtual std::optional<Handle> victim(const Predicate& evictable) = 0;
  // Of a handle that is held; unknown ones are ignored. Replaces the handle's earlier hint: without
  // a next use and not finished, its estimate is in force again; a priority that is not given
  // stays. An object that is used after d turnovers of the tier counts like one that is used every
  // d turnovers: a near use raises it, one beyond the horizon (k turnovers) puts it behind what was
  // just used. A touch, or the next use passing without one, ends next use and finished; priority
  // ends with remove() or evict(). Leases and pins are stronger: they are the predicate's.
  virtual void hint(Handle handle, const UseHint& hint) = 0;
  // The time. Needed by next_use_ns only, and to measure how fast the tier turns over: call it
  // before hint() and victim(), or every some 100 ms. Time that goes back is ignored.
  virtual void tick(uint64_t now_ns) = 0;
  virtual bool contains(Handle handle) const = 0;
  virtual uint64_t size() const = 0;
  virtual uint64_t bytes() const = 0;
  // For status pages: the present k where the policy tunes one, and the keys it holds beside those
  // in the tier (ghosts, shadow copies).
  virtual std::optional<double> tuned_k() const { return std::nullopt; }
  virtual uint64_t remembered_keys() const { return 0; }
};

enum class EvictionPolicyKind : uint8_t { kLru = 0, kDecayedLfu = 1, kS3Fifo = 2 };

struct EvictionOptions {
  uint64_t capacity_bytes = 1;  // of the tier
  // Decayed LFU: an access loses a factor e of its weight while k * capacity_bytes are accessed.
  // Small values approach LRU, large ones LFU. Not set: follows the accesses (k_tuner.h).
  std::optional<double> k = std::nullopt;
  uint64_t ghost_keys_max = kGhostKeysMax;
};

std::unique_ptr<EvictionPolicy> make_eviction_policy(EvictionPolicyKind kind,
                                                     const EvictionOptions& options);
// "lru", "decayed_lfu", "s3_fifo".
std::optional<EvictionPolicyKind> eviction_policy_from_name(std::string_view name);

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_EVICT_POLICY_H_
