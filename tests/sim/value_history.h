// Checks what a store answered against the history of what was asked of it, in the manner of
// ValueHistory in CacheLib's CacheBench, with stronger rules because every put of a key stores a
// version of its own. Per key, each operation is an interval from begin_*() to end_*(); it took
// effect, if at all, at one moment inside. What must hold:
//  - a hit returns a version of that key whose put began before the hit ended and stored something;
//  - a version is gone for good once another version, or its absence (a remove that ended as
//    kRemoved or kAbsent), was established by an operation that began after the version is known
//    to have been there: no hit that begins later may return it;
//  - misses are allowed, except of a version that was acknowledged as durable and that no remove
//    can have removed, where the caller says that nothing is evicted.
// Hits count as evidence too: a version read back after a later one was read is stale.
#ifndef QUIRE_TESTS_SIM_VALUE_HISTORY_H_
#define QUIRE_TESTS_SIM_VALUE_HISTORY_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace quire::sim {

enum class PutOutcome : uint8_t {
  kMemory,     // stored, acknowledged as in memory
  kDurable,    // stored, acknowledged as durable
  kNothing,    // refused: nothing was stored
  kCancelled,  // removed before it ended: whatever it stored is gone
  kUnknown,    // failed: it stored, or will, or not
};

enum class RemoveOutcome : uint8_t {
  kRemoved,
  kAbsent,   // there was nothing to remove
  kRefused,  // pinned or leased: nothing happened
  kUnknown,  // failed: it removed, or will, or not
};

// What a hit carried in its bytes.
struct HistoryValue {
  uint32_t key = 0;
  uint64_t version = 0;
};

// An operation between its begin and its end. The default one belongs to no history.
struct HistoryOperation {
  uint32_t key = 0;
  uint64_t begin = 0;
  uint64_t version = 0;  // puts only
};

// What was wrong, in one sentence; nullopt where nothing was.
using HistoryVerdict = std::optional<std::string>;

// Any thread may call anything at any time; an operation is begun and ended by one thread, in that
// order, with the request to the store between the two.
class ValueHistory {
 public:
  explicit ValueHistory(uint32_t n_keys);

  // A version is put once in the life of a history.
  HistoryOperation begin_put(uint32_t key, uint64_t version);
  // evictions_possible, here and below: the store may have dropped objects before this operation
  // ended. A put that stores shows that nothing was there.
  HistoryVerdict end_put(const HistoryOperation& put, PutOutcome outcome, bool evictions_possible);

  HistoryOperation begin_remove(uint32_t key);
  HistoryVerdict end_remove(const HistoryOperation& remove, RemoveOutcome outcome,
                            bool evictions_possible);

  HistoryOperation begin_get(uint32_t key);
  HistoryVerdict end_hit(const HistoryOperation& get, const HistoryValue& value);
  HistoryVerdict end_miss(const HistoryOperation& get, bool evictions_possible);
  // The store says that the key is there, not with which version: one must be possible.
  HistoryVerdict end_found(const HistoryOperation& get);
  // The get failed with neither answer (busy, deadline): it says nothing.
  void end_unanswered(const HistoryOperation& get);

 private:
  static constexpr uint64_t kNever = UINT64_MAX;

  struct Version {
    uint64_t put_begin = 0;
    uint64_t put_end = kNever;
    uint64_t known_by = kNever;    // it was there at some moment before
    uint64_t gone_since = kNever;  // no operation that begins after this may find it
    bool was_hit = false;
    bool stored_nothing = false;
    bool durable = false;
    bool maybe_removed = false;
  };
  struct Key {
    std::mutex mutex;
    // Counts begins and ends. Taken under the mutex: the order of the clock is the order in which
    // operations are taken in.
    uint64_t clock = 0;
    uint32_t removes_under_way = 0;
    std::unordered_map<uint64_t, Version> versions;
    std::vector<uint64_t> live;  // versions that are not gone
  };

  Key& key_of(const HistoryOperation& operation) { return keys_[operation.key]; }
  // Everything but `present` was absent at a moment after `begin`.
  static void establish(Key& key, uint64_t begin, std::optional<uint64_t> present);
  static HistoryVerdict check_nothing_lost(const Key& key, const HistoryOperation& operation,
                                           uint32_t other_removes, bool evictions_possible);
  static HistoryVerdict check_hit(const Key& key, const HistoryOperation& get, uint64_t version);

  std::unique_ptr<Key[]> keys_;
};

}  // namespace quire::sim

#endif  // QUIRE_TESTS_SIM_VALUE_HISTORY_H_
