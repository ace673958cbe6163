// A tier that goes while operations are in flight: the kernel reads and writes their memory until
// it is done with them, so that memory lives for as long as their callbacks. What does not is found
// by AddressSanitizer.
#include <algorithm>
#include <map>

#include "tests/tiers/nvme/tier_harness.h"

namespace quire {
namespace {

// What the device has handed to the kernel; outlives the device, as a loop does.
struct Kernel {
  struct Operation {
    MutableByteSpan target;
    ByteSpan source;
    DeviceCallback done;
  };
  uint64_t operations_before_late = 0;
  uint64_t operations = 0;
  std::vector<Operation> late;
  uint64_t late_reads = 0;
  uint64_t late_writes = 0;
  uint64_t sum = 0;

  bool is_late() { return ++operations > operations_before_late; }
  void finish() {
    for (Operation& operation : late) {
      std::ranges::fill(operation.target, std::byte{0x77});
      for (const std::byte byte : operation.source) sum += static_cast<uint64_t>(byte);
      late_reads += !operation.target.empty();
      late_writes += !operation.source.empty();
    }
    late.clear();
  }
};

class LateDevice final : public BlockDevice {
 public:
  LateDevice(std::shared_ptr<MemoryImage> image, Kernel& kernel)
      : device_(std::move(image)), kernel_(kernel) {}

  void read(uint64_t offset, MutableByteSpan target, DeviceCallback done) override {
    if (!kernel_.is_late()) return device_.read(offset, target, std::move(done));
    kernel_.late.push_back({target, {}, std::move(done)});
  }
  void write(uint64_t offset, ByteSpan source, DeviceCallback done) override {
    if (!kernel_.is_late()) return device_.write(offset, source, std::move(done));
    kernel_.late.push_back({{}, source, std::move(done)});
  }
  void sync(DeviceCallback done) override { device_.sync(std::move(done)); }
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
  std::string backend() const override { return "late"; }

 private:
  MemoryDevice device_;
  Kernel& kernel_;
};

class Teardown : public testing::Test {
 protected:
  // Runs the scenario until the device is late, ends the tier, and then the operations. False where
  // the scenario ended first.
  template <typename Scenario>
  bool run(uint64_t operations, Scenario scenario) {
    kernel_.operations = 0;
    kernel_.operations_before_late = UINT64_MAX;
    TierHarness store(6);
    EXPECT_EQ("", store.text(store.open_on(std::make_unique<LateDevice>(store.image, kernel_))));
    kernel_.operations_before_late = operations;
    scenario(store);
    reclaimed_ = store.tier->stats().reclaimed_segments;
    scrub_rounds_ = store.tier->stats().scrub.rounds;
    store.tier.reset();
    const bool was_late = !kernel_.late.empty();
    kernel_.finish();
    return was_late;
  }
  // False once nothing more can happen.
  bool settle(TierHarness& store) {
    while (store.tier->device().poll()) {
    }
    return kernel_.late.empty();
  }
  bool recover(TierHarness& store) {
    store.tier->recover([](const RecoveredObject&) {}, [](const Status&) {});
    return settle(store);
  }
  bool write(TierHarness& store, uint64_t id) {
    // Payloads belong to the owner, who keeps them.
    payloads_.emplace(id, TestPayload(id, 100'000));
    const TestPayload& payload = payloads_.at(id);
    store.tier->write(test_key(id), payload.bytes(), payload.checksum(),
                      [](const Expected<NvmeLocation>&) {});
    return settle(store);
  }

  Kernel kernel_;
  std::map<uint64_t, TestPayload> payloads_;
  uint64_t reclaimed_ = 0;
  uint64_t scrub_rounds_ = 0;
};

TEST_F(Teardown, WhileWritingAndReclaiming) {
  bool was_late = true;
  for (uint64_t operations = 0; was_late; operations += 7) {
    was_late = run(operations, [&](TierHarness& store) {
      NvmeTier::ReclaimHooks hooks;
      hooks.keep = [](const Digest& key, const NvmeLocation&) { return key.bytes[0] % 2 == 0; };
      store.tier->set_reclaim_hooks(hooks);
      if (!recover(store)) return;
      for (uint64_t id = 0; id < 160; ++id) {
        if (!write(store, id)) return;
      }
    });
  }
  EXPECT_GT(reclaimed_, 2u);
  EXPECT_GT(kernel_.late_reads, 0u);
  EXPECT_GT(kernel_.late_writes, 0u);
}

TEST_F(Teardown, WhileScrubbing) {
  bool was_late = true;
  for (uint64_t operations = 0; was_late; ++operations) {
    was_late = run(operations, [&](TierHarness& store) {
      kernel_.operations_before_late = UINT64_MAX;
      ASSERT_TRUE(recover(store));
      for (uint64_t id = 0; id < 10; ++id) ASSERT_TRUE(write(store, id));
      ASSERT_EQ("", store.text(store.seal()));
      kernel_.operations = 0;
      kernel_.operations_before_late = operations;
      ScrubOptions options;
      options.bytes_per_second = 1ull << 40;
      ASSERT_EQ("", store.text(store.tier->start_scrub(options)));
      while (kernel_.late.empty() && store.tier->stats().scrub.rounds == 0) {
        store.clock.advance_ns(kNvmeTickMs * 1'000'000);
        store.tier->tick();
        settle(store);
      }
    });
  }
  EXPECT_EQ(scrub_rounds_, 1u);
  EXPECT_GT(kernel_.late_reads, 10u);
}

}  // namespace
}  // namespace quire
