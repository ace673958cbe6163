#include "tiers/io/event_loop.h"

#include "tiers/io/epoll_loop.h"
#include "tiers/io/uring_loop.h"

namespace quire {

Expected<std::unique_ptr<EventLoop>> make_event_loop(const EventLoopOptions& options) {
  constexpr uint32_t kRingEntriesMax = 32768;
  if (options.ring_entries == 0 || options.ring_entries > kRingEntriesMax) {
    return Status(StatusCode::kInvalidArgument, "ring_entries must be 1 to 32768");
  }
  if (!options.allow_io_uring) return make_epoll_loop(options, "io_uring switched off");
  auto loop = make_uring_loop(options);
  if (loop.is_ok()) return loop;
  return make_epoll_loop(options, loop.status().message());
}

}  // namespace quire
