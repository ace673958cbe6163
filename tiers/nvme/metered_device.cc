#include "tiers/nvme/metered_device.h"

namespace quire::nvme {

MeteredDevice::Operation* MeteredDevice::take(Direction& direction, uint64_t written_bytes,
                                              DeviceCallback done) {
  if (free_ == nullptr) free_ = &operations_->emplace_back();
  Operation* operation = std::exchange(free_, free_->next);
  operation->direction = &direction;
  operation->written_bytes = written_bytes;
  operation->start_ns = clock_.now_ns();
  operation->done = std::move(done);
  operation->next = nullptr;
  operation->previous = std::exchange(direction.newest, operation);
  (operation->previous != nullptr ? operation->previous->next : direction.oldest) = operation;
  if (direction.inflight++ == 0) direction.last_ns = operation->start_ns;
  return operation;
}

void MeteredDevice::finish(Operation* operation, const Status& status) {
  Direction& direction = *operation->direction;
  --direction.inflight;
  direction.last_ns = clock_.now_ns();
  Operation* previous = operation->previous;
  Operation* next = operation->next;
  (previous != nullptr ? previous->next : direction.oldest) = next;
  (next != nullptr ? next->previous : direction.newest) = previous;
  if (status.is_ok()) written_bytes_ += operation->written_bytes;
  const DeviceCallback done = std::exchange(operation->done, nullptr);
  operation->next = std::exchange(free_, operation);
  done(status);
}

void MeteredDevice::read(uint64_t offset, MutableByteSpan target, DeviceCallback done) {
  Operation* operation = take(reads_, 0, std::move(done));
  device_->read(offset, target, [this, operation, alive = operations_](const Status& status) {
    finish(operation, status);
  });
}

void MeteredDevice::write(uint64_t offset, ByteSpan source, DeviceCallback done) {
  Operation* operation = take(writes_, source.size(), std::move(done));
  device_->write(offset, source, [this, operation, alive = operations_](const Status& status) {
    finish(operation, status);
  });
}

void MeteredDevice::sync(DeviceCallback done) {
  Operation* operation = take(writes_, 0, std::move(done));
  device_->sync(
      [this, operation, alive = operations_](const Status& status) { finish(operation, status); });
}

bool MeteredDevice::has_no_progress(const Direction& direction) const {
  return direction.inflight > 0 && clock_.now_ns() - direction.last_ns > stuck_after_ns_;
}

bool MeteredDevice::writes_stuck() const {
  if (has_no_progress(writes_)) return true;
  return writes_.oldest != nullptr &&
         clock_.now_ns() - writes_.oldest->start_ns > kLostFactor * stuck_after_ns_;
}

std::string MeteredDevice::stuck_reason() const {
  const bool reads = reads_stuck();
  if (!reads && !writes_stuck()) return "";
  const Direction& direction = reads ? reads_ : writes_;
  const uint64_t waited_ms = (clock_.now_ns() - direction.oldest->start_ns) / 1'000'000;
  return std::string(reads ? "a read" : "a write or sync") + " has not come back for " +
         std::to_string(waited_ms) + " ms, " + std::to_string(direction.inflight) + " in flight";
}

}  // namespace quire::nvme
