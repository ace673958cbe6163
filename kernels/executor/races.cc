#include "kernels/executor/races.h"

#include <algorithm>

#include "kernels/executor/executor.h"

namespace quire_executor {

#ifndef QUIRE_ACCESS_HOOKS
bool finds_races() {
  return false;
}
#endif

void Races::start(uint32_t warps, size_t bytes) {
  if (columns_ != warps + 1 || writes_.size() != bytes) {
    writes_.assign(bytes, Write{});
    reads_.assign(bytes * (warps + 1), 0);
  }
  warps_ = warps;
  columns_ = warps + 1;
  copies_ = 0;
  known_.assign(columns_, Clock(2 * columns_, 0));
  for (uint32_t warp = 0; warp < warps; ++warp) known_[warp][warp] = 1;
  meetings_.assign(columns_, 0);
}

void Races::forget(size_t offset, size_t bytes) {
  std::fill_n(writes_.begin() + static_cast<ptrdiff_t>(offset), bytes, Write{});
  std::fill_n(reads_.begin() + static_cast<ptrdiff_t>(offset * columns_), bytes * columns_, 0u);
}

Races::Race Races::check_write(size_t at, uint32_t warp, uint32_t thread, bool reads) const {
  const Write& last = writes_[at];
  if (last.time == 0) return {};
  const bool same_warp = last.warp == warp;
  const bool race = same_warp ? reads && last.thread != thread && last.meeting == meetings_[warp]
                              : known_[warp][last.warp] < last.time;
  return race ? Race{true, at, true, false, last.warp, last.thread, last.code} : Race{};
}

Races::Race Races::check_reads(size_t at, uint32_t warp) const {
  const uint32_t* times = &reads_[at * columns_];
  for (uint32_t other = 0; other < columns_; ++other)
    if (other != warp && times[other] > known_[warp][other])
      return {true, at, false, false, other, other * kWarpThreads, nullptr};
  return {};
}

Races::Race Races::read(size_t offset, size_t bytes, uint32_t thread) {
  const uint32_t warp = thread / kWarpThreads;
  for (size_t at = offset; at < offset + bytes; ++at) {
    const Race race = check_write(at, warp, thread, true);
    if (race.found) return race;
    reads_[at * columns_ + warp] = known_[warp][warp];
  }
  return {};
}

Races::Race Races::write(size_t offset, size_t bytes, uint32_t thread, const void* code) {
  const uint32_t warp = thread / kWarpThreads;
  for (size_t at = offset; at < offset + bytes; ++at) {
    Race race = check_write(at, warp, thread, false);
    if (!race.found) race = check_reads(at, warp);
    if (race.found) return race;
    writes_[at] = {code, known_[warp][warp], meetings_[warp], static_cast<uint16_t>(warp),
                   static_cast<uint16_t>(thread)};
  }
  return {};
}

Races::Race Races::read_later(size_t offset, size_t bytes, uint32_t thread) {
  Race race = read(offset, bytes, thread);
  ++copies_;
  const Clock& known = known_[thread / kWarpThreads];
  for (size_t at = offset; at < offset + bytes && !race.found; ++at) {
    const Write& last = writes_[at];
    if (last.time != 0 && last.warp != warps_ && last.time > known[columns_ + last.warp])
      race = {true, at, true, true, last.warp, last.thread, last.code};
  }
  for (size_t at = offset; at < offset + bytes; ++at) reads_[at * columns_ + warps_] = copies_;
  return race;
}

Races::Race Races::write_later(size_t offset, size_t bytes, uint32_t thread, const void* code) {
  const Race race = write(offset, bytes, thread, code);
  ++copies_;
  for (size_t at = offset; at < offset + bytes; ++at) {
    writes_[at].time = copies_;
    writes_[at].warp = static_cast<uint16_t>(warps_);
  }
  return race;
}

void Races::meet_all() {
  Clock all(2 * columns_, 0);
  for (uint32_t warp = 0; warp < warps_; ++warp) {
    for (uint32_t i = 0; i < all.size(); ++i) all[i] = std::max(all[i], known_[warp][i]);
    ++meetings_[warp];
  }
  for (uint32_t warp = 0; warp < warps_; ++warp) {
    known_[warp] = all;
    tick(warp);
  }
}

void Races::release(uint32_t warp, Clock* to) {
  to->resize(2 * columns_, 0);
  for (uint32_t i = 0; i < to->size(); ++i) (*to)[i] = std::max((*to)[i], known_[warp][i]);
}

void Races::acquire(uint32_t warp, const Clock& from) {
  for (uint32_t i = 0; i < from.size(); ++i) known_[warp][i] = std::max(known_[warp][i], from[i]);
}

void Races::release_copies(Clock* to) {
  to->resize(2 * columns_, 0);
  (*to)[warps_] = copies_;
}

void Races::acquire_copies(uint32_t warp, uint32_t time) {
  known_[warp][warps_] = std::max(known_[warp][warps_], time);
}

void Races::fence(uint32_t warp) {
  Clock& known = known_[warp];
  for (uint32_t i = 0; i < columns_; ++i)
    known[columns_ + i] = std::max(known[columns_ + i], known[i]);
  tick(warp);
}

}  // namespace quire_executor
