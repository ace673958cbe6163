#include "bench/quire-bench/ping_pong.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

#include "base/clock.h"

namespace quire::bench {
namespace {

// Answers until the other end closes.
[[noreturn]] void answer(int fd) {
  std::array<char, kPingBytes> message;
  while (recv(fd, message.data(), message.size(), 0) == static_cast<ssize_t>(message.size()))
    if (send(fd, message.data(), message.size(), MSG_NOSIGNAL) < 0) break;
  _exit(0);
}

}  // namespace

Expected<std::unique_ptr<PingPong>> PingPong::start() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return Status(StatusCode::kInternal, "no socket pair");
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    ::close(ends[0]);
    answer(ends[1]);
  }
  ::close(ends[1]);
  if (pid < 0) {
    ::close(ends[0]);
    return Status(StatusCode::kInternal, "fork failed");
  }
  return std::unique_ptr<PingPong>(new PingPong(ends[0], pid));
}

PingPong::~PingPong() {
  ::close(fd_);
  waitpid(pid_, nullptr, 0);
}

Expected<uint64_t> PingPong::round_trip_ns() {
  std::array<char, kPingBytes> message{};
  const uint64_t began_ns = system_clock().now_ns();
  if (send(fd_, message.data(), message.size(), MSG_NOSIGNAL) < 0 ||
      recv(fd_, message.data(), message.size(), 0) != static_cast<ssize_t>(message.size()))
    return Status(StatusCode::kInternal, "the other side of the ping-pong is gone");
  return system_clock().now_ns() - began_ns;
}

}  // namespace quire::bench
