// Where Quire keeps its socket and its data unless told otherwise. Both ends use the same
// functions, so a client finds a server that was started without arguments.
#ifndef QUIRE_BASE_PATHS_H_
#define QUIRE_BASE_PATHS_H_

#include <string>

namespace quire {

// $QUIRE_SOCKET, else $XDG_RUNTIME_DIR/quire/quired.sock, else /tmp/quire-<uid>/quired.sock.
std::string default_socket_path();

// $XDG_DATA_HOME/quire, else $HOME/.local/share/quire, else /var/lib/quire.
std::string default_data_directory();

}  // namespace quire

#endif  // QUIRE_BASE_PATHS_H_
