// Points where threads of a block meet: barriers, warp operations, waits.
#include <string.h>

#include "kernels/executor/block_state.h"

namespace quire_executor {

void meet_block(const Site& site) {
  Block& block = block_here();
  Meeting& meeting = block.whole;
  if (meeting.arrived > 0 &&
      (meeting.site.line != site.line || strcmp(meeting.site.file, site.file) != 0))
    fail(site, "divergent sync_block: other threads wait in the one at %s:%d", meeting.site.file,
         meeting.site.line);
  meeting.site = site;
  if (++meeting.arrived == block.live) {
    if (block.races != nullptr) block.races->meet_all();
    block.release(&meeting);
    return;
  }
  meeting.waiting.push_back(block.running);
  block.suspend_current("sync_block", site);
}

namespace {

// A lane comes to a named barrier: with the last of its warp, what the warp did is published.
void publish(Block& block, Meeting* meeting) {
  if (block.races == nullptr) return;
  const uint32_t warp = block.warp_here();
  block.races->release(warp, &meeting->clock);
  if (++meeting->lanes[warp] == kWarpThreads) block.races->tick(warp);
}

}  // namespace

void meet_named(uint32_t id, uint32_t threads, bool wait, const Site& site) {
  Block& block = block_here();
  if (id == 0 || id >= kNamedBarriers) fail(site, "named barrier %u: 1 to 15 exist", id);
  if (threads == 0 || threads % kWarpThreads != 0)
    fail(site, "named barrier %u of %u threads: not whole warps", id, threads);
  Meeting& meeting = block.named[id];
  if (meeting.arrived == 0) meeting.expected = threads;
  if (meeting.expected != threads)
    fail(site, "named barrier %u of %u threads, others say %u", id, threads, meeting.expected);
  publish(block, &meeting);
  if (++meeting.arrived == threads) {
    if (block.races != nullptr) {
      if (wait) meeting.waiting.push_back(block.running);
      for (uint32_t thread : meeting.waiting) {
        block.races->acquire(thread / kWarpThreads, meeting.clock);
        block.races->meet_lanes(thread / kWarpThreads);
      }
    }
    block.release(&meeting);
    return;
  }
  if (!wait) return;
  meeting.waiting.push_back(block.running);
  block.suspend_current("sync_named", site);
}

void meet_warp(const char* what, uint32_t mask, void* operand, Combine combine, const Site& site) {
  Block& block = block_here();
  const uint32_t number = block.running / kWarpThreads;
  const uint32_t lane = block.running % kWarpThreads;
  WarpMeeting& warp = block.warps[number];
  const uint32_t lanes = block.n_threads - number * kWarpThreads;
  const uint32_t existing = lanes >= kWarpThreads ? 0xffffffffu : (1u << lanes) - 1;
  if ((mask >> lane & 1) == 0) fail(site, "%s: mask %08x lacks the calling lane", what, mask);
  // A mask of all lanes in a block of fewer threads means those there are.
  mask &= existing;
  if (warp.arrived == 0) {
    warp.mask = mask;
    warp.what = what;
    warp.site = site;
    memset(warp.operands, 0, sizeof(warp.operands));
  } else if (warp.mask != mask || strcmp(warp.what, what) != 0 || warp.site.line != site.line) {
    fail(site, "divergent warp: in %s (mask %08x), other lanes wait in %s (mask %08x) at %s:%d",
         what, mask, warp.what, warp.mask, warp.site.file, warp.site.line);
  }
  for (uint32_t other = 0; other < kWarpThreads; ++other)
    if (mask >> other & 1 && block.has_exited(number * kWarpThreads + other))
      fail(site, "%s: lane %u of the mask has exited", what, other);
  warp.operands[lane] = operand;
  warp.arrived |= 1u << lane;
  if (warp.arrived != mask) {
    block.suspend_current(what, site);
    return;
  }
  if (combine != nullptr) combine(warp.operands, mask);
  if (block.races != nullptr) block.races->meet_lanes(number);
  for (uint32_t other = 0; other < kWarpThreads; ++other)
    if (mask >> other & 1) block.wake(number * kWarpThreads + other);
  warp = WarpMeeting{};
}

void wait_until(const char* what, const std::function<bool()>& ready, const Site& site) {
  if (ready()) return;
  Block& block = block_here();
  block.current().until = &ready;
  block.suspend_current(what, site);
}

void yield_thread(const char* what, const Site& site) {
  Block& block = block_here();
  Thread& thread = block.current();
  thread.yielded = true;
  thread.waits_for = what;
  thread.site = site;
  thread.fiber.suspend();
}

}  // namespace quire_executor
