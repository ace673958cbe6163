// A memory device whose operations a test refuses, holds back or records, one by one.
#ifndef QUIRE_TESTS_TIERS_NVME_SCRIPTED_DEVICE_H_
#define QUIRE_TESTS_TIERS_NVME_SCRIPTED_DEVICE_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tiers/io/memory_device.h"

namespace quire {

class ScriptedDevice final : public BlockDevice {
 public:
  enum class Kind : uint8_t { kRead, kWrite, kSync };
  struct Event {
    Kind kind = Kind::kRead;
    bool done = false;  // else: begun
    uint64_t offset = 0;
    uint64_t bytes = 0;
    bool operator==(const Event&) const = default;
  };
  // Outlives the device, which the tier owns.
  struct Script {
    std::function<Status(Kind, uint64_t offset, uint64_t bytes)> fault;  // OK: goes through
    std::function<bool(Kind)> holds;  // true: its completion waits for release()
    std::vector<Event> events;
    std::vector<std::function<void()>> held;
    void release() {
      for (auto& completion : std::exchange(held, {})) completion();
    }
  };

  ScriptedDevice(std::shared_ptr<MemoryImage> image, std::shared_ptr<Script> script)
      : device_(std::move(image)), script_(std::move(script)) {}

  void read(uint64_t offset, MutableByteSpan target, DeviceCallback done) override {
    done = record({Kind::kRead, false, offset, target.size()}, std::move(done));
    if (done) device_.read(offset, target, std::move(done));
  }
  void write(uint64_t offset, ByteSpan source, DeviceCallback done) override {
    done = record({Kind::kWrite, false, offset, source.size()}, std::move(done));
    if (done) device_.write(offset, source, std::move(done));
  }
  void sync(DeviceCallback done) override {
    done = record({Kind::kSync, false, 0, 0}, std::move(done));
    if (done) device_.sync(std::move(done));
  }
  void defer(std::function<void()> task) override { device_.defer(std::move(task)); }
  Status read_blocking(uint64_t offset, MutableByteSpan target) override {
    return device_.read_blocking(offset, target);
  }
  Status write_blocking(uint64_t offset, ByteSpan source) override {
    return device_.write_blocking(offset, source);
  }
  Status sync_blocking() override { return device_.sync_blocking(); }
  bool poll() override { return device_.poll(); }
  uint64_t size_bytes() const override { return device_.size_bytes(); }
  uint64_t inflight_bytes() const override { return device_.inflight_bytes(); }
  std::string backend() const override { return "scripted"; }

 private:
  // Null where the operation was refused.
  DeviceCallback record(Event event, DeviceCallback done) {
    script_->events.push_back(event);
    if (script_->fault) {
      const Status refusal = script_->fault(event.kind, event.offset, event.bytes);
      if (!refusal.is_ok()) {
        device_.defer([done = std::move(done), refusal] { done(refusal); });
        return nullptr;
      }
    }
    const bool holds = script_->holds && script_->holds(event.kind);
    event.done = true;
    return [script = script_, event, holds, done = std::move(done)](const Status& status) {
      if (holds) {
        script->held.push_back([done, status] { done(status); });
        return;
      }
      script->events.push_back(event);
      done(status);
    };
  }

  MemoryDevice device_;
  std::shared_ptr<Script> script_;
};

}  // namespace quire

#endif  // QUIRE_TESTS_TIERS_NVME_SCRIPTED_DEVICE_H_
