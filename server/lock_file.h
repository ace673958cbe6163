// One process per resource: flock on a file that stays. The lock goes with the process, however it
// ends.
#ifndef QUIRE_SERVER_LOCK_FILE_H_
#define QUIRE_SERVER_LOCK_FILE_H_

#include <string>

#include "base/status.h"

namespace quire::server {

class LockFile {
 public:
  // Creates the file (mode 0600) where it is missing. kUnavailable where another process holds it:
  // the message names the file, its holder's pid and `what`.
  static Expected<LockFile> acquire(const std::string& path, const std::string& what);
  LockFile() = default;
  LockFile(LockFile&& other) noexcept;
  LockFile& operator=(LockFile&& other) noexcept;
  ~LockFile();

 private:
  explicit LockFile(int fd) : fd_(fd) {}
  int fd_ = -1;
};

// Creates the directory (mode 0700) and its missing parents. kPermissionDenied where it belongs to
// another user than this one or root, or cannot be written.
Status make_private_directory(const std::string& path);

}  // namespace quire::server

#endif  // QUIRE_SERVER_LOCK_FILE_H_
