// The GPU tier's state machine against the fake driver: what is published when, and what is left
// when the device fails in every way it can.
#include "server/store/gpu_placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "base/gpu/fake_driver.h"
#include "base/hash.h"

namespace quire::server {
namespace {

using gpu::FakeCall;
using gpu::FakeDriver;
using gpu::FakeLive;

constexpr uint64_t kMiB = 1ull << 20;
constexpr uint64_t kObjectBytes = kMiB - 100;

class GpuPlacementTest : public testing::Test {
 protected:
  void SetUp() override {
    loop_ = *make_event_loop();
    slab_ = *tiers::HostSlab::create({.capacity_bytes = 32 * kMiB});
  }
  void TearDown() override {
    placement_.reset();
    if (!given_up_) {
      EXPECT_EQ(driver_->live(), FakeLive{});
    }
    for (ObjectEntry* entry : entries_) {
      slab_->free(*entry->slot);
      entry->slot.reset();
    }
    slab_.reset();
  }
  void open(uint64_t pool_bytes = 8 * kMiB) {
    GpuPlacementOptions options;
    options.pool.capacity_bytes = pool_bytes;
    options.shrink_after_ns = shrink_after_ns_;
    GpuPlacement::Hooks hooks;
    hooks.settled = [this](ObjectEntry& entry) { settled_.insert(entry.number); };
    hooks.warn = [this](const std::string& what) { warnings_.push_back(what); };
    hooks.share_bytes = [this](uint32_t tenant, uint64_t tier_bytes) {
      shares_asked_of_bytes_ = tier_bytes;
      return shares_[tenant];
    };
    placement_ = std::make_unique<GpuPlacement>(
        [this]() -> Expected<std::unique_ptr<gpu::Driver>> {
          return std::unique_ptr<gpu::Driver>(std::make_unique<SharedFake>(driver_));
        },
        options, *loop_, clock_, live_, slab_, std::move(hooks));
    run([&] { return placement_->state() != GpuPlacement::State::kOpening; });
  }
  ObjectEntry& make(uint8_t name, uint64_t bytes = kObjectBytes) {
    Digest id;
    id.bytes.fill(name);
    ObjectEntry& entry = live_.create(id);
    entry.state = ObjectState::kSealed;
    entry.bytes = bytes;
    entry.slot = *slab_->allocate(bytes);
    std::memset(slab_->payload(*entry.slot).data(), name, bytes);
    slab_->zero_tail(*entry.slot);
    entry.checksum = xxh3_128(slab_->payload(*entry.slot));
    entries_.push_back(&entry);
    return entry;
  }
  void ask(ObjectEntry& entry) {
    for (uint32_t i = 0; i < kGpuPromoteAfterAcquires; ++i) placement_->note_ask(entry);
  }
  template <typename Condition>
  bool run(Condition condition, int rounds = 60'000) {  // of a millisecond
    for (int i = 0; i < rounds; ++i) {
      if (condition()) return true;
      loop_->run_once(1'000'000);
    }
    return false;
  }
  bool promote(ObjectEntry& entry) {
    ask(entry);
    return run([&] { return placement_->readable(entry); });
  }
  const std::byte* on_device(const ObjectEntry& entry) {
    return std::bit_cast<const std::byte*>(placement_->pool().address(*entry.gpu.slot));
  }

  // Lets the test keep the fake that the placement owns.
  class SharedFake final : public gpu::Driver {
   public:
    explicit SharedFake(std::shared_ptr<FakeDriver> fake) : fake_(std::move(fake)) {}
    gpu::DriverKind kind() const override { return fake_->kind(); }
    std::string describe() const override { return fake_->describe(); }
    Expected<uint32_t> device_count() override { return fake_->device_count(); }
    Expected<gpu::DeviceInfo> device_info(uint32_t d) override { return fake_->device_info(d); }
    Status use_device(uint32_t d) override { return fake_->use_device(d); }
    Expected<gpu::Address> reserve_range(uint64_t n) override { return fake_->reserve_range(n); }
    Status release_range(gpu::Address a, uint64_t n) override { return fake_->release_range(a, n); }
    Expected<gpu::Memory> create(uint64_t n) override { return fake_->create(n); }
    Status release(gpu::Memory m) override { return fake_->release(m); }
    Status map(gpu::Address a, gpu::Memory m, uint64_t n) override { return fake_->map(a, m, n); }
    Status set_access(gpu::Address a, uint64_t n, gpu::Access access) override {
      return fake_->set_access(a, n, access);
    }
    Status unmap(gpu::Address a, uint64_t n) override { return fake_->unmap(a, n); }
    Expected<int> export_fd(gpu::Memory m) override { return fake_->export_fd(m); }
    Expected<gpu::Memory> import_fd(int fd, uint64_t n) override { return fake_->import_fd(fd, n); }
    Expected<gpu::Stream> create_stream() override { return fake_->create_stream(); }
    Status destroy_stream(gpu::Stream s) override { return fake_->destroy_stream(s); }
    Status copy_to_device(gpu::Address a, ByteSpan b, gpu::Stream s) override {
      return fake_->copy_to_device(a, b, s);
    }
    Status copy_to_host(MutableByteSpan b, gpu::Address a, gpu::Stream s) override {
      return fake_->copy_to_host(b, a, s);
    }
    Status copy_on_device(gpu::Address t, gpu::Address a, uint64_t n, gpu::Stream s) override {
      return fake_->copy_on_device(t, a, n, s);
    }
    Expected<gpu::Event> record(gpu::Stream s) override { return fake_->record(s); }
    Expected<bool> query(gpu::Event e) override { return fake_->query(e); }
    Status destroy_event(gpu::Event e) override { return fake_->destroy_event(e); }
    Status register_host(MutableByteSpan b) override { return fake_->register_host(b); }
    Status unregister_host(MutableByteSpan b) override { return fake_->unregister_host(b); }

   private:
    std::shared_ptr<FakeDriver> fake_;
  };

  std::shared_ptr<FakeDriver> driver_ = std::make_shared<FakeDriver>();
  ManualClock clock_;
  uint64_t shrink_after_ns_ = 0;
  std::map<uint32_t, uint64_t> shares_;  // by tenant; none: nothing
  uint64_t shares_asked_of_bytes_ = 0;
  std::unique_ptr<EventLoop> loop_;
  std::shared_ptr<tiers::HostSlab> slab_;
  LiveObjects live_;
  std::vector<ObjectEntry*> entries_;
  std::set<uint32_t> settled_;
  std::vector<std::string> warnings_;
  std::unique_ptr<GpuPlacement> placement_;
  bool given_up_ = false;
};

const Status kWanted(StatusCode::kIoError, "wanted");

TEST_F(GpuPlacementTest, TheSecondAskMakesACopy) {
  open();
  ObjectEntry& entry = make(1);
  placement_->note_ask(entry);
  run([] { return false; }, 5);
  EXPECT_EQ(driver_->calls(FakeCall::kCopyToDevice), 0u);
  placement_->note_ask(entry);
  ASSERT_TRUE(run([&] { return placement_->readable(entry); }));
  const auto whole = slab_->whole(*entry.slot);
  EXPECT_EQ(std::memcmp(on_device(entry), whole.data(), whole.size()), 0) << "with its zero tail";
  EXPECT_EQ(settled_.count(entry.number), 1u);
  EXPECT_FALSE(entry.io_in_flight());
  EXPECT_EQ(placement_->stats().objects, 1u);
  EXPECT_EQ(placement_->stats().written_bytes, kObjectBytes);
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(GpuPlacementTest, NothingIsReadableBeforeItsCopyHasEnded) {
  open();
  ASSERT_TRUE(promote(make(99))) << "the pool has memory now";
  ObjectEntry& entry = make(1);
  driver_->hold_events(true);
  const uint64_t before = driver_->calls(FakeCall::kQuery);
  ask(entry);
  ASSERT_TRUE(run([&] { return driver_->calls(FakeCall::kQuery) > before + 10; }));
  EXPECT_FALSE(placement_->readable(entry));
  EXPECT_TRUE(entry.io_in_flight()) << "the host slot is being read";
  driver_->hold_events(false);
  EXPECT_TRUE(run([&] { return placement_->readable(entry); }));
}

TEST_F(GpuPlacementTest, UploadsInFlightAreBounded) {
  open(16 * kMiB);
  std::vector<ObjectEntry*> entries;
  for (uint8_t i = 0; i < 7; ++i) entries.push_back(&make(i));
  // Memory for all of them, so that nothing but the limit holds them back.
  ASSERT_TRUE(promote(make(99, 10 * kMiB)));
  placement_->drop(*entries_.back());
  driver_->hold_events(true);
  const uint64_t before = driver_->calls(FakeCall::kQuery);
  for (ObjectEntry* entry : entries) ask(*entry);
  ASSERT_TRUE(run([&] { return driver_->calls(FakeCall::kQuery) > before + 40; }));
  EXPECT_EQ(driver_->calls(FakeCall::kCopyToDevice), 1 + kGpuUploadsInFlightMax);
  driver_->hold_events(false);
  for (ObjectEntry* entry : entries) {
    EXPECT_TRUE(run([&] { return placement_->readable(*entry); }));
  }
}

TEST_F(GpuPlacementTest, WhatDoesNotVerifyIsNeverReadable) {
  open();
  ObjectEntry& entry = make(1);
  driver_->corrupt_next_copy();
  ask(entry);
  ASSERT_TRUE(run([&] { return settled_.count(entry.number) != 0; }));
  EXPECT_FALSE(placement_->readable(entry));
  EXPECT_FALSE(entry.gpu.slot);
  EXPECT_EQ(placement_->stats().corruptions, 1u);
  EXPECT_EQ(placement_->state(), GpuPlacement::State::kOk);
  EXPECT_TRUE(promote(entry)) << "the next try is a new one";
}

TEST_F(GpuPlacementTest, UploadsThatCannotStartEndTheTierAfterSome) {
  open();
  driver_->fail(FakeCall::kCopyToDevice, kWanted, 1, 1000);
  ObjectEntry& sound = make(100);
  ASSERT_TRUE(promote(sound));
  ObjectEntry& entry = make(1);
  for (uint32_t i = 1; i < kGpuFailuresMax; ++i) {
    ask(entry);
    ASSERT_TRUE(run([&] { return !entry.gpu.queued && !entry.gpu.uploading; }));
    ASSERT_EQ(placement_->state(), GpuPlacement::State::kOk) << i;
  }
  EXPECT_TRUE(placement_->readable(sound));
  ask(entry);
  ASSERT_TRUE(run([&] { return placement_->state() == GpuPlacement::State::kStopped; }));
  EXPECT_EQ(placement_->available().code(), StatusCode::kUnavailable);
  EXPECT_EQ(placement_->stats().state, "stopped: wanted");
  EXPECT_EQ(warnings_.size(), 1u);
  EXPECT_FALSE(placement_->readable(sound));
  EXPECT_FALSE(sound.gpu.slot);
  EXPECT_EQ(placement_->pool().stats().slots, 0u);
}

TEST_F(GpuPlacementTest, ADeviceThatFailsUnderACopyIsGivenUp) {
  given_up_ = true;  // its memory is the driver's
  open();
  ObjectEntry& leased = make(1);
  ASSERT_TRUE(promote(leased));
  leased.leases = leased.gpu.leases = 1;
  ObjectEntry& entry = make(2);
  driver_->fail(FakeCall::kQuery, kWanted);
  ask(entry);
  ASSERT_TRUE(run([&] { return placement_->state() == GpuPlacement::State::kStopped; }));
  EXPECT_FALSE(entry.io_in_flight());
  EXPECT_EQ(settled_.count(entry.number), 1u);
  EXPECT_TRUE(leased.gpu.slot) << "as long as its lease";
  EXPECT_FALSE(placement_->readable(leased));
  leased.leases = leased.gpu.leases = 0;
  placement_->drop(leased);
  EXPECT_EQ(placement_->pool().stats().slots, 0u);
}

TEST_F(GpuPlacementTest, ACopyThatNeverEndsCostsTheTierAndNothingElse) {
  open();
  driver_->hold_events(true);
  ObjectEntry& entry = make(1);
  ask(entry);
  ASSERT_TRUE(run([&] { return entry.gpu.uploading; }));
  clock_.advance_ns(kGpuUploadNsMax + 1);
  placement_->tick();
  EXPECT_EQ(placement_->state(), GpuPlacement::State::kStopped);
  EXPECT_FALSE(entry.io_in_flight()) << "the host slot is free again";
  driver_->hold_events(false);  // it did end: everything is given back
}

TEST_F(GpuPlacementTest, EveryFailureOfOpeningMeansAbsent) {
  for (const FakeCall call : {FakeCall::kDeviceCount, FakeCall::kDeviceInfo, FakeCall::kUseDevice,
                              FakeCall::kCreateStream, FakeCall::kReserveRange}) {
    SCOPED_TRACE(gpu::fake_call_name(call));
    driver_ = std::make_shared<FakeDriver>();
    driver_->fail(call, kWanted);
    warnings_.clear();
    open();
    EXPECT_EQ(placement_->state(), GpuPlacement::State::kAbsent);
    EXPECT_EQ(placement_->stats().state, "absent: wanted");
    EXPECT_EQ(placement_->available().code(), StatusCode::kUnavailable);
    EXPECT_EQ(warnings_.size(), 1u);
    ObjectEntry& entry = make(9);
    ask(entry);
    EXPECT_FALSE(entry.gpu.queued);
    placement_.reset();
    EXPECT_EQ(driver_->live(), FakeLive{});
  }
}

TEST_F(GpuPlacementTest, WithoutRegisteredHostMemoryItWorks) {
  driver_->fail(FakeCall::kRegisterHost, kWanted);
  open();
  EXPECT_TRUE(promote(make(1)));
}

TEST_F(GpuPlacementTest, FullMeansGrowingThenEvicting) {
  open(4 * kMiB);
  std::vector<ObjectEntry*> entries;
  for (uint8_t i = 1; i <= 6; ++i) {
    entries.push_back(&make(i));
    ASSERT_TRUE(promote(*entries.back()));
    if (i == 1) entries[0]->leases = entries[0]->gpu.leases = 1;
  }
  EXPECT_EQ(placement_->pool().stats().backed_bytes, 4 * kMiB);
  EXPECT_EQ(placement_->stats().objects, 4u);
  EXPECT_EQ(placement_->stats().evictions, 2u);
  EXPECT_TRUE(placement_->readable(*entries[0])) << "it is leased";
  EXPECT_EQ(*on_device(*entries[0]), std::byte{1});
  // All leased: no room, no copy, and no harm.
  for (ObjectEntry* entry : entries) {
    if (placement_->readable(*entry)) entry->leases = entry->gpu.leases = 1;
  }
  ObjectEntry& late = make(50);
  ask(late);
  run([] { return false; }, 20);
  EXPECT_FALSE(late.gpu.queued);
  for (ObjectEntry* entry : entries) entry->leases = entry->gpu.leases = 0;
  EXPECT_TRUE(promote(late));
}

TEST_F(GpuPlacementTest, ABurstOfOneTenantLeavesTheSharesOfOthers) {
  open(8 * kMiB);
  shares_[1] = 3 * kMiB;
  uint8_t name = 1;
  const auto copied = [&](uint32_t tenant) -> ObjectEntry& {
    ObjectEntry& entry = make(name++);
    entry.tenant = tenant;
    EXPECT_TRUE(promote(entry));
    return entry;
  };
  std::vector<ObjectEntry*> own;
  for (int i = 0; i < 8; ++i) own.push_back(&copied(1));
  const auto kept = [&] {
    return std::ranges::count_if(own,
                                 [&](ObjectEntry* entry) { return placement_->readable(*entry); });
  };
  // What is beyond the shares is divided, however often the newcomer's copies are used.
  for (int i = 0; i < 8; ++i) {
    const ObjectEntry& entry = copied(2);
    for (int use = 0; use < 20; ++use) placement_->note_use(entry);
  }
  EXPECT_EQ(kept(), 5);
  EXPECT_EQ(shares_asked_of_bytes_, 8 * kMiB);
  for (uint32_t tenant = 3; tenant <= 6; ++tenant) {
    for (int i = 0; i < 2; ++i) copied(tenant);
  }
  EXPECT_EQ(kept(), 3) << "its share";
  EXPECT_EQ(placement_->stats().objects, 8u);
  // Another one with a share gets it from those above theirs.
  shares_[9] = 2 * kMiB;
  const ObjectEntry& first = copied(9);
  const ObjectEntry& second = copied(9);
  EXPECT_TRUE(placement_->readable(first) && placement_->readable(second));
  EXPECT_EQ(kept(), 3);
  // Where nobody is above its share, who asks gives way itself.
  shares_[1] = shares_[9] = 8 * kMiB;
  for (uint32_t tenant = 2; tenant <= 6; ++tenant) shares_[tenant] = 8 * kMiB;
  copied(9);
  EXPECT_EQ(kept(), 3);
  EXPECT_FALSE(placement_->readable(first) && placement_->readable(second));
}

TEST_F(GpuPlacementTest, WithoutSharesTheOneWithMostGivesWay) {
  open(8 * kMiB);
  uint8_t name = 1;
  std::map<uint32_t, std::vector<ObjectEntry*>> copies;
  const auto copy = [&](uint32_t tenant) {
    ObjectEntry& entry = make(name++);
    entry.tenant = tenant;
    EXPECT_TRUE(promote(entry));
    copies[tenant].push_back(&entry);
  };
  const auto kept = [&](uint32_t tenant) {
    return std::ranges::count_if(copies[tenant],
                                 [&](ObjectEntry* entry) { return placement_->readable(*entry); });
  };
  for (int i = 0; i < 8; ++i) copy(1);
  EXPECT_EQ(kept(1), 8) << "alone, one has everything";
  for (int i = 0; i < 10; ++i) copy(2);
  EXPECT_NEAR(static_cast<double>(kept(1)), 4, 1) << "about a half each";
  EXPECT_EQ(kept(1) + kept(2), 8);
  const auto kept_before = kept(1);
  // What is leased is not taken even from who has most.
  for (ObjectEntry* entry : copies[1]) {
    if (placement_->readable(*entry)) entry->leases = entry->gpu.leases = 1;
  }
  for (int i = 0; i < 3; ++i) copy(3);
  EXPECT_EQ(kept(1), kept_before);
  EXPECT_EQ(kept(1) + kept(2) + kept(3), 8);
  EXPECT_GT(kept(3), 0);
  for (ObjectEntry* entry : copies[1]) entry->leases = entry->gpu.leases = 0;
}

TEST_F(GpuPlacementTest, AGrowthThatFailsIsTriedAgainLater) {
  open(8 * kMiB);
  ASSERT_TRUE(promote(make(1)));
  ASSERT_TRUE(promote(make(2)));
  driver_->fail(FakeCall::kCreate, Status(StatusCode::kResourceExhausted, "others hold it"), 0);
  ASSERT_TRUE(promote(make(3))) << "in the place of another";
  EXPECT_EQ(placement_->stats().evictions, 1u);
  EXPECT_EQ(placement_->pool().stats().backed_bytes, 2 * kMiB);
  clock_.advance_ns(kGpuGrowthRetryNs);
  ASSERT_TRUE(promote(make(4)));
  EXPECT_EQ(placement_->pool().stats().backed_bytes, 4 * kMiB);
}

TEST_F(GpuPlacementTest, UnusedMemoryAtTheEndIsGivenBack) {
  shrink_after_ns_ = 1'000'000'000;
  open(8 * kMiB);
  std::vector<ObjectEntry*> entries;
  for (uint8_t i = 1; i <= 6; ++i) {
    entries.push_back(&make(i));
    ASSERT_TRUE(promote(*entries.back()));
  }
  for (size_t i = 1; i < entries.size(); ++i) placement_->drop(*entries[i]);
  placement_->tick();
  EXPECT_EQ(placement_->pool().chunks().size(), 3u);
  clock_.advance_ns(1'000'000'000);
  for (int i = 0; i < 5; ++i) placement_->tick();
  EXPECT_EQ(placement_->pool().chunks().size(), 1u);
  EXPECT_TRUE(run([&] { return driver_->live().memories == 1; }));
  EXPECT_TRUE(promote(*entries[3]));
  EXPECT_TRUE(promote(*entries[4])) << "it grows again";
}

TEST_F(GpuPlacementTest, AnObjectThatLeftMemoryMeanwhileIsForgotten) {
  open();
  ObjectEntry& entry = make(1);
  placement_->note_ask(entry);
  entry.loading = true;  // as good as not there
  placement_->note_ask(entry);
  run([] { return false; }, 10);
  EXPECT_FALSE(entry.gpu.queued);
  EXPECT_EQ(driver_->calls(FakeCall::kCopyToDevice), 0u);
}

}  // namespace
}  // namespace quire::server
