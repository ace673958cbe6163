// A device without space, one that does not answer, and one that has written enough for today.
#include <algorithm>
#include <map>
#include <set>

#include "tests/tiers/nvme/scripted_device.h"
#include "tests/tiers/nvme/tier_harness.h"

namespace quire {
namespace {

using Kind = ScriptedDevice::Kind;
constexpr uint64_t kBase = 1 << 20;

class NvmeHealth : public testing::Test {
 protected:
  void open(uint64_t segments = 16, NvmeOptions options = test_options()) {
    store_ = std::make_unique<TierHarness>(segments);
    script_ = std::make_shared<ScriptedDevice::Script>();
    ASSERT_EQ("", store_->text(store_->open_on(
                      std::make_unique<ScriptedDevice>(store_->image, script_), options)));
    ASSERT_EQ("", store_->text(store_->recover()));
    NvmeTier::ReclaimHooks hooks;
    hooks.on_evict = [this](const Digest& key, const NvmeLocation& at) {
      const auto found = index_.find(key);
      if (found != index_.end() && found->second.second == at) index_.erase(found);
    };
    store_->tier->set_reclaim_hooks(hooks);
  }
  Status write(uint64_t id) {
    const auto location = store_->write(test_key(id), TestPayload(id));
    if (!location.is_ok()) return location.status();
    index_[test_key(id)] = {id, *location};
    return Status::ok();
  }
  void expect_all_readable() {
    for (const auto& [key, entry] : index_) {
      EXPECT_EQ("", store_->text(store_->read(key, entry.second, TestPayload(entry.first))));
    }
  }
  NvmeState state() { return store_->tier->stats().state; }
  void drain() {
    while (store_->tier->device().poll()) {
    }
  }

  std::shared_ptr<ScriptedDevice::Script> script_;
  std::unique_ptr<TierHarness> store_;
  std::map<Digest, std::pair<uint64_t, NvmeLocation>> index_;
};

// A sparse file on a file system that fills up: what was written once stays writable.
TEST_F(NvmeHealth, WithoutSpaceItGoesOnInWhatItHas) {
  open();
  constexpr uint64_t kSpaceBytes = kBase + 8 * kTestSegmentBytes + 300'000;
  std::vector<bool> given((kBase + 16 * kTestSegmentBytes) / kBlockBytes);
  uint64_t refused = 0;
  script_->fault = [&](Kind kind, uint64_t offset, uint64_t bytes) {
    if (kind != Kind::kWrite) return Status::ok();
    const uint64_t first = offset / kBlockBytes;
    uint64_t more = 0;
    for (uint64_t i = 0; i < bytes / kBlockBytes; ++i) more += !given[first + i];
    const auto used = static_cast<uint64_t>(std::count(given.begin(), given.end(), true));
    if ((used + more) * kBlockBytes > kSpaceBytes - kBase) {
      ++refused;
      return Status(StatusCode::kNoSpace, "no space left");
    }
    std::fill_n(given.begin() + static_cast<int64_t>(first), bytes / kBlockBytes, true);
    return Status::ok();
  };
  uint64_t failed = 0;
  for (uint64_t id = 0; id < 4000; ++id) {  // about 48 MB
    const Status status = write(id);
    if (status.is_ok()) continue;
    ++failed;
    EXPECT_EQ(StatusCode::kNoSpace, status.code()) << id << " " << status.to_string();
    store_->tier->tick();
    drain();
  }
  EXPECT_GT(refused, 0u);
  EXPECT_LT(failed, 40u);
  EXPECT_EQ(NvmeState::kOk, state());
  EXPECT_GT(store_->tier->stats().reclaimed_segments, 20u);
  EXPECT_GT(index_.size(), 300u);
  expect_all_readable();
  ASSERT_EQ("", store_->text(store_->sync()));
  // And after a restart on the same file.
  const auto index = index_;
  ASSERT_EQ("", store_->text(store_->open()));
  ASSERT_EQ("", store_->text(store_->recover()));
  for (const auto& [key, entry] : index) {
    EXPECT_EQ("", store_->text(store_->read(key, entry.second, TestPayload(entry.first))));
  }
}

TEST_F(NvmeHealth, SpaceIsTriedAgainAfterAWhile) {
  open();
  ASSERT_TRUE(write(1).is_ok());
  bool full = true;
  script_->fault = [&](Kind kind, uint64_t, uint64_t) {
    return full && kind == Kind::kWrite ? Status(StatusCode::kNoSpace, "quota exceeded")
                                        : Status::ok();
  };
  EXPECT_EQ(StatusCode::kNoSpace, write(2).code());
  EXPECT_EQ(NvmeState::kReadOnlyNoSpace, state());
  EXPECT_NE(std::string::npos, store_->tier->stats().state_reason.find("quota exceeded"));
  full = false;
  EXPECT_EQ(StatusCode::kNoSpace, write(3).code());
  expect_all_readable();
  store_->clock.advance_ns(kNvmeNoSpaceRetryMs * 1'000'000);
  EXPECT_EQ("", store_->text(write(4)));
  EXPECT_EQ(NvmeState::kOk, state());
  expect_all_readable();
}

// fdatasync that reports no space has lost data: that is not a lack that reclaiming ends.
TEST_F(NvmeHealth, SyncWithoutSpaceIsFinal) {
  open();
  ASSERT_TRUE(write(1).is_ok());
  script_->fault = [&](Kind kind, uint64_t, uint64_t) {
    return kind == Kind::kSync ? Status(StatusCode::kNoSpace, "no space") : Status::ok();
  };
  EXPECT_FALSE(store_->sync().is_ok());
  script_->fault = nullptr;
  store_->clock.advance_ns(10 * kNvmeNoSpaceRetryMs * 1'000'000);
  store_->tier->tick();
  EXPECT_EQ(NvmeState::kReadOnlyError, state());
  EXPECT_EQ(StatusCode::kUnavailable, write(2).code());
}

TEST_F(NvmeHealth, StuckWriteRefusesNewOnesUntilItComesBack) {
  open();
  ASSERT_TRUE(write(1).is_ok());
  script_->holds = [](Kind kind) { return kind == Kind::kWrite; };
  const TestPayload payload(2);
  std::optional<Expected<NvmeLocation>> first;
  store_->tier->write(test_key(2), payload.bytes(), payload.checksum(),
                      [&](Expected<NvmeLocation> result) { first = std::move(result); });
  drain();
  EXPECT_FALSE(first.has_value());
  EXPECT_EQ(NvmeState::kOk, state());
  store_->clock.advance_ns(test_options().stuck_after_ms * 1'000'000 + 1);
  EXPECT_EQ(NvmeState::kStuck, state());
  EXPECT_NE(std::string::npos, store_->tier->stats().state_reason.find("a write or sync has not"));
  const Status refusal = write(3);
  EXPECT_EQ(StatusCode::kBusy, refusal.code());
  EXPECT_GT(refusal.retry_after_ms(), 0u);
  EXPECT_EQ(StatusCode::kBusy, store_->sync().code());
  expect_all_readable();  // reads come back
  script_->holds = nullptr;
  script_->release();
  drain();
  script_->release();
  drain();
  ASSERT_TRUE(first.has_value());
  EXPECT_TRUE(first->is_ok());
  EXPECT_EQ(NvmeState::kOk, state());
  EXPECT_EQ("", store_->text(write(4)));
  EXPECT_EQ("", store_->text(store_->sync()));
}

TEST_F(NvmeHealth, StuckSyncAnswersItsWaiters) {
  open();
  ASSERT_TRUE(write(1).is_ok());
  script_->holds = [](Kind kind) { return kind == Kind::kSync; };
  std::vector<StatusCode> codes;
  for (int i = 0; i < 3; ++i) {
    store_->tier->sync([&](const Status& status) { codes.push_back(status.code()); });
    drain();
  }
  store_->clock.advance_ns(test_options().stuck_after_ms * 1'000'000 + 1);
  store_->tier->tick();
  EXPECT_EQ(std::vector<StatusCode>(3, StatusCode::kBusy), codes);
  script_->holds = nullptr;
  script_->release();
  drain();
  EXPECT_EQ(3u, codes.size());
  EXPECT_EQ("", store_->text(store_->sync()));
}

TEST_F(NvmeHealth, StuckReadRefusesReads) {
  open();
  ASSERT_TRUE(write(1).is_ok());
  script_->holds = [](Kind kind) { return kind == Kind::kRead; };
  const TestPayload payload(1);
  const AlignedBuffer target(payload.bytes().size());
  std::optional<Status> first;
  const NvmeLocation at = index_[test_key(1)].second;
  store_->tier->read(test_key(1), at, payload.checksum(), target.span(),
                     [&](Status status) { first = std::move(status); });
  drain();
  store_->clock.advance_ns(test_options().stuck_after_ms * 1'000'000 + 1);
  EXPECT_EQ(StatusCode::kBusy, store_->read(test_key(1), at, payload).code());
  EXPECT_EQ(StatusCode::kBusy, write(2).code());
  script_->holds = nullptr;
  script_->release();
  drain();
  ASSERT_TRUE(first.has_value() && first->is_ok());
  expect_all_readable();
}

// One write that is lost among others that come back.
TEST_F(NvmeHealth, LostWriteIsStuckInTheEnd) {
  open();
  ASSERT_TRUE(write(1).is_ok());
  bool hold = true;
  script_->holds = [&](Kind kind) { return kind == Kind::kWrite && std::exchange(hold, false); };
  std::vector<std::unique_ptr<TestPayload>> payloads;
  uint32_t good = 0;
  StatusCode last = StatusCode::kOk;
  for (uint64_t id = 0; id < 40; ++id) {
    payloads.push_back(std::make_unique<TestPayload>(id));
    store_->tier->write(test_key(id), payloads.back()->bytes(), payloads.back()->checksum(),
                        [&](const Expected<NvmeLocation>& result) {
                          good += result.is_ok();
                          last = result.status().code();
                        });
    drain();
    store_->clock.advance_ns(test_options().stuck_after_ms * 1'000'000 / 2);
    store_->tier->tick();
  }
  EXPECT_EQ(0u, good) << "reported in order";
  EXPECT_EQ(StatusCode::kBusy, last);
  EXPECT_EQ(NvmeState::kStuck, state());
  script_->release();
  drain();
  EXPECT_GT(good, 15u);
  EXPECT_EQ(NvmeState::kOk, state());
}

// Slow is not stuck: something comes back all the time.
TEST_F(NvmeHealth, LongQueueIsNotStuck) {
  open();
  const TestPayload payload(5);
  uint32_t good = 0;
  for (uint64_t id = 0; id < 200; ++id) {
    store_->tier->write(test_key(5), payload.bytes(), payload.checksum(),
                        [&](const Expected<NvmeLocation>& result) { good += result.is_ok(); });
  }
  do {
    store_->clock.advance_ns(test_options().stuck_after_ms * 1'000'000 / 40);
    store_->tier->tick();
  } while (store_->tier->device().poll());
  EXPECT_EQ(200u, good);
}

TEST_F(NvmeHealth, OverBudgetOnlyTheBestIsMoved) {
  for (const bool limited : {false, true}) {
    NvmeOptions options = test_options();
    options.write_bytes_per_day = limited ? 24 << 20 : 0;  // 1 MiB in an hour
    open(8, options);
    std::set<Digest> asked;
    std::set<Digest> asked_over;
    NvmeTier::ReclaimHooks hooks;
    hooks.keep = [&](const Digest& key, const NvmeLocation&) {
      asked.insert(key);
      return true;
    };
    hooks.keep_over_budget = [&](const Digest& key, const NvmeLocation&) {
      asked_over.insert(key);
      return false;
    };
    store_->tier->set_reclaim_hooks(hooks);
    for (uint64_t id = 0; id < 1500; ++id) {
      ASSERT_TRUE(store_->write(test_key(id), TestPayload(id)).is_ok());
    }
    const NvmeStats stats = store_->tier->stats();
    EXPECT_EQ(limited, stats.over_write_budget);
    EXPECT_EQ(limited, asked.empty());
    EXPECT_EQ(limited, !asked_over.empty());
    EXPECT_EQ(limited, stats.reinserted_bytes == 0);
  }
}

// Header, footer and table are little beside 4 MiB objects.
TEST_F(NvmeHealth, DeviceBytesPerPayload) {
  store_ = std::make_unique<TierHarness>(4 * 64);
  NvmeOptions options = test_options();
  options.segment_bytes = 64 << 20;
  ASSERT_EQ("", store_->text(store_->open(options)));
  ASSERT_EQ("", store_->text(store_->recover()));
  const AlignedBuffer payload(4 << 20);
  const Hash128 checksum = xxh3_128(payload.span());
  for (uint64_t id = 0; id < 40; ++id) {
    std::optional<bool> good;
    store_->tier->write(test_key(id), payload.span(), checksum,
                        [&](const Expected<NvmeLocation>& result) { good = result.is_ok(); });
    ASSERT_TRUE(poll_until(store_->tier->device(), [&] { return good.has_value(); }));
    ASSERT_TRUE(*good);
  }
  ASSERT_EQ("", store_->text(store_->seal()));
  const NvmeStats stats = store_->tier->stats();
  EXPECT_EQ(40u * payload.size(), stats.written_bytes);
  // 40 headers, and 3 segments with header, table and footer.
  EXPECT_EQ(40 * (payload.size() + kBlockBytes) + 3 * 3 * kBlockBytes, stats.device_written_bytes);
}

}  // namespace
}  // namespace quire
