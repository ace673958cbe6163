// The state of the block that runs, and what primitives (device_on_cpu.h) ask of it. For the
// executor's own files; kernels use the primitives.
#ifndef QUIRE_KERNELS_EXECUTOR_BLOCK_H_
#define QUIRE_KERNELS_EXECUTOR_BLOCK_H_

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <source_location>

#include "kernels/executor/executor.h"

// A call's own place in the source, as a default argument.
#define QUIRE_HERE ::std::source_location::current()

namespace quire_executor {

struct Site {
  const char* file;
  int line;
  constexpr Site(const char* file_, int line_) : file(file_), line(line_) {}
  constexpr Site(const std::source_location& at)
      : file(at.file_name()), line(static_cast<int>(at.line())) {}
};

// The running thread's coordinates: CUDA's built-in variables.
struct Indices {
  Dim3 thread;
  Dim3 block;
  Dim3 block_dim;
  Dim3 grid_dim;
};
extern thread_local Indices indices;

[[noreturn]] void fail(const Site& site, const char* format, ...)
    __attribute__((format(printf, 2, 3)));

uint32_t linear_thread();

// Waits for all threads of the block that have not exited.
void meet_block(const Site& site);
// Waits until `threads` threads of the block are at barrier `id` (bar.sync), or only counts this
// one (bar.arrive).
void meet_named(uint32_t id, uint32_t threads, bool wait, const Site& site);

// All lanes of `mask` call with the same `what` and site; the last to arrive runs combine over the
// operands of the lanes (null for lanes outside), then all go on.
using Combine = void (*)(void* const operands[kWarpThreads], uint32_t mask);
void meet_warp(const char* what, uint32_t mask, void* operand, Combine combine, const Site& site);

// Suspends the thread until ready() is true.
void wait_until(const char* what, const std::function<bool()>& ready, const Site& site);
// Lets the other threads run. Too many turns in which nobody gets on are a deadlock.
void yield_thread(const char* what, const Site& site);

// Shared memory of the block: the same tag gives the same bytes in all threads.
unsigned char* static_shared(const void* tag, size_t bytes, const Site& site);
unsigned char* dynamic_shared(size_t* bytes);
// Fails unless [address, +bytes) lies inside one shared allocation and is aligned.
void check_shared(const void* address, size_t bytes, size_t alignment, const char* what,
                  const Site& site);
// Of a primitive that reads shared memory inside the executor.
void report_read(const void* address, size_t bytes);
void check_aligned(const void* address, size_t alignment, const char* what, const Site& site);

// Asynchronous copies of the running thread. kCpAsync fills shared, kBulkStore empties it.
enum class CopyKind { kCpAsync, kBulkStore };
void copy_begin(CopyKind kind, void* to, const void* from, size_t bytes, size_t zero_bytes);
void copy_commit(CopyKind kind);
void copy_wait(CopyKind kind, uint32_t groups_left);
// What the thread knows to be written to shared memory may be read by bulk copies.
void fence_async();

// Fails on a device without bulk copies.
void check_bulk(const char* what, const Site& site);

// mbarrier objects in shared memory, by address.
void mbarrier_init(uint64_t* barrier, uint32_t count, const Site& site);
// Arrives when the thread's cp.async so far have been performed.
void copy_arrive(uint64_t* barrier, const Site& site);
void mbarrier_arrive(uint64_t* barrier, uint32_t expect_bytes, const Site& site);
bool mbarrier_try_wait(uint64_t* barrier, uint32_t parity, const Site& site);
void mbarrier_wait(uint64_t* barrier, uint32_t parity, const Site& site);
void bulk_load(void* to, const void* from, uint32_t bytes, uint64_t* barrier, const Site& site);

}  // namespace quire_executor

#endif  // QUIRE_KERNELS_EXECUTOR_BLOCK_H_
