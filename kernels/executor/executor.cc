// Launches, the scheduler of a block's threads, and the reports of what went wrong.
#include "kernels/executor/executor.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <numeric>

#include "kernels/executor/block_state.h"

namespace quire_executor {

thread_local Indices indices;
thread_local Block* running_block = nullptr;
thread_local Schedule current_schedule;

namespace {

// Turns of the scheduler in which threads only asked again before that is called a deadlock.
constexpr int kIdleTurnsMax = 1000;
constexpr uint32_t kThreadsReported = 8;

thread_local uint64_t n_launches = 0;
thread_local const char* last_launched = "";
thread_local Device current_device;

// Threads with their stacks, kept between launches of this OS thread.
std::vector<std::unique_ptr<Thread>>& thread_pool() {
  thread_local std::vector<std::unique_ptr<Thread>> pool;
  return pool;
}

void run_body(void* block) {
  static_cast<Block*>(block)->body();
  static_cast<Block*>(block)->exit_current();
}

}  // namespace

Block& block_here() {
  if (running_block == nullptr) {
    fprintf(stderr, "executor: a device primitive was called outside a launch\n");
    abort();
  }
  return *running_block;
}

void fail(const Site& site, const char* format, ...) {
  char message[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof(message), format, arguments);
  va_end(arguments);
  if (running_block != nullptr) {
    Block& block = *running_block;
    fprintf(stderr, "executor: kernel %s, block (%u,%u,%u), thread %s at %s:%d: %s\n", block.kernel,
            indices.block.x, indices.block.y, indices.block.z, block.thread_name(block.running),
            site.file, site.line, message);
  } else {
    fprintf(stderr, "executor: %s:%d: %s\n", site.file, site.line, message);
  }
  abort();
}

uint32_t linear_thread() {
  return block_here().running;
}

Block::Block(const char* kernel_, Dim3 grid, Dim3 block, size_t shared_bytes,
             const std::function<void()>& body_)
    : kernel(kernel_),
      body(body_),
      n_threads(block.x * block.y * block.z),
      random_(current_schedule.seed),
      arena_(static_cast<unsigned char*>(aligned_alloc(1024, 512u << 10))),
      dynamic_bytes_(shared_bytes) {
  shape.grid_dim = grid;
  shape.block_dim = block;
  warps.resize((n_threads + kWarpThreads - 1) / kWarpThreads);
  auto& pool = thread_pool();
  while (pool.size() < n_threads) pool.push_back(std::make_unique<Thread>());
  for (uint32_t i = 0; i < n_threads; ++i) {
    threads_.push_back(pool[i].get());
    threads_[i]->index = Dim3(i % block.x, i / block.x % block.y, i / block.x / block.y);
  }
  order_.resize(n_threads);
}

void Block::make_order() {
  std::iota(order_.begin(), order_.end(), 0u);
  if (current_schedule.order == Order::kDescending) std::reverse(order_.begin(), order_.end());
  if (current_schedule.order == Order::kShuffled)
    std::shuffle(order_.begin(), order_.end(), random_);
}

void Block::run(Dim3 index) {
  shape.block = index;
  live = n_threads;
  whole = Meeting{};
  for (Meeting& meeting : named) meeting = Meeting{};
  for (WarpMeeting& warp : warps) warp = WarpMeeting{};
  mbarriers.clear();
  make_order();
  reset_shared();
  for (Thread* thread : threads_) {
    thread->exited = false;
    thread->ready = true;
    thread->until = nullptr;
    thread->fiber.start(run_body, this);
  }
  int idle_turns = 0;
  while (live > 0) {
    bool got_on = false;
    bool asked = false;
    for (uint32_t thread : order_) {
      if (!run_thread(thread)) continue;
      asked = true;
      got_on |= threads_[thread]->exited || !threads_[thread]->yielded;
    }
    if (!asked) report_deadlock();
    idle_turns = got_on ? 0 : idle_turns + 1;
    if (idle_turns > kIdleTurnsMax) report_deadlock();
  }
  check_red_zones();
}

// False where the thread has nothing to do.
bool Block::run_thread(uint32_t number) {
  Thread& thread = *threads_[number];
  if (thread.exited) return false;
  running = number;
  indices = shape;
  indices.thread = thread.index;
  if (thread.until != nullptr && (*thread.until)()) {
    thread.until = nullptr;
    thread.ready = true;
  }
  if (!thread.ready) return false;
  thread.yielded = false;
  thread.fiber.resume();
  return true;
}

void Block::suspend_current(const char* what, const Site& site) {
  Thread& thread = current();
  thread.waits_for = what;
  thread.site = site;
  thread.ready = false;
  const uint32_t self = running;
  thread.fiber.suspend();
  running = self;
}

void Block::exit_current() {
  Thread& thread = current();
  for (CopyQueue& queue : thread.copies)
    if (!queue.empty()) fail(thread.site, "exits with asynchronous copies it never waited for");
  const WarpMeeting& warp = warps[running / kWarpThreads];
  if (warp.mask >> running % kWarpThreads & 1)
    fail(warp.site, "exits while lanes of its warp wait for it in %s", warp.what);
  thread.exited = true;
  --live;
  if (whole.arrived > 0 && whole.arrived == live) {
    if (races != nullptr) races->meet_all();
    release(&whole);
  }
}

void Block::release(Meeting* meeting) {
  for (uint32_t thread : meeting->waiting) threads_[thread]->ready = true;
  *meeting = Meeting{};
}

const char* Block::thread_name(uint32_t thread) {
  const Dim3 at = threads_[thread]->index;
  snprintf(name_, sizeof(name_), "(%u,%u,%u) [warp %u lane %u]", at.x, at.y, at.z,
           thread / kWarpThreads, thread % kWarpThreads);
  return name_;
}

void Block::report_deadlock() {
  fprintf(stderr, "executor: kernel %s, block (%u,%u,%u): deadlock, %u of %u threads wait:\n",
          kernel, shape.block.x, shape.block.y, shape.block.z, live, n_threads);
  uint32_t printed = 0;
  const Thread* last = nullptr;
  for (uint32_t i = 0; i < n_threads && printed < kThreadsReported; ++i) {
    const Thread& thread = *threads_[i];
    if (thread.exited) continue;
    if (last != nullptr && last->site.line == thread.site.line &&
        strcmp(last->waits_for, thread.waits_for) == 0)
      continue;  // like its neighbour
    last = &thread;
    ++printed;
    fprintf(stderr, "  thread %s and those after it wait in %s at %s:%d\n", thread_name(i),
            thread.waits_for, thread.site.file, thread.site.line);
  }
  abort();
}

void set_device(const Device& device) {
  current_device = device;
}

const Device& device() {
  return current_device;
}

void set_schedule(const Schedule& schedule) {
  current_schedule = schedule;
}

std::span<const Schedule> schedules() {
  static constexpr Schedule kAll[] = {{Order::kAscending, 1, false},
                                      {Order::kDescending, 1, true},
                                      {Order::kShuffled, 20260405, false}};
  return kAll;
}

uint64_t launches() {
  return n_launches;
}

const char* last_kernel() {
  return last_launched;
}

void launch(const char* kernel, Dim3 grid, Dim3 block, size_t shared_bytes,
            const std::function<void()>& body) {
  const Site here = QUIRE_HERE;
  if (running_block != nullptr) fail(here, "a launch inside a kernel");
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (blocks == 0 || blocks > kGridBlocksMax)
    fail(here, "kernel %s: a grid of %llu blocks", kernel, static_cast<unsigned long long>(blocks));
  if (threads == 0 || threads > kBlockThreadsMax)
    fail(here, "kernel %s: %llu threads", kernel, static_cast<unsigned long long>(threads));
  if (shared_bytes > current_device.shared_bytes_max)
    fail(here, "kernel %s: %zu bytes of shared memory", kernel, shared_bytes);
  ++n_launches;
  last_launched = kernel;
  Block state(kernel, grid, block, shared_bytes, body);
  running_block = &state;
  for (uint32_t z = 0; z < grid.z; ++z)
    for (uint32_t y = 0; y < grid.y; ++y)
      for (uint32_t x = 0; x < grid.x; ++x) state.run(Dim3(x, y, z));
  running_block = nullptr;
}

}  // namespace quire_executor
