// The scheduling half of FileDevice: cuts transfers into parts, bounds the bytes handed to the
// kernel in each direction, and lets reads go before writes.
#ifndef QUIRE_TIERS_IO_FILE_TRANSFERS_H_
#define QUIRE_TIERS_IO_FILE_TRANSFERS_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <set>

#include "tiers/io/block_device.h"
#include "tiers/io/event_loop.h"
#include "tiers/io/file_device.h"

namespace quire {

// Kept alive by its operations in flight (hence shared): after close() they come back to it, are
// dropped, and the last one closes the file.
class FileTransfers : public std::enable_shared_from_this<FileTransfers> {
 public:
  // Takes over `fd`. register_fd: with the loop's table of files; not for a descriptor whose
  // description holds the lock, which the kernel might then keep for longer than the device lives.
  static std::shared_ptr<FileTransfers> create(EventLoop& loop, int fd,
                                               const FileDeviceOptions& options, bool register_fd);
  ~FileTransfers();

  // `refusal`, unless OK, is what the callback gets, later.
  void start(bool is_write, uint64_t offset, MutableByteSpan memory, const Status& refusal,
             DeviceCallback done);
  void sync(DeviceCallback done);
  void defer(std::function<void()> task);
  void run_after(uint64_t delay_ns, std::function<void()> task);
  // No callback after return.
  void close();
  uint64_t inflight_bytes() const { return reads_.inflight_bytes + writes_.inflight_bytes; }

 private:
  struct Transfer {
    bool is_write = false;
    uint64_t offset = 0;
    MutableByteSpan memory;
    uint64_t issued_bytes = 0;
    uint32_t parts_inflight = 0;
    uint32_t continuations = 0;
    Status error;
    DeviceCallback done;
  };
  // Transfers with bytes still to be issued, in order, and what the kernel has.
  struct Direction {
    std::deque<std::shared_ptr<Transfer>> waiting;
    uint64_t inflight_bytes = 0;
    uint64_t inflight_bytes_max = 0;
  };

  FileTransfers(EventLoop& loop, int fd, const FileDeviceOptions& options);
  void pump();
  void pump_direction(Direction& direction);
  void issue(const std::shared_ptr<Transfer>& transfer, uint64_t begin, uint64_t bytes);
  void finish_part(const std::shared_ptr<Transfer>& transfer, uint64_t begin, uint64_t bytes,
                   int64_t result);
  Direction& direction_of(const Transfer& transfer) { return transfer.is_write ? writes_ : reads_; }

  EventLoop& loop_;
  int fd_;
  uint64_t part_bytes_;
  bool closed_ = false;
  std::set<TimerId> timers_;
  Direction reads_;
  Direction writes_;
};

}  // namespace quire

#endif  // QUIRE_TIERS_IO_FILE_TRANSFERS_H_
