// Small files that are replaced as a whole, and errno as Status. For this folder.
#ifndef QUIRE_TIERS_ROCKS_DURABLE_FILE_H_
#define QUIRE_TIERS_ROCKS_DURABLE_FILE_H_

#include <string>

#include "base/bytes.h"
#include "base/status.h"

namespace quire::tiers {

// Closes at the end of its scope.
struct ScopedFd {
  explicit ScopedFd(int given) : fd(given) {}
  ScopedFd(const ScopedFd&) = delete;
  ScopedFd& operator=(const ScopedFd&) = delete;
  ~ScopedFd();
  int fd;
};

std::string quoted(const std::string& path);

// kNotFound, kPermissionDenied, kNoSpace or kIoError.
Status errno_status(int error, const std::string& what);

Status sync_directory(const std::string& path);
// The directory that holds path.
Status sync_parent_directory(const std::string& path);

// Where to stop for a test; both may be null.
struct ReplaceKillPoints {
  const char* written = nullptr;  // the temporary file is synced
  const char* renamed = nullptr;  // the directory is not yet
};

// Writes temporary (mode 0600), syncs it, renames it to path and syncs the directory.
Status replace_file(const std::string& path, const std::string& temporary, ByteSpan bytes,
                    const ReplaceKillPoints& kill_points = {});

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_ROCKS_DURABLE_FILE_H_
