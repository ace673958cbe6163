// A segment file (docs/formats/segment.md) opened for reading only: no epoch is raised, nothing is
// written. One thread.
#ifndef QUIRE_TOOLS_QUIRECTL_OFFLINE_SEGMENT_FILE_H_
#define QUIRE_TOOLS_QUIRECTL_OFFLINE_SEGMENT_FILE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/status.h"
#include "tiers/io/aligned_buffer.h"
#include "tiers/io/block_device.h"
#include "tiers/io/event_loop.h"
#include "tiers/nvme/segment_format.h"
#include "tiers/nvme/segment_scan.h"

namespace quire::ctl {

struct SuperblockSlot {
  bool zero = false;
  Expected<nvme::Superblock> record = Status(StatusCode::kNotFound, "not read");
};

class SegmentFile {
 public:
  // Errors: those of open_file_device and read_superblock, each naming the path;
  // kFailedPrecondition where a server has the file open.
  static Expected<std::unique_ptr<SegmentFile>> open(const std::string& path);

  const std::string& path() const { return path_; }
  // Of the valid superblock with the highest epoch.
  const nvme::Superblock& superblock() const { return superblock_; }
  const nvme::Geometry& geometry() const { return geometry_; }
  const std::array<SuperblockSlot, nvme::kSuperblockSlots>& slots() const { return slots_; }
  uint64_t file_bytes() const { return device_->size_bytes(); }
  // Segments that lie within the file as a whole; fewer than the geometry's where it was cut short.
  uint32_t segments_present() const;

  // What a start of the server would find. ScanMode::kHeaders: payloads are not read.
  nvme::SegmentContents scan(uint32_t segment, nvme::ScanMode mode = nvme::ScanMode::kHeaders);
  // Blocks of a segment; target aligned to kBlockBytes.
  Status read(uint32_t segment, uint64_t offset, MutableByteSpan target);
  // The payload behind an object header, without padding, in memory that stays until the next call.
  Expected<ByteSpan> read_payload(uint32_t segment, uint64_t offset, uint64_t payload_bytes);

 private:
  SegmentFile() = default;
  Status read_slots();

  std::string path_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<BlockDevice> device_;
  nvme::Superblock superblock_;
  nvme::Geometry geometry_;
  std::array<SuperblockSlot, nvme::kSuperblockSlots> slots_;
  AlignedBuffer payload_;
};

}  // namespace quire::ctl

#endif  // QUIRE_TOOLS_QUIRECTL_OFFLINE_SEGMENT_FILE_H_
