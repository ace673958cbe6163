// The floor of the NVMe tier: parts of a file read and written one after another through the bare
// event loop with O_DIRECT, a fixed number of bytes in flight, no headers, no checksums.
#ifndef QUIRE_BENCH_QUIRE_BENCH_RAW_FILE_H_
#define QUIRE_BENCH_QUIRE_BENCH_RAW_FILE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "tiers/io/aligned_buffer.h"
#include "tiers/io/event_loop.h"

namespace quire::bench {

struct RawFileOptions {
  std::string path;
  uint64_t base_offset = 0;  // the part that is used starts here; what lies before stays as it is
  uint64_t bytes = 0;        // preallocated behind base_offset
  uint64_t part_bytes = 1 << 20;
  uint64_t read_inflight_bytes = 8 << 20;
  uint64_t write_inflight_bytes = 4 << 20;
};

class RawFile {
 public:
  static Expected<std::unique_ptr<RawFile>> open(EventLoop& loop, const RawFileOptions& options);
  ~RawFile();
  RawFile(const RawFile&) = delete;
  RawFile& operator=(const RawFile&) = delete;

  // Bytes per second over [offset, offset + bytes). write() ends with fdatasync.
  Expected<double> read(uint64_t offset, uint64_t bytes);
  Expected<double> write(uint64_t offset, uint64_t bytes);

  // "io_uring, O_DIRECT".
  std::string backend() const;

 private:
  RawFile(EventLoop& loop, RawFileOptions options, int fd, bool direct);
  Expected<double> transfer(uint64_t offset, uint64_t bytes, bool is_write);

  EventLoop& loop_;
  RawFileOptions options_;
  int fd_;
  bool direct_;
  AlignedBuffer buffer_;
};

}  // namespace quire::bench

#endif  // QUIRE_BENCH_QUIRE_BENCH_RAW_FILE_H_
