#include "tiers/io/memory_device.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace quire {
namespace {

constexpr uint64_t kSectorBytes = 512;
constexpr double kTornBlockChance = 0.2;

}  // namespace

MemoryImage::MemoryImage(uint64_t bytes)
    : current_(align_up(bytes, kBlockBytes)), histories_(current_.size() / kBlockBytes) {}

MemoryImage::Block MemoryImage::take_block() {
  if (free_blocks_.empty()) return std::make_unique_for_overwrite<std::byte[]>(kBlockBytes);
  Block block = std::move(free_blocks_.back());
  free_blocks_.pop_back();
  return block;
}

void MemoryImage::give_blocks(std::vector<Version>& versions, size_t count) {
  for (size_t i = 0; i < count; ++i) free_blocks_.push_back(std::move(versions[i].bytes));
  versions.erase(versions.begin(), versions.begin() + static_cast<ptrdiff_t>(count));
}

void MemoryImage::write(uint64_t offset, ByteSpan source) {
  assert(offset % kBlockBytes == 0 && source.size() % kBlockBytes == 0);
  ++writes_;
  for (uint64_t done = 0; done < source.size(); done += kBlockBytes) {
    const uint64_t block = (offset + done) / kBlockBytes;
    History& history = histories_[block];
    std::byte* target = current_.data() + offset + done;
    if (history.older.empty()) {
      dirty_.push_back(block);
      history.current_write = 0;
    }
    Block old = take_block();
    std::memcpy(old.get(), target, kBlockBytes);
    history.older.push_back({history.current_write, std::move(old)});
    history.current_write = writes_;
    std::memcpy(target, source.data() + done, kBlockBytes);
  }
}

void MemoryImage::make_durable(uint64_t up_to_writes) {
  std::erase_if(dirty_, [&](uint64_t block) {
    History& history = histories_[block];
    if (history.current_write <= up_to_writes) {
      give_blocks(history.older, history.older.size());
      return true;
    }
    size_t obsolete = 0;
    while (obsolete + 1 < history.older.size() &&
           history.older[obsolete + 1].write <= up_to_writes) {
      ++obsolete;
    }
    give_blocks(history.older, obsolete);
    return false;
  });
}

PowerCut MemoryImage::cut_power(SeededRandom& random) {
  PowerCut cut;
  cut.unsynced_blocks = dirty_.size();
  uint64_t first_lost = UINT64_MAX;
  uint64_t last_kept = 0;
  std::sort(dirty_.begin(), dirty_.end());
  for (const uint64_t block : dirty_) {
    History& history = histories_[block];
    std::byte* target = current_.data() + block * kBlockBytes;
    Block current = take_block();
    std::memcpy(current.get(), target, kBlockBytes);
    history.older.push_back({history.current_write, std::move(current)});
    const std::vector<Version>& versions = history.older;
    const size_t survivor = random.below(versions.size());
    std::memcpy(target, versions[survivor].bytes.get(), kBlockBytes);
    if (survivor + 1 < versions.size()) {
      ++cut.reverted_blocks;
      first_lost = std::min(first_lost, versions[survivor + 1].write);
    }
    if (survivor > 0) last_kept = std::max(last_kept, versions[survivor].write);
    if (random.chance(kTornBlockChance)) {
      const Version& other = versions[random.below(versions.size())];
      const uint64_t sectors = random.below(kBlockBytes / kSectorBytes + 1);
      std::memcpy(target, other.bytes.get(), sectors * kSectorBytes);
      cut.torn_blocks += other.write != versions[survivor].write && sectors > 0 &&
                         sectors < kBlockBytes / kSectorBytes;
    }
    give_blocks(history.older, history.older.size());
  }
  dirty_.clear();
  cut.reordered = first_lost < last_kept;
  return cut;
}

MemoryDevice::MemoryDevice(std::shared_ptr<MemoryImage> image, MemoryDeviceOptions options)
    : image_(std::move(image)), options_(options), random_(options.seed) {}

MemoryDevice::MemoryDevice(uint64_t bytes) : MemoryDevice(std::make_shared<MemoryImage>(bytes)) {}

MemoryDevice::~MemoryDevice() {
  for (const Operation& operation : operations_) {
    if (operation.kind != Kind::kWrite) continue;
    for (uint64_t done = 0; done < operation.bytes; done += kBlockBytes) {
      if (random_.chance(0.5)) continue;
      image_->write(operation.offset + done, {operation.source + done, kBlockBytes});
    }
  }
}

void MemoryDevice::enqueue(Operation operation) {
  inflight_bytes_ += operation.bytes;
  operations_.push_back(std::move(operation));
}

void MemoryDevice::read(uint64_t offset, MutableByteSpan target, DeviceCallback done) {
  Operation operation;
  operation.refusal = check_device_range(*this, offset, target.data(), target.size());
  operation.kind = operation.refusal.is_ok() ? Kind::kRead : Kind::kRefused;
  operation.offset = offset;
  operation.target = target.data();
  operation.bytes = target.size();
  operation.done = std::move(done);
  enqueue(std::move(operation));
}

void MemoryDevice::write(uint64_t offset, ByteSpan source, DeviceCallback done) {
  Operation operation;
  operation.refusal = check_device_range(*this, offset, source.data(), source.size());
  operation.kind = operation.refusal.is_ok() ? Kind::kWrite : Kind::kRefused;
  operation.offset = offset;
  operation.source = source.data();
  operation.bytes = source.size();
  operation.done = std::move(done);
  enqueue(std::move(operation));
}

void MemoryDevice::sync(DeviceCallback done) {
  Operation operation;
  operation.kind = Kind::kSync;
  operation.durable_writes = image_->writes();
  operation.done = std::move(done);
  enqueue(std::move(operation));
}

void MemoryDevice::defer(std::function<void()> task) {
  Operation operation;
  operation.kind = Kind::kRefused;
  operation.done = [task = std::move(task)](const Status&) { task(); };
  enqueue(std::move(operation));
}

bool MemoryDevice::poll() {
  if (operations_.empty()) return false;
  const size_t index = options_.shuffle ? random_.below(operations_.size()) : 0;
  const Operation operation = std::move(operations_[index]);
  operations_.erase(operations_.begin() + static_cast<ptrdiff_t>(index));
  inflight_bytes_ -= operation.bytes;
  switch (operation.kind) {
    case Kind::kRead:
      std::memcpy(operation.target, image_->bytes().data() + operation.offset, operation.bytes);
      break;
    case Kind::kWrite:
      image_->write(operation.offset, {operation.source, operation.bytes});
      break;
    case Kind::kSync:
      image_->make_durable(operation.durable_writes);
      break;
    case Kind::kRefused:
      break;
  }
  operation.done(operation.refusal);
  return true;
}

Status MemoryDevice::read_blocking(uint64_t offset, MutableByteSpan target) {
  QUIRE_RETURN_IF_ERROR(check_device_range(*this, offset, target.data(), target.size()));
  std::memcpy(target.data(), image_->bytes().data() + offset, target.size());
  return Status::ok();
}

Status MemoryDevice::write_blocking(uint64_t offset, ByteSpan source) {
  QUIRE_RETURN_IF_ERROR(check_device_range(*this, offset, source.data(), source.size()));
  image_->write(offset, source);
  return Status::ok();
}

Status MemoryDevice::sync_blocking() {
  image_->make_durable(image_->writes());
  return Status::ok();
}

}  // namespace quire
