#include "base/paths.h"

#include <unistd.h>

#include <cstdlib>

namespace quire {
namespace {

// An unset and an empty variable mean the same.
std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

}  // namespace

std::string default_socket_path() {
  if (std::string path = environment("QUIRE_SOCKET"); !path.empty()) return path;
  if (const std::string runtime = environment("XDG_RUNTIME_DIR"); !runtime.empty()) {
    return runtime + "/quire/quired.sock";
  }
  return "/tmp/quire-" + std::to_string(::getuid()) + "/quired.sock";
}

std::string default_data_directory() {
  if (const std::string data = environment("XDG_DATA_HOME"); !data.empty()) return data + "/quire";
  if (const std::string home = environment("HOME"); !home.empty()) {
    return home + "/.local/share/quire";
  }
  return "/var/lib/quire";
}

}  // namespace quire
