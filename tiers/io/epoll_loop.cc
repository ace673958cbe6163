#include "tiers/io/epoll_loop.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <vector>

#include "tiers/io/loop_core.h"

namespace quire {
namespace {

constexpr uint32_t kEventBatch = 64;
constexpr uint32_t kPoolThreadsMax = 64;

enum class FileOp : uint8_t { kRead, kWrite, kSync };

struct FileRequest {
  FileOp op = FileOp::kRead;
  int fd = -1;
  std::byte* data = nullptr;  // of a write: only read from
  uint64_t bytes = 0;
  uint64_t offset = 0;
  int64_t result = 0;
  IoCallback done;
};

int64_t perform(const FileRequest& request) {
  for (;;) {
    int64_t result = 0;
    switch (request.op) {
      case FileOp::kRead:
        result = ::pread(request.fd, request.data, request.bytes, request.offset);
        break;
      case FileOp::kWrite:
        result = ::pwrite(request.fd, request.data, request.bytes, request.offset);
        break;
      case FileOp::kSync:
        result = ::fdatasync(request.fd);
        break;
    }
    if (result >= 0) return result;
    if (errno != EINTR) return -errno;
  }
}

struct Watch {
  int fd = -1;
  bool active = true;
  std::function<void(uint32_t)> on_ready;
};

class EpollLoop final : public LoopCore {
 public:
  ~EpollLoop() override;
  Status init(const EventLoopOptions& options, std::string reason);

  Status watch_fd(int fd, uint32_t poll_events, std::function<void(uint32_t)> on_ready) override;
  void unwatch_fd(int fd) override;
  void read(int fd, MutableByteSpan target, uint64_t offset, IoCallback done) override;
  void write(int fd, ByteSpan source, uint64_t offset, IoCallback done) override;
  void fdatasync(int fd, IoCallback done) override;
  Status register_buffer(MutableByteSpan) override {
    return Status(StatusCode::kUnsupported, "fixed buffers need io_uring: " + detail_);
  }
  Status register_file(int) override {
    return Status(StatusCode::kUnsupported, "only io_uring has a table of files");
  }
  void unregister_file(int) override {}
  std::string backend() const override { return "epoll + pread pool"; }
  std::string backend_detail() const override { return detail_; }

 protected:
  void wait_and_dispatch(uint64_t wait_ns) override;

 private:
  void enqueue(FileRequest request);
  void run_worker();
  void run_finished();
  int wait(uint64_t wait_ns, epoll_event* events);

  int epoll_fd_ = -1;
  bool has_pwait2_ = true;
  std::string detail_;
  std::unordered_map<int, std::unique_ptr<Watch>> watches_;
  std::vector<std::unique_ptr<Watch>> retired_;  // may still be named by events of this batch

  std::mutex mutex_;
  std::condition_variable work_ready_;
  std::deque<FileRequest> queue_;
  std::vector<FileRequest> finished_;
  bool stopping_ = false;
  std::atomic<bool> finished_any_{false};
  std::vector<std::thread> threads_;
};

EpollLoop::~EpollLoop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    queue_.clear();
  }
  work_ready_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  if (epoll_fd_ >= 0) ::close(epoll_fd_);
}

Status EpollLoop::init(const EventLoopOptions& options, std::string reason) {
  detail_ = std::move(reason);
  QUIRE_RETURN_IF_ERROR(open_wake_fd());
  epoll_fd_ = ::epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd_ < 0) {
    return Status(StatusCode::kResourceExhausted,
                  std::string("epoll_create1: ") + std::strerror(errno));
  }
  QUIRE_RETURN_IF_ERROR(watch_fd(wake_fd(), EPOLLIN, [](uint32_t) {}));
  const uint32_t count = std::clamp(options.pool_threads, 1u, kPoolThreadsMax);
  try {
    for (uint32_t i = 0; i < count; ++i) threads_.emplace_back([this] { run_worker(); });
  } catch (const std::system_error& error) {
    if (threads_.empty()) {
      return Status(StatusCode::kResourceExhausted, std::string("no thread: ") + error.what());
    }
  }
  return Status::ok();
}

Status EpollLoop::watch_fd(int fd, uint32_t poll_events, std::function<void(uint32_t)> on_ready) {
  unwatch_fd(fd);
  auto watch = std::make_unique<Watch>(Watch{fd, true, std::move(on_ready)});
  epoll_event event{};
  event.events = poll_events | EPOLLET;  // poll and epoll share their bits
  event.data.ptr = watch.get();
  if (::epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) != 0) {
    const bool limit = errno == ENOSPC || errno == ENOMEM;
    return Status(limit ? StatusCode::kResourceExhausted : StatusCode::kInvalidArgument,
                  std::string("watch_fd: ") + std::strerror(errno));
  }
  watches_[fd] = std::move(watch);
  return Status::ok();
}

void EpollLoop::unwatch_fd(int fd) {
  const auto found = watches_.find(fd);
  if (found == watches_.end()) return;
  found->second->active = false;
  retired_.push_back(std::move(found->second));
  watches_.erase(found);
  ::epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, fd, nullptr);
}

void EpollLoop::enqueue(FileRequest request) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(request));
  }
  work_ready_.notify_one();
}

void EpollLoop::read(int fd, MutableByteSpan target, uint64_t offset, IoCallback done) {
  enqueue({FileOp::kRead, fd, target.data(), target.size(), offset, 0, std::move(done)});
}

void EpollLoop::write(int fd, ByteSpan source, uint64_t offset, IoCallback done) {
  enqueue({FileOp::kWrite, fd, const_cast<std::byte*>(source.data()), source.size(), offset, 0,
           std::move(done)});
}

void EpollLoop::fdatasync(int fd, IoCallback done) {
  enqueue({FileOp::kSync, fd, nullptr, 0, 0, 0, std::move(done)});
}

void EpollLoop::run_worker() {
  std::unique_lock lock(mutex_);
  for (;;) {
    work_ready_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    FileRequest request = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    request.result = perform(request);
    lock.lock();
    finished_.push_back(std::move(request));
    finished_any_.store(true);
    wake();
  }
}

void EpollLoop::run_finished() {
  if (!finished_any_.load()) return;
  std::vector<FileRequest> finished;
  {
    const std::lock_guard lock(mutex_);
    finished.swap(finished_);
    finished_any_.store(false);
  }
  for (FileRequest& request : finished) request.done(request.result);
}

int EpollLoop::wait(uint64_t wait_ns, epoll_event* events) {
  if (has_pwait2_) {
    const timespec limit{static_cast<time_t>(wait_ns / 1'000'000'000),
                         static_cast<long>(wait_ns % 1'000'000'000)};
    const int count = ::epoll_pwait2(epoll_fd_, events, kEventBatch,
                                     wait_ns == kForever ? nullptr : &limit, nullptr);
    if (count >= 0 || (errno != ENOSYS && errno != EPERM)) return count;
    has_pwait2_ = false;  // before Linux 5.11
  }
  constexpr uint64_t kMillisMax = 1'000'000;
  const uint64_t wait_ms = std::min(wait_ns / 1'000'000 + (wait_ns % 1'000'000 != 0), kMillisMax);
  return ::epoll_wait(epoll_fd_, events, kEventBatch,
                      wait_ns == kForever ? -1 : static_cast<int>(wait_ms));
}

void EpollLoop::wait_and_dispatch(uint64_t wait_ns) {
  std::array<epoll_event, kEventBatch> events;
  const int count = wait(finished_any_.load() ? 0 : wait_ns, events.data());
  for (int i = 0; i < count; ++i) {
    auto* watch = static_cast<Watch*>(events[i].data.ptr);
    if (watch->active) watch->on_ready(events[i].events);
  }
  run_finished();
  retired_.clear();
}

}  // namespace

Expected<std::unique_ptr<EventLoop>> make_epoll_loop(const EventLoopOptions& options,
                                                     std::string reason) {
  auto loop = std::make_unique<EpollLoop>();
  QUIRE_RETURN_IF_ERROR(loop->init(options, std::move(reason)));
  return std::unique_ptr<EventLoop>(std::move(loop));
}

}  // namespace quire
