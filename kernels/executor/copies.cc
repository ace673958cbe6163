// Asynchronous copies and mbarrier objects. A copy happens when somebody waits for it, so that a
// missing wait reads poison and a source that is reused too early shows; eager schedules copy at
// once, so that a destination that is refilled too early shows.
#include <string.h>

#include "kernels/executor/block_state.h"

namespace quire_executor {
namespace {

Mbarrier& mbarrier_at(uint64_t* barrier, const Site& site) {
  Block& block = block_here();
  auto found = block.mbarriers.find(barrier);
  if (found == block.mbarriers.end()) fail(site, "an mbarrier that was not initialised");
  return found->second;
}

void finish_phase(Mbarrier* state) {
  if (state->arrivals_left > 0 || state->bytes_left != 0) return;
  state->phase ^= 1;
  state->arrivals_left = state->count;
}

// cp.async that arrive here, and their arrivals.
void perform_async(Mbarrier* state) {
  if (state->async_arrivals == 0) return;
  std::vector<Copy> copies;
  copies.swap(state->async_copies);
  for (const Copy& copy : copies) perform(copy);
  state->arrivals_left -= state->async_arrivals;
  state->async_arrivals = 0;
  finish_phase(state);
}

void perform_loads(Mbarrier* state) {
  perform_async(state);
  std::vector<Copy> copies;
  copies.swap(state->copies);
  for (const Copy& copy : copies) {
    perform(copy);
    state->bytes_left -= static_cast<int64_t>(copy.bytes);
  }
  if (!copies.empty()) finish_phase(state);
}

}  // namespace

void check_bulk(const char* what, const Site& site) {
  if (device().compute_capability < kBulkComputeCapability)
    fail(site, "%s on a device of compute capability %d", what, device().compute_capability);
}

void perform(const Copy& copy) {
  memcpy(copy.to, copy.from, copy.bytes);
  memset(static_cast<unsigned char*>(copy.to) + copy.bytes, 0, copy.zero_bytes);
}

void copy_begin(CopyKind kind, void* to, const void* from, size_t bytes, size_t zero_bytes) {
  const Copy copy{to, from, bytes, zero_bytes};
  Block& block = block_here();
  CopyGroup& open = block.current().copies[static_cast<int>(kind)].open;
  if (kind == CopyKind::kCpAsync)
    block.check_access(to, bytes + zero_bytes, true, nullptr);
  else
    open.time = block.check_copy(from, bytes, false);
  if (current_schedule.eager_copies) {
    perform(copy);
    return;
  }
  open.copies.push_back(copy);
}

void copy_commit(CopyKind kind) {
  // Eager schedules have copied already, and go without waits for cp.async.
  if (current_schedule.eager_copies && kind == CopyKind::kCpAsync) return;
  CopyQueue& queue = block_here().current().copies[static_cast<int>(kind)];
  queue.committed.push_back(std::move(queue.open));
  queue.open = {};
}

void copy_wait(CopyKind kind, uint32_t groups_left) {
  Block& block = block_here();
  CopyQueue& queue = block.current().copies[static_cast<int>(kind)];
  while (queue.committed.size() > groups_left) {
    const CopyGroup& group = queue.committed.front();
    for (const Copy& copy : group.copies) {
      perform(copy);
      if (kind == CopyKind::kCpAsync)
        block.check_access(copy.to, copy.bytes + copy.zero_bytes, true, nullptr);
    }
    if (kind == CopyKind::kBulkStore && block.races != nullptr)
      block.races->acquire_copies(block.warp_here(), group.time);
    queue.committed.pop_front();
  }
}

void fence_async() {
  Block& block = block_here();
  if (block.races != nullptr) block.races->fence(block.warp_here());
}

void mbarrier_init(uint64_t* barrier, uint32_t count, const Site& site) {
  check_shared(barrier, 8, 8, "mbarrier_init", site);
  if (count == 0) fail(site, "mbarrier_init: a count of 0");
  Mbarrier state;
  state.count = count;
  state.arrivals_left = count;
  block_here().mbarriers[barrier] = state;
}

void mbarrier_arrive(uint64_t* barrier, uint32_t expect_bytes, const Site& site) {
  Mbarrier& state = mbarrier_at(barrier, site);
  if (state.arrivals_left <= state.async_arrivals)
    fail(site, "mbarrier_arrive: more arrivals than its count");
  Block& block = block_here();
  if (block.races != nullptr) {
    block.races->release(block.warp_here(), &state.clock);
    block.races->tick(block.warp_here());
  }
  state.bytes_left += expect_bytes;
  --state.arrivals_left;
  finish_phase(&state);
}

void copy_arrive(uint64_t* barrier, const Site& site) {
  Mbarrier& state = mbarrier_at(barrier, site);
  if (state.arrivals_left <= state.async_arrivals)
    fail(site, "cp_async_arrive: more arrivals than its count");
  Block& block = block_here();
  CopyQueue& queue = block.current().copies[static_cast<int>(CopyKind::kCpAsync)];
  queue.committed.push_back(std::move(queue.open));
  queue.open = {};
  for (const CopyGroup& group : queue.committed)
    state.async_copies.insert(state.async_copies.end(), group.copies.begin(), group.copies.end());
  queue.committed.clear();
  queue.open.arrives = !current_schedule.eager_copies;  // on the way until this thread waits
  if (block.races != nullptr) {
    block.races->release(block.warp_here(), &state.clock);
    block.races->tick(block.warp_here());
  }
  ++state.async_arrivals;
  if (current_schedule.eager_copies) perform_async(&state);
}

namespace {

// A wait is over.
bool see_arrivals(const Mbarrier& state) {
  Block& block = block_here();
  if (block.races == nullptr) return true;
  block.races->acquire(block.warp_here(), state.clock);
  block.races->meet_lanes(block.warp_here());
  return true;
}

}  // namespace

bool mbarrier_try_wait(uint64_t* barrier, uint32_t parity, const Site& site) {
  Mbarrier& state = mbarrier_at(barrier, site);
  perform_loads(&state);
  if (state.phase != (parity & 1)) return see_arrivals(state);
  yield_thread("mbarrier_try_wait", site);
  Mbarrier& now = mbarrier_at(barrier, site);
  return now.phase != (parity & 1) && see_arrivals(now);
}

void mbarrier_wait(uint64_t* barrier, uint32_t parity, const Site& site) {
  const std::function<bool()> passed = [&] {
    Mbarrier& state = mbarrier_at(barrier, site);
    perform_loads(&state);
    return state.phase != (parity & 1);
  };
  wait_until("mbarrier_wait", passed, site);
  see_arrivals(mbarrier_at(barrier, site));
}

void bulk_load(void* to, const void* from, uint32_t bytes, uint64_t* barrier, const Site& site) {
  check_bulk("bulk_g2s", site);
  check_shared(to, bytes, 16, "bulk_g2s", site);
  check_aligned(from, 16, "bulk_g2s", site);
  if (bytes == 0 || bytes % 16 != 0) fail(site, "bulk_g2s of %u bytes", bytes);
  Mbarrier& state = mbarrier_at(barrier, site);
  Block& block = block_here();
  block.check_copy(to, bytes, true);
  if (block.races != nullptr) block.races->release_copies(&state.clock);
  state.copies.push_back({to, from, bytes, 0});
  if (current_schedule.eager_copies) perform_loads(&state);
}

}  // namespace quire_executor
