#include "base/paths.h"

#include <unistd.h>

#include <cstdlib>

namespace quire {

std::string default_socket_path() {
  if (const char* path = std::getenv("QUIRE_SOCKET"); path != nullptr && *path != '\0') return path;
  if (const char* directory = std::getenv("XDG_RUNTIME_DIR");
      directory != nullptr && *directory != '\0')
    return std::string(directory) + "/quire/quired.sock";
  return "/tmp/quire-" + std::to_string(getuid()) + "/quired.sock";
}

}  // namespace quire
