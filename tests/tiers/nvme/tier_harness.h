// Helpers shared by the tests of the NVMe tier: payloads that name themselves, and calls that poll
// the device until their callback ran.
#ifndef QUIRE_TESTS_TIERS_NVME_TIER_HARNESS_H_
#define QUIRE_TESTS_TIERS_NVME_TIER_HARNESS_H_

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "tiers/io/aligned_buffer.h"
#include "tiers/io/memory_device.h"
#include "tiers/io/seeded_random.h"
#include "tiers/nvme/nvme_tier.h"

namespace quire {

inline constexpr uint64_t kTestSegmentBytes = 1 << 20;

inline Digest test_key(uint64_t id) {
  Digest key;
  SeededRandom random(id * 77 + 1);
  for (size_t i = 0; i < key.bytes.size(); ++i) key.bytes[i] = static_cast<uint8_t>(random.next());
  return key;
}

// Size and contents follow from the id.
class TestPayload {
 public:
  explicit TestPayload(uint64_t id, uint64_t bytes_max = 24'000) {
    SeededRandom random(id * 31 + 5);
    bytes_ = 1 + random.below(bytes_max);
    buffer_ = AlignedBuffer(bytes_);
    std::memset(buffer_.data(), 0xEE, buffer_.size());  // behind the end: must not reach the device
    for (uint64_t i = 0; i < bytes_; i += 8) {
      const uint64_t value = random.next();
      std::memcpy(buffer_.data() + i, &value, std::min<uint64_t>(8, bytes_ - i));
    }
    checksum_ = xxh3_128(bytes());
  }
  ByteSpan bytes() const { return buffer_.span().first(bytes_); }
  Hash128 checksum() const { return checksum_; }

 private:
  uint64_t bytes_ = 0;
  AlignedBuffer buffer_;
  Hash128 checksum_;
};

inline NvmeOptions test_options() {
  NvmeOptions options;
  options.segment_bytes = kTestSegmentBytes;
  options.free_segments_min = 2;
  options.read_errors_per_minute_max = 1'000'000;
  return options;
}

inline constexpr uint32_t kPollsMax = 2'000'000;

template <typename Condition>
bool poll_until(BlockDevice& device, Condition condition) {
  for (uint32_t i = 0; i < kPollsMax; ++i) {
    if (condition()) return true;
    if (!device.poll() && !condition()) return false;  // nothing left that could make it true
  }
  return false;
}

class TierHarness {
 public:
  explicit TierHarness(uint64_t segments = 8)
      : image(std::make_shared<MemoryImage>((1 << 20) + segments * kTestSegmentBytes)) {}

  Status open(NvmeOptions options = test_options(), MemoryDeviceOptions device_options = {}) {
    return open_on(std::make_unique<MemoryDevice>(image, device_options), options);
  }
  Status open_on(std::unique_ptr<BlockDevice> device, NvmeOptions options = test_options()) {
    tier.reset();
    recovered.clear();
    auto opened = NvmeTier::open(std::move(options), std::move(device), clock);
    if (!opened.is_ok()) return opened.status();
    tier = std::move(opened).value();
    return Status::ok();
  }
  Status recover(std::function<void()> on_done = [] {}) {
    std::optional<Status> result;
    tier->recover([&](const RecoveredObject& object) { recovered.push_back(object); },
                  [&](Status status) {
                    result = status;
                    on_done();
                  });
    EXPECT_FALSE(result.has_value()) << "callback inside the call";
    EXPECT_TRUE(poll_until(tier->device(), [&] { return result.has_value(); }));
    return result.value_or(Status(StatusCode::kInternal, "hangs"));
  }
  void open_and_recover(NvmeOptions options = test_options()) {
    ASSERT_EQ("", text(open(std::move(options))));
    ASSERT_EQ("", text(recover()));
  }
  static std::string text(const Status& status) { return status.is_ok() ? "" : status.to_string(); }

  Expected<NvmeLocation> write(const Digest& key, const TestPayload& payload) {
    std::optional<Expected<NvmeLocation>> result;
    tier->write(key, payload.bytes(), payload.checksum(),
                [&](Expected<NvmeLocation> location) { result = std::move(location); });
    EXPECT_FALSE(result.has_value()) << "callback inside the call";
    EXPECT_TRUE(poll_until(tier->device(), [&] { return result.has_value(); }));
    return result.value_or(Status(StatusCode::kInternal, "hangs"));
  }
  Status sync() {
    std::optional<Status> result;
    tier->sync([&](Status status) { result = status; });
    EXPECT_TRUE(poll_until(tier->device(), [&] { return result.has_value(); }));
    return result.value_or(Status(StatusCode::kInternal, "hangs"));
  }
  Status seal() {
    std::optional<Status> result;
    tier->seal([&](Status status) { result = status; });
    EXPECT_TRUE(poll_until(tier->device(), [&] { return result.has_value(); }));
    return result.value_or(Status(StatusCode::kInternal, "hangs"));
  }
  // The status of the read; also fails the test where OK came with wrong bytes.
  Status read(const Digest& key, const NvmeLocation& location, const TestPayload& payload) {
    const AlignedBuffer target(payload.bytes().size());
    std::optional<Status> result;
    tier->read(key, location, payload.checksum(), target.span(),
               [&](Status status) { result = status; });
    EXPECT_FALSE(result.has_value()) << "callback inside the call";
    EXPECT_TRUE(poll_until(tier->device(), [&] { return result.has_value(); }));
    if (result && result->is_ok()) {
      EXPECT_EQ(0, std::memcmp(target.data(), payload.bytes().data(), payload.bytes().size()))
          << "wrong bytes";
    }
    return result.value_or(Status(StatusCode::kInternal, "hangs"));
  }
  const RecoveredObject* find(const Digest& key) const {
    const RecoveredObject* best = nullptr;
    for (const RecoveredObject& object : recovered) {
      if (object.key != key) continue;
      if (best == nullptr || object.location.sequence > best->location.sequence) best = &object;
    }
    return best;
  }

  ManualClock clock;
  std::shared_ptr<MemoryImage> image;  // shared with the device of the tier
  std::vector<RecoveredObject> recovered;
  std::unique_ptr<NvmeTier> tier;
};

}  // namespace quire

#endif  // QUIRE_TESTS_TIERS_NVME_TIER_HARNESS_H_
