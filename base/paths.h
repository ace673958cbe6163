// Where Quire's files are by default; the server and its clients must agree on them.
#ifndef QUIRE_BASE_PATHS_H_
#define QUIRE_BASE_PATHS_H_

#include <string>

namespace quire {

// $QUIRE_SOCKET, else $XDG_RUNTIME_DIR/quire/quired.sock, else /tmp/quire-<uid>/quired.sock. Reads the
// environment: not to be raced with setenv().
std::string default_socket_path();

}  // namespace quire

#endif  // QUIRE_BASE_PATHS_H_
