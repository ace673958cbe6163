#include "tiers/io/file_device.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "tiers/io/aligned_buffer.h"
#include "tiers/io/device_probe.h"
#include "tiers/io/file_transfers.h"

namespace quire {
namespace {

constexpr uint32_t kLockWaitMs = 2000;
constexpr uint32_t kLockPollMs = 20;

// Owns a descriptor until it is handed over.
class OpenFile {
 public:
  OpenFile() = default;
  explicit OpenFile(int fd) : fd_(fd) {}
  OpenFile(OpenFile&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  OpenFile& operator=(OpenFile&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~OpenFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

Status errno_status(const std::string& path, const char* what) {
  const int error = errno;
  StatusCode code = StatusCode::kIoError;
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) code = StatusCode::kNoSpace;
  if (error == EACCES || error == EPERM || error == EROFS) code = StatusCode::kPermissionDenied;
  if (error == ENOENT || error == ENOTDIR) code = StatusCode::kNotFound;
  if (error == EMFILE || error == ENFILE) code = StatusCode::kResourceExhausted;
  return Status(code, path + ": " + what + ": " + std::strerror(error));
}

// A new file survives a power cut only if its directory entry does.
Status sync_with_directory(const std::string& path, int fd) {
  if (::fsync(fd) != 0) return errno_status(path, "fsync");
  std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (folder.empty()) folder = ".";
  const OpenFile directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0 || ::fsync(directory.get()) != 0) {
    return errno_status(folder.string(), "fsync of the directory");
  }
  return Status::ok();
}

Status preallocate(const std::string& path, int fd, uint64_t bytes) {
  if (::fallocate(fd, 0, 0, static_cast<off_t>(bytes)) == 0) return Status::ok();
  if (errno != EOPNOTSUPP && errno != ENOSYS) return errno_status(path, "fallocate");
  if (::ftruncate(fd, static_cast<off_t>(bytes)) != 0) return errno_status(path, "ftruncate");
  return Status::ok();
}

// Size of the file or device, grown to what the options ask for.
Expected<uint64_t> prepare_size(const FileDeviceOptions& options, int fd, bool is_new) {
  struct stat information {};
  if (::fstat(fd, &information) != 0) return errno_status(options.path, "fstat");
  if (S_ISBLK(information.st_mode)) {
    uint64_t bytes = 0;
    if (::ioctl(fd, BLKGETSIZE64, &bytes) != 0) return errno_status(options.path, "BLKGETSIZE64");
    return bytes / kBlockBytes * kBlockBytes;
  }
  if (!S_ISREG(information.st_mode)) {
    return Status(StatusCode::kInvalidArgument,
                  options.path + ": neither a regular file nor a block device");
  }
  uint64_t bytes = information.st_size;
  if (options.size_bytes > bytes && !options.read_only) {
    bytes = align_up(options.size_bytes, kBlockBytes);
    const Status allocated = preallocate(options.path, fd, bytes);
    if (!allocated.is_ok()) {
      if (is_new) ::unlink(options.path.c_str());
      return allocated;
    }
    QUIRE_RETURN_IF_ERROR(sync_with_directory(options.path, fd));
  }
  if (bytes < kBlockBytes) {
    return Status(StatusCode::kInvalidArgument, options.path + ": smaller than one block");
  }
  return bytes / kBlockBytes * kBlockBytes;
}

// A second description of the same file with O_DIRECT, if the file system takes direct reads.
OpenFile open_direct(const FileDeviceOptions& options) {
  const int mode = options.read_only ? O_RDONLY : O_RDWR;
  OpenFile file(::open(options.path.c_str(), mode | O_DIRECT | O_CLOEXEC));
  if (file.get() < 0) return file;
  const AlignedBuffer block(kBlockBytes);
  if (::pread(file.get(), block.data(), kBlockBytes, 0) < 0) return OpenFile();
  return file;
}

// One description holds the lock, another may do the I/O.
class FileDevice final : public BlockDevice {
 public:
  FileDevice(EventLoop& loop, const FileDeviceOptions& options, OpenFile lock, OpenFile direct,
             uint64_t bytes, const DeviceProfile& profile)
      : bytes_(bytes), lock_(std::move(lock)), profile_(profile) {
    const bool is_direct = direct.get() >= 0;
    backend_ = loop.backend() + (is_direct        ? ", O_DIRECT"
                                 : options.direct ? ", buffered (O_DIRECT refused)"
                                                  : ", buffered");
    fd_ = is_direct ? direct.release() : ::fcntl(lock_.get(), F_DUPFD_CLOEXEC, 0);
    transfers_ = FileTransfers::create(loop, fd_, options, is_direct);
    profile_.read_inflight_bytes_max = options.read_inflight_bytes_max;
    profile_.write_inflight_bytes_max = options.write_inflight_bytes_max;
  }
  ~FileDevice() override { transfers_->close(); }

  bool valid() const { return fd_ >= 0; }

  void read(uint64_t offset, MutableByteSpan target, DeviceCallback done) override {
    const Status range = check_device_range(*this, offset, target.data(), target.size());
    transfers_->start(false, offset, target, range, std::move(done));
  }
  void write(uint64_t offset, ByteSpan source, DeviceCallback done) override {
    const Status range = check_device_range(*this, offset, source.data(), source.size());
    // Only read from.
    const MutableByteSpan memory(const_cast<std::byte*>(source.data()), source.size());
    transfers_->start(true, offset, memory, range, std::move(done));
  }
  void sync(DeviceCallback done) override { transfers_->sync(std::move(done)); }
  void defer(std::function<void()> task) override { transfers_->defer(std::move(task)); }
  bool run_after(uint64_t delay_ns, std::function<void()> task) override {
    transfers_->run_after(delay_ns, std::move(task));
    return true;
  }
  DeviceProfile profile() const override { return profile_; }

  Status read_blocking(uint64_t offset, MutableByteSpan target) override {
    QUIRE_RETURN_IF_ERROR(check_device_range(*this, offset, target.data(), target.size()));
    while (!target.empty()) {
      const ssize_t count = ::pread(fd_, target.data(), target.size(), static_cast<off_t>(offset));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return Status(StatusCode::kIoError, short_or_errno("pread", count));
      target = target.subspan(count);
      offset += count;
    }
    return Status::ok();
  }
  Status write_blocking(uint64_t offset, ByteSpan source) override {
    QUIRE_RETURN_IF_ERROR(check_device_range(*this, offset, source.data(), source.size()));
    while (!source.empty()) {
      const ssize_t count = ::pwrite(fd_, source.data(), source.size(), static_cast<off_t>(offset));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) {
        const bool full = count < 0 && (errno == ENOSPC || errno == EDQUOT);
        return Status(full ? StatusCode::kNoSpace : StatusCode::kIoError,
                      short_or_errno("pwrite", count));
      }
      source = source.subspan(count);
      offset += count;
    }
    return Status::ok();
  }
  Status sync_blocking() override {
    if (::fdatasync(fd_) != 0) return Status(StatusCode::kIoError, short_or_errno("fdatasync", -1));
    return Status::ok();
  }

  uint64_t size_bytes() const override { return bytes_; }
  uint64_t inflight_bytes() const override { return transfers_->inflight_bytes(); }
  std::string backend() const override { return backend_; }

 private:
  static std::string short_or_errno(const char* call, ssize_t count) {
    return std::string(call) + ": " + (count < 0 ? std::strerror(errno) : "nothing transferred");
  }

  uint64_t bytes_;
  OpenFile lock_;
  int fd_ = -1;  // closed by transfers_
  std::string backend_;
  DeviceProfile profile_;
  std::shared_ptr<FileTransfers> transfers_;
};

}  // namespace

Expected<std::unique_ptr<BlockDevice>> open_file_device(EventLoop& loop,
                                                        FileDeviceOptions options) {
  if (options.path.empty() || options.part_bytes == 0 || options.part_bytes % kBlockBytes != 0 ||
      options.read_inflight_bytes_max == 0 || options.write_inflight_bytes_max == 0) {
    return Status(StatusCode::kInvalidArgument,
                  "a file device needs a path, whole blocks as parts and bytes in flight");
  }
  const int mode = (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC;
  bool is_new = false;
  OpenFile file(::open(options.path.c_str(), mode));
  if (file.get() < 0 && errno == ENOENT && options.create && !options.read_only) {
    is_new = true;
    file = OpenFile(::open(options.path.c_str(), mode | O_CREAT | O_EXCL, 0600));
  }
  if (file.get() < 0) return errno_status(options.path, "open");
  // The lock of a killed process outlives it for as long as the kernel needs to end its I/O.
  for (uint32_t waited_ms = 0;
       ::flock(file.get(), (options.read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0;
       waited_ms += kLockPollMs) {
    if (waited_ms >= kLockWaitMs)
      return Status(StatusCode::kUnavailable, options.path + ": in use by another process");
    ::usleep(kLockPollMs * 1000);
  }
  QUIRE_ASSIGN_OR_RETURN(const uint64_t bytes, prepare_size(options, file.get(), is_new));
  OpenFile direct = options.direct ? open_direct(options) : OpenFile();
  DeviceProfile profile;
  // Buffered, only the page cache would be measured.
  if (options.probe_ms_max > 0 && direct.get() >= 0) {
    const bool may_write = is_new && !options.read_only;
    profile = probe_device(direct.get(), bytes, may_write, options.probe_ms_max);
    // What was measured chooses the limits; a direction that was not keeps what the options say.
    if (profile.read_inflight_bytes_max > 0) {
      options.read_inflight_bytes_max = profile.read_inflight_bytes_max;
    }
    if (profile.write_inflight_bytes_max > 0) {
      options.write_inflight_bytes_max = profile.write_inflight_bytes_max;
    }
  }
  auto device = std::make_unique<FileDevice>(loop, options, std::move(file), std::move(direct),
                                             bytes, profile);
  if (!device->valid()) return errno_status(options.path, "dup");
  return std::unique_ptr<BlockDevice>(std::move(device));
}

}  // namespace quire
