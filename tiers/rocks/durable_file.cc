#include "tiers/rocks/durable_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "tiers/io/kill_point.h"

namespace quire::tiers {
namespace {

Status write_whole(int fd, ByteSpan bytes, const std::string& name) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return errno_status(count < 0 ? errno : EIO, "cannot write " + quoted(name));
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return Status::ok();
}

void reach(const char* kill_point) {
  if (kill_point != nullptr) QUIRE_KILL_POINT(kill_point);
}

}  // namespace

ScopedFd::~ScopedFd() {
  if (fd >= 0) ::close(fd);
}

std::string quoted(const std::string& path) {
  return "'" + path + "'";
}

Status errno_status(int error, const std::string& what) {
  const std::string message = what + ": " + std::strerror(error);
  switch (error) {
    case ENOENT:
      return {StatusCode::kNotFound, message};
    case EACCES:
    case EPERM:
    case EROFS:
      return {StatusCode::kPermissionDenied, message};
    case ENOSPC:
    case EDQUOT:
      return {StatusCode::kNoSpace, message};
    default:
      return {StatusCode::kIoError, message};
  }
}

Status sync_directory(const std::string& path) {
  const ScopedFd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.fd < 0 || ::fsync(directory.fd) != 0)
    return errno_status(errno, "cannot sync " + quoted(path));
  return Status::ok();
}

Status sync_parent_directory(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return sync_directory(parent.empty() ? "." : parent);
}

Status replace_file(const std::string& path, const std::string& temporary, ByteSpan bytes,
                    const ReplaceKillPoints& kill_points) {
  // What a crash left there may have other permissions.
  if (::unlink(temporary.c_str()) != 0 && errno != ENOENT)
    return errno_status(errno, "cannot remove " + quoted(temporary));
  {
    const ScopedFd file(
        ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (file.fd < 0) return errno_status(errno, "cannot create " + quoted(temporary));
    Status written = write_whole(file.fd, bytes, temporary);
    if (written && ::fsync(file.fd) != 0)
      written = errno_status(errno, "cannot sync " + quoted(temporary));
    if (!written) {
      ::unlink(temporary.c_str());
      return written;
    }
  }
  reach(kill_points.written);
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary.c_str());
    return errno_status(error, "cannot rename " + quoted(temporary));
  }
  reach(kill_points.renamed);
  return sync_parent_directory(path);
}

}  // namespace quire::tiers
