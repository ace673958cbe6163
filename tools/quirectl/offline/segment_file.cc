#include "tools/quirectl/offline/segment_file.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "tiers/io/file_device.h"
#include "tiers/nvme/superblock.h"

namespace quire::ctl {
namespace {

Status with_path(const Status& status, const std::string& path) {
  if (status.code() == StatusCode::kUnavailable)
    return {StatusCode::kFailedPrecondition,
            path + " is in use by a running quired: stop it first (quirectl drain --exit)"};
  if (status.message().find(path) != std::string::npos) return status;
  return {status.code(), path + ": " + status.message()};
}

}  // namespace

Expected<std::unique_ptr<SegmentFile>> SegmentFile::open(const std::string& path) {
  std::error_code error;
  const auto kind = std::filesystem::status(path, error);
  if (std::filesystem::exists(kind) && !std::filesystem::is_regular_file(kind) &&
      !std::filesystem::is_block_file(kind))
    return Status(StatusCode::kFailedPrecondition, path + " is neither a file nor a block device");
  std::unique_ptr<SegmentFile> file(new SegmentFile);
  file->path_ = path;
  EventLoopOptions loop_options;
  loop_options.allow_io_uring = false;  // one blocking read at a time needs none
  loop_options.pool_threads = 1;
  QUIRE_ASSIGN_OR_RETURN(file->loop_, make_event_loop(loop_options));
  FileDeviceOptions options;
  options.path = path;
  options.create = false;
  options.read_only = true;
  auto device = open_file_device(*file->loop_, options);
  if (!device) return with_path(device.status(), path);
  file->device_ = std::move(*device);
  auto superblock = nvme::read_superblock(*file->device_);
  if (!superblock) return with_path(superblock.status(), path);
  file->superblock_ = *superblock;
  file->geometry_.uuid = superblock->uuid;
  file->geometry_.epoch = superblock->epoch;
  file->geometry_.segment_bytes = superblock->segment_bytes;
  file->geometry_.segment_count = superblock->segment_count;
  file->geometry_.first_segment_offset = superblock->first_segment_offset;
  QUIRE_RETURN_IF_ERROR(file->read_slots());
  return file;
}

Status SegmentFile::read_slots() {
  const AlignedBuffer block(kBlockBytes);
  for (uint64_t i = 0; i < slots_.size(); ++i) {
    const Status status = device_->read_blocking(i * kBlockBytes, block.span());
    if (!status.is_ok()) return with_path(status, path_);
    slots_[i].zero = nvme::is_zero(block.span());
    slots_[i].record = nvme::decode_superblock(block.span());
  }
  return Status::ok();
}

uint32_t SegmentFile::segments_present() const {
  const uint64_t bytes = device_->size_bytes();
  if (bytes <= geometry_.first_segment_offset) return 0;
  const uint64_t fits = (bytes - geometry_.first_segment_offset) / geometry_.segment_bytes;
  return static_cast<uint32_t>(std::min(fits, geometry_.segment_count));
}

nvme::SegmentContents SegmentFile::scan(uint32_t segment, nvme::ScanMode mode) {
  std::optional<nvme::SegmentContents> contents;
  nvme::scan_segment(*device_, geometry_, segment, mode,
                     [&](nvme::SegmentContents found) { contents = std::move(found); });
  while (!contents) loop_->run_once(EventLoop::kForever);
  return std::move(*contents);
}

Status SegmentFile::read(uint32_t segment, uint64_t offset, MutableByteSpan target) {
  return device_->read_blocking(geometry_.segment_base(segment) + offset, target);
}

Expected<ByteSpan> SegmentFile::read_payload(uint32_t segment, uint64_t offset,
                                             uint64_t payload_bytes) {
  const uint64_t bytes = align_up(payload_bytes, kBlockBytes);
  if (offset > geometry_.segment_bytes || bytes + kBlockBytes > geometry_.segment_bytes - offset)
    return Status(StatusCode::kInvalidArgument, "beyond the end of its segment");
  if (payload_.size() < bytes) payload_ = AlignedBuffer(bytes);
  const MutableByteSpan target = payload_.span().first(bytes);
  QUIRE_RETURN_IF_ERROR(read(segment, offset + kBlockBytes, target));
  return ByteSpan(target.first(payload_bytes));
}

}  // namespace quire::ctl
