#include "tiers/nvme/superblock.h"

#include <sys/random.h>

#include <algorithm>
#include <optional>
#include <string>

#include "tiers/io/aligned_buffer.h"
#include "tiers/io/kill_point.h"

namespace quire::nvme {
namespace {

Expected<StoreUuid> random_uuid() {
  StoreUuid uuid{};
  if (::getrandom(uuid.data(), sizeof(uuid), 0) != static_cast<ssize_t>(sizeof(uuid))) {
    return Status(StatusCode::kInternal, "getrandom gave no store id");
  }
  return uuid;
}

Expected<uint64_t> count_segments(const BlockDevice& device, const NvmeOptions& options,
                                  uint64_t segment_bytes) {
  uint64_t bytes = device.size_bytes();
  if (options.capacity_bytes != 0) bytes = std::min(bytes, options.capacity_bytes);
  const uint64_t count =
      bytes > kFirstSegmentOffset ? (bytes - kFirstSegmentOffset) / segment_bytes : 0;
  if (count < std::max(kSegmentsMin, options.free_segments_min + 2)) {
    return Status(StatusCode::kInvalidArgument,
                  "the device holds " + std::to_string(count) + " segments of " +
                      std::to_string(segment_bytes) + " bytes; at least " +
                      std::to_string(std::max(kSegmentsMin, options.free_segments_min + 2)) +
                      " are needed: give more capacity or smaller segments");
  }
  return std::min<uint64_t>(count, kSegmentsMax);
}

Expected<Superblock> make_store(const BlockDevice& device, const NvmeOptions& options,
                                Clock& clock) {
  Superblock superblock;
  QUIRE_ASSIGN_OR_RETURN(superblock.segment_count,
                         count_segments(device, options, options.segment_bytes));
  QUIRE_ASSIGN_OR_RETURN(superblock.uuid, random_uuid());
  superblock.segment_bytes = options.segment_bytes;
  superblock.created_ms = clock.wall_ms();
  return superblock;
}

Status write_superblock(BlockDevice& device, const Superblock& superblock) {
  const AlignedBuffer block(kBlockBytes);
  encode(superblock, block.span());
  const uint64_t slot = superblock.epoch % kSuperblockSlots;
  QUIRE_RETURN_IF_ERROR(device.write_blocking(slot * kBlockBytes, block.span()));
  QUIRE_KILL_POINT("nvme_superblock_written");
  QUIRE_RETURN_IF_ERROR(device.sync_blocking());
  QUIRE_KILL_POINT("nvme_superblock_synced");
  return Status::ok();
}

Status check_geometry(Superblock* superblock, const BlockDevice& device,
                      const NvmeOptions& options) {
  if (superblock->segment_bytes != options.segment_bytes) {
    return Status(StatusCode::kFailedPrecondition,
                  "the store has segments of " + std::to_string(superblock->segment_bytes) +
                      " bytes, the configuration says " + std::to_string(options.segment_bytes) +
                      ": configure the former, or delete the file to start with an empty cache");
  }
  if (superblock->first_segment_offset != kFirstSegmentOffset ||
      superblock->segment_count > kSegmentsMax) {
    return Status(StatusCode::kFailedPrecondition,
                  "the store has a geometry this program does not support: delete the file to "
                  "start with an empty cache");
  }
  const uint64_t needed_bytes =
      superblock->first_segment_offset + superblock->segment_count * superblock->segment_bytes;
  if (needed_bytes > device.size_bytes()) {
    return Status(StatusCode::kFailedPrecondition,
                  "the file was cut short: the store needs " + std::to_string(needed_bytes) +
                      " bytes, there are " + std::to_string(device.size_bytes()) +
                      "; restore it, or delete it to start with an empty cache");
  }
  QUIRE_ASSIGN_OR_RETURN(const uint64_t count,
                         count_segments(device, options, superblock->segment_bytes));
  if (count < superblock->segment_count) {
    return Status(StatusCode::kFailedPrecondition,
                  "a store cannot shrink (it has " + std::to_string(superblock->segment_count) +
                      " segments, the configured capacity holds " + std::to_string(count) +
                      "): raise the capacity, or delete the file to start with an empty cache");
  }
  superblock->segment_count = count;
  return Status::ok();
}

}  // namespace

Expected<Superblock> read_superblock(BlockDevice& device) {
  if (device.size_bytes() < kFirstSegmentOffset) {
    return Status(StatusCode::kInvalidArgument, "the device is too small for a store");
  }
  const AlignedBuffer slots(kSuperblockSlots * kBlockBytes);
  QUIRE_RETURN_IF_ERROR(device.read_blocking(0, slots.span()));
  if (is_zero(slots.span())) return Status(StatusCode::kNotFound, "there is no store yet");

  std::optional<Superblock> best;
  std::optional<Status> other_version;
  bool damaged = false;
  for (uint64_t slot = 0; slot < kSuperblockSlots; ++slot) {
    auto superblock = decode_superblock(slots.span().subspan(slot * kBlockBytes, kBlockBytes));
    const StatusCode code = superblock.status().code();
    if (superblock.is_ok()) {
      if (!best || superblock->epoch > best->epoch) best = *superblock;
    } else if (code == StatusCode::kVersionMismatch) {
      other_version = superblock.status();
    } else if (code == StatusCode::kCorrupt) {
      damaged = true;
    }
  }
  if (other_version) {
    return Status(StatusCode::kVersionMismatch,
                  other_version->message() +
                      ": use the program that made it, or delete the file to start empty");
  }
  if (best) return *best;
  if (damaged) {
    return Status(StatusCode::kCorrupt,
                  "both superblocks are damaged: delete the file to start with an empty cache");
  }
  return Status(StatusCode::kFailedPrecondition,
                "this is not a Quire segment file and is left as it is: give another path, or "
                "clear its first 8 KiB");
}

Expected<Geometry> open_store(BlockDevice& device, const NvmeOptions& options, Clock& clock) {
  QUIRE_RETURN_IF_ERROR(options.validate());
  auto found = read_superblock(device);
  if (!found.is_ok() && found.status().code() == StatusCode::kNotFound && options.create) {
    found = make_store(device, options, clock);
    if (!found.is_ok()) return found.status();
  } else if (found.is_ok()) {
    QUIRE_RETURN_IF_ERROR(check_geometry(&found.value(), device, options));
  } else {
    return found.status();
  }
  Superblock superblock = *found;
  ++superblock.epoch;
  QUIRE_RETURN_IF_ERROR(write_superblock(device, superblock));

  Geometry geometry;
  geometry.uuid = superblock.uuid;
  geometry.epoch = superblock.epoch;
  geometry.segment_bytes = superblock.segment_bytes;
  geometry.segment_count = superblock.segment_count;
  geometry.first_segment_offset = superblock.first_segment_offset;
  return geometry;
}

Status raise_store_epoch(BlockDevice& device, uint64_t epoch, Geometry* geometry) {
  if (epoch <= geometry->epoch) {
    return Status(StatusCode::kInvalidArgument, "the epoch of a store only grows");
  }
  QUIRE_ASSIGN_OR_RETURN(Superblock superblock, read_superblock(device));
  // The slot follows from the epoch: the same parity takes a step between.
  if (epoch % kSuperblockSlots == superblock.epoch % kSuperblockSlots) {
    superblock.epoch = epoch - 1;
    QUIRE_RETURN_IF_ERROR(write_superblock(device, superblock));
  }
  superblock.epoch = epoch;
  QUIRE_RETURN_IF_ERROR(write_superblock(device, superblock));
  geometry->epoch = epoch;
  return Status::ok();
}

}  // namespace quire::nvme
