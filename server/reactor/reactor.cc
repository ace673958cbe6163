#include "server/reactor/reactor.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace quire::server {

Expected<std::unique_ptr<Reactor>> Reactor::start(const Config& config, EventLoop& loop,
                                                  Clock& clock, Store& store, Listener listener) {
  std::unique_ptr<Reactor> reactor(new Reactor(config, loop, clock, store, std::move(listener)));
  Reactor* raw = reactor.get();
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
      if (errno != EAGAIN && errno != EWOULDBLOCK) spdlog::warn("accept: {}", std::strerror(errno));
      return;
    }
    if (!peer_is_allowed(fd)) {
      refuse(fd, Status(StatusCode::kPermissionDenied, "only the server's own user may connect"));
      continue;
    }
    if (sessions_.size() >= config_.sessions_max) {
      refuse(fd, Status(StatusCode::kResourceExhausted,
                        "all " + std::to_string(config_.sessions_max) + " sessions are taken"));
      continue;
    }
    const uint32_t id = next_session_id_++;
    auto session = std::make_unique<Session>(id, fd, context_);
    Session* raw = session.get();
    sessions_.emplace(id, std::move(session));
    if (const Status status = raw->start(); !status.is_ok()) raw->close("it cannot be watched");
  }
}

void Reactor::schedule_tick() {
  tick_timer_ = loop_.add_timer(loop_.now_ns() + kTickNs, [this] { tick(); });
}

void Reactor::tick() {
  store_.tick();
  accept_all();
  const uint64_t now_ns = clock_.now_ns();
  for (auto& [id, session] : sessions_) {
    const bool silent = !session->said_hello() && !session->closed();
    if (silent && now_ns - session->connected_ns() > kHelloDeadlineNs) session->close("no hello");
  }
  schedule_tick();
}

}  // namespace quire::server
