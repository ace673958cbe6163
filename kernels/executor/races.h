// Finds races on the shared memory of a block: accesses of two warps, one of them a write, that
// nothing orders, whatever the order was in which they happened here. Every warp has a clock and
// knows how far it has seen the others' (vector clocks, as FastTrack and ThreadSanitizer do); each
// byte remembers its last write and every warp's last read. What orders warps: barriers of the
// block, named barriers, mbarriers. Asynchronous bulk copies count as one more warp. Inside a warp
// only reads of what another lane wrote are looked at, and every warp operation orders lanes.
//
// A bulk copy that reads what a warp wrote needs a fence_async_shared() between the two, by whoever
// knows of the write.
//
// Not seen: races of single lanes with mbarriers or barriers of their own warp, other missing
// fences, races between atomics and plain accesses, global memory.
#ifndef QUIRE_KERNELS_EXECUTOR_RACES_H_
#define QUIRE_KERNELS_EXECUTOR_RACES_H_

#include <stddef.h>
#include <stdint.h>

#include <vector>

namespace quire_executor {

// Of every warp, and of asynchronous copies; then the same again: how far writes are fenced, so
// that asynchronous copies may read them.
using Clock = std::vector<uint32_t>;

class Races {
 public:
  // A new block of so many warps; offsets below are into `bytes` of shared memory.
  void start(uint32_t warps, size_t bytes);
  void forget(size_t offset, size_t bytes);  // newly allocated

  struct Race {
    bool found = false;
    size_t offset = 0;
    bool other_wrote = false;
    bool unfenced = false;    // a copy reads what is ordered before it, but not fenced
    uint32_t other_warp = 0;  // warps() = an asynchronous copy
    uint32_t other_thread = 0;
    const void* other_code = nullptr;  // of a write
  };
  Race read(size_t offset, size_t bytes, uint32_t thread);
  Race write(size_t offset, size_t bytes, uint32_t thread, const void* code);
  // By a copy that this thread issues and that ends in its own time.
  Race read_later(size_t offset, size_t bytes, uint32_t thread);
  Race write_later(size_t offset, size_t bytes, uint32_t thread, const void* code);
  uint32_t warps() const { return warps_; }

  void meet_all();
  void meet_lanes(uint32_t warp) { ++meetings_[warp]; }
  // What has happened in the warp until now becomes known to those who acquire the clock.
  void release(uint32_t warp, Clock* to);
  void tick(uint32_t warp) { ++known_[warp][warp]; }
  void acquire(uint32_t warp, const Clock& from);
  void release_copies(Clock* to);  // those that were issued
  void acquire_copies(uint32_t warp, uint32_t time);
  uint32_t copies() const { return copies_; }
  // All that the warp knows to be written.
  void fence(uint32_t warp);

 private:
  struct Write {
    const void* code;
    uint32_t time;  // 0 = none yet
    uint32_t meeting;
    uint16_t warp;
    uint16_t thread;
  };
  Race check_write(size_t at, uint32_t warp, uint32_t thread, bool reads) const;
  Race check_reads(size_t at, uint32_t warp) const;

  uint32_t warps_ = 0;
  uint32_t columns_ = 0;
  uint32_t copies_ = 0;  // clock of asynchronous copies
  std::vector<Clock> known_;
  std::vector<uint32_t> meetings_;  // of the lanes of each warp
  std::vector<Write> writes_;       // by byte
  std::vector<uint32_t> reads_;     // by byte and column: the time of the last
};

}  // namespace quire_executor

#endif  // QUIRE_KERNELS_EXECUTOR_RACES_H_
