// Every byte of every record of a small store flipped, and the store cut and garbled at every
// block: nothing crashes, nothing reads as wrong bytes, and what lies before the damage is found.
#include <algorithm>
#include <cstdio>
#include <string>

#include "tests/tiers/nvme/tier_harness.h"
#include "tiers/nvme/segment_format.h"

namespace quire {
namespace {

constexpr uint64_t kSegments = 4;
constexpr uint64_t kObjects = 3;
constexpr uint64_t kCasesMin = 32'000;

uint64_t cases_run = 0;

class CountCases final : public testing::Environment {
 public:
  void TearDown() override {
    std::printf("damage_test: %llu cases\n", static_cast<unsigned long long>(cases_run));
    if (GTEST_FLAG_GET(filter) == "*") {
      EXPECT_GE(cases_run, kCasesMin);
    }
  }
};
[[maybe_unused]] const auto* const count_cases = testing::AddGlobalTestEnvironment(new CountCases);

class Damage : public testing::TestWithParam<bool> {
 protected:
  // Three objects in one segment, sealed or not, in a store that was opened twice, so that both
  // superblocks are in use.
  Damage() : store_(kSegments) {
    store_.open_and_recover();
    for (uint64_t id = 0; id < kObjects; ++id) {
      payloads_.emplace_back(id, kPayloadBytesMax);
      const auto location = store_.write(test_key(id), payloads_.back());
      EXPECT_TRUE(location.is_ok());
      locations_.push_back(*location);
    }
    EXPECT_TRUE(GetParam() ? store_.seal().is_ok() : store_.sync().is_ok());
    store_.tier.reset();
    if (GetParam()) {
      store_.open_and_recover();
      store_.tier.reset();
    }
    const auto bytes = store_.image->bytes();
    intact_.assign(bytes.begin(), bytes.end());
    base_ = nvme::kFirstSegmentOffset + locations_[0].segment * kTestSegmentBytes;
  }

  uint64_t end_of(uint64_t id) const {
    return locations_[id].offset + nvme::object_bytes(locations_[id].payload_bytes);
  }

  // Bit i is set where object i was found and read well after the store was opened as it is now.
  uint32_t recover() {
    ++cases_run;
    // As after a restart: what the runs before wrote is no longer pending.
    store_.image->make_durable(store_.image->writes());
    const Status opened = store_.open();
    EXPECT_TRUE(opened.is_ok()) << opened.to_string();
    if (!opened.is_ok()) return 0;
    EXPECT_EQ("", store_.text(store_.recover()));
    uint32_t good = 0;
    for (const RecoveredObject& object : store_.recovered) {
      uint64_t id = 0;
      while (id < kObjects && test_key(id) != object.key) ++id;
      EXPECT_LT(id, kObjects) << "an object nobody wrote";
      if (id == kObjects) continue;
      const Status status = store_.read(object.key, object.location, payloads_[id]);
      if (status.is_ok()) good |= 1u << id;
    }
    store_.tier.reset();
    return good;
  }

  // Puts back what a case and its recovery changed: superblocks, the objects, the footer.
  void restore() {
    put_back(0, nvme::kSuperblockSlots * kBlockBytes);
    put_back(base_, kObjectsEnd);
    put_back(base_ + kTestSegmentBytes - 4 * kBlockBytes, 4 * kBlockBytes);
  }
  void restore_segment() {
    restore();
    put_back(base_, kTestSegmentBytes);
  }
  void put_back(uint64_t offset, uint64_t bytes) {
    const auto begin = static_cast<ptrdiff_t>(offset);
    std::copy_n(intact_.begin() + begin, bytes, store_.image->bytes().begin() + begin);
  }

  // Objects that end at or before `offset` must be found after damage that begins there.
  uint32_t before(uint64_t offset) const {
    uint32_t found = 0;
    for (uint64_t id = 0; id < kObjects; ++id) found |= (end_of(id) <= offset) << id;
    return found;
  }

  static constexpr uint64_t kPayloadBytesMax = 9'000;
  static constexpr uint64_t kObjectsEnd = kBlockBytes * (1 + kObjects * 4);
  static constexpr uint32_t kAll = (1u << kObjects) - 1;
  TierHarness store_;
  std::vector<TestPayload> payloads_;
  std::vector<NvmeLocation> locations_;
  std::vector<std::byte> intact_;
  uint64_t base_ = 0;
};

TEST_P(Damage, EveryByteOfEveryRecord) {
  const uint64_t table = kTestSegmentBytes - 2 * kBlockBytes;
  std::vector<uint64_t> records = {0, table, table + kBlockBytes};
  for (const NvmeLocation& location : locations_) records.push_back(location.offset);
  for (const uint64_t record : records) {
    for (uint64_t i = 0; i < kBlockBytes; ++i) {
      SCOPED_TRACE("record at " + std::to_string(record) + " byte " + std::to_string(i));
      restore();
      store_.image->bytes()[base_ + record + i] ^= std::byte{1} << (i % 8);
      const uint32_t good = recover();
      if (record >= table) {
        ASSERT_EQ(kAll, good) << "the headers tell as much as the footer";
      } else if (record == 0) {
        ASSERT_EQ(0u, good);
      } else if (GetParam()) {
        // With a footer a damaged header costs its own object alone.
        const uint32_t itself = before(record) + 1;
        ASSERT_EQ(kAll & ~itself, good);
      } else {
        ASSERT_EQ(before(record), good);
      }
    }
  }
}

TEST_P(Damage, EveryByteOfTheSuperblocks) {
  if (!GetParam()) GTEST_SKIP() << "only the store that was opened twice uses both";
  for (uint64_t i = 0; i < nvme::kSuperblockSlots * kBlockBytes; ++i) {
    SCOPED_TRACE("superblock byte " + std::to_string(i));
    restore();
    store_.image->bytes()[i] ^= std::byte{1} << (i % 8);
    ASSERT_EQ(kAll, recover());
  }
}

TEST_P(Damage, BytesOfPayloads) {
  for (uint64_t id = 0; id < kObjects; ++id) {
    for (uint64_t i = 0; i < locations_[id].payload_bytes; i += 61) {
      restore();
      store_.image->bytes()[base_ + locations_[id].offset + kBlockBytes + i] ^= std::byte{0x10};
      ASSERT_EQ(kAll & ~(1u << id), recover()) << "object " << id << " byte " << i;
    }
  }
}

TEST_P(Damage, CutAndGarbledAtEveryBlock) {
  for (uint64_t cut = 0; cut < kTestSegmentBytes; cut += kBlockBytes) {
    for (const bool garbled : {false, true}) {
      SCOPED_TRACE((garbled ? "garbled from " : "cut at ") + std::to_string(cut));
      restore_segment();
      std::byte* const target = store_.image->bytes().data() + base_;
      SeededRandom random(cut);
      for (uint64_t i = cut; i < kTestSegmentBytes; i += 8) {
        const uint64_t value = garbled ? random.next() : 0;
        std::memcpy(target + i, &value, sizeof(value));
      }
      ASSERT_EQ(before(cut), recover());
    }
  }
}

TEST_P(Damage, OneBlockOfTheSegmentLostGarbledOrOfAnotherPlace) {
  for (uint64_t at = 0; at < kTestSegmentBytes; at += kBlockBytes) {
    for (uint32_t kind = 0; kind < 3; ++kind) {
      SCOPED_TRACE("block at " + std::to_string(at) + " kind " + std::to_string(kind));
      restore_segment();
      std::byte* const target = store_.image->bytes().data() + base_ + at;
      SeededRandom random(at + kind);
      const std::byte* source = intact_.data() + base_ + random.below(20) * kBlockBytes;
      for (uint64_t i = 0; i < kBlockBytes; i += 8) {
        const uint64_t value = kind == 0 ? 0 : random.next();
        std::memcpy(target + i, &value, sizeof(value));
      }
      if (kind == 2) std::copy_n(source, kBlockBytes, target);
      const uint32_t expected = before(at);
      ASSERT_EQ(expected, recover() & expected);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Endings, Damage, testing::Bool(),
                         [](const auto& info) { return info.param ? "sealed" : "open"; });

}  // namespace
}  // namespace quire
