#include "tiers/nvme/object_reader.h"

#include <utility>

namespace quire::nvme {
namespace {

constexpr size_t kFreeBlocksMax = 64;

}  // namespace

struct ObjectReader::Operation {
  Digest key;
  NvmeLocation location;
  Hash128 expected;
  MutableByteSpan target;
  std::function<void(Status)> done;
  AlignedBuffer header;
  uint32_t parts_left = 2;
  Status error;
};

ObjectReader::ObjectReader(StoreContext& context) : context_(context) {}

ObjectReader::~ObjectReader() {
  *alive_ = false;
}

AlignedBuffer ObjectReader::take_block() {
  if (free_blocks_.empty()) return AlignedBuffer(kBlockBytes);
  AlignedBuffer block = std::move(free_blocks_.back());
  free_blocks_.pop_back();
  return block;
}

Status ObjectReader::check_request(const NvmeLocation& location, MutableByteSpan target) const {
  QUIRE_RETURN_IF_ERROR(context_.health.check_readable());
  if (!is_within(location, context_.geometry)) {
    return Status(StatusCode::kInvalidArgument, "not a location of this store");
  }
  if (target.size() != align_up(location.payload_bytes, kBlockBytes) ||
      reinterpret_cast<uintptr_t>(target.data()) % kBlockBytes != 0) {
    return Status(StatusCode::kInvalidArgument,
                  "the target of a read must be the payload's size in whole aligned blocks");
  }
  if (!context_.table.is_live(location)) {
    return Status(StatusCode::kNotFound, "the object was removed or overwritten");
  }
  return Status::ok();
}

void ObjectReader::read(const Digest& key, const NvmeLocation& location, Hash128 expected,
                        MutableByteSpan target, std::function<void(Status)> done) {
  Status refusal = check_request(location, target);
  if (!refusal.is_ok()) {
    context_.device->defer([done = std::move(done), refusal] { done(refusal); });
    return;
  }
  auto operation = std::make_shared<Operation>();
  operation->key = key;
  operation->location = location;
  operation->expected = expected;
  operation->target = target;
  operation->done = std::move(done);
  operation->header = take_block();
  ++context_.counters.reads_inflight;
  const uint64_t offset = context_.geometry.segment_base(location.segment) + location.offset;
  auto part_done = [this, operation](const Status& status) { finish_part(operation, status); };
  context_.device->read(offset, operation->header.span(), part_done);
  context_.device->read(offset + kBlockBytes, target, part_done);
}

void ObjectReader::finish_part(const Shared& operation, const Status& status) {
  if (!status.is_ok() && operation->error.is_ok()) operation->error = status;
  if (--operation->parts_left > 0) return;
  // First of all: bytes of an overwritten segment say nothing about the device.
  if (!context_.table.is_current(operation->location)) {
    finish(operation, Status(StatusCode::kNotFound, "the object was overwritten meanwhile"));
  } else if (operation->error.code() == StatusCode::kBusy) {
    finish(operation, operation->error);
  } else if (!operation->error.is_ok()) {
    ++context_.counters.read_errors;
    context_.health.read_failed(operation->error);
    finish(operation, Status(StatusCode::kIoError, operation->error.message()));
  } else {
    verify_header(operation);
  }
}

void ObjectReader::verify_header(const Shared& operation) {
  const NvmeLocation& location = operation->location;
  auto header = decode_object_header(operation->header.span());
  Status status = header.status();
  if (status.is_ok()) {
    status = check_object_header(*header, context_.geometry, location.segment, location.generation,
                                 location.offset);
  }
  const bool is_sequence =
      location.sequence == 0 || (status.is_ok() && header->sequence == location.sequence);
  if (status.is_ok() && (header->key != operation->key || !is_sequence ||
                         header->payload_bytes != location.payload_bytes ||
                         header->checksum != operation->expected)) {
    status = Status(StatusCode::kCorrupt, "the object header is that of another object");
  }
  if (status.is_ok()) {
    verify_payload(operation);
  } else {
    finish(operation, Status(StatusCode::kCorrupt, status.message()));
  }
}

void ObjectReader::verify_payload(const Shared& operation) {
  const ByteSpan payload = operation->target.first(operation->location.payload_bytes);
  const auto verdict = [](const Operation& read, Hash128 actual) {
    return actual == read.expected
               ? Status::ok()
               : Status(StatusCode::kCorrupt, "the payload's checksum does not hold");
  };
  const NvmeOptions& options = context_.options;
  if (!options.offload || payload.size() < options.offload_bytes_min) {
    finish(operation, verdict(*operation, xxh3_128(payload)));
    return;
  }
  options.offload([this, operation, payload, verdict, alive = alive_, post = options.post] {
    const Hash128 actual = xxh3_128(payload);
    post([this, operation, actual, verdict, alive] {
      if (*alive) finish(operation, verdict(*operation, actual));
    });
  });
}

void ObjectReader::finish(const Shared& operation, const Status& status) {
  --context_.counters.reads_inflight;
  if (status.is_ok()) {
    context_.counters.read_bytes += operation->location.payload_bytes;
  } else if (status.code() == StatusCode::kCorrupt) {
    ++context_.counters.corruptions;
    context_.health.read_failed(status);
  }
  if (free_blocks_.size() < kFreeBlocksMax) free_blocks_.push_back(std::move(operation->header));
  operation->done(status);
}

}  // namespace quire::nvme
