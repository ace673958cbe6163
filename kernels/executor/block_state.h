// Everything the executor knows of the running block. Private to kernels/executor.
#ifndef QUIRE_KERNELS_EXECUTOR_BLOCK_STATE_H_
#define QUIRE_KERNELS_EXECUTOR_BLOCK_STATE_H_

#include <deque>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "kernels/executor/block.h"
#include "kernels/executor/fiber.h"
#include "kernels/executor/races.h"

namespace quire_executor {

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  size_t zero_bytes;  // cleared after the copied ones
};

struct CopyGroup {
  std::vector<Copy> copies;
  uint32_t time = 0;     // of its last bulk copy, as the races count them
  bool arrives = false;  // has copies that went to an mbarrier
};

struct CopyQueue {
  CopyGroup open;
  std::deque<CopyGroup> committed;
  bool empty() const { return open.copies.empty() && !open.arrives && committed.empty(); }
};

struct Thread {
  Fiber fiber;
  Dim3 index;
  bool exited = true;
  bool ready = false;
  bool yielded = false;
  const char* waits_for = "";
  Site site{"", 0};
  const std::function<bool()>* until = nullptr;
  CopyQueue copies[2];  // by CopyKind
};

struct Meeting {  // of the block, or of some of its threads
  uint32_t arrived = 0;
  uint32_t expected = 0;
  Site site{"", 0};
  std::vector<uint32_t> waiting;
  Clock clock;                        // named barriers: of the warps that came
  uint32_t lanes[kWarpThreads] = {};  // of each warp, that came
};

struct WarpMeeting {
  uint32_t mask = 0;
  uint32_t arrived = 0;
  const char* what = "";
  Site site{"", 0};
  void* operands[kWarpThreads] = {};
};

struct Allocation {
  unsigned char* data;
  size_t bytes;
};

struct Mbarrier {
  uint32_t count = 0;
  uint32_t arrivals_left = 0;
  int64_t bytes_left = 0;
  uint32_t phase = 0;
  std::vector<Copy> copies;
  std::vector<Copy> async_copies;  // cp.async, which count no bytes
  uint32_t async_arrivals = 0;     // that happen after them
  Clock clock;                     // of the warps that arrived, and of the copies
};

class Block {
 public:
  Block(const char* kernel, Dim3 grid, Dim3 block, size_t shared_bytes,
        const std::function<void()>& body);
  ~Block();
  void run(Dim3 index);

  const char* kernel;
  const std::function<void()>& body;
  uint32_t n_threads;
  uint32_t live = 0;
  uint32_t running = 0;
  Indices shape;
  Meeting whole;
  Meeting named[kNamedBarriers];
  std::vector<WarpMeeting> warps;
  std::map<const void*, Allocation> static_allocations;
  Allocation dynamic{nullptr, 0};
  std::map<uint64_t*, Mbarrier> mbarriers;

  Thread& current() { return *threads_[running]; }
  bool has_exited(uint32_t thread) const { return threads_[thread]->exited; }
  void wake(uint32_t thread) { threads_[thread]->ready = true; }
  void suspend_current(const char* what, const Site& site);
  void release(Meeting* meeting);
  void exit_current();
  unsigned char* allocate(size_t bytes, const Site& site);
  const Allocation* allocation_of(const void* address, size_t bytes) const;
  const char* thread_name(uint32_t thread);

  // Races of the running thread, found in builds that report accesses; else nothing.
  Races* races = nullptr;
  uint32_t warp_here() const { return running / kWarpThreads; }
  bool is_shared(const void* at) const;
  void check_access(const void* at, size_t bytes, bool write, const void* code);
  // The copy's time, where races are looked for.
  uint32_t check_copy(const void* at, size_t bytes, bool write);

 private:
  [[noreturn]] void report_race(const Races::Race& race, bool write, const void* code);

  bool run_thread(uint32_t thread);
  void make_order();
  void reset_shared();
  void check_red_zones();
  [[noreturn]] void report_deadlock();

  std::vector<Thread*> threads_;
  std::vector<uint32_t> order_;
  std::mt19937_64 random_;
  std::vector<Allocation> allocations_;
  unsigned char* arena_;
  size_t arena_used_ = 0;
  size_t dynamic_bytes_;
  char name_[64];
};

extern thread_local Block* running_block;
extern thread_local Schedule current_schedule;
Block& block_here();
void perform(const Copy& copy);

}  // namespace quire_executor

#endif  // QUIRE_KERNELS_EXECUTOR_BLOCK_STATE_H_
