// Bit rot: one bit of each of 10,000 objects flips on the medium. All are found, none is served.
#include <cstdio>
#include <map>
#include <string>

#include "tests/tiers/nvme/tier_harness.h"
#include "tiers/nvme/segment_format.h"

namespace quire {
namespace {

constexpr uint64_t kObjects = 10'000;
constexpr uint64_t kPayloadBytesMax = 6'000;
constexpr uint64_t kSegments = 120;
constexpr uint64_t kSeed = 20'260'101;

NvmeOptions rot_options() {
  NvmeOptions options = test_options();
  options.read_errors_per_minute_max = 10 * kObjects;  // no quarantine
  return options;
}

// Where a flip is noticed by reading the object: not in its padding.
class BitRot : public testing::Test {
 protected:
  BitRot() : store_(kSegments) {
    store_.open_and_recover(rot_options());
    for (uint64_t id = 0; id < kObjects; ++id) {
      payloads_.emplace_back(id, kPayloadBytesMax);
      const auto location = store_.write(test_key(id), payloads_.back());
      EXPECT_TRUE(location.is_ok()) << location.status().to_string();
      if (!location.is_ok()) return;
      locations_.push_back(*location);
    }
    EXPECT_EQ("", store_.text(store_.seal()));
  }

  uint64_t base(uint64_t id) const {
    return nvme::kFirstSegmentOffset + locations_[id].segment * kTestSegmentBytes +
           locations_[id].offset;
  }

  // In the header of every other object, in the payload of the others.
  void rot_all() {
    SeededRandom random(kSeed);
    for (uint64_t id = 0; id < kObjects; ++id) {
      const uint64_t header_byte = random.below(kBlockBytes);
      const uint64_t payload_byte = kBlockBytes + random.below(locations_[id].payload_bytes);
      store_.image->bytes()[base(id) + (id % 2 == 0 ? header_byte : payload_byte)] ^=
          std::byte{1} << random.below(8);
    }
  }

  void read_all(uint64_t* misses) {
    for (uint64_t id = 0; id < kObjects; ++id) {
      const Status status = store_.read(test_key(id), locations_[id], payloads_[id]);
      *misses += status.code() == StatusCode::kCorrupt;
    }
  }

  TierHarness store_;
  std::vector<TestPayload> payloads_;
  std::vector<NvmeLocation> locations_;
};

TEST_F(BitRot, IntactObjectsAreAllThere) {
  ASSERT_EQ(kObjects, locations_.size());
  for (uint64_t id = 0; id < kObjects; ++id) {
    ASSERT_EQ("", store_.text(store_.read(test_key(id), locations_[id], payloads_[id]))) << id;
  }
  EXPECT_EQ(0u, store_.tier->stats().corruptions);
}

TEST_F(BitRot, EveryFlipIsFoundByReading) {
  ASSERT_EQ(kObjects, locations_.size());
  rot_all();
  uint64_t misses = 0;
  read_all(&misses);
  EXPECT_EQ(kObjects, misses);
  EXPECT_EQ(kObjects, store_.tier->stats().corruptions);
  EXPECT_EQ(NvmeState::kOk, store_.tier->stats().state);
  std::printf("bit_rot_test: seed %llu, %llu flips, %llu found by reading\n",
              static_cast<unsigned long long>(kSeed), static_cast<unsigned long long>(kObjects),
              static_cast<unsigned long long>(misses));
}

TEST_F(BitRot, EveryFlipIsFoundByReadingAfterARestart) {
  ASSERT_EQ(kObjects, locations_.size());
  rot_all();
  store_.open_and_recover(rot_options());
  ASSERT_EQ(kObjects, store_.recovered.size());  // footers name them; they were durable
  uint64_t misses = 0;
  read_all(&misses);
  EXPECT_EQ(kObjects, misses);
  EXPECT_EQ(kObjects, store_.tier->stats().corruptions);
}

TEST_F(BitRot, EveryFlipIsFoundByTheScrub) {
  ASSERT_EQ(kObjects, locations_.size());
  rot_all();
  std::map<Digest, uint64_t> found;
  ScrubOptions scrub;
  scrub.bytes_per_second = 1ull << 32;
  scrub.on_corrupt = [&](const Digest& key, const NvmeLocation&) { ++found[key]; };
  ASSERT_EQ("", store_.text(store_.tier->start_scrub(scrub)));
  for (uint32_t ticks = 0; ticks < 10'000 && store_.tier->stats().scrub.rounds == 0; ++ticks) {
    store_.clock.advance_ns(kNvmeTickMs * 1'000'000);
    store_.tier->tick();
    while (store_.tier->device().poll()) {
    }
  }
  const NvmeStats stats = store_.tier->stats();
  EXPECT_GE(stats.scrub.rounds, 1u);
  EXPECT_EQ(kObjects, found.size());
  EXPECT_EQ(kObjects, stats.scrub.corruptions);
  EXPECT_EQ(0u, stats.objects) << "what does not hold is removed";
  uint64_t wrong = 0;
  for (uint64_t id = 0; id < kObjects; ++id) {
    wrong +=
        store_.read(test_key(id), locations_[id], payloads_[id]).code() != StatusCode::kNotFound;
  }
  EXPECT_EQ(0u, wrong);
}

}  // namespace
}  // namespace quire
