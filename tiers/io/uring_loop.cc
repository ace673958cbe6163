#include "tiers/io/uring_loop.h"

#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <deque>
#include <unordered_set>
#include <vector>

#include "base/clock.h"
#include "base/spin_gate.h"
#include "tiers/io/loop_core.h"

namespace quire {
namespace {

constexpr uint32_t kCompletionsPerEntry = 4;
constexpr uint32_t kCompletionBatch = 64;
constexpr uint32_t kRegisteredBuffersMax = 64;
constexpr uint32_t kRegisteredFilesMax = 1024;
constexpr uint64_t kRegisteredBytesMax = 1ull << 30;  // the kernel's limit for one buffer
constexpr uint64_t kTransferBytesMax = 1ull << 30;
constexpr uint64_t kDrainNs = 10'000'000'000;

// user_data is a pointer to one of the two below with its kind in the low bits; 0: nobody cares.
constexpr uint64_t kKindMask = 7;
constexpr uint64_t kKindOp = 1;
constexpr uint64_t kKindWatch = 2;

struct alignas(8) Op {
  IoCallback done;
  Op* next_free = nullptr;
};

// One armed poll. Freed when the kernel reported its last event, so a pointer is never reused
// early.
struct alignas(8) Watch {
  int fd = -1;
  uint32_t events = 0;
  bool active = true;
  std::function<void(uint32_t)> on_ready;
};

struct Completion {
  uint64_t user_data;
  int32_t result;
  uint32_t flags;
};

void use_slot(io_uring_sqe* sqe, int slot) {
  if (slot < 0) return;
  sqe->fd = slot;
  sqe->flags |= IOSQE_FIXED_FILE;
}

class UringLoop final : public LoopCore {
 public:
  ~UringLoop() override;
  Status init(const EventLoopOptions& options);

  Status watch_fd(int fd, uint32_t poll_events, std::function<void(uint32_t)> on_ready) override;
  void unwatch_fd(int fd) override;
  void read(int fd, MutableByteSpan target, uint64_t offset, IoCallback done) override;
  void write(int fd, ByteSpan source, uint64_t offset, IoCallback done) override;
  void fdatasync(int fd, IoCallback done) override;
  Status register_buffer(MutableByteSpan buffer) override;
  Status register_file(int fd) override;
  void unregister_file(int fd) override;
  std::string backend() const override { return "io_uring"; }
  std::string backend_detail() const override { return detail_; }

 protected:
  void wait_and_dispatch(uint64_t wait_ns) override;
  void on_loop_thread() override;

 private:
  Status init_ring(const EventLoopOptions& options);
  Status check_operations();
  // Runs `prepare` on a free submission entry, now or, where the queue is full, before the next
  // wait.
  template <typename Prepare>
  void submit(Prepare prepare);
  void flush_backlog();
  bool spin(uint64_t wait_ns);
  void arm(Watch* watch);
  void dispatch(const Completion& completion);
  void dispatch_watch(Watch* watch, const Completion& completion);
  void drain_operations();
  Op* take_op(IoCallback done);
  // Slot of a registered file, or -1.
  int file_slot(int fd) const {
    return static_cast<size_t>(fd) < slot_by_fd_.size() ? slot_by_fd_[fd] : -1;
  }
  // Index of the registered buffer that holds the whole range, or -1.
  int fixed_index(const std::byte* data, uint64_t bytes) const;

  io_uring ring_{};
  bool ring_open_ = false;
  SpinGate spin_gate_;
  bool had_events_ = false;
  uint64_t spin_ns_ = 0;
  bool enabled_ = false;
  std::string detail_;
  std::vector<MutableByteSpan> registered_;
  bool table_registered_ = false;
  bool files_registered_ = false;
  // Slots are not used twice: an entry that waits for submission names its file by slot.
  int next_file_slot_ = 0;
  std::vector<int> slot_by_fd_;  // -1: none
  std::vector<Watch*> watch_by_fd_;
  std::unordered_set<Watch*> watches_;
  std::vector<std::unique_ptr<Op>> ops_;
  Op* free_ops_ = nullptr;
  uint64_t ops_inflight_ = 0;
  std::deque<std::function<void(io_uring_sqe*)>> backlog_;
};

UringLoop::~UringLoop() {
  if (ring_open_) {
    drain_operations();
    io_uring_queue_exit(&ring_);
  }
  for (Watch* watch : watches_) delete watch;
}

// The kernel must have let go of the memory of every operation before the ring goes.
void UringLoop::drain_operations() {
  const uint64_t deadline_ns = now_ns() + kDrainNs;
  while (enabled_ && ops_inflight_ > 0 && now_ns() < deadline_ns) {
    __kernel_timespec wait{.tv_sec = 0, .tv_nsec = 100'000'000};
    io_uring_cqe* first = nullptr;
    const int result = io_uring_submit_and_wait_timeout(&ring_, &first, 1, &wait, nullptr);
    if (result == -EEXIST) return;  // destroyed on a foreign thread: the kernel cancels them
    std::array<io_uring_cqe*, kCompletionBatch> entries;
    const unsigned count = io_uring_peek_batch_cqe(&ring_, entries.data(), entries.size());
    for (unsigned i = 0; i < count; ++i) {
      if ((entries[i]->user_data & kKindMask) == kKindOp) --ops_inflight_;
    }
    io_uring_cq_advance(&ring_, count);
  }
}

Status UringLoop::init_ring(const EventLoopOptions& options) {
  // Rings start disabled so that the thread that runs the loop becomes the single issuer.
  struct Attempt {
    uint32_t flags;
    const char* name;
  };
  constexpr std::array<Attempt, 3> kAttempts = {{
      {IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER |
           IORING_SETUP_COOP_TASKRUN | IORING_SETUP_DEFER_TASKRUN,
       "single issuer, deferred task run"},
      {IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN,
       "cooperative task run"},
      {IORING_SETUP_R_DISABLED, "plain"},
  }};
  int result = -EINVAL;
  for (const Attempt& attempt : kAttempts) {
    io_uring_params params{};
    params.flags = attempt.flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
    params.cq_entries = options.ring_entries * kCompletionsPerEntry;
    result = io_uring_queue_init_params(options.ring_entries, &ring_, &params);
    if (result == 0) {
      ring_open_ = true;
      detail_ = attempt.name;
      return Status::ok();
    }
    if (result != -EINVAL) break;
  }
  return Status(StatusCode::kUnsupported, std::string("io_uring_setup: ") + std::strerror(-result));
}

Status UringLoop::check_operations() {
  // RSRC_TAGS came with the kernel that has multishot polls (5.13), which cannot be probed.
  constexpr uint32_t kFeatures =
      IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP | IORING_FEAT_RSRC_TAGS | IORING_FEAT_SUBMIT_STABLE;
  if ((ring_.features & kFeatures) != kFeatures) {
    return Status(StatusCode::kUnsupported, "io_uring of this kernel is too old (before 5.13)");
  }
  io_uring_probe* probe = io_uring_get_probe_ring(&ring_);
  if (probe == nullptr) return Status(StatusCode::kUnsupported, "io_uring cannot be probed");
  bool complete = true;
  for (int op : {IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE, IORING_OP_READ, IORING_OP_WRITE,
                 IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED, IORING_OP_FSYNC}) {
    complete = complete && io_uring_opcode_supported(probe, op) != 0;
  }
  io_uring_free_probe(probe);
  if (!complete) return Status(StatusCode::kUnsupported, "io_uring lacks an operation");
  return Status::ok();
}

Status UringLoop::init(const EventLoopOptions& options) {
  spin_ns_ = uint64_t{options.spin_us} * 1000;
  QUIRE_RETURN_IF_ERROR(open_wake_fd());
  QUIRE_RETURN_IF_ERROR(init_ring(options));
  QUIRE_RETURN_IF_ERROR(check_operations());
  return watch_fd(wake_fd(), POLLIN, [](uint32_t) {});
}

void UringLoop::on_loop_thread() {
  // By hand: liburing 2.3 declares io_uring_enable_rings() but does not export it.
  const long result =
      ::syscall(__NR_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  // It can only fail for a ring that is enabled already, which this one is not.
  if (result != 0) std::abort();
  enabled_ = true;
}

template <typename Prepare>
void UringLoop::submit(Prepare prepare) {
  io_uring_sqe* sqe = backlog_.empty() ? io_uring_get_sqe(&ring_) : nullptr;
  if (sqe == nullptr && enabled_ && backlog_.empty()) {
    io_uring_submit(&ring_);
    sqe = io_uring_get_sqe(&ring_);
  }
  if (sqe == nullptr) {
    backlog_.emplace_back(prepare);
  } else {
    prepare(sqe);
  }
}

void UringLoop::flush_backlog() {
  while (!backlog_.empty()) {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    if (sqe == nullptr) {
      if (io_uring_submit(&ring_) <= 0) return;
      continue;
    }
    backlog_.front()(sqe);
    backlog_.pop_front();
  }
}

void UringLoop::arm(Watch* watch) {
  submit([watch](io_uring_sqe* sqe) {
    io_uring_prep_poll_multishot(sqe, watch->fd, watch->events);
    sqe->user_data = reinterpret_cast<uint64_t>(watch) | kKindWatch;
  });
}

Status UringLoop::watch_fd(int fd, uint32_t poll_events, std::function<void(uint32_t)> on_ready) {
  if (fd < 0 || ::fcntl(fd, F_GETFD) < 0) {
    return Status(StatusCode::kInvalidArgument, "watch_fd: not an open file descriptor");
  }
  unwatch_fd(fd);
  if (watch_by_fd_.size() <= static_cast<size_t>(fd)) watch_by_fd_.resize(fd + 1, nullptr);
  auto* watch = new Watch{fd, poll_events, true, std::move(on_ready)};
  watches_.insert(watch);
  watch_by_fd_[fd] = watch;
  arm(watch);
  return Status::ok();
}

void UringLoop::unwatch_fd(int fd) {
  if (fd < 0 || static_cast<size_t>(fd) >= watch_by_fd_.size()) return;
  Watch* watch = std::exchange(watch_by_fd_[fd], nullptr);
  if (watch == nullptr) return;
  watch->active = false;
  submit([watch](io_uring_sqe* sqe) {
    io_uring_prep_poll_remove(sqe, reinterpret_cast<uint64_t>(watch) | kKindWatch);
    sqe->user_data = 0;
  });
}

Op* UringLoop::take_op(IoCallback done) {
  if (free_ops_ == nullptr) {
    ops_.push_back(std::make_unique<Op>());
    free_ops_ = ops_.back().get();
  }
  Op* op = std::exchange(free_ops_, free_ops_->next_free);
  op->next_free = nullptr;
  op->done = std::move(done);
  ++ops_inflight_;
  return op;
}

int UringLoop::fixed_index(const std::byte* data, uint64_t bytes) const {
  for (size_t i = 0; i < registered_.size(); ++i) {
    const std::byte* begin = registered_[i].data();
    if (data >= begin && data + bytes <= begin + registered_[i].size()) return static_cast<int>(i);
  }
  return -1;
}

void UringLoop::read(int fd, MutableByteSpan target, uint64_t offset, IoCallback done) {
  const auto bytes = static_cast<uint32_t>(std::min<uint64_t>(target.size(), kTransferBytesMax));
  const int index = fixed_index(target.data(), bytes);
  const int slot = file_slot(fd);
  Op* op = take_op(std::move(done));
  submit([=, data = target.data()](io_uring_sqe* sqe) {
    if (index >= 0) {
      io_uring_prep_read_fixed(sqe, fd, data, bytes, offset, index);
    } else {
      io_uring_prep_read(sqe, fd, data, bytes, offset);
    }
    use_slot(sqe, slot);
    sqe->user_data = reinterpret_cast<uint64_t>(op) | kKindOp;
  });
}

void UringLoop::write(int fd, ByteSpan source, uint64_t offset, IoCallback done) {
  const auto bytes = static_cast<uint32_t>(std::min<uint64_t>(source.size(), kTransferBytesMax));
  const int index = fixed_index(source.data(), bytes);
  const int slot = file_slot(fd);
  Op* op = take_op(std::move(done));
  submit([=, data = source.data()](io_uring_sqe* sqe) {
    if (index >= 0) {
      io_uring_prep_write_fixed(sqe, fd, data, bytes, offset, index);
    } else {
      io_uring_prep_write(sqe, fd, data, bytes, offset);
    }
    use_slot(sqe, slot);
    sqe->user_data = reinterpret_cast<uint64_t>(op) | kKindOp;
  });
}

void UringLoop::fdatasync(int fd, IoCallback done) {
  const int slot = file_slot(fd);
  Op* op = take_op(std::move(done));
  submit([=](io_uring_sqe* sqe) {
    io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
    use_slot(sqe, slot);
    sqe->user_data = reinterpret_cast<uint64_t>(op) | kKindOp;
  });
}

Status UringLoop::register_buffer(MutableByteSpan buffer) {
  if (!table_registered_) {
    const int result = io_uring_register_buffers_sparse(&ring_, kRegisteredBuffersMax);
    if (result != 0) {
      return Status(StatusCode::kUnsupported,
                    std::string("no sparse buffer table: ") + std::strerror(-result));
    }
    table_registered_ = true;
  }
  while (!buffer.empty()) {
    if (registered_.size() == kRegisteredBuffersMax) {
      return Status(StatusCode::kResourceExhausted, "the table of registered buffers is full");
    }
    const auto part = buffer.first(std::min<uint64_t>(buffer.size(), kRegisteredBytesMax));
    const iovec memory{part.data(), part.size()};
    const __u64 tag = 0;
    const int result =
        io_uring_register_buffers_update_tag(&ring_, registered_.size(), &memory, &tag, 1);
    if (result != 1) {
      return Status(StatusCode::kResourceExhausted,
                    std::string("registering memory with io_uring: ") + std::strerror(-result) +
                        (result == -ENOMEM ? " (raise RLIMIT_MEMLOCK)" : ""));
    }
    registered_.push_back(part);
    buffer = buffer.subspan(part.size());
  }
  return Status::ok();
}

Status UringLoop::register_file(int fd) {
  if (fd < 0) return Status(StatusCode::kInvalidArgument, "not a descriptor");
  if (file_slot(fd) >= 0) return Status::ok();
  if (!files_registered_) {
    const int result = io_uring_register_files_sparse(&ring_, kRegisteredFilesMax);
    if (result != 0) {
      return Status(StatusCode::kUnsupported,
                    std::string("no sparse file table: ") + std::strerror(-result));
    }
    files_registered_ = true;
  }
  if (next_file_slot_ == static_cast<int>(kRegisteredFilesMax)) {
    return Status(StatusCode::kResourceExhausted, "the table of registered files is full");
  }
  const int result = io_uring_register_files_update(&ring_, next_file_slot_, &fd, 1);
  if (result != 1) {
    return Status(StatusCode::kResourceExhausted,
                  std::string("registering a file with io_uring: ") + std::strerror(-result));
  }
  if (slot_by_fd_.size() <= static_cast<size_t>(fd)) slot_by_fd_.resize(fd + 1, -1);
  slot_by_fd_[fd] = next_file_slot_++;
  return Status::ok();
}

void UringLoop::unregister_file(int fd) {
  if (fd < 0 || file_slot(fd) < 0) return;
  const int slot = std::exchange(slot_by_fd_[fd], -1);
  const int none = -1;
  io_uring_register_files_update(&ring_, slot, &none, 1);
}

void UringLoop::dispatch_watch(Watch* watch, const Completion& completion) {
  const bool last = (completion.flags & IORING_CQE_F_MORE) == 0;
  if (watch->active && completion.result != -ECANCELED) {
    watch->on_ready(completion.result < 0 ? POLLNVAL | POLLERR
                                          : static_cast<uint32_t>(completion.result));
  }
  if (!last) return;
  if (watch->active && completion.result >= 0) {
    arm(watch);  // the kernel ended the multishot (completion queue overflow)
    return;
  }
  if (watch->active) watch_by_fd_[watch->fd] = nullptr;
  watches_.erase(watch);
  delete watch;
}

void UringLoop::dispatch(const Completion& completion) {
  const uint64_t address = completion.user_data & ~kKindMask;
  switch (completion.user_data & kKindMask) {
    case kKindOp: {
      auto* op = reinterpret_cast<Op*>(address);
      const IoCallback done = std::move(op->done);
      op->done = nullptr;
      op->next_free = std::exchange(free_ops_, op);
      --ops_inflight_;
      done(completion.result);
      return;
    }
    case kKindWatch:
      dispatch_watch(reinterpret_cast<Watch*>(address), completion);
      return;
    default:
      return;
  }
}

// True where something came while the loop had not gone to sleep yet.
bool UringLoop::spin(uint64_t wait_ns) {
  if (spin_ns_ == 0 || !had_events_ || !spin_gate_.should_spin()) return false;
  const uint64_t begin_ns = system_clock().now_ns();
  const uint64_t limit_ns = std::min(spin_ns_, wait_ns);
  do {
    io_uring_submit_and_get_events(&ring_);
    if (io_uring_cq_ready(&ring_) > 0) {
      spin_gate_.report(true);
      return true;
    }
  } while (system_clock().now_ns() - begin_ns < limit_ns);
  spin_gate_.report(false);
  return false;
}

void UringLoop::wait_and_dispatch(uint64_t wait_ns) {
  flush_backlog();
  if (wait_ns == 0 || io_uring_cq_ready(&ring_) > 0) {
    io_uring_submit_and_get_events(&ring_);
  } else if (!spin(wait_ns)) {
    __kernel_timespec wait{.tv_sec = static_cast<int64_t>(wait_ns / 1'000'000'000),
                           .tv_nsec = static_cast<long long>(wait_ns % 1'000'000'000)};
    io_uring_cqe* first = nullptr;
    io_uring_submit_and_wait_timeout(&ring_, &first, 1, wait_ns == kForever ? nullptr : &wait,
                                     nullptr);
  }
  had_events_ = io_uring_cq_ready(&ring_) > 0;
  // Copied out first: callbacks submit, and may wait for queue space.
  std::array<io_uring_cqe*, kCompletionBatch> entries;
  std::array<Completion, kCompletionBatch> batch;
  unsigned rounds = io_uring_cq_ready(&ring_) / kCompletionBatch + 1;
  while (rounds-- > 0) {
    const unsigned count = io_uring_peek_batch_cqe(&ring_, entries.data(), entries.size());
    if (count == 0) return;
    for (unsigned i = 0; i < count; ++i) {
      batch[i] = {entries[i]->user_data, entries[i]->res, entries[i]->flags};
    }
    io_uring_cq_advance(&ring_, count);
    for (unsigned i = 0; i < count; ++i) dispatch(batch[i]);
  }
}

}  // namespace

Expected<std::unique_ptr<EventLoop>> make_uring_loop(const EventLoopOptions& options) {
  auto loop = std::make_unique<UringLoop>();
  QUIRE_RETURN_IF_ERROR(loop->init(options));
  return std::unique_ptr<EventLoop>(std::move(loop));
}

}  // namespace quire
