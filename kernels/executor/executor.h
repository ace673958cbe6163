// Runs a CUDA kernel that was compiled as C++ (QUIRE_ON_CPU): one fiber per thread of a block, the
// blocks one after another on the calling OS thread. What threads of a block do together -
// barriers, shuffles, ldmatrix, mma - are points where fibers meet. It looks for bugs, not for
// speed:
//  - shared memory starts as 0xff bytes (NaN) in every block, has checked indices and red zones;
//  - a barrier or warp operation that not all of its threads reach ends the process with a message
//    that names the kernel, the block and the source line where each thread waits;
//  - a race of two warps on shared memory ends the process, whatever the schedule (races.h; in
//    builds by gcc without sanitizers: addresses and races are found by different builds);
//  - asynchronous copies happen as late as the program allows (when they are waited for), or at
//    once: run a test under several schedules() to see both, and threads in several orders. No
//    thread exits with cp.async on the way that it did not wait for itself.
// Failures print to stderr and abort(): a kernel with a bug has no result. Global memory is plain
// host memory; AddressSanitizer checks it. Launches of different OS threads are independent.
#ifndef QUIRE_KERNELS_EXECUTOR_EXECUTOR_H_
#define QUIRE_KERNELS_EXECUTOR_EXECUTOR_H_

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <span>

namespace quire_executor {

constexpr uint32_t kWarpThreads = 32;
constexpr uint32_t kBlockThreadsMax = 1024;
constexpr uint64_t kGridBlocksMax = 1u << 16;  // more is a mistake in a test's shape
constexpr size_t kStaticSharedBytesMax = 48u << 10;
constexpr size_t kSharedBytesMax = 227u << 10;  // dynamic, per block, as on sm_90
constexpr uint32_t kNamedBarriers = 16;

struct Dim3 {
  uint32_t x = 1;
  uint32_t y = 1;
  uint32_t z = 1;
  constexpr Dim3(uint32_t x_ = 1, uint32_t y_ = 1, uint32_t z_ = 1) : x(x_), y(y_), z(z_) {}
};

enum class Order { kAscending, kDescending, kShuffled };

struct Schedule {
  Order order = Order::kAscending;
  uint64_t seed = 1;          // kShuffled: a new order of threads for every block
  bool eager_copies = false;  // asynchronous copies happen when issued, not when waited for
  bool find_races = true;     // where kernels are compiled for it: gcc, without a sanitizer
};

// The device that this OS thread's launches run on, as the runtime describes it. Bulk copies end
// the process below sm_90, as do launches with more shared memory than there is.
struct Device {
  int compute_capability = 90;  // 10 * major + minor
  int multiprocessors = 4;
  size_t shared_bytes_max = kSharedBytesMax;
  bool host_memory = true;  // what all memory is said to be
};
constexpr int kBulkComputeCapability = 90;
void set_device(const Device& device);
const Device& device();

// What the next launches of this OS thread use.
void set_schedule(const Schedule& schedule);
// Schedules that together show missing barriers and waits, for tests to loop over.
std::span<const Schedule> schedules();

// Whether kernels are compiled to report their accesses.
bool finds_races();

// Launches of this OS thread since it began.
uint64_t launches();
// The kernel of the last of them as the launch names it, "" before the first.
const char* last_kernel();

// Runs body once per thread of grid x block. Aborts where a limit above is passed.
void launch(const char* kernel, Dim3 grid, Dim3 block, size_t shared_bytes,
            const std::function<void()>& body);

}  // namespace quire_executor

#endif  // QUIRE_KERNELS_EXECUTOR_EXECUTOR_H_
