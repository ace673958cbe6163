// The fallback backend of EventLoop: epoll for readiness, a small pool of threads for files.
#ifndef QUIRE_TIERS_IO_EPOLL_LOOP_H_
#define QUIRE_TIERS_IO_EPOLL_LOOP_H_

#include <memory>
#include <string>

#include "tiers/io/event_loop.h"

namespace quire {

// `reason`: why io_uring is not used, for backend_detail().
Expected<std::unique_ptr<EventLoop>> make_epoll_loop(const EventLoopOptions& options,
                                                     std::string reason);

}  // namespace quire

#endif  // QUIRE_TIERS_IO_EPOLL_LOOP_H_
