#include "server/reactor/session.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>

namespace quire::server {

Session::Session(uint32_t id, int fd, SessionContext& context)
    : id_(id), fd_(fd), context_(context), connected_ns_(context.clock.now_ns()) {
  store_session_.id = id;
}

Session::~Session() {
  if (!closed()) close("server stops");
}

Status Session::start() {
  return context_.loop.watch_fd(fd_, POLLIN | POLLRDHUP,
                                [this](uint32_t events) { on_ready(events); });
}

void Session::close(const char* why) {
  if (closed()) return;
  spdlog::debug("session {} ({}) closed: {}", id_, client_name_, why);
  context_.loop.unwatch_fd(fd_);
  // The kernel may hold the file a little longer for a poll that is being cancelled; the client
  // shall see the end now.
  ::shutdown(fd_, SHUT_RDWR);
  ::close(fd_);
  fd_ = -1;
  for (auto& [ticket, pending] : pending_) context_.loop.cancel_timer(pending.timer);
  pending_.clear();
  outgoing_.clear();
  if (said_hello_) context_.store.drop_session(store_session_);
  store_session_.staging.reset();
  context_.on_closed(id_);
}

void Session::on_ready(uint32_t events) {
  // Also for a hang-up: sending tells that nobody is there.
  if ((events & POLLOUT) != 0 || !outgoing_.empty()) flush_outgoing();
  if (!closed()) read_frames();
}

void Session::read_frames() {
  replies_this_turn_ = 0;
  for (uint32_t turn = 0; turn < kFramesPerTurnMax && replies_this_turn_ < kRepliesPerTurnMax;
       ++turn) {
    // Who does not take its replies is not asked for more requests; flush_outgoing() goes on.
    if (closed() || !outgoing_.empty()) return;
    const ssize_t got = ::recv(fd_, context_.receive_buffer.data(), context_.receive_buffer.size(),
                               MSG_DONTWAIT | MSG_TRUNC);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (got <= 0) {
      // A client may send an empty message; on a seqpacket socket it looks like the end.
      close(got == 0 ? "client closed" : std::strerror(errno));
      return;
    }
    if (static_cast<size_t>(got) > wire::kFrameBytesMax) {
      violation({}, Status(StatusCode::kCorrupt, "frame is longer than 64 KiB"));
    } else {
      handle(ByteSpan(context_.receive_buffer).first(static_cast<size_t>(got)));
    }
  }
  if (closed() || !outgoing_.empty()) return;
  // Edge triggered: nothing else would tell about the frames still waiting.
  context_.loop.post([find = context_.find_session, id = id_] {
    if (Session* session = find(id)) session->read_frames();
  });
}

void Session::handle(ByteSpan message) {
  wire::FrameHeader header;
  auto frame = parse_request(message, &header);
  if (!frame) return violation(header, frame.status());
  if (said_hello_ == (frame->op == wire::Op::kHello)) {
    return violation(header, Status(StatusCode::kFailedPrecondition,
                                    said_hello_ ? "hello was said" : "the first frame is a hello"));
  }
  dispatch(*frame);
}

void Session::dispatch(const RequestFrame& frame) {
  switch (frame.op) {
    case wire::Op::kHello:
      return handle_hello(frame);
    case wire::Op::kResolve:
      return handle_resolve(frame);
    case wire::Op::kGpuLayout:
      return handle_gpu_layout(frame);
    case wire::Op::kAcquire:
    case wire::Op::kAcquireGpu:
      return handle_acquire(frame);
    case wire::Op::kRelease:
    case wire::Op::kRenew:
      return handle_release(frame);
    case wire::Op::kReserve:
      return handle_reserve(frame);
    case wire::Op::kFill:
      return handle_fill(frame);
    case wire::Op::kCommit:
      return handle_commit(frame);
    case wire::Op::kHint:
      return handle_hint(frame);
    case wire::Op::kScope:
      return handle_scope(frame);
    case wire::Op::kFeedback:
      return handle_feedback(frame);
    case wire::Op::kAbort:
      return handle_abort(frame);
    case wire::Op::kPing:
      return reply(frame.header, Status::ok());
    case wire::Op::kRegisterModel:
      return handle_register_model(frame);
  }
}

// A sound frame that breaks a rule costs the client a little credit, an unsound one too.
void Session::violation(const wire::FrameHeader& header, const Status& status) {
  ++context_.protocol_errors;
  ++violations_;
  reply(header, status);
  if (closed()) return;
  if (!said_hello_ || violations_ >= kViolationsMax) close("protocol violations");
}

void Session::reply(const wire::FrameHeader& header, const Status& status, ByteSpan body) {
  if ((header.flags & wire::kFlagNoReply) != 0 || closed()) return;
  ReplyBuilder builder(context_.send_buffer, header, context_.store.epoch());
  if (status.is_ok()) {
    builder.append(body);
  } else {
    builder.set_error(status);
  }
  send(builder.seal());
}

void Session::send(ByteSpan frame) {
  if (closed()) return;
  ++replies_this_turn_;
  if (outgoing_.empty()) {
    const ssize_t sent = ::send(fd_, frame.data(), frame.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) return;
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOBUFS && errno != EINTR) {
      close(std::strerror(errno));
      return;
    }
  }
  if (outgoing_bytes_ + frame.size() > kOutgoingBytesMax) {
    close("it does not read its replies");
    return;
  }
  if (outgoing_.empty()) unread_since_ns_ = context_.clock.now_ns();
  outgoing_.emplace_back(frame.begin(), frame.end());
  outgoing_bytes_ += frame.size();
  if (watching_output_) return;
  watching_output_ = true;
  const Status status = context_.loop.watch_fd(fd_, POLLIN | POLLOUT | POLLRDHUP,
                                               [this](uint32_t events) { on_ready(events); });
  if (!status.is_ok()) close("its socket cannot be watched");
}

void Session::flush_outgoing() {
  while (!outgoing_.empty()) {
    const std::vector<std::byte>& frame = outgoing_.front();
    if (::send(fd_, frame.data(), frame.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOBUFS) close(std::strerror(errno));
      return;
    }
    outgoing_bytes_ -= frame.size();
    outgoing_.pop_front();
    unread_since_ns_ = context_.clock.now_ns();
  }
  if (!watching_output_) return;
  watching_output_ = false;
  const Status status = start();
  if (!status.is_ok()) close("its socket cannot be watched");
}

bool Session::send_with_descriptors(ByteSpan frame, std::span<const int> descriptors) {
  constexpr size_t kDescriptorsMax = wire::kGpuChunksPerReplyMax;
  assert(!descriptors.empty() && descriptors.size() <= kDescriptorsMax && outgoing_.empty());
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kDescriptorsMax * sizeof(int))> control{};
  iovec part{const_cast<std::byte*>(frame.data()), frame.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
  cmsghdr* rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(descriptors.size_bytes());
  std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size_bytes());
  return ::sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

uint64_t Session::add_pending(const RequestFrame& frame, uint32_t remaining) {
  const uint64_t ticket = next_ticket_++;
  Pending& pending = pending_[ticket];
  pending.header = frame.header;
  pending.remaining = remaining;
  const uint64_t deadline_ns =
      context_.loop.now_ns() + uint64_t{frame.header.deadline_ms} * 1'000'000;
  pending.timer = context_.loop.add_timer(deadline_ns, [this, ticket] { on_deadline(ticket); });
  return ticket;
}

void Session::on_deadline(uint64_t ticket) {
  const auto found = pending_.find(ticket);
  if (found == pending_.end()) return;
  const Pending pending = std::move(found->second);
  pending_.erase(found);
  const Status late(StatusCode::kDeadlineExceeded, "not done within the request's deadline");
  if (pending.unanswered.empty()) return reply(pending.header, late);
  uint32_t remaining = pending.remaining;
  for (uint32_t index = 0; index < pending.unanswered.size(); ++index) {
    if (pending.unanswered[index]) reply_acquire(pending.header, index, late, --remaining != 0);
  }
}

void Session::finish_pending(uint64_t ticket, const Status& status) {
  const auto found = pending_.find(ticket);
  if (found == pending_.end()) return;  // its deadline has answered
  context_.loop.cancel_timer(found->second.timer);
  const wire::FrameHeader header = found->second.header;
  pending_.erase(found);
  reply(header, status);
}

}  // namespace quire::server
