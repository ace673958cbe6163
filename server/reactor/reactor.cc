#include "server/reactor/reactor.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <utility>

namespace quire::server {
namespace {

uint64_t open_descriptors() {
  std::error_code error;
  std::filesystem::directory_iterator all("/proc/self/fd", error);
  return error ? 0 : static_cast<uint64_t>(std::distance(begin(all), end(all)));
}

// The limit of open files after raising it to what this process may have.
uint64_t descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return UINT64_MAX;
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) (void)::getrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : limit.rlim_cur;
}

}  // namespace

Expected<std::unique_ptr<Reactor>> Reactor::start(const Config& config, EventLoop& loop,
                                                  Clock& clock, Store& store, Listener listener) {
  std::unique_ptr<Reactor> reactor(new Reactor(config, loop, clock, store, std::move(listener)));
  Reactor* raw = reactor.get();
  QUIRE_RETURN_IF_ERROR(raw->fit_sessions_to_descriptors());
  raw->warn_of_slow_loop();
  QUIRE_RETURN_IF_ERROR(
      loop.watch_fd(raw->listener_.fd(), POLLIN, [raw](uint32_t) { raw->accept_all(); }));
  raw->schedule_tick();
  return reactor;
}

Reactor::Reactor(const Config& config, EventLoop& loop, Clock& clock, Store& store,
                 Listener listener)
    : config_(config),
      loop_(loop),
      clock_(clock),
      store_(store),
      listener_(std::move(listener)),
      context_{config, loop, clock, store, 0, {}, {}, {}, {}, {}} {
  context_.receive_buffer.resize(wire::kFrameBytesMax + 1);
  context_.send_buffer.resize(wire::kFrameBytesMax);
  context_.find_session = [this](uint32_t id) -> Session* {
    const auto found = sessions_.find(id);
    return found == sessions_.end() || found->second->closed() ? nullptr : found->second.get();
  };
  // Not from within the session's own call.
  context_.on_closed = [this](uint32_t id) { loop_.post([this, id] { sessions_.erase(id); }); };
}

Reactor::~Reactor() {
  context_.on_closed = [](uint32_t) {};
  loop_.cancel_timer(tick_timer_);
  loop_.unwatch_fd(listener_.fd());
  for (auto& [id, session] : sessions_) session->close("server stops");
}

Status Reactor::fit_sessions_to_descriptors() {
  sessions_limit_ = config_.sessions_max;
  const uint64_t limit = descriptor_limit();
  const uint64_t gpu_chunks = config_.gpu_enabled ? 2 * tiers::kDeviceChunksMax : 0;
  const uint64_t taken = open_descriptors() + kDescriptorsReserved + gpu_chunks;
  const uint64_t room = limit > taken ? (limit - taken) / kDescriptorsPerSession : 0;
  if (room >= sessions_limit_) return Status::ok();
  if (room == 0) {
    return Status(StatusCode::kResourceExhausted,
                  fmt::format("the limit of {} open descriptors leaves no room for clients; raise "
                              "it (ulimit -n, LimitNOFILE=)",
                              limit));
  }
  spdlog::warn(
      "the limit of {} open descriptors leaves room for {} clients, not session.sessions_max = {}; "
      "raise it (ulimit -n, LimitNOFILE=)",
      limit, room, sessions_limit_);
  sessions_limit_ = room;
  return Status::ok();
}

void Reactor::warn_of_slow_loop() const {
  if (loop_.backend() == "io_uring") return;
  // Some kernels count rings as locked memory and then refuse them for want of memory.
  constexpr uint64_t kRingBytesWanted = 8ull << 20;
  rlimit locked{};
  const bool little =
      ::getrlimit(RLIMIT_MEMLOCK, &locked) == 0 && locked.rlim_cur < kRingBytesWanted;
  spdlog::warn(
      "io_uring is not available ({}): sockets and files are served by {}, which is slower{}",
      loop_.backend_detail(), loop_.backend(),
      little ? "; raise the limit of locked memory (ulimit -l, LimitMEMLOCK=)" : "");
}

void Reactor::refuse(int fd, const Status& status) {
  std::vector<std::byte> buffer(wire::kFrameBytesMax);
  ReplyBuilder builder(buffer, wire::FrameHeader{}, store_.epoch());
  builder.set_error(status);
  const ByteSpan frame = builder.seal();
  // Best effort: the client sees the reason or just a closed socket.
  [[maybe_unused]] const ssize_t sent =
      ::send(fd, frame.data(), frame.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  ::close(fd);
}

void Reactor::accept_all() {
  while (true) {
    const int fd = ::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      // Out of descriptors: the next tick tries again.
      if (errno != EAGAIN && errno != EWOULDBLOCK && !std::exchange(accept_fails_, true)) {
        spdlog::warn("clients cannot be accepted for now: {}", std::strerror(errno));
      }
      return;
    }
    accept_fails_ = false;
    if (!peer_is_allowed(fd)) {
      refuse(fd, Status(StatusCode::kPermissionDenied, "only the server's own user may connect"));
      continue;
    }
    if (sessions_.size() >= sessions_limit_ && !make_room_for_session()) {
      refuse(fd, Status(StatusCode::kResourceExhausted,
                        "all " + std::to_string(sessions_limit_) + " sessions are taken"));
      continue;
    }
    const uint32_t id = next_session_id_++;
    auto session = std::make_unique<Session>(id, fd, context_);
    Session* raw = session.get();
    sessions_.emplace(id, std::move(session));
    if (const Status status = raw->start(); !status.is_ok()) raw->close("it cannot be watched");
  }
}

// Closes the session that has been silent for longest, if one has been for kSilentGraceNs: who
// connects without a word must not keep others out. The closed one is destroyed a moment later, so
// that for this moment there is one more than the limit.
bool Reactor::make_room_for_session() {
  const auto closing = [](const auto& entry) { return entry.second->closed(); };
  const auto closed = static_cast<uint64_t>(std::ranges::count_if(sessions_, closing));
  if (sessions_.size() - closed < sessions_limit_) return true;
  Session* oldest = nullptr;
  for (const auto& [id, session] : sessions_) {
    if (session->closed() || session->said_hello()) continue;
    if (oldest == nullptr || session->connected_ns() < oldest->connected_ns()) {
      oldest = session.get();
    }
  }
  if (oldest == nullptr || clock_.now_ns() - oldest->connected_ns() < kSilentGraceNs) return false;
  oldest->close("silent while others wait");
  return true;
}

void Reactor::schedule_tick() {
  tick_timer_ = loop_.add_timer(loop_.now_ns() + kTickNs, [this] { tick(); });
}

void Reactor::tick() {
  store_.tick();
  accept_all();
  const uint64_t now_ns = clock_.now_ns();
  for (auto& [id, session] : sessions_) {
    if (session->closed()) continue;
    const bool silent = !session->said_hello();
    if (silent && now_ns - session->connected_ns() > kHelloDeadlineNs) {
      session->close("no hello");
    } else if (session->unread_since_ns() < now_ns &&
               now_ns - session->unread_since_ns() > kUnreadRepliesNs) {
      session->close("it does not read its replies");
    }
  }
  schedule_tick();
}

}  // namespace quire::server
