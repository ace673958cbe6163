// A small segment, cut and garbled at every block and flipped at every byte of its records:
// recovery never crashes, and nothing that it reports reads as wrong bytes.
#include <algorithm>
#include <string>

#include "tests/tiers/nvme/tier_harness.h"
#include "tiers/nvme/segment_format.h"

namespace quire {
namespace {

constexpr uint64_t kSegments = 4;
constexpr uint64_t kObjects = 3;

class TornSegment : public testing::TestWithParam<bool> {
 protected:
  // Three objects in one segment, sealed or not.
  TornSegment() : store_(kSegments) {
    NvmeOptions options = test_options();
    store_.open_and_recover(options);
    for (uint64_t id = 0; id < kObjects; ++id) {
      const auto location = store_.write(test_key(id), TestPayload(id));
      EXPECT_TRUE(location.is_ok());
      locations_.push_back(*location);
    }
    EXPECT_TRUE(GetParam() ? store_.seal().is_ok() : store_.sync().is_ok());
    store_.tier.reset();
    const auto bytes = store_.image->bytes();
    intact_.assign(bytes.begin(), bytes.end());
    segment_ = intact_.data() + (1 << 20) + locations_[0].segment * kTestSegmentBytes;
    begin_ = segment_ - intact_.data();
  }

  // Recovers from the garbled image; returns how many of the objects read well. All others must
  // have given an error, or were not reported.
  uint64_t recover(const std::vector<std::byte>& image) {
    std::copy(image.begin(), image.end(), store_.image->bytes().begin());
    store_.open_and_recover();
    uint64_t good = 0;
    for (const RecoveredObject& object : store_.recovered) {
      uint64_t id = 0;
      while (id < kObjects && test_key(id) != object.key) ++id;
      EXPECT_LT(id, kObjects) << "an object nobody wrote";
      if (id < kObjects) good += store_.read(object.key, object.location, TestPayload(id)).is_ok();
    }
    // The store still works.
    const auto location = store_.write(test_key(99), TestPayload(99));
    EXPECT_TRUE(location.is_ok());
    if (location.is_ok()) {
      EXPECT_TRUE(store_.read(test_key(99), *location, TestPayload(99)).is_ok());
    }
    store_.tier.reset();
    return good;
  }

  TierHarness store_;
  std::vector<NvmeLocation> locations_;
  std::vector<std::byte> intact_;
  std::byte* segment_ = nullptr;
  uint64_t begin_ = 0;
};

TEST_P(TornSegment, IntactHasAll) {
  EXPECT_EQ(kObjects, recover(intact_));
}

TEST_P(TornSegment, CutAtEveryBlock) {
  for (uint64_t cut = 0; cut <= kTestSegmentBytes; cut += kBlockBytes) {
    SCOPED_TRACE("cut at " + std::to_string(cut));
    auto image = intact_;
    std::fill(image.begin() + begin_ + cut, image.begin() + begin_ + kTestSegmentBytes,
              std::byte{});
    uint64_t expected = 0;
    for (const NvmeLocation& location : locations_) {
      expected += location.offset + nvme::object_bytes(location.payload_bytes) <= cut;
    }
    ASSERT_EQ(expected, recover(image));
  }
}

TEST_P(TornSegment, GarbledFromEveryBlock) {
  for (uint64_t cut = 0; cut < kTestSegmentBytes; cut += kBlockBytes) {
    SCOPED_TRACE("garbled from " + std::to_string(cut));
    auto image = intact_;
    SeededRandom random(cut);
    for (uint64_t i = cut; i < kTestSegmentBytes; i += 8) {
      const uint64_t value = random.next();
      std::memcpy(image.data() + begin_ + i, &value, 8);
    }
    uint64_t expected = 0;
    for (const NvmeLocation& location : locations_) {
      expected += location.offset + nvme::object_bytes(location.payload_bytes) <= cut;
    }
    ASSERT_EQ(expected, recover(image));
  }
}

TEST_P(TornSegment, OneBlockLostOrSwapped) {
  SeededRandom random(5);
  for (uint64_t block = 0; block < 40; ++block) {
    SCOPED_TRACE("block " + std::to_string(block));
    auto image = intact_;
    std::byte* target = image.data() + begin_ + block * kBlockBytes;
    std::memset(target, 0, kBlockBytes);
    recover(image);
    image = intact_;
    std::memcpy(image.data() + begin_ + block * kBlockBytes,
                segment_ + random.below(40) * kBlockBytes, kBlockBytes);
    recover(image);
  }
}

TEST_P(TornSegment, EveryRecordByteFlipped) {
  std::vector<uint64_t> records = {0, kTestSegmentBytes - kBlockBytes,
                                   kTestSegmentBytes - 2 * kBlockBytes};
  for (const NvmeLocation& location : locations_) records.push_back(location.offset);
  for (uint64_t record : records) {
    for (uint64_t i = 0; i < kBlockBytes; i += i < 120 || i >= kBlockBytes - 9 ? 1 : 211) {
      SCOPED_TRACE("record at " + std::to_string(record) + " byte " + std::to_string(i));
      auto image = intact_;
      image[begin_ + record + i] ^= std::byte{1} << (i % 8);
      const uint64_t good = recover(image);
      // Footer damage costs nothing: the headers are walked.
      if (record >= kTestSegmentBytes - 2 * kBlockBytes) {
        ASSERT_EQ(kObjects, good);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Endings, TornSegment, testing::Bool(),
                         [](const auto& info) { return info.param ? "sealed" : "open"; });

}  // namespace
}  // namespace quire
