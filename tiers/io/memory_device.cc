#include "tiers/io/memory_device.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace quire {
namespace {

constexpr uint64_t kSectorBytes = 512;
constexpr double kTornBlockChance = 0.2;

}  // namespace

MemoryImage::MemoryImage(uint64_t bytes) : current_(align_up(bytes, kBlockBytes)) {}

void MemoryImage::write(uint64_t offset, ByteSpan source) {
  assert(offset % kBlockBytes == 0 && source.size() % kBlockBytes == 0);
  ++writes_;
  for (uint64_t done = 0; done < source.size(); done += kBlockBytes) {
    const auto old = current_.begin() + static_cast<ptrdiff_t>(offset + done);
    auto& versions = versions_[(offset + done) / kBlockBytes];
    if (versions.empty()) versions.push_back({0, {old, old + kBlockBytes}});
    const auto fresh = source.subspan(done, kBlockBytes);
    versions.push_back({writes_, {fresh.begin(), fresh.end()}});
    std::copy(fresh.begin(), fresh.end(), old);
  }
}

void MemoryImage::make_durable(uint64_t up_to_writes) {
  for (auto entry = versions_.begin(); entry != versions_.end();) {
    auto& versions = entry->second;
    while (versions.size() > 1 && versions[1].write <= up_to_writes)
      versions.erase(versions.begin());
    entry = versions.size() == 1 ? versions_.erase(entry) : std::next(entry);
  }
}

void MemoryImage::cut_power(SeededRandom& random) {
  for (const auto& [block, versions] : versions_) {
    std::byte* target = current_.data() + block * kBlockBytes;
    std::memcpy(target, versions[random.below(versions.size())].bytes.data(), kBlockBytes);
    if (!random.chance(kTornBlockChance)) continue;
    const Version& other = versions[random.below(versions.size())];
    const uint64_t sectors = random.below(kBlockBytes / kSectorBytes + 1);
    std::memcpy(target, other.bytes.data(), sectors * kSectorBytes);
  }
  versions_.clear();
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
