#include "server/lock_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

namespace quire::server {
namespace {

Status errno_status(const std::string& what) {
  const StatusCode code = errno == EACCES || errno == EPERM || errno == EROFS
                              ? StatusCode::kPermissionDenied
                          : errno == ENOSPC ? StatusCode::kNoSpace
                                            : StatusCode::kIoError;
  return Status(code, what + ": " + std::strerror(errno));
}

// The lock of a killed server outlives it for as long as the kernel needs to end its I/O.
constexpr uint32_t kLockWaitMs = 5000;
constexpr uint32_t kLockPollMs = 20;

std::string read_holder(int fd) {
  char holder[32] = {};
  const ssize_t got = ::pread(fd, holder, sizeof(holder) - 1, 0);
  return got > 0 ? std::string(holder, static_cast<size_t>(got)) : "unknown";
}

// False for a process that is gone or dead but not yet reaped.
bool is_alive(const std::string& pid) {
  std::ifstream stat("/proc/" + pid + "/stat");
  std::string line;
  if (!std::getline(stat, line)) return false;
  const size_t after_name = line.rfind(") ");
  return after_name == std::string::npos ||
         (line[after_name + 2] != 'Z' && line[after_name + 2] != 'X');
}

}  // namespace

Expected<LockFile> LockFile::acquire(const std::string& path, const std::string& what) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return errno_status("cannot open the lock file " + path);
  LockFile lock(fd);
  for (uint32_t waited_ms = 0; ::flock(fd, LOCK_EX | LOCK_NB) != 0; waited_ms += kLockPollMs) {
    if (errno != EWOULDBLOCK) return errno_status("cannot lock " + path);
    const std::string holder = read_holder(fd);
    if (waited_ms >= kLockWaitMs || is_alive(holder)) {
      return Status(StatusCode::kUnavailable, "another quired (pid " + holder + ") uses " + what +
                                                  "; stop it or choose another one");
    }
    ::usleep(kLockPollMs * 1000);
  }
  const std::string pid = std::to_string(::getpid());
  if (::ftruncate(fd, 0) != 0 || ::pwrite(fd, pid.data(), pid.size(), 0) < 0) {
    return errno_status("cannot write the lock file " + path);
  }
  return lock;
}

LockFile::LockFile(LockFile&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

LockFile& LockFile::operator=(LockFile&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

LockFile::~LockFile() {
  if (fd_ >= 0) ::close(fd_);
}

Status make_private_directory(const std::string& path) {
  std::error_code error;
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  if (!parent.empty()) std::filesystem::create_directories(parent, error);
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return errno_status("cannot make the directory " + path);
  }
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return errno_status("cannot look at " + path);
  if (!S_ISDIR(info.st_mode)) {
    return Status(StatusCode::kInvalidArgument, path + " is not a directory");
  }
  if (info.st_uid != ::geteuid() && info.st_uid != 0) {
    return Status(StatusCode::kPermissionDenied, path + " belongs to another user");
  }
  if (::access(path.c_str(), W_OK | X_OK) != 0) return errno_status("cannot write in " + path);
  return Status::ok();
}

}  // namespace quire::server
