#include "tools/quirectl/offline/store_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

namespace quire::ctl {
namespace {

namespace fs = std::filesystem;

std::string read_holder(int fd) {
  char holder[32] = {};
  const ssize_t got = ::pread(fd, holder, sizeof(holder) - 1, 0);
  return got > 0 ? std::string(holder, static_cast<size_t>(got)) : "unknown";
}

}  // namespace

Expected<StoreLock> StoreLock::acquire(const std::string& data_directory) {
  std::error_code error;
  if (!fs::is_directory(data_directory, error))
    return Status(StatusCode::kNotFound, "there is no directory " + data_directory);
  StoreLock lock;
  QUIRE_RETURN_IF_ERROR(lock.lock(data_directory + "/lock", data_directory));
  return lock;
}

Expected<StoreLock> StoreLock::acquire_metadata(const std::string& data_directory) {
  StoreLock lock;
  QUIRE_RETURN_IF_ERROR(lock.lock(data_directory + "/meta/LOCK", data_directory));
  return lock;
}

Status StoreLock::lock(const std::string& path, const std::string& data_directory) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0 && errno == ENOENT) return Status::ok();  // no server was ever started here
  if (fd < 0)
    return {StatusCode::kPermissionDenied, "cannot open " + path + ": " + std::strerror(errno)};
  fds_.push_back(fd);
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return Status::ok();
  return {StatusCode::kFailedPrecondition,
          "a running quired (pid " + read_holder(fd) + ") has " + data_directory +
              " open: stop it first (quirectl drain --exit), or use the online commands"};
}

StoreLock& StoreLock::operator=(StoreLock&& other) noexcept {
  std::swap(fds_, other.fds_);
  return *this;
}

StoreLock::~StoreLock() {
  for (const int fd : fds_) ::close(fd);
}

std::vector<std::string> segment_files(const std::string& data_directory,
                                       const std::vector<std::string>& given) {
  if (!given.empty()) return given;
  std::vector<std::string> paths;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(data_directory, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("nvme") && name.ends_with(".quire")) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace quire::ctl
