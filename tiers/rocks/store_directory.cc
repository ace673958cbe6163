#include "tiers/rocks/store_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <utility>

#include "tiers/io/kill_point.h"
#include "tiers/rocks/durable_file.h"

namespace quire::tiers {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMarkerName = "FORMAT";
constexpr std::string_view kMarkerTemporaryName = "FORMAT.tmp";
constexpr std::string_view kLockName = "LOCK";
constexpr std::string_view kDatabaseName = "db";
constexpr std::string_view kMarkerHead = "quire metadata store\nversion ";
constexpr size_t kMarkerBytesMax = 256;

// kUnmarked: a store that has lost its marker.
enum class Contents : uint8_t { kEmpty, kStore, kUnmarked, kForeign };

Expected<Contents> contents_of(const std::string& path) {
  std::error_code error;
  bool locked_once = false;
  bool has_database = false;
  bool foreign = false;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name == kMarkerName) return Contents::kStore;
    // Lock and temporary marker alone were left by a start that was killed before its marker.
    if (name == kLockName) {
      locked_once = true;
    } else if (name == kDatabaseName) {
      has_database = true;
    } else if (name != kMarkerTemporaryName) {
      foreign = true;
    }
  }
  if (error) return errno_status(error.value(), "cannot list " + quoted(path));
  if (foreign || (has_database && !locked_once)) return Contents::kForeign;
  return has_database ? Contents::kUnmarked : Contents::kEmpty;
}

Expected<uint32_t> read_marker(const std::string& directory) {
  const std::string path = directory + "/" + std::string(kMarkerName);
  const ScopedFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.fd < 0) return errno_status(errno, "cannot open " + quoted(path));
  char buffer[kMarkerBytesMax];
  const ssize_t count = ::read(file.fd, buffer, sizeof(buffer));
  if (count < 0) return errno_status(errno, "cannot read " + quoted(path));
  const Status damaged(StatusCode::kCorrupt,
                       quoted(path) +
                           " is damaged, so this may not be a metadata store of Quire; "
                           "nothing was changed. Choose another directory, or restore it");
  std::string_view text(buffer, static_cast<size_t>(count));
  if (!text.starts_with(kMarkerHead)) return damaged;
  text.remove_prefix(kMarkerHead.size());
  uint32_t version = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), version);
  if (error != std::errc{} || std::string_view(end, text.data() + text.size()) != "\n")
    return damaged;
  if (version == 0) return damaged;
  if (version > kStoreFormatVersion)
    return Status(StatusCode::kVersionMismatch,
                  "the metadata store in " + quoted(directory) + " has format version " +
                      std::to_string(version) + ", this Quire reads versions up to " +
                      std::to_string(kStoreFormatVersion) +
                      "; use the Quire that wrote it, or another directory");
  return version;
}

Expected<int> take_lock(const std::string& directory) {
  const std::string path = directory + "/" + std::string(kLockName);
  ScopedFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (file.fd < 0) return errno_status(errno, "cannot open " + quoted(path));
  if (::flock(file.fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return errno_status(errno, "cannot lock " + quoted(path));
    char owner[16] = {};
    const ssize_t count = ::pread(file.fd, owner, sizeof(owner) - 1, 0);
    return Status(StatusCode::kFailedPrecondition,
                  "the data directory " + quoted(directory) + " is in use by another server" +
                      (count > 0 ? " (process " + std::string(owner) + ")" : std::string()) +
                      "; stop that one or choose another directory");
  }
  // For the message above only: the lock itself is what counts.
  const std::string owner = std::to_string(::getpid());
  if (::ftruncate(file.fd, 0) != 0 || ::pwrite(file.fd, owner.data(), owner.size(), 0) < 0)
    return errno_status(errno, "cannot write " + quoted(path));
  return std::exchange(file.fd, -1);
}

}  // namespace

Status write_store_marker(const std::string& directory) {
  const std::string text = std::string(kMarkerHead) + std::to_string(kStoreFormatVersion) + "\n";
  return replace_file(directory + "/" + std::string(kMarkerName),
                      directory + "/" + std::string(kMarkerTemporaryName),
                      std::as_bytes(std::span(text)),
                      {"rocks_marker_written", "rocks_marker_renamed"});
}

Status set_aside_store(const std::string& directory, std::string* moved_to) {
  QUIRE_ASSIGN_OR_RETURN(const Contents contents, contents_of(directory));
  if (contents != Contents::kStore && contents != Contents::kUnmarked)
    return {StatusCode::kFailedPrecondition,
            quoted(directory) + " is not a metadata store of Quire; nothing was changed"};
  QUIRE_ASSIGN_OR_RETURN(const int lock_fd, take_lock(directory));
  const ScopedFd lock(lock_fd);
  if (contents == Contents::kStore) {
    const Status marker = read_marker(directory).status();
    if (marker.code() == StatusCode::kVersionMismatch) return marker;
  }
  const fs::path path = fs::path(directory).lexically_normal();
  const std::string from = (path.has_filename() ? path : path.parent_path()).string();
  std::error_code error;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  auto now_ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  while (fs::exists(from + ".damaged-" + std::to_string(now_ms), error)) ++now_ms;
  const std::string to = from + ".damaged-" + std::to_string(now_ms);
  QUIRE_KILL_POINT("rocks_set_aside");
  if (::rename(from.c_str(), to.c_str()) != 0)
    return errno_status(errno, "cannot rename " + quoted(from) + " to " + quoted(to));
  QUIRE_KILL_POINT("rocks_set_aside_renamed");
  if (moved_to != nullptr) *moved_to = to;
  return sync_parent_directory(from);
}

Expected<StoreDirectory> StoreDirectory::open(const std::string& path, bool create_if_missing) {
  std::error_code error;
  if (!fs::exists(path, error)) {
    if (!create_if_missing)
      return Status(StatusCode::kNotFound, "there is no metadata store in " + quoted(path));
    fs::create_directories(path, error);
    if (error) return errno_status(error.value(), "cannot create " + quoted(path));
    // The tenants' salts are in there.
    fs::permissions(path, fs::perms::owner_all, error);
  }
  if (!fs::is_directory(path, error))
    return Status(StatusCode::kFailedPrecondition,
                  quoted(path) + " is not a directory; choose another one");
  QUIRE_ASSIGN_OR_RETURN(const Contents contents, contents_of(path));
  if (contents == Contents::kForeign)
    return Status(StatusCode::kFailedPrecondition,
                  quoted(path) +
                      " holds files that are not a metadata store of Quire; nothing was "
                      "changed. Choose an empty directory");
  if (contents == Contents::kUnmarked)
    return Status(StatusCode::kCorrupt,
                  "the metadata store in " + quoted(path) +
                      " has lost its FORMAT file; nothing was changed. Move the directory away "
                      "to start empty, or restore it");
  if (contents == Contents::kEmpty && !create_if_missing)
    return Status(StatusCode::kNotFound, "there is no metadata store in " + quoted(path));
  if (contents == Contents::kStore) QUIRE_RETURN_IF_ERROR(read_marker(path).status());
  QUIRE_ASSIGN_OR_RETURN(const int lock_fd, take_lock(path));
  StoreDirectory directory(path, lock_fd, kStoreFormatVersion);
  // Again: who held the lock until now may have upgraded it.
  if (contents == Contents::kStore) {
    QUIRE_ASSIGN_OR_RETURN(directory.format_version_, read_marker(path));
  }
  if (contents == Contents::kEmpty) QUIRE_RETURN_IF_ERROR(write_store_marker(path));
  return directory;
}

StoreDirectory::StoreDirectory(std::string path, int lock_fd, uint32_t format_version)
    : path_(std::move(path)), lock_fd_(lock_fd), format_version_(format_version) {}

StoreDirectory::StoreDirectory(StoreDirectory&& other) noexcept
    : path_(std::move(other.path_)),
      lock_fd_(std::exchange(other.lock_fd_, -1)),
      format_version_(other.format_version_) {}

StoreDirectory& StoreDirectory::operator=(StoreDirectory&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(lock_fd_, other.lock_fd_);
  std::swap(format_version_, other.format_version_);
  return *this;
}

StoreDirectory::~StoreDirectory() {
  if (lock_fd_ >= 0) ::close(lock_fd_);
}

Status StoreDirectory::mark_upgraded() {
  QUIRE_RETURN_IF_ERROR(write_store_marker(path_));
  format_version_ = kStoreFormatVersion;
  return Status::ok();
}

bool StoreDirectory::has_database() const {
  std::error_code error;
  return fs::exists(database_path() + "/CURRENT", error);
}

bool StoreDirectory::has_database_files() const {
  std::error_code error;
  for (fs::directory_iterator it(database_path(), error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    // Made before CURRENT by a first start that may have been killed.
    if (name.ends_with(".sst") || name.ends_with(".blob") || name.ends_with(".log")) return true;
  }
  return false;
}

}  // namespace quire::tiers
