// A file or raw block device behind an EventLoop.
#ifndef QUIRE_TIERS_IO_FILE_DEVICE_H_
#define QUIRE_TIERS_IO_FILE_DEVICE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "tiers/io/block_device.h"
#include "tiers/io/event_loop.h"

namespace quire {

struct FileDeviceOptions {
  std::string path;
  // Size to preallocate when the file is new or smaller; a larger file keeps its size. 0: as it is.
  uint64_t size_bytes = 0;
  bool create = true;
  bool direct = true;  // try O_DIRECT, fall back to buffered
  bool read_only = false;
  // Device scheduling: parts of an operation, and bytes handed to the kernel at one time. Reads go
  // before writes.
  uint64_t part_bytes = 1 << 20;
  uint64_t read_inflight_bytes_max = 8 << 20;
  uint64_t write_inflight_bytes_max = 4 << 20;
  // Measure the device for up to this long (at most kProbeMsMax) before anything else uses it, and
  // choose the two limits above by it; see device_probe.h. 0: no probe. Nothing is remembered: each
  // opening measures anew.
  uint32_t probe_ms_max = 0;
};

// Opens, locks (one process per file) and preallocates. The loop must outlive the device. Destroy
// it on the loop thread; callbacks of operations still in flight are then dropped, and their memory
// must stay valid until the loop is destroyed or has run them down. Errors: kInvalidArgument,
// kUnavailable (locked by another process), kNoSpace, kPermissionDenied, kNotFound, kIoError; the
// message names path and errno.
Expected<std::unique_ptr<BlockDevice>> open_file_device(EventLoop& loop, FileDeviceOptions options);

}  // namespace quire

#endif  // QUIRE_TIERS_IO_FILE_DEVICE_H_
