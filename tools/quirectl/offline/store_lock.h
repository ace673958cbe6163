// Keeps a server from starting on a data directory while its files are read or repaired.
#ifndef QUIRE_TOOLS_QUIRECTL_OFFLINE_STORE_LOCK_H_
#define QUIRE_TOOLS_QUIRECTL_OFFLINE_STORE_LOCK_H_

#include <string>
#include <vector>

#include "base/status.h"

namespace quire::ctl {

// The locks that quired takes, by flock on its lock files; the files are neither made nor changed.
class StoreLock {
 public:
  // kFailedPrecondition while a server has the directory open: the message names its process id.
  // kNotFound where there is no such directory.
  static Expected<StoreLock> acquire(const std::string& data_directory);
  // That of <directory>/meta alone, which whoever opens it as a store takes itself.
  static Expected<StoreLock> acquire_metadata(const std::string& data_directory);
  StoreLock(StoreLock&& other) noexcept = default;
  StoreLock& operator=(StoreLock&& other) noexcept;
  ~StoreLock();

 private:
  StoreLock() = default;
  Status lock(const std::string& path, const std::string& data_directory);

  std::vector<int> fds_;
};

// Those given, else <data_directory>/nvme*.quire in order of their names.
std::vector<std::string> segment_files(const std::string& data_directory,
                                       const std::vector<std::string>& given);

}  // namespace quire::ctl

#endif  // QUIRE_TOOLS_QUIRECTL_OFFLINE_STORE_LOCK_H_
