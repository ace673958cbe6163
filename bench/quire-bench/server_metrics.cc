#include "bench/quire-bench/server_metrics.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <sstream>

namespace quire::bench {
namespace {

class Socket {
 public:
  Socket() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {}
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

sockaddr_in loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

Status failure(const char* what) {
  return {StatusCode::kIoError, std::string(what) + ": " + std::strerror(errno)};
}

// The whole answer, headers too.
Expected<std::string> get(uint16_t port, const std::string& path) {
  const Socket socket;
  if (socket.get() < 0) return failure("socket");
  const timeval timeout{.tv_sec = kMetricsTimeoutMs / 1000, .tv_usec = 0};
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  const sockaddr_in address = loopback(port);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
    return failure("connect to the server's metrics");
  const std::string request = "GET " + path +
                              " HTTP/1.1\r\nHost: 127.0.0.1:" + std::to_string(port) +
                              "\r\nConnection: close\r\n\r\n";
  if (::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size()))
    return failure("ask for the server's metrics");
  std::string answer;
  char part[16384];
  while (answer.size() < kMetricsBytesMax) {
    const ssize_t n = ::recv(socket.get(), part, sizeof(part), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failure("read the server's metrics");
    if (n == 0) break;
    answer.append(part, static_cast<size_t>(n));
  }
  if (answer.find(" 200 ") == std::string::npos || answer.find(" 200 ") > 16)
    return Status(StatusCode::kUnavailable, "no metrics: " + answer.substr(0, 60));
  return answer;
}

}  // namespace

Expected<ServerMetrics> read_server_metrics(uint16_t port) {
  QUIRE_ASSIGN_OR_RETURN(const std::string answer, get(port, "/metrics"));
  ServerMetrics metrics;
  std::istringstream lines(answer);
  for (std::string line; std::getline(lines, line);) {
    const size_t space = line.rfind(' ');
    if (line.rfind("quire_", 0) != 0 || space == std::string::npos) continue;
    double value = 0;
    const char* end = line.data() + line.size();
    if (std::from_chars(line.data() + space + 1, end, value).ec == std::errc())
      metrics[line.substr(0, space)] = value;
  }
  return metrics;
}

Expected<double> metric(const ServerMetrics& metrics, std::string_view name) {
  const auto found = metrics.find(name);
  if (found == metrics.end())
    return Status(StatusCode::kNotFound, "the server does not tell " + std::string(name));
  return found->second;
}

Expected<uint16_t> free_port() {
  const Socket socket;
  sockaddr_in address = loopback(0);
  socklen_t bytes = sizeof(address);
  if (socket.get() < 0 ||
      ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &bytes) != 0)
    return failure("find a free port");
  return ntohs(address.sin_port);
}

}  // namespace quire::bench
