#include "tiers/io/file_transfers.h"

#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>

namespace quire {
namespace {

// The kernel may transfer less than asked for; a transfer that needs more pieces than this is
// broken.
constexpr uint32_t kContinuationsMax = 16;

Status result_status(const char* what, int64_t result) {
  const bool full = result == -ENOSPC || result == -EDQUOT || result == -EFBIG;
  return Status(full ? StatusCode::kNoSpace : StatusCode::kIoError,
                std::string(what) + ": " +
                    (result < 0 ? std::strerror(static_cast<int>(-result)) : "short transfer"));
}

}  // namespace

std::shared_ptr<FileTransfers> FileTransfers::create(EventLoop& loop, int fd,
                                                     const FileDeviceOptions& options,
                                                     bool register_fd) {
  // Where the loop has no table or it is full, the descriptor itself does.
  if (register_fd) (void)loop.register_file(fd);
  return std::shared_ptr<FileTransfers>(new FileTransfers(loop, fd, options));
}

FileTransfers::FileTransfers(EventLoop& loop, int fd, const FileDeviceOptions& options)
    : loop_(loop), fd_(fd), part_bytes_(options.part_bytes) {
  reads_.inflight_bytes_max = options.read_inflight_bytes_max;
  writes_.inflight_bytes_max = options.write_inflight_bytes_max;
}

FileTransfers::~FileTransfers() {
  if (fd_ >= 0) ::close(fd_);
}

void FileTransfers::close() {
  closed_ = true;
  for (const TimerId timer : timers_) loop_.cancel_timer(timer);
  timers_.clear();
  loop_.unregister_file(fd_);
  reads_.waiting.clear();
  writes_.waiting.clear();
}

void FileTransfers::start(bool is_write, uint64_t offset, MutableByteSpan memory,
                          const Status& refusal, DeviceCallback done) {
  Status status = refusal;
  Direction& direction = is_write ? writes_ : reads_;
  if (status.is_ok() && direction.waiting.size() >= BlockDevice::kQueuedOpsMax) {
    status = Status(StatusCode::kBusy, "too many device operations are waiting", 10);
  }
  if (!status.is_ok()) {
    defer([status, done = std::move(done)] { done(status); });
    return;
  }
  auto transfer = std::make_shared<Transfer>();
  transfer->is_write = is_write;
  transfer->offset = offset;
  transfer->memory = memory;
  transfer->done = std::move(done);
  direction.waiting.push_back(std::move(transfer));
  pump();
}

void FileTransfers::pump() {
  pump_direction(reads_);
  pump_direction(writes_);
}

void FileTransfers::pump_direction(Direction& direction) {
  while (!direction.waiting.empty()) {
    const std::shared_ptr<Transfer> transfer = direction.waiting.front();
    const uint64_t bytes = std::min(part_bytes_, transfer->memory.size() - transfer->issued_bytes);
    if (direction.inflight_bytes > 0 &&
        direction.inflight_bytes + bytes > direction.inflight_bytes_max) {
      return;
    }
    const uint64_t begin = transfer->issued_bytes;
    transfer->issued_bytes += bytes;
    if (transfer->issued_bytes == transfer->memory.size()) direction.waiting.pop_front();
    issue(transfer, begin, bytes);
  }
}

void FileTransfers::issue(const std::shared_ptr<Transfer>& transfer, uint64_t begin,
                          uint64_t bytes) {
  ++transfer->parts_inflight;
  direction_of(*transfer).inflight_bytes += bytes;
  auto done = [self = shared_from_this(), transfer, begin, bytes](int64_t result) {
    self->finish_part(transfer, begin, bytes, result);
  };
  const MutableByteSpan memory = transfer->memory.subspan(begin, bytes);
  if (transfer->is_write) {
    loop_.write(fd_, memory, transfer->offset + begin, std::move(done));
  } else {
    loop_.read(fd_, memory, transfer->offset + begin, std::move(done));
  }
}

void FileTransfers::finish_part(const std::shared_ptr<Transfer>& transfer, uint64_t begin,
                                uint64_t bytes, int64_t result) {
  Direction& direction = direction_of(*transfer);
  --transfer->parts_inflight;
  direction.inflight_bytes -= bytes;
  if (closed_) return;
  const bool all = result == static_cast<int64_t>(bytes);
  const bool continues = result > 0 && !all && result % static_cast<int64_t>(kBlockBytes) == 0 &&
                         transfer->error.is_ok() && ++transfer->continuations <= kContinuationsMax;
  const bool again = result == -EINTR || result == -EAGAIN;
  if (continues) {
    issue(transfer, begin + result, bytes - result);
  } else if (again && ++transfer->continuations <= kContinuationsMax) {
    issue(transfer, begin, bytes);
  } else if (!all && transfer->error.is_ok()) {
    transfer->error = result_status(transfer->is_write ? "device write" : "device read", result);
    // The parts not issued yet are pointless now.
    if (transfer->issued_bytes < transfer->memory.size()) {
      transfer->issued_bytes = transfer->memory.size();
      std::erase(direction.waiting, transfer);
    }
  }
  pump();
  if (transfer->parts_inflight == 0 && transfer->issued_bytes == transfer->memory.size()) {
    const DeviceCallback done = std::move(transfer->done);
    done(transfer->error);
  }
}

void FileTransfers::defer(std::function<void()> task) {
  loop_.post([self = shared_from_this(), task = std::move(task)] {
    if (!self->closed_) task();
  });
}

void FileTransfers::run_after(uint64_t delay_ns, std::function<void()> task) {
  // The timer names itself when it runs: the id is known only after it was added.
  const auto id = std::make_shared<TimerId>();
  *id = loop_.add_timer(loop_.now_ns() + delay_ns,
                        [self = shared_from_this(), id, task = std::move(task)] {
                          if (self->closed_) return;
                          self->timers_.erase(*id);
                          task();
                        });
  timers_.insert(*id);
}

void FileTransfers::sync(DeviceCallback done) {
  loop_.fdatasync(fd_, [self = shared_from_this(), done = std::move(done)](int64_t result) {
    if (self->closed_) return;
    done(result == 0 ? Status::ok() : result_status("fdatasync", result));
  });
}

}  // namespace quire
