// A single-threaded completion loop for sockets and files: the reactor of the server and the engine
// under every file-backed device. io_uring where the kernel offers it; otherwise epoll with a small
// pool of threads that call pread, pwrite and fdatasync.
//
// Threads: the loop thread is the one that first calls run_once() or run(). Everything else but
// post() and stop() belongs to that thread; before it has started, calls are allowed from the one
// thread that owns the loop. Callbacks run on the loop thread, inside run_once(), never inside the
// call that started the operation. A callback may call anything of the loop except run_once(),
// run() and the destructor.
#ifndef QUIRE_TIERS_IO_EVENT_LOOP_H_
#define QUIRE_TIERS_IO_EVENT_LOOP_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/bytes.h"
#include "base/status.h"

namespace quire {

// Bytes moved (fewer than asked for only at the end of a file or on an odd device), or -errno.
using IoCallback = std::function<void(int64_t result)>;

// Never 0, never reused by one loop.
using TimerId = uint64_t;

class EventLoop {
 public:
  virtual ~EventLoop() = default;

  // Calls on_ready with the ready events (values of poll(2): POLLIN, POLLOUT, POLLHUP, POLLERR,
  // POLLRDHUP) now if there are any and after each change. Edge triggered with both backends: take
  // everything until EAGAIN, or nothing more may be reported; a spurious call is possible. POLLERR
  // and POLLHUP are always reported. Watching a watched fd replaces events and callback and reports
  // what is ready now. Errors: kInvalidArgument (bad fd), kResourceExhausted.
  virtual Status watch_fd(int fd, uint32_t poll_events, std::function<void(uint32_t)> on_ready) = 0;
  // No callback for this fd after return (also from within its own callback). Call it before
  // close(). An fd that is not watched is ignored.
  virtual void unwatch_fd(int fd) = 0;

  // The memory and the fd stay valid until `done` ran. For an fd opened with O_DIRECT, memory,
  // offset and size obey its alignment. Inside a registered buffer the fixed-buffer operations are
  // used.
  virtual void read(int fd, MutableByteSpan target, uint64_t offset, IoCallback done) = 0;
  virtual void write(int fd, ByteSpan source, uint64_t offset, IoCallback done) = 0;
  virtual void fdatasync(int fd, IoCallback done) = 0;

  // Runs the callback once at or after deadline_ns on the clock of now_ns(). Timers due at the same
  // time run in order of deadline, then of adding.
  virtual TimerId add_timer(uint64_t deadline_ns, std::function<void()> on_due) = 0;
  // False where the timer has run already or never was.
  virtual bool cancel_timer(TimerId id) = 0;
  // CLOCK_MONOTONIC, as system_clock().now_ns().
  virtual uint64_t now_ns() const = 0;

  // Any thread: runs `task` on the loop thread soon, in order of posting, and wakes the loop. Tasks
  // still waiting when the loop is destroyed are destroyed unrun.
  virtual void post(std::function<void()> task) = 0;

  // Registers memory for fixed-buffer I/O (the slab, once, at start). kUnsupported with the
  // fallback, kResourceExhausted where RLIMIT_MEMLOCK or the table is too small: plain reads and
  // writes are used then and everything works, a little slower.
  virtual Status register_buffer(MutableByteSpan buffer) = 0;

  // Puts a file into the loop's table, so that its operations need not look it up each time.
  // kUnsupported with the fallback and on kernels without sparse tables, kResourceExhausted where
  // the table is full: nothing else changes. The fd is to be unregistered before it is closed; its
  // operations may still be in flight then, and complete, or fail with EBADF.
  virtual Status register_file(int fd) = 0;
  virtual void unregister_file(int fd) = 0;

  // Waits up to max_wait_ns (0: do not wait; kForever) for events and runs the callbacks that are
  // due.
  static constexpr uint64_t kForever = UINT64_MAX;
  virtual void run_once(uint64_t max_wait_ns) = 0;
  // Runs until stop(). Returns at once if stop() was called before.
  virtual void run() = 0;
  // Any thread. Operations still in flight complete (or are dropped with their callbacks when the
  // loop is destroyed, after the kernel has let go of their memory).
  virtual void stop() = 0;

  // "io_uring" or "epoll + pread pool".
  virtual std::string backend() const = 0;
  // Details for the status page: flags in use, or why io_uring is not used.
  virtual std::string backend_detail() const = 0;
};

struct EventLoopOptions {
  bool allow_io_uring = true;
  uint32_t ring_entries = 512;  // submission queue; completions get four times as many
  uint32_t pool_threads = 4;    // fallback only
  // After something happened, look for more for this long before sleeping: a sleep and a wake-up on
  // another core cost several times a short request (docs/decisions/005). An idle loop sleeps. 0 =
  // never; io_uring only.
  uint32_t spin_us = 0;
};

// Tries io_uring by asking the kernel (operations, set-up flags), then falls back. Fails only where
// neither works (no file descriptors left, no threads).
Expected<std::unique_ptr<EventLoop>> make_event_loop(const EventLoopOptions& options = {});

}  // namespace quire

#endif  // QUIRE_TIERS_IO_EVENT_LOOP_H_
