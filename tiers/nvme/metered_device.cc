#include "tiers/nvme/metered_device.h"

namespace quire::nvme {

MeteredDevice::Operation* MeteredDevice::take(Kind kind, uint64_t bytes, DeviceCallback done) {
  if (free_ == nullptr) free_ = &operations_.emplace_back();
  Operation* operation = std::exchange(free_, free_->next_free);
  operation->kind = kind;
  operation->bytes = bytes;
  operation->done = std::move(done);
  operation->next_free = nullptr;
  Progress& progress = progress_[static_cast<size_t>(kind)];
  if (progress.inflight++ == 0) progress.last_ns = clock_.now_ns();
  return operation;
}

void MeteredDevice::finish(Operation* operation, const Status& status) {
  Progress& progress = progress_[static_cast<size_t>(operation->kind)];
  --progress.inflight;
  progress.last_ns = clock_.now_ns();
  if (operation->kind == Kind::kWrite && status.is_ok()) written_bytes_ += operation->bytes;
  const DeviceCallback done = std::exchange(operation->done, nullptr);
  operation->next_free = std::exchange(free_, operation);
  done(status);
}

void MeteredDevice::read(uint64_t offset, MutableByteSpan target, DeviceCallback done) {
  Operation* operation = take(Kind::kRead, target.size(), std::move(done));
  device_->read(offset, target,
                [this, operation](const Status& status) { finish(operation, status); });
}

void MeteredDevice::write(uint64_t offset, ByteSpan source, DeviceCallback done) {
  Operation* operation = take(Kind::kWrite, source.size(), std::move(done));
  device_->write(offset, source,
                 [this, operation](const Status& status) { finish(operation, status); });
}

void MeteredDevice::sync(DeviceCallback done) {
  Operation* operation = take(Kind::kSync, 0, std::move(done));
  device_->sync([this, operation](const Status& status) { finish(operation, status); });
}

bool MeteredDevice::is_stuck(Kind kind) const {
  const Progress& progress = progress_[static_cast<size_t>(kind)];
  return progress.inflight > 0 && clock_.now_ns() - progress.last_ns > stuck_after_ns_;
}

std::string MeteredDevice::stuck_reason() const {
  constexpr std::array<const char*, kKinds> kNames = {"read", "write", "sync"};
  for (size_t i = 0; i < kKinds; ++i) {
    if (!is_stuck(static_cast<Kind>(i))) continue;
    const uint64_t waited_ms = (clock_.now_ns() - progress_[i].last_ns) / 1'000'000;
    return std::string("no ") + kNames[i] + " came back for " + std::to_string(waited_ms) +
           " ms, " + std::to_string(progress_[i].inflight) + " in flight";
  }
  return "";
}

}  // namespace quire::nvme
