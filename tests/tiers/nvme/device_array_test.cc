#include "tiers/nvme/device_array.h"

#include <algorithm>
#include <map>
#include <set>

#include "tests/tiers/nvme/scripted_device.h"
#include "tests/tiers/nvme/tier_harness.h"

namespace quire {
namespace {

using Kind = ScriptedDevice::Kind;

class DeviceArrayTest : public testing::Test {
 protected:
  // Opens devices [first, first + count) of those made so far or new ones, as one.
  void open(uint32_t count, uint64_t segments = 8, uint32_t first = 0) {
    store_.tier.reset();
    std::vector<std::unique_ptr<NvmeTier>> tiers;
    while (images_.size() < first + count) {
      images_.push_back(std::make_shared<MemoryImage>((1 << 20) + segments * kTestSegmentBytes));
    }
    scripts_.clear();
    for (uint32_t i = first; i < first + count; ++i) {
      scripts_.push_back(std::make_shared<ScriptedDevice::Script>());
      NvmeOptions options = test_options();
      options.name = "disk" + std::to_string(i);
      auto tier = NvmeTier::open(
          options, std::make_unique<ScriptedDevice>(images_[i], scripts_.back()), store_.clock);
      ASSERT_TRUE(tier.is_ok()) << tier.status().to_string();
      tiers.push_back(std::move(*tier));
    }
    auto array = make_nvme_array(std::move(tiers));
    ASSERT_TRUE(array.is_ok()) << array.status().to_string();
    store_.tier = std::move(*array);
    store_.recovered.clear();
  }
  void recover() { ASSERT_EQ("", store_.text(store_.recover())); }
  static uint32_t device_of(const NvmeLocation& at) { return at.segment >> kNvmeDeviceShift; }

  TierHarness store_;
  std::vector<std::shared_ptr<MemoryImage>> images_;
  std::vector<std::shared_ptr<ScriptedDevice::Script>> scripts_;
};

TEST_F(DeviceArrayTest, RefusesWrongDevices) {
  EXPECT_EQ(StatusCode::kInvalidArgument, make_nvme_array({}).status().code());
  EXPECT_EQ(StatusCode::kInvalidArgument,
            make_nvme_array(std::vector<std::unique_ptr<NvmeTier>>(17)).status().code());
  EXPECT_EQ(StatusCode::kInvalidArgument,
            make_nvme_array(std::vector<std::unique_ptr<NvmeTier>>(1)).status().code());
}

TEST_F(DeviceArrayTest, SpreadsReadsAndRecovers) {
  open(3);
  recover();
  std::vector<NvmeLocation> locations;
  std::map<uint32_t, uint32_t> per_device;
  for (uint64_t id = 0; id < 90; ++id) {
    const auto location = store_.write(test_key(id), TestPayload(id));
    ASSERT_TRUE(location.is_ok());
    if (id > 0) {
      EXPECT_GT(location->sequence, locations.back().sequence);
    }
    locations.push_back(*location);
    ++per_device[device_of(*location)];
  }
  ASSERT_EQ(3u, per_device.size());
  for (const auto& [device, objects] : per_device) EXPECT_GT(objects, 20u) << device;
  const auto check = [&] {
    for (uint64_t id = 0; id < 90; ++id) {
      EXPECT_EQ("", store_.text(store_.read(test_key(id), locations[id], TestPayload(id))));
      const auto compact = store_.tier->locate(locations[id].segment, locations[id].offset,
                                               locations[id].payload_bytes);
      ASSERT_TRUE(compact && same_object(locations[id], *compact));
      EXPECT_EQ("", store_.text(store_.read(test_key(id), *compact, TestPayload(id))));
    }
  };
  check();
  ASSERT_EQ("", store_.text(store_.sync()));
  const NvmeStats stats = store_.tier->stats();
  EXPECT_EQ(90u, stats.objects);
  ASSERT_EQ(3u, stats.devices.size());
  EXPECT_EQ("disk1", stats.devices[1].name);
  EXPECT_EQ(24u, stats.segments);
  SeededRandom random(3);
  store_.tier.reset();
  for (const auto& image : images_) image->cut_power(random);
  open(3);
  recover();
  ASSERT_EQ(90u, store_.recovered.size());
  for (uint64_t id = 0; id < 90; ++id) {
    ASSERT_NE(nullptr, store_.find(test_key(id)));
    EXPECT_EQ(locations[id], store_.find(test_key(id))->location);
  }
  check();
  store_.tier->remove(locations[5]);
  EXPECT_EQ(StatusCode::kNotFound, store_.read(test_key(5), locations[5], TestPayload(5)).code());
  NvmeLocation foreign = locations[0];
  foreign.segment = 3u << kNvmeDeviceShift;
  EXPECT_EQ(StatusCode::kInvalidArgument, store_.read(test_key(0), foreign, TestPayload(0)).code());
  EXPECT_FALSE(store_.tier->locate(foreign.segment, kBlockBytes, 1).has_value());
}

// The newest of a key is found by its sequence, on whichever device it lies, after any restart.
TEST_F(DeviceArrayTest, HighestSequenceIsTheNewestAcrossDevices) {
  // Device 1 has seen many more starts than device 0.
  for (int i = 0; i < 9; ++i) {
    open(1, 8, 1);
    recover();
  }
  uint64_t last_sequence = 0;
  const auto write = [&](uint64_t version) {
    const auto location = store_.write(test_key(1), TestPayload(version));
    ASSERT_TRUE(location.is_ok());
    EXPECT_GT(location->sequence, last_sequence);
    last_sequence = location->sequence;
  };
  uint64_t version = 0;
  for (int run = 0; run < 6; ++run) {
    open(2);
    recover();
    if (run > 0) {
      EXPECT_EQ(last_sequence, store_.find(test_key(1))->location.sequence);
    }
    for (int i = 0; i < 5 + run; ++i) write(++version);
    ASSERT_EQ("", store_.text(store_.sync()));
  }
  // One of the two alone: what it writes now is newer than all that the array wrote.
  const uint64_t last_of_array = last_sequence;
  for (const uint32_t alone : {0u, 1u}) {
    last_sequence = last_of_array;
    open(1, 8, alone);
    recover();
    write(++version);
  }
}

// What a power cut hid from recovery must not look newer than what a device writes alone later.
TEST_F(DeviceArrayTest, LostSequencesAreExceededByADeviceAlone) {
  for (int i = 0; i < 9; ++i) {
    open(1, 8, 1);
    recover();
  }
  open(2);
  recover();
  const std::vector<std::byte> before(images_[0]->bytes().begin(), images_[0]->bytes().end());
  uint64_t lost = 0;
  for (uint64_t id = 0; id < 10; ++id) {
    const auto location = store_.write(test_key(id), TestPayload(id));
    ASSERT_TRUE(location.is_ok());
    lost = location->sequence;
  }
  store_.tier.reset();
  std::copy(before.begin(), before.end(), images_[0]->bytes().begin());
  open(1);
  recover();
  const auto location = store_.write(test_key(1), TestPayload(1));
  ASSERT_TRUE(location.is_ok());
  EXPECT_GT(location->sequence, lost);
}

TEST_F(DeviceArrayTest, OneDeviceFailsAndTheOthersGoOn) {
  open(3);
  recover();
  std::vector<std::pair<uint64_t, NvmeLocation>> written;
  const auto write = [&](uint64_t id) {
    const auto location = store_.write(test_key(id), TestPayload(id));
    ASSERT_TRUE(location.is_ok()) << id << " " << location.status().to_string();
    written.emplace_back(id, *location);
  };
  for (uint64_t id = 0; id < 30; ++id) write(id);
  scripts_[1]->fault = [](Kind kind, uint64_t, uint64_t) {
    return kind == Kind::kWrite ? Status(StatusCode::kIoError, "bad flash") : Status::ok();
  };
  for (uint64_t id = 30; id < 90; ++id) {
    write(id);
    EXPECT_NE(1u, device_of(written.back().second));
  }
  const NvmeStats stats = store_.tier->stats();
  EXPECT_EQ(NvmeState::kOk, stats.state);
  EXPECT_NE(std::string::npos, stats.state_reason.find("disk1 is read-only"));
  EXPECT_NE(std::string::npos, stats.state_reason.find("bad flash"));
  EXPECT_EQ(NvmeState::kReadOnlyError, stats.devices[1].state);
  for (const auto& [id, at] : written) {
    EXPECT_EQ("", store_.text(store_.read(test_key(id), at, TestPayload(id))));
  }
  for (const uint32_t device : {0, 2}) scripts_[device]->fault = scripts_[1]->fault;
  EXPECT_FALSE(store_.write(test_key(99), TestPayload(99)).is_ok());
  EXPECT_EQ(NvmeState::kReadOnlyError, store_.tier->stats().state);
}

TEST_F(DeviceArrayTest, StuckDeviceIsLeftOut) {
  open(2);
  recover();
  scripts_[0]->holds = [](Kind kind) { return kind == Kind::kWrite; };
  std::vector<std::unique_ptr<TestPayload>> payloads;
  uint32_t done = 0;
  for (uint64_t id = 0; id < 4; ++id) {
    payloads.push_back(std::make_unique<TestPayload>(id));
    store_.tier->write(test_key(id), payloads.back()->bytes(), payloads.back()->checksum(),
                       [&](const Expected<NvmeLocation>& result) { done += result.is_ok(); });
  }
  while (store_.tier->device().poll()) {
  }
  EXPECT_LT(done, 4u);
  store_.clock.advance_ns(test_options().stuck_after_ms * 1'000'000 + 1);
  store_.tier->tick();
  while (store_.tier->device().poll()) {
  }
  for (uint64_t id = 10; id < 30; ++id) {
    const auto location = store_.write(test_key(id), TestPayload(id));
    ASSERT_TRUE(location.is_ok()) << location.status().to_string();
    EXPECT_EQ(1u, device_of(*location));
  }
  scripts_[0]->holds = nullptr;
  scripts_[0]->release();
  while (store_.tier->device().poll()) {
  }
  EXPECT_EQ(4u, done);
}

TEST_F(DeviceArrayTest, HooksAndScrubSpeakOfTheArraysLocations) {
  open(2);
  recover();
  std::map<Digest, NvmeLocation> index;
  uint64_t moves = 0;
  uint64_t evictions = 0;
  NvmeTier::ReclaimHooks hooks;
  hooks.keep = [&](const Digest& key, const NvmeLocation& at) {
    return key.bytes[0] < 32 && index.contains(key) && same_object(index[key], at);
  };
  hooks.on_move = [&](const Digest& key, const NvmeLocation& from, const NvmeLocation& to) {
    ASSERT_EQ(index[key], from);
    EXPECT_EQ(device_of(from), device_of(to));
    index[key] = to;
    ++moves;
  };
  hooks.on_evict = [&](const Digest& key, const NvmeLocation& at) {
    ASSERT_TRUE(index.contains(key));
    EXPECT_EQ(index[key], at);
    index.erase(key);
    ++evictions;
  };
  store_.tier->set_reclaim_hooks(hooks);
  std::map<Digest, uint64_t> ids;
  for (uint64_t id = 0; id < 3000; ++id) {
    const auto location = store_.write(test_key(id), TestPayload(id));
    ASSERT_TRUE(location.is_ok()) << location.status().to_string();
    index[test_key(id)] = *location;
    ids[test_key(id)] = id;
  }
  EXPECT_GT(moves, 20u);
  EXPECT_GT(evictions, 500u);
  while (store_.tier->device().poll()) {  // what is being moved is there twice
  }
  EXPECT_EQ(index.size(), store_.tier->stats().objects);
  ASSERT_EQ("", store_.text(store_.seal()));
  const auto [victim, at] = *index.rbegin();
  images_[device_of(at)]
      ->bytes()[(1 << 20) + (at.segment & (kSegmentsMax - 1)) * kTestSegmentBytes + at.offset +
                kBlockBytes] ^= std::byte{1};
  std::vector<std::pair<Digest, NvmeLocation>> corrupt;
  ScrubOptions scrub;
  scrub.bytes_per_second = 1ull << 40;
  scrub.on_corrupt = [&](const Digest& key, const NvmeLocation& where) {
    corrupt.emplace_back(key, where);
  };
  ASSERT_EQ("", store_.text(store_.tier->start_scrub(scrub)));
  for (int i = 0; i < 1000 && store_.tier->stats().scrub.rounds == 0; ++i) {
    store_.clock.advance_ns(kNvmeTickMs * 1'000'000);
    store_.tier->tick();
    while (store_.tier->device().poll()) {
    }
  }
  ASSERT_EQ(1u, corrupt.size());
  EXPECT_EQ(victim, corrupt[0].first);
  EXPECT_EQ(at, corrupt[0].second);
  index.erase(victim);
  for (const auto& [key, where] : index) {
    EXPECT_EQ("", store_.text(store_.read(key, where, TestPayload(ids[key]))));
  }
}

// No device may evict before the owner's index has what the others hold.
TEST_F(DeviceArrayTest, NothingIsReclaimedBeforeAllAreRecovered) {
  open(2);
  recover();
  for (uint64_t id = 0; id < 900; ++id) {
    if (!store_.write(test_key(id), TestPayload(id)).is_ok()) break;
  }
  ASSERT_EQ("", store_.text(store_.sync()));
  open(2);
  NvmeTier::ReclaimHooks hooks;
  bool ready = false;
  uint64_t early = 0;
  hooks.on_evict = [&](const Digest&, const NvmeLocation&) { early += !ready; };
  store_.tier->set_reclaim_hooks(hooks);
  // Device 1 answers late.
  scripts_[1]->holds = [](Kind kind) { return kind == Kind::kRead; };
  store_.tier->recover([](const RecoveredObject&) {}, [&](const Status&) { ready = true; });
  while (store_.tier->device().poll()) {
  }
  EXPECT_FALSE(ready);
  EXPECT_EQ(0u, store_.tier->stats().devices[0].reclaimed_segments);
  scripts_[1]->holds = nullptr;
  scripts_[1]->release();
  while (store_.tier->device().poll()) {
  }
  EXPECT_TRUE(ready);
  EXPECT_EQ(0u, early);
}

}  // namespace
}  // namespace quire
