#include "server/reactor/listener.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

namespace quire::server {
namespace {

constexpr int kBacklog = 256;

Status errno_status(const std::string& what) {
  return Status(
      errno == EACCES || errno == EPERM ? StatusCode::kPermissionDenied : StatusCode::kIoError,
      what + ": " + std::strerror(errno));
}

// Removes a dead server's socket; an error where the path is anything else.
Status clear_path(const std::string& path, const sockaddr_un& address) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? Status::ok() : errno_status("cannot look at " + path);
  }
  if (!S_ISSOCK(info.st_mode)) {
    return Status(StatusCode::kInvalidArgument,
                  path + " exists and is not a socket; choose another socket_path");
  }
  const int probe = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (probe < 0) return errno_status("socket");
  const bool alive =
      ::connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  const int reason = errno;
  ::close(probe);
  if (alive || reason != ECONNREFUSED) {
    return Status(StatusCode::kUnavailable,
                  "another server listens on " + path + "; stop it or choose another socket_path");
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return errno_status("cannot remove " + path);
  return Status::ok();
}

}  // namespace

Expected<Listener> Listener::open(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return Status(StatusCode::kInvalidArgument,
                  "socket path is empty or longer than 107 characters");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  const std::string directory = std::filesystem::path(path).parent_path().string();
  if (!directory.empty()) QUIRE_RETURN_IF_ERROR(make_private_directory(directory));
  QUIRE_ASSIGN_OR_RETURN(LockFile lock, LockFile::acquire(path + ".lock", "the socket " + path));
  QUIRE_RETURN_IF_ERROR(clear_path(path, address));
  const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return errno_status("socket");
  const mode_t old_mask = ::umask(0177);
  const int bound = ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  ::umask(old_mask);
  if (bound != 0 || ::listen(fd, kBacklog) != 0) {
    const Status status = errno_status("cannot listen on " + path);
    ::close(fd);
    return status;
  }
  return Listener(fd, path, std::move(lock));
}

Listener::Listener(int fd, std::string path, LockFile lock)
    : fd_(fd), path_(std::move(path)), lock_(std::move(lock)) {}

Listener::Listener(Listener&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      path_(std::move(other.path_)),
      lock_(std::move(other.lock_)) {}

Listener::~Listener() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(path_.c_str());
}

bool peer_is_allowed(int fd) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  return peer.uid == ::geteuid() || peer.uid == 0;
}

}  // namespace quire::server
