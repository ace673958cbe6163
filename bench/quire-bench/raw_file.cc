#include "bench/quire-bench/raw_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/clock.h"

namespace quire::bench {
namespace {

constexpr uint64_t kStepNs = 100'000'000;

}  // namespace

Expected<std::unique_ptr<RawFile>> RawFile::open(EventLoop& loop, const RawFileOptions& options) {
  constexpr int kFlags = O_RDWR | O_CREAT | O_CLOEXEC;
  bool direct = true;
  int fd = ::open(options.path.c_str(), kFlags | O_DIRECT, 0600);
  if (fd < 0 && errno == EINVAL) {
    direct = false;
    fd = ::open(options.path.c_str(), kFlags, 0600);
  }
  if (fd < 0) return Status(StatusCode::kIoError, options.path + ": " + std::strerror(errno));
  std::unique_ptr<RawFile> file(new RawFile(loop, options, fd, direct));
  if (const int error = posix_fallocate(fd, static_cast<off_t>(options.base_offset),
                                        static_cast<off_t>(options.bytes));
      error != 0)
    return Status(error == ENOSPC ? StatusCode::kNoSpace : StatusCode::kIoError,
                  options.path + ": " + std::strerror(error));
  return file;
}

RawFile::RawFile(EventLoop& loop, RawFileOptions options, int fd, bool direct)
    : loop_(loop),
      options_(std::move(options)),
      fd_(fd),
      direct_(direct),
      buffer_(std::max(options_.read_inflight_bytes, options_.write_inflight_bytes)) {
  std::memset(buffer_.data(), 0x5A, buffer_.size());
}

RawFile::~RawFile() {
  ::close(fd_);
}

std::string RawFile::backend() const {
  return loop_.backend() + (direct_ ? ", O_DIRECT" : ", buffered (O_DIRECT refused)");
}

Expected<double> RawFile::read(uint64_t offset, uint64_t bytes) {
  return transfer(offset, bytes, false);
}

Expected<double> RawFile::write(uint64_t offset, uint64_t bytes) {
  return transfer(offset, bytes, true);
}

Expected<double> RawFile::transfer(uint64_t offset, uint64_t bytes, bool is_write) {
  const uint64_t inflight = is_write ? options_.write_inflight_bytes : options_.read_inflight_bytes;
  // Each part has a buffer of its own while it is in flight.
  std::vector<uint64_t> free_slots;
  for (uint64_t i = 0; i < std::max<uint64_t>(1, inflight / options_.part_bytes); ++i)
    free_slots.push_back(i);
  const uint64_t parts = bytes / options_.part_bytes;
  uint64_t started = 0;
  uint64_t finished = 0;
  int64_t error = 0;
  const uint64_t began_ns = system_clock().now_ns();
  while (finished < parts && (error == 0 || finished < started)) {
    while (error == 0 && started < parts && !free_slots.empty()) {
      const uint64_t index = free_slots.back();
      free_slots.pop_back();
      const MutableByteSpan memory =
          buffer_.span().subspan(index * options_.part_bytes, options_.part_bytes);
      const uint64_t at = options_.base_offset + offset + started++ * options_.part_bytes;
      const auto done = [&, index](int64_t result) {
        ++finished;
        free_slots.push_back(index);
        if (result != static_cast<int64_t>(options_.part_bytes)) error = result < 0 ? result : -EIO;
      };
      if (is_write) {
        loop_.write(fd_, memory, at, done);
      } else {
        loop_.read(fd_, memory, at, done);
      }
    }
    if (finished < started) loop_.run_once(kStepNs);
  }
  bool synced = !is_write || error != 0;
  if (!synced)
    loop_.fdatasync(fd_, [&](int64_t result) {
      error = result;
      synced = true;
    });
  while (!synced) loop_.run_once(kStepNs);
  if (error < 0)
    return Status(StatusCode::kIoError,
                  options_.path + ": " + std::strerror(static_cast<int>(-error)));
  const double seconds = static_cast<double>(system_clock().now_ns() - began_ns) / 1e9;
  return static_cast<double>(bytes) / seconds;
}

}  // namespace quire::bench
