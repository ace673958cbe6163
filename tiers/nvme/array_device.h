// The devices of an array as one, for tests that poll: no I/O goes through it. Internal.
#ifndef QUIRE_TIERS_NVME_ARRAY_DEVICE_H_
#define QUIRE_TIERS_NVME_ARRAY_DEVICE_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tiers/io/block_device.h"
#include "tiers/nvme/nvme_tier.h"

namespace quire::nvme {

class ArrayDevice final : public BlockDevice {
 public:
  explicit ArrayDevice(const std::vector<std::unique_ptr<NvmeTier>>& members) : members_(members) {}

  void read(uint64_t, MutableByteSpan, DeviceCallback done) override { refuse(std::move(done)); }
  void write(uint64_t, ByteSpan, DeviceCallback done) override { refuse(std::move(done)); }
  void sync(DeviceCallback done) override { refuse(std::move(done)); }
  Status read_blocking(uint64_t, MutableByteSpan) override { return refusal(); }
  Status write_blocking(uint64_t, ByteSpan) override { return refusal(); }
  Status sync_blocking() override { return refusal(); }
  void defer(std::function<void()> task) override {
    members_.front()->device().defer(std::move(task));
  }
  bool run_after(uint64_t delay_ns, std::function<void()> task) override {
    return members_.front()->device().run_after(delay_ns, std::move(task));
  }
  bool poll() override {
    bool any = false;
    for (const auto& member : members_) any = member->device().poll() || any;
    return any;
  }
  uint64_t size_bytes() const override { return 0; }
  uint64_t inflight_bytes() const override {
    uint64_t bytes = 0;
    for (const auto& member : members_) bytes += member->device().inflight_bytes();
    return bytes;
  }
  std::string backend() const override { return members_.front()->device().backend(); }

 private:
  static Status refusal() {
    return Status(StatusCode::kUnsupported, "an array has no blocks of its own");
  }
  void refuse(DeviceCallback done) {
    defer([done = std::move(done)] { done(refusal()); });
  }

  const std::vector<std::unique_ptr<NvmeTier>>& members_;
};

}  // namespace quire::nvme

#endif  // QUIRE_TIERS_NVME_ARRAY_DEVICE_H_
