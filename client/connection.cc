#include "client/connection.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/hash.h"

namespace quire {
namespace {

constexpr uint64_t kNsPerMs = 1'000'000;
constexpr size_t kFdsMax = wire::kGpuChunksPerReplyMax;  // the most that a frame carries
// While the server's accept queue is full.
constexpr uint32_t kConnectRetryMs = 5;
// A reply that needs no I/O comes sooner than a sleep and a wake-up would end (docs/decisions/005).
constexpr uint64_t kSpinNs = 30'000;

Status gone(const char* what) {
  return {StatusCode::kUnavailable, std::string("the server closed the session (") + what + ")"};
}

Status from_errno(const char* what, int error) {
  return {StatusCode::kIoError, std::string(what) + ": " + std::strerror(error)};
}

bool more_than_one_core() {
  static const bool result = std::thread::hardware_concurrency() > 1;
  return result;
}

Status deadline_exceeded() {
  return {StatusCode::kDeadlineExceeded, "the server did not answer in time"};
}

// Waits until the socket is ready for events (or has an error to report).
Status wait_ready(int fd, short events, const Deadline& deadline) {
  for (;;) {
    const uint32_t remaining_ms = deadline.remaining_ms();
    if (remaining_ms == 0) return deadline_exceeded();
    pollfd entry{fd, events, 0};
    const int ready = poll(&entry, 1, static_cast<int>(std::min(remaining_ms, 1u << 30)));
    if (ready > 0) return Status::ok();
    if (ready < 0 && errno != EINTR) return from_errno("poll", errno);
  }
}

std::vector<UniqueFd> take_fds(msghdr& message) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* control = CMSG_FIRSTHDR(&message); control != nullptr;
       control = CMSG_NXTHDR(&message, control)) {
    if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(control) + i * sizeof(int), sizeof(fd));
      fds.emplace_back(fd);
    }
  }
  return fds;
}

Status connect_error(const std::string& path, int error) {
  switch (error) {
    case ENOENT:
    case ECONNREFUSED:
    case ENOTDIR:
      return {StatusCode::kUnavailable, "no quired at " + path + ": start it with `quired`"};
    case EACCES:
    case EPERM:
      return {StatusCode::kPermissionDenied,
              "not allowed to connect to " + path + ": it belongs to another user"};
    case EPROTOTYPE:
      return {StatusCode::kFailedPrecondition, path + " is a socket, but not quired's"};
    default:
      return from_errno(("connect to " + path).c_str(), error);
  }
}

}  // namespace

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) close(fd_);
    fd_ = other.release();
  }
  return *this;
}

UniqueFd::~UniqueFd() {
  if (fd_ >= 0) close(fd_);
}

int UniqueFd::release() {
  return std::exchange(fd_, -1);
}

Deadline Deadline::after_ms(uint32_t timeout_ms) {
  return {system_clock().now_ns() + timeout_ms * kNsPerMs};
}

uint32_t Deadline::remaining_ms() const {
  const uint64_t now_ns = system_clock().now_ns();
  if (now_ns >= at_ns) return 0;
  return static_cast<uint32_t>(
      std::min<uint64_t>((at_ns - now_ns + kNsPerMs - 1) / kNsPerMs, UINT32_MAX));
}

Expected<Connection> Connection::open(const std::string& path, const Deadline& deadline) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path))
    return Status(StatusCode::kInvalidArgument, "socket path must have 1 to " +
                                                    std::to_string(sizeof(address.sun_path) - 1) +
                                                    " bytes: \"" + path + "\"");
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return from_errno("socket", errno);
  for (;;) {
    if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0)
      return Connection(std::move(fd));
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return connect_error(path, errno);
    const uint32_t remaining_ms = deadline.remaining_ms();
    if (remaining_ms == 0) return deadline_exceeded();
    poll(nullptr, 0, static_cast<int>(std::min(remaining_ms, kConnectRetryMs)));
  }
}

Connection::Connection(UniqueFd socket)
    : socket_(std::move(socket)), buffer_(wire::kFrameBytesMax) {}

Status Connection::send(const OutgoingFrame& frame, const Deadline& deadline) const {
  wire::FrameHeader header;
  header.op = static_cast<uint16_t>(frame.op);
  header.flags = frame.flags;
  header.request_id = frame.request_id;
  header.server_epoch = frame.server_epoch;
  for (;;) {
    header.deadline_ms = deadline.remaining_ms();
    if (header.deadline_ms == 0) return deadline_exceeded();
    const std::vector<std::byte> bytes = encode_frame(header, frame.body);
    if (bytes.size() > wire::kFrameBytesMax)
      return {StatusCode::kInternal, "a request is larger than a frame"};
    const ssize_t sent =
        ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent == static_cast<ssize_t>(bytes.size())) return Status::ok();
    if (sent >= 0) return {StatusCode::kInternal, "a frame was sent in part"};
    if (errno == EINTR) continue;
    if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN)
      return gone(std::strerror(errno));
    if (errno != EAGAIN) return from_errno("send", errno);
    QUIRE_RETURN_IF_ERROR(wait_ready(socket_.get(), POLLOUT, deadline));
  }
}

Expected<Frame> Connection::receive(const Deadline& deadline, bool slow) {
  bool spinning = !slow && more_than_one_core() && spin_gate_.should_spin();
  const uint64_t spin_until_ns = spinning ? system_clock().now_ns() + kSpinNs : 0;
  for (;;) {
    iovec part{buffer_.data(), buffer_.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kFdsMax * sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t received = recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (received < 0) {
      if (errno == EINTR) continue;
      if (errno == ECONNRESET) return gone("reset");
      if (errno != EAGAIN) return from_errno("recvmsg", errno);
      if (spinning && system_clock().now_ns() < spin_until_ns) continue;
      if (spinning) spin_gate_.report(false);
      spinning = false;
      QUIRE_RETURN_IF_ERROR(wait_ready(socket_.get(), POLLIN, deadline));
      continue;
    }
    if (spinning) spin_gate_.report(true);
    Frame frame;
    frame.fds = take_fds(message);
    if (received == 0) return gone("end of stream");
    if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0)
      return Status(StatusCode::kCorrupt, "the server sent a frame larger than the limit");
    const ByteSpan bytes = ByteSpan(buffer_).first(static_cast<size_t>(received));
    QUIRE_ASSIGN_OR_RETURN(frame.header, parse_frame(bytes));
    frame.body = bytes.subspan(sizeof(wire::FrameHeader));
    return frame;
  }
}

bool Connection::peer_closed() const {
  pollfd entry{socket_.get(), POLLRDHUP, 0};
  return poll(&entry, 1, 0) > 0 &&
         (entry.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}

void Connection::shut_down() const {
  shutdown(socket_.get(), SHUT_RDWR);
}

Expected<wire::FrameHeader> parse_frame(ByteSpan bytes) {
  const auto corrupt = [](const char* what) {
    return Status(StatusCode::kCorrupt, std::string("the server sent a bad frame: ") + what);
  };
  ByteReader reader(bytes);
  const auto header = reader.read<wire::FrameHeader>();
  if (!reader.ok()) return corrupt("shorter than a header");
  if (header.magic != wire::kFrameMagic) return corrupt("wrong magic");
  if (header.version != wire::kProtocolVersion)
    return Status(StatusCode::kVersionMismatch, "the server speaks version " +
                                                    std::to_string(header.version) +
                                                    " of the data plane, this library version " +
                                                    std::to_string(wire::kProtocolVersion));
  if (header.header_xxh3 != xxh3_64(bytes.first(offsetof(wire::FrameHeader, header_xxh3))))
    return corrupt("header checksum");
  if (header.body_bytes != reader.remaining()) return corrupt("body length");
  if (header.body_xxh3 != xxh3_64(bytes.subspan(sizeof(wire::FrameHeader))))
    return corrupt("body checksum");
  return header;
}

std::vector<std::byte> encode_frame(wire::FrameHeader header, ByteSpan body) {
  header.body_bytes = static_cast<uint32_t>(body.size());
  header.body_xxh3 = xxh3_64(body);
  header.header_xxh3 =
      xxh3_64(std::as_bytes(std::span(&header, 1)).first(offsetof(wire::FrameHeader, header_xxh3)));
  std::vector<std::byte> bytes(sizeof(header) + body.size());
  std::memcpy(bytes.data(), &header, sizeof(header));
  if (!body.empty()) std::memcpy(bytes.data() + sizeof(header), body.data(), body.size());
  return bytes;
}

}  // namespace quire
