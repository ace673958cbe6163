#include "tests/sim/value_history.h"

#include <algorithm>

namespace quire::sim {
namespace {

std::string describe(const HistoryOperation& operation, uint64_t version) {
  return "key " + std::to_string(operation.key) + " version " + std::to_string(version) +
         " (operation begun at " + std::to_string(operation.begin) + "): ";
}

}  // namespace

ValueHistory::ValueHistory(uint32_t n_keys) : keys_(std::make_unique<Key[]>(n_keys)) {}

HistoryOperation ValueHistory::begin_put(uint32_t key_number, uint64_t version) {
  Key& key = keys_[key_number];
  const std::lock_guard lock(key.mutex);
  const uint64_t now = ++key.clock;
  Version entry;
  entry.put_begin = now;
  key.versions.emplace(version, entry);
  key.live.push_back(version);
  return {key_number, now, version};
}

HistoryVerdict ValueHistory::end_put(const HistoryOperation& put, PutOutcome outcome,
                                     bool evictions_possible) {
  Key& key = key_of(put);
  const std::lock_guard lock(key.mutex);
  Version& entry = key.versions.at(put.version);
  if (outcome == PutOutcome::kUnknown) return std::nullopt;
  entry.put_end = ++key.clock;
  if (outcome == PutOutcome::kNothing) {
    entry.stored_nothing = true;
    std::erase(key.live, put.version);
    if (entry.was_hit) return describe(put, put.version) + "was read, its put stored nothing";
    return std::nullopt;
  }
  if (outcome == PutOutcome::kCancelled) {
    entry.gone_since = entry.put_end;
    std::erase(key.live, put.version);
    return std::nullopt;
  }
  const HistoryVerdict verdict =
      check_nothing_lost(key, put, key.removes_under_way, evictions_possible);
  entry.durable = outcome == PutOutcome::kDurable;
  establish(key, put.begin, put.version);
  entry.known_by = std::min(entry.known_by, entry.put_end);
  return verdict;
}

HistoryOperation ValueHistory::begin_remove(uint32_t key_number) {
  Key& key = keys_[key_number];
  const std::lock_guard lock(key.mutex);
  ++key.removes_under_way;
  return {key_number, ++key.clock, 0};
}

HistoryVerdict ValueHistory::end_remove(const HistoryOperation& remove, RemoveOutcome outcome,
                                        bool evictions_possible) {
  Key& key = key_of(remove);
  const std::lock_guard lock(key.mutex);
  ++key.clock;
  // It may take effect at any time from now on: it stays under way.
  if (outcome == RemoveOutcome::kUnknown) return std::nullopt;
  --key.removes_under_way;
  HistoryVerdict verdict;
  if (outcome == RemoveOutcome::kAbsent) {
    verdict = check_nothing_lost(key, remove, key.removes_under_way, evictions_possible);
  }
  if (outcome == RemoveOutcome::kRemoved) {
    for (const uint64_t version : key.live) key.versions.at(version).maybe_removed = true;
  }
  if (outcome == RemoveOutcome::kRemoved || outcome == RemoveOutcome::kAbsent) {
    establish(key, remove.begin, std::nullopt);
  }
  return verdict;
}

HistoryOperation ValueHistory::begin_get(uint32_t key_number) {
  Key& key = keys_[key_number];
  const std::lock_guard lock(key.mutex);
  return {key_number, ++key.clock, 0};
}

HistoryVerdict ValueHistory::end_hit(const HistoryOperation& get, const HistoryValue& value) {
  Key& key = key_of(get);
  const std::lock_guard lock(key.mutex);
  ++key.clock;
  if (value.key != get.key) {
    return describe(get, value.version) + "is of another key, " + std::to_string(value.key);
  }
  HistoryVerdict verdict = check_hit(key, get, value.version);
  if (verdict) return verdict;
  Version& entry = key.versions.at(value.version);
  entry.was_hit = true;
  establish(key, get.begin, value.version);
  entry.known_by = std::min(entry.known_by, key.clock);
  return std::nullopt;
}

HistoryVerdict ValueHistory::end_miss(const HistoryOperation& get, bool evictions_possible) {
  Key& key = key_of(get);
  const std::lock_guard lock(key.mutex);
  ++key.clock;
  return check_nothing_lost(key, get, key.removes_under_way, evictions_possible);
}

HistoryVerdict ValueHistory::end_found(const HistoryOperation& get) {
  Key& key = key_of(get);
  const std::lock_guard lock(key.mutex);
  ++key.clock;
  for (const auto& [version, entry] : key.versions) {
    if (!entry.stored_nothing && entry.gone_since >= get.begin) return std::nullopt;
    // Found while its put was under way, before that was refused.
    if (entry.stored_nothing && entry.put_end >= get.begin) return std::nullopt;
  }
  return describe(get, 0) + "is found, no version of it can be there";
}

void ValueHistory::end_unanswered(const HistoryOperation& get) {
  Key& key = key_of(get);
  const std::lock_guard lock(key.mutex);
  ++key.clock;
}

void ValueHistory::establish(Key& key, uint64_t begin, std::optional<uint64_t> present) {
  std::erase_if(key.live, [&](uint64_t version) {
    Version& entry = key.versions.at(version);
    if (present == version || entry.known_by >= begin) return false;
    entry.gone_since = key.clock;
    return true;
  });
}

HistoryVerdict ValueHistory::check_nothing_lost(const Key& key, const HistoryOperation& operation,
                                                uint32_t other_removes, bool evictions_possible) {
  if (evictions_possible || other_removes > 0) return std::nullopt;
  for (const uint64_t version : key.live) {
    const Version& entry = key.versions.at(version);
    if (entry.durable && !entry.maybe_removed && entry.put_end < operation.begin) {
      return describe(operation, version) + "was durable since " + std::to_string(entry.put_end) +
             ", never removed, and is missed";
    }
  }
  return std::nullopt;
}

HistoryVerdict ValueHistory::check_hit(const Key& key, const HistoryOperation& get,
                                       uint64_t version) {
  const auto found = key.versions.find(version);
  if (found == key.versions.end()) return describe(get, version) + "was read, nobody put it yet";
  const Version& entry = found->second;
  if (entry.stored_nothing) return describe(get, version) + "was read, its put stored nothing";
  if (entry.gone_since < get.begin) {
    return describe(get, version) + "was read, gone since " + std::to_string(entry.gone_since);
  }
  return std::nullopt;
}

}  // namespace quire::sim
