// The io_uring backend of EventLoop. Only uring_loop.cc includes liburing.
#ifndef QUIRE_TIERS_IO_URING_LOOP_H_
#define QUIRE_TIERS_IO_URING_LOOP_H_

#include <memory>

#include "tiers/io/event_loop.h"

namespace quire {

// kUnsupported, with the reason, where the kernel refuses io_uring or lacks an operation we use.
Expected<std::unique_ptr<EventLoop>> make_uring_loop(const EventLoopOptions& options);

}  // namespace quire

#endif  // QUIRE_TIERS_IO_URING_LOOP_H_
