// The unix socket that clients connect to: SOCK_SEQPACKET, mode 0600, in a directory of mode 0700
// that is made where it is missing. A socket left behind by a dead server is replaced; a live
// server is an error.
#ifndef QUIRE_SERVER_REACTOR_LISTENER_H_
#define QUIRE_SERVER_REACTOR_LISTENER_H_

#include <string>

#include "base/status.h"
#include "server/lock_file.h"

namespace quire::server {

class Listener {
 public:
  static Expected<Listener> open(const std::string& path);
  Listener(Listener&& other) noexcept;
  Listener& operator=(Listener&&) = delete;
  // Removes the socket file.
  ~Listener();

  int fd() const { return fd_; }

 private:
  Listener(int fd, std::string path, LockFile lock);

  int fd_ = -1;
  std::string path_;
  LockFile lock_;
};

// True where the peer of a connected unix socket runs as this process' user or as root.
bool peer_is_allowed(int fd);

}  // namespace quire::server

#endif  // QUIRE_SERVER_REACTOR_LISTENER_H_
