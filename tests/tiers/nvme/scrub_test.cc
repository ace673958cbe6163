// The background scrub: finds what rotted, disturbs nobody, and skips what is gone.
#include <algorithm>
#include <set>

#include "tests/tiers/nvme/tier_harness.h"

namespace quire {
namespace {

constexpr uint64_t kFast = 1ull << 40;

class Scrub : public testing::Test {
 protected:
  explicit Scrub(uint64_t segments = 16) : store_(segments) {}

  void fill(uint64_t count, uint64_t bytes_max = 24'000) {
    for (uint64_t id = 0; id < count; ++id) {
      const auto location = store_.write(test_key(id), TestPayload(id, bytes_max));
      ASSERT_TRUE(location.is_ok()) << location.status().to_string();
      locations_.push_back(*location);
    }
    ASSERT_EQ("", store_.text(store_.seal()));
  }
  void start(uint64_t bytes_per_second = kFast) {
    ScrubOptions options;
    options.bytes_per_second = bytes_per_second;
    options.on_corrupt = [this](const Digest& key, const NvmeLocation& location) {
      reported_.insert(key);
      last_ = location;
    };
    ASSERT_EQ("", store_.text(store_.tier->start_scrub(options)));
  }
  void tick(uint64_t ms = kNvmeTickMs) {
    store_.clock.advance_ns(ms * 1'000'000);
    store_.tier->tick();
    while (store_.tier->device().poll()) {
    }
  }
  void run_round() {
    const uint64_t rounds = store_.tier->stats().scrub.rounds;
    for (int i = 0; i < 10'000 && store_.tier->stats().scrub.rounds == rounds; ++i) tick();
    EXPECT_EQ(rounds + 1, store_.tier->stats().scrub.rounds);
  }
  std::byte& byte_of(const NvmeLocation& at, uint64_t offset) {
    return store_.image->bytes()[(1 << 20) + at.segment * kTestSegmentBytes + at.offset + offset];
  }

  TierHarness store_;
  std::vector<NvmeLocation> locations_;
  std::set<Digest> reported_;
  NvmeLocation last_;
};

class LargeScrub : public Scrub {
 protected:
  LargeScrub() : Scrub(160) {}
};

TEST_F(Scrub, NeedsARecoveredStore) {
  ASSERT_EQ("", store_.text(store_.open()));
  EXPECT_EQ(StatusCode::kFailedPrecondition, store_.tier->start_scrub({}).code());
}

TEST_F(Scrub, IntactStoreHasNothingToReport) {
  store_.open_and_recover();
  fill(300);
  start();
  run_round();
  const ScrubStats stats = store_.tier->stats().scrub;
  EXPECT_TRUE(reported_.empty());
  EXPECT_EQ(300u, stats.objects);
  EXPECT_EQ(0u, stats.corruptions);
  uint64_t bytes = 0;
  for (const NvmeLocation& at : locations_) bytes += kBlockBytes + align_up(at.payload_bytes, 4096);
  EXPECT_GE(stats.bytes, bytes);
  EXPECT_LT(stats.bytes, bytes + 16 * (64 << 10));
}

// Payloads longer than the scrub's buffer are hashed in parts.
TEST_F(LargeScrub, LargeObjectsInChunks) {
  NvmeOptions options = test_options();
  options.segment_bytes = 16 << 20;
  ASSERT_EQ("", store_.text(store_.open(options)));
  ASSERT_EQ("", store_.text(store_.recover()));
  fill(12, 4 << 20);
  for (const uint64_t id : {3, 7}) {
    const NvmeLocation& at = locations_[id];
    const uint64_t header = (1 << 20) + at.segment * options.segment_bytes + at.offset;
    store_.image->bytes()[header + kBlockBytes + at.payload_bytes - 1] ^= std::byte{4};
  }
  start();
  run_round();
  EXPECT_EQ((std::set<Digest>{test_key(3), test_key(7)}), reported_);
}

TEST_F(LargeScrub, FindsEveryOneOfTenThousandFlips) {
  constexpr uint64_t kObjects = 10'000;
  constexpr uint64_t kSeed = 7;
  store_.open_and_recover();
  fill(kObjects, 5'000);
  SeededRandom random(kSeed);
  for (const NvmeLocation& at : locations_) {
    // Header or payload; not the padding, which nobody reads.
    const uint64_t offset = random.below(kBlockBytes + at.payload_bytes);
    byte_of(at, offset) ^= std::byte{1} << random.below(8);
  }
  start();
  run_round();
  const NvmeStats stats = store_.tier->stats();
  EXPECT_EQ(kObjects, reported_.size()) << "seed " << kSeed;
  EXPECT_EQ(kObjects, stats.scrub.corruptions);
  EXPECT_EQ(0u, stats.objects) << "what was reported is removed";
  EXPECT_EQ(NvmeState::kOk, stats.state);
  for (uint64_t id = 0; id < kObjects; id += 97) {
    EXPECT_EQ(StatusCode::kNotFound,
              store_.read(test_key(id), locations_[id], TestPayload(id, 5'000)).code());
  }
}

TEST_F(Scrub, KeepsItsPace) {
  store_.open_and_recover();
  fill(500);
  constexpr uint64_t kRate = 4 << 20;
  start(kRate);
  for (int i = 0; i < 10; ++i) tick();  // a second
  const uint64_t bytes = store_.tier->stats().scrub.bytes;
  EXPECT_GT(bytes, kRate / 2);
  EXPECT_LT(bytes, kRate + (2 << 20));
}

TEST_F(Scrub, YieldsToReadsButNotForEver) {
  store_.open_and_recover();
  fill(300);
  start();
  const TestPayload payload(1);
  const AlignedBuffer target(payload.bytes().size());
  bool done = false;
  store_.tier->read(test_key(1), locations_[1], payload.checksum(), target.span(),
                    [&](const Status&) { done = true; });
  for (int i = 0; i < 5; ++i) {
    store_.clock.advance_ns(kNvmeTickMs * 1'000'000);
    store_.tier->tick();
  }
  EXPECT_FALSE(done);
  EXPECT_EQ(0u, store_.tier->stats().scrub.bytes);
  EXPECT_EQ(target.size() + kBlockBytes, store_.tier->device().inflight_bytes());
  store_.clock.advance_ns(kScrubYieldMs * 1'000'000);
  store_.tier->tick();
  EXPECT_GT(store_.tier->device().inflight_bytes(), target.size() + kBlockBytes);
  while (store_.tier->device().poll()) {
  }
  EXPECT_TRUE(done);
}

TEST_F(Scrub, RemovedAndReclaimedAreSkipped) {
  store_.open_and_recover();
  fill(300);
  for (uint64_t id = 0; id < 300; id += 2) {
    byte_of(locations_[id], kBlockBytes) ^= std::byte{1};
    store_.tier->remove(locations_[id]);
  }
  start();
  // Overwrite everything while the scrub walks.
  uint64_t id = 1000;
  const uint64_t before = store_.tier->stats().reclaimed_segments;
  while (store_.tier->stats().reclaimed_segments < before + 20) {
    ASSERT_TRUE(store_.write(test_key(id), TestPayload(id)).is_ok());
    ++id;
    store_.clock.advance_ns(10'000'000);
    store_.tier->tick();
  }
  EXPECT_TRUE(reported_.empty());
  EXPECT_EQ(0u, store_.tier->stats().scrub.corruptions);
}

TEST_F(Scrub, RemovedWhileItIsReadIsSkipped) {
  store_.open_and_recover();
  fill(1);
  byte_of(locations_[0], kBlockBytes) ^= std::byte{1};
  start();
  store_.clock.advance_ns(kNvmeTickMs * 1'000'000);
  store_.tier->tick();
  const uint64_t bytes = kBlockBytes + align_up(locations_[0].payload_bytes, kBlockBytes);
  for (int i = 0; i < 10 && store_.tier->device().inflight_bytes() != bytes; ++i) {
    store_.tier->device().poll();
  }
  ASSERT_EQ(bytes, store_.tier->device().inflight_bytes());
  store_.tier->remove(locations_[0]);
  while (store_.tier->device().poll()) {
  }
  EXPECT_TRUE(reported_.empty());
  EXPECT_EQ(0u, store_.tier->stats().scrub.corruptions);
}

TEST_F(Scrub, StopsAndStartsAgainInTheMiddle) {
  store_.open_and_recover();
  fill(100);
  byte_of(locations_[50], kBlockBytes) ^= std::byte{1};
  start();
  store_.clock.advance_ns(kNvmeTickMs * 1'000'000);
  store_.tier->tick();
  store_.tier->device().poll();
  store_.tier->stop_scrub();
  while (store_.tier->device().poll()) {
  }
  EXPECT_FALSE(store_.tier->stats().scrub.running);
  const uint64_t objects = store_.tier->stats().scrub.objects;
  tick();
  EXPECT_EQ(objects, store_.tier->stats().scrub.objects);
  start();
  run_round();
  EXPECT_EQ(std::set<Digest>{test_key(50)}, reported_);
  EXPECT_TRUE(same_object(locations_[50], last_));
}

}  // namespace
}  // namespace quire
