#include "tiers/nvme/nvme_tier.h"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <thread>

#include "tests/tiers/nvme/tier_harness.h"
#include "tiers/io/faulty_device.h"
#include "tiers/io/file_device.h"

namespace quire {
namespace {

TEST(NvmeTier, WritesReadsAndRecovers) {
  TierHarness store;
  store.open_and_recover();
  EXPECT_TRUE(store.recovered.empty());
  std::vector<NvmeLocation> locations;
  for (uint64_t id = 0; id < 40; ++id) {
    const auto location = store.write(test_key(id), TestPayload(id));
    ASSERT_TRUE(location.is_ok()) << location.status().to_string();
    locations.push_back(*location);
  }
  for (uint64_t id = 0; id < 40; ++id) {
    EXPECT_EQ("", store.text(store.read(test_key(id), locations[id], TestPayload(id)))) << id;
  }
  ASSERT_EQ("", store.text(store.sync()));
  EXPECT_EQ(40u, store.tier->stats().objects);

  SeededRandom random(1);
  store.tier.reset();
  store.image->cut_power(random);
  store.open_and_recover();
  ASSERT_EQ(40u, store.recovered.size());
  for (uint64_t id = 0; id < 40; ++id) {
    const RecoveredObject* object = store.find(test_key(id));
    ASSERT_NE(nullptr, object);
    EXPECT_EQ(locations[id], object->location);
    EXPECT_EQ("", store.text(store.read(test_key(id), object->location, TestPayload(id)))) << id;
  }
  EXPECT_EQ(40u, store.tier->stats().objects);
  // Appending goes on behind what was recovered.
  const auto location = store.write(test_key(40), TestPayload(40));
  ASSERT_TRUE(location.is_ok());
  EXPECT_GT(location->sequence, locations.back().sequence);
  for (uint64_t id = 0; id < 40; ++id) {
    EXPECT_EQ("", store.text(store.read(test_key(id), locations[id], TestPayload(id)))) << id;
  }
}

// A header that survives a power cut although recovery cannot reach it must never look newer than
// what is written afterwards.
TEST(NvmeTier, SequencesAndGenerationsExceedWhatWasLost) {
  TierHarness store;
  store.open_and_recover();
  const std::vector<std::byte> before(store.image->bytes().begin(), store.image->bytes().end());
  NvmeLocation lost;
  for (uint64_t id = 0; id < 200; ++id) lost = *store.write(test_key(id), TestPayload(id));
  store.tier.reset();
  std::copy(before.begin(), before.end(), store.image->bytes().begin());
  store.open_and_recover();
  const auto location = store.write(test_key(1), TestPayload(1));
  ASSERT_TRUE(location.is_ok());
  EXPECT_GT(location->sequence, lost.sequence);
  EXPECT_GT(location->generation, lost.generation);
}

TEST(NvmeTier, PaddingOnDiskIsZero) {
  TierHarness store;
  store.open_and_recover();
  const TestPayload payload(3);
  ASSERT_NE(0u, payload.bytes().size() % kBlockBytes);
  const auto location = store.write(test_key(3), payload);
  ASSERT_TRUE(location.is_ok());
  const auto disk = store.image->bytes();
  const uint64_t begin =
      (1 << 20) + location->segment * kTestSegmentBytes + location->offset + kBlockBytes;
  EXPECT_EQ(0, std::memcmp(disk.data() + begin, payload.bytes().data(), payload.bytes().size()));
  for (uint64_t i = payload.bytes().size(); i % kBlockBytes != 0; ++i) {
    ASSERT_EQ(std::byte{0}, disk[begin + i]) << "byte " << i << " behind the payload";
  }
}

TEST(NvmeTier, RefusesWrongCalls) {
  TierHarness store;
  ASSERT_EQ("", store.text(store.open()));
  const TestPayload payload(1);
  EXPECT_EQ(StatusCode::kFailedPrecondition, store.write(test_key(1), payload).status().code());
  EXPECT_EQ(StatusCode::kFailedPrecondition, store.sync().code());
  ASSERT_EQ("", store.text(store.recover()));
  EXPECT_EQ(StatusCode::kFailedPrecondition, store.recover().code());
  const auto location = store.write(test_key(1), payload);
  ASSERT_TRUE(location.is_ok());
  const auto read_code = [&](const Digest& key, NvmeLocation at, Hash128 checksum,
                             MutableByteSpan target) {
    std::optional<Status> result;
    store.tier->read(key, at, checksum, target, [&](Status status) { result = status; });
    EXPECT_TRUE(poll_until(store.tier->device(), [&] { return result.has_value(); }));
    return result->code();
  };
  const AlignedBuffer target(payload.bytes().size());
  const Hash128 sum = payload.checksum();
  EXPECT_EQ(StatusCode::kOk, read_code(test_key(1), *location, sum, target.span()));
  EXPECT_EQ(StatusCode::kCorrupt, read_code(test_key(2), *location, sum, target.span()));
  EXPECT_EQ(StatusCode::kCorrupt, read_code(test_key(1), *location, Hash128{}, target.span()));
  NvmeLocation wrong = *location;
  ++wrong.sequence;
  EXPECT_EQ(StatusCode::kCorrupt, read_code(test_key(1), wrong, sum, target.span()));
  EXPECT_EQ(3u, store.tier->stats().corruptions);
  wrong = *location;
  ++wrong.generation;
  EXPECT_EQ(StatusCode::kNotFound, read_code(test_key(1), wrong, sum, target.span()));
  for (uint64_t offset : {0ull, 1ull, 1ull << 20, ~0ull, ~0ull - 4095}) {
    wrong = *location;
    wrong.offset = offset;
    EXPECT_EQ(StatusCode::kInvalidArgument, read_code(test_key(1), wrong, sum, target.span()));
  }
  wrong = *location;
  wrong.segment = 8;
  EXPECT_EQ(StatusCode::kInvalidArgument, read_code(test_key(1), wrong, sum, target.span()));
  EXPECT_EQ(StatusCode::kInvalidArgument,
            read_code(test_key(1), *location, sum, target.span().subspan(1)));
  store.tier->remove(*location);
  store.tier->remove(*location);
  EXPECT_EQ(StatusCode::kNotFound, read_code(test_key(1), *location, sum, target.span()));
  EXPECT_EQ(0u, store.tier->stats().objects);

  std::optional<Expected<NvmeLocation>> result;
  const auto keep = [&](Expected<NvmeLocation> value) { result = std::move(value); };
  const AlignedBuffer large(kTestSegmentBytes / 4 + kBlockBytes);
  for (ByteSpan bad : {ByteSpan(large.span()), ByteSpan(large.span()).first(0),
                       ByteSpan(large.span()).subspan(8, 100)}) {
    result.reset();
    store.tier->write(test_key(9), bad, {}, keep);
    ASSERT_TRUE(poll_until(store.tier->device(), [&] { return result.has_value(); }));
    EXPECT_EQ(StatusCode::kInvalidArgument, result->status().code());
  }
}

// What an index without generations and sequences can do.
TEST(NvmeTier, LocatesBySegmentAndOffset) {
  TierHarness store;
  store.open_and_recover();
  std::vector<NvmeLocation> locations;
  for (uint64_t id = 0; id < 20; ++id) {
    locations.push_back(*store.write(test_key(id), TestPayload(id)));
  }
  const auto locate = [&](const NvmeLocation& at) {
    return store.tier->locate(at.segment, at.offset, at.payload_bytes);
  };
  for (uint64_t id = 0; id < 20; ++id) {
    const auto found = locate(locations[id]);
    ASSERT_TRUE(found.has_value());
    EXPECT_EQ(0u, found->sequence);
    EXPECT_TRUE(same_object(locations[id], *found));
    EXPECT_EQ("", store.text(store.read(test_key(id), *found, TestPayload(id))));
    // Everything but the sequence is still compared.
    EXPECT_EQ(StatusCode::kCorrupt, store.read(test_key(id + 1), *found, TestPayload(id)).code());
    NvmeLocation other = *found;
    ++other.generation;
    EXPECT_EQ(StatusCode::kNotFound, store.read(test_key(id), other, TestPayload(id)).code());
  }
  NvmeLocation wrong_offset = *locate(locations[0]);
  wrong_offset.offset += kBlockBytes;
  EXPECT_EQ(StatusCode::kCorrupt, store.read(test_key(0), wrong_offset, TestPayload(0)).code());

  EXPECT_FALSE(store.tier->locate(7, kBlockBytes, 100).has_value());  // nothing in it
  EXPECT_FALSE(store.tier->locate(8, kBlockBytes, 100).has_value());
  EXPECT_FALSE(store.tier->locate(0, 0, 100).has_value());
  EXPECT_FALSE(store.tier->locate(0, kBlockBytes + 1, 100).has_value());
  EXPECT_FALSE(store.tier->locate(0, kBlockBytes, 0).has_value());
  EXPECT_FALSE(store.tier->locate(0, kTestSegmentBytes - kBlockBytes, 1).has_value());

  const NvmeLocation compact = *locate(locations[3]);
  store.tier->remove(compact);
  EXPECT_FALSE(locate(locations[3]).has_value());
  EXPECT_EQ(StatusCode::kNotFound, store.read(test_key(3), locations[3], TestPayload(3)).code());
  EXPECT_EQ(19u, store.tier->stats().objects);
}

TEST(NvmeTier, LargestPayloadFits) {
  TierHarness store;
  store.open_and_recover();
  ASSERT_EQ(kTestSegmentBytes / 4, store.tier->payload_bytes_max());
  const AlignedBuffer payload(store.tier->payload_bytes_max());
  for (int i = 0; i < 10; ++i) {
    std::optional<Expected<NvmeLocation>> result;
    store.tier->write(test_key(i), payload.span(), xxh3_128(payload.span()),
                      [&](Expected<NvmeLocation> value) { result = std::move(value); });
    ASSERT_TRUE(poll_until(store.tier->device(), [&] { return result.has_value(); }));
    ASSERT_TRUE(result->is_ok()) << result->status().to_string();
  }
}

TEST(NvmeTier, OldestIsReclaimedAndHotIsMoved) {
  TierHarness store(8);
  store.open_and_recover();
  std::map<Digest, std::pair<uint64_t, NvmeLocation>> index;  // key -> (id, location)
  std::set<uint64_t> hot;
  uint64_t evictions = 0;
  uint64_t moves = 0;
  const auto matches = [&](const Digest& key, const NvmeLocation& location) {
    const auto found = index.find(key);
    return found != index.end() && found->second.second == location;
  };
  NvmeTier::ReclaimHooks hooks;
  hooks.keep = [&](const Digest& key, const NvmeLocation& location) {
    return matches(key, location) && hot.contains(index[key].first);
  };
  hooks.on_move = [&](const Digest& key, const NvmeLocation& from, const NvmeLocation& to) {
    ASSERT_TRUE(matches(key, from));
    index[key].second = to;
    ++moves;
  };
  hooks.on_evict = [&](const Digest& key, const NvmeLocation& location) {
    ASSERT_TRUE(matches(key, location));
    index.erase(key);
    ++evictions;
  };
  store.tier->set_reclaim_hooks(hooks);
  std::vector<NvmeLocation> first_locations;
  for (uint64_t id = 0; id < 3000; ++id) {  // about 36 MB through 8 MB
    if (id < 20) hot.insert(id);
    const auto location = store.write(test_key(id), TestPayload(id));
    ASSERT_TRUE(location.is_ok()) << id << " " << location.status().to_string();
    index[test_key(id)] = {id, *location};
    if (id < 100) first_locations.push_back(*location);
  }
  const NvmeStats stats = store.tier->stats();
  EXPECT_EQ(NvmeState::kOk, stats.state);
  EXPECT_GT(stats.reclaimed_segments, 10u);
  EXPECT_GT(evictions, 1000u);
  EXPECT_GT(moves, 20u);
  for (const auto& [key, entry] : index) {
    EXPECT_EQ("", store.text(store.read(key, entry.second, TestPayload(entry.first))))
        << entry.first;
  }
  for (uint64_t id : hot) EXPECT_TRUE(index.contains(test_key(id))) << id;
  for (uint64_t id = 0; id < 100; ++id) {
    EXPECT_EQ(StatusCode::kNotFound,
              store.read(test_key(id), first_locations[id], TestPayload(id)).code());
  }
  // What the index knows survives a restart after a sync.
  ASSERT_EQ("", store.text(store.sync()));
  SeededRandom random(3);
  store.tier.reset();
  store.image->cut_power(random);
  store.open_and_recover();
  for (const auto& [key, entry] : index) {
    const RecoveredObject* object = store.find(key);
    ASSERT_NE(nullptr, object) << entry.first;
    EXPECT_EQ(entry.second, object->location);
    EXPECT_EQ("", store.text(store.read(key, object->location, TestPayload(entry.first))));
  }
}

TEST(NvmeTier, KeepingEverythingStillMakesSpace) {
  TierHarness store(4);
  store.open_and_recover();
  NvmeTier::ReclaimHooks hooks;
  hooks.keep = [](const Digest&, const NvmeLocation&) { return true; };
  store.tier->set_reclaim_hooks(hooks);
  for (uint64_t id = 0; id < 1500; ++id) {
    ASSERT_TRUE(store.write(test_key(id), TestPayload(id)).is_ok()) << id;
  }
  EXPECT_GT(store.tier->stats().reinserted_bytes, 0u);
  EXPECT_GT(store.tier->stats().evicted_objects, 0u);
}

TEST(NvmeTier, ManyWritesAtOnceAreBounded) {
  TierHarness store(6);
  ASSERT_EQ("", store.text(store.open(test_options(), {.shuffle = true, .seed = 9})));
  ASSERT_EQ("", store.text(store.recover()));
  const TestPayload payload(1);
  uint32_t written = 0;
  uint32_t busy = 0;
  for (uint32_t i = 0; i < kNvmePendingWritesMax + 50; ++i) {
    store.tier->write(test_key(1), payload.bytes(), payload.checksum(),
                      [&](const Expected<NvmeLocation>& result) {
                        written += result.is_ok();
                        busy += result.status().code() == StatusCode::kBusy;
                      });
  }
  ASSERT_TRUE(poll_until(store.tier->device(),
                         [&] { return written + busy == kNvmePendingWritesMax + 50; }));
  EXPECT_EQ(50u, busy);
  EXPECT_EQ(0u, store.tier->stats().writes_inflight);
}

TEST(NvmeTier, SyncsAreGrouped) {
  TierHarness store;
  store.open_and_recover();
  ASSERT_TRUE(store.write(test_key(1), TestPayload(1)).is_ok());
  const uint64_t before = store.tier->stats().syncs;
  int done = 0;
  for (int i = 0; i < 100; ++i) {
    store.tier->sync([&](const Status& status) { done += status.is_ok(); });
  }
  ASSERT_TRUE(poll_until(store.tier->device(), [&] { return done == 100; }));
  EXPECT_EQ(2u, store.tier->stats().syncs - before);
}

TEST(NvmeTier, FailedSyncIsNeverTrustedAgain) {
  TierHarness store;
  auto faulty =
      std::make_unique<FaultyDevice>(std::make_unique<MemoryDevice>(store.image), FaultRates{}, 1);
  FaultyDevice* device = faulty.get();
  ASSERT_EQ("", store.text(store.open_on(std::move(faulty))));
  ASSERT_EQ("", store.text(store.recover()));
  const auto location = store.write(test_key(1), TestPayload(1));
  ASSERT_TRUE(location.is_ok());
  FaultRates rates;
  rates.sync_error = 1;
  device->set_rates(rates);
  EXPECT_EQ(StatusCode::kIoError, store.sync().code());
  device->set_rates({});
  EXPECT_EQ(StatusCode::kUnavailable, store.sync().code());
  EXPECT_EQ(StatusCode::kUnavailable, store.write(test_key(2), TestPayload(2)).status().code());
  EXPECT_EQ(NvmeState::kReadOnlyError, store.tier->stats().state);
  EXPECT_EQ("", store.text(store.read(test_key(1), *location, TestPayload(1))));
}

TEST(NvmeTier, FullDeviceIsReadOnlyAndWaitersHear) {
  TierHarness store;
  auto faulty =
      std::make_unique<FaultyDevice>(std::make_unique<MemoryDevice>(store.image), FaultRates{}, 1);
  FaultyDevice* device = faulty.get();
  ASSERT_EQ("", store.text(store.open_on(std::move(faulty))));
  ASSERT_EQ("", store.text(store.recover()));
  const auto location = store.write(test_key(1), TestPayload(1));
  ASSERT_TRUE(location.is_ok());
  FaultRates rates;
  rates.no_space = 1;
  device->set_rates(rates);
  std::vector<StatusCode> codes;
  const TestPayload payload(2);
  for (int i = 0; i < 100; ++i) {
    store.tier->write(
        test_key(2), payload.bytes(), payload.checksum(),
        [&](const Expected<NvmeLocation>& result) { codes.push_back(result.status().code()); });
  }
  ASSERT_TRUE(poll_until(store.tier->device(), [&] { return codes.size() == 100; }));
  EXPECT_EQ(1, std::count(codes.begin(), codes.end(), StatusCode::kNoSpace) > 0);
  EXPECT_EQ(0, std::count(codes.begin(), codes.end(), StatusCode::kOk));
  EXPECT_EQ(NvmeState::kReadOnlyNoSpace, store.tier->stats().state);
  EXPECT_EQ("", store.text(store.read(test_key(1), *location, TestPayload(1))));
}

TEST(NvmeTier, ManyBadReadsQuarantine) {
  TierHarness store;
  NvmeOptions options = test_options();
  options.read_errors_per_minute_max = 5;
  store.open_and_recover(options);
  const auto location = store.write(test_key(1), TestPayload(1));
  const auto good = store.write(test_key(2), TestPayload(2));
  ASSERT_TRUE(location.is_ok() && good.is_ok());
  const uint64_t at = (1 << 20) + location->segment * kTestSegmentBytes + location->offset;
  store.image->bytes()[at + kBlockBytes] ^= std::byte{1};
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(StatusCode::kCorrupt, store.read(test_key(1), *location, TestPayload(1)).code());
  }
  EXPECT_EQ(NvmeState::kOk, store.tier->stats().state);
  store.clock.advance_ns(61'000'000'000);  // the old ones are forgotten
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(StatusCode::kCorrupt, store.read(test_key(1), *location, TestPayload(1)).code());
  }
  EXPECT_EQ("", store.text(store.read(test_key(2), *good, TestPayload(2))));
  EXPECT_EQ(StatusCode::kCorrupt, store.read(test_key(1), *location, TestPayload(1)).code());
  EXPECT_EQ(NvmeState::kQuarantined, store.tier->stats().state);
  EXPECT_EQ(StatusCode::kUnavailable, store.read(test_key(2), *good, TestPayload(2)).code());
  EXPECT_EQ(11u, store.tier->stats().corruptions);
}

TEST(NvmeTier, SealedStoreRecoversFromFootersAlone) {
  TierHarness store;
  store.open_and_recover();
  std::vector<NvmeLocation> locations;
  for (uint64_t id = 0; id < 30; ++id) {
    locations.push_back(*store.write(test_key(id), TestPayload(id)));
  }
  ASSERT_EQ("", store.text(store.seal()));
  store.tier.reset();
  // Without footers recovery would stop at the first object.
  for (const NvmeLocation& location : locations) {
    store.image->bytes()[(1 << 20) + location.segment * kTestSegmentBytes + location.offset] ^=
        std::byte{1};
  }
  store.open_and_recover();
  EXPECT_EQ(30u, store.recovered.size());
  // And the damaged headers are found out by reads.
  EXPECT_EQ(StatusCode::kCorrupt, store.read(test_key(4), locations[4], TestPayload(4)).code());
}

TEST(NvmeTier, OpeningForeignOrDamagedFilesIsRefused) {
  TierHarness store;
  store.image->bytes()[100] = std::byte{1};
  EXPECT_EQ(StatusCode::kFailedPrecondition, store.open().code());
  store.image->bytes()[100] = std::byte{0};
  NvmeOptions options = test_options();
  options.create = false;
  EXPECT_EQ(StatusCode::kNotFound, store.open(options).code());
  store.open_and_recover();
  const auto location = store.write(test_key(1), TestPayload(1));
  ASSERT_TRUE(location.is_ok());
  store.tier.reset();

  options = test_options();
  options.segment_bytes *= 2;
  EXPECT_EQ(StatusCode::kFailedPrecondition, store.open(options).code());
  options = test_options();
  options.capacity_bytes = 6ull << 20;
  EXPECT_EQ(StatusCode::kFailedPrecondition, store.open(options).code());
  // One damaged slot is survived, two are not. The newest epoch lies in slot 1.
  store.image->bytes()[kBlockBytes + 40] ^= std::byte{1};
  store.image->bytes()[50] ^= std::byte{1};
  EXPECT_EQ(StatusCode::kCorrupt, store.open().code());
  store.image->bytes()[kBlockBytes + 40] ^= std::byte{1};
  store.open_and_recover();
  EXPECT_EQ(1u, store.recovered.size());
}

TEST(NvmeTier, StoreGrows) {
  TierHarness store(8);
  NvmeOptions options = test_options();
  options.capacity_bytes = 6ull << 20;
  store.open_and_recover(options);
  EXPECT_EQ(5u, store.tier->stats().segments);
  ASSERT_TRUE(store.write(test_key(1), TestPayload(1)).is_ok());
  store.open_and_recover();
  EXPECT_EQ(8u, store.tier->stats().segments);
  EXPECT_EQ(1u, store.recovered.size());
}

TEST(NvmeTier, OptionsAreValidated) {
  TierHarness store;
  const auto refused = [&](auto change) {
    NvmeOptions options = test_options();
    change(options);
    return store.open(options).code() == StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](NvmeOptions& options) { options.segment_bytes = 0; }));
  EXPECT_TRUE(refused([](NvmeOptions& options) { options.segment_bytes = 1 << 19; }));
  EXPECT_TRUE(refused([](NvmeOptions& options) { options.segment_bytes = (1 << 20) + 4096; }));
  EXPECT_TRUE(refused([](NvmeOptions& options) { options.segment_bytes = 2ull << 30; }));
  EXPECT_TRUE(refused([](NvmeOptions& options) { options.free_segments_min = 0; }));
  EXPECT_TRUE(refused([](NvmeOptions& options) { options.free_segments_min = 8; }));
  EXPECT_TRUE(refused([](NvmeOptions& options) { options.capacity_bytes = 4 << 20; }));
  EXPECT_TRUE(refused([](NvmeOptions& options) { options.reinsert_fraction_max = 2; }));
  EXPECT_TRUE(refused([](NvmeOptions& options) { options.post = [](std::function<void()>) {}; }));
}

TEST(NvmeTier, WorksOnAFileOverBothLoopsWithOffloadedChecksums) {
  for (bool uring : {true, false}) {
    auto loop = make_event_loop({.allow_io_uring = uring});
    ASSERT_TRUE(loop.is_ok());
    EventLoop& reactor = **loop;
    const std::string path =
        testing::TempDir() + "quire_nvme_tier_test." + std::to_string(::getpid());
    ::unlink(path.c_str());
    std::vector<std::thread> helpers;
    const auto run_until = [&](auto condition) {
      const uint64_t deadline_ns = reactor.now_ns() + 20'000'000'000;
      while (!condition() && reactor.now_ns() < deadline_ns) reactor.run_once(10'000'000);
      return condition();
    };
    std::vector<NvmeLocation> locations(60);
    for (int round = 0; round < 2; ++round) {
      FileDeviceOptions file;
      file.path = path;
      file.size_bytes = 9 << 20;
      file.part_bytes = 16 << 10;
      file.read_inflight_bytes_max = 64 << 10;
      file.write_inflight_bytes_max = 32 << 10;
      auto device = open_file_device(reactor, file);
      ASSERT_TRUE(device.is_ok()) << device.status().to_string();
      EXPECT_EQ(StatusCode::kUnavailable, open_file_device(reactor, file).status().code());
      NvmeOptions options = test_options();
      options.offload_bytes_min = 8 << 10;
      options.offload = [&](std::function<void()> task) { helpers.emplace_back(std::move(task)); };
      options.post = [&](std::function<void()> task) { reactor.post(std::move(task)); };
      auto opened = NvmeTier::open(options, std::move(device).value(), system_clock());
      ASSERT_TRUE(opened.is_ok()) << opened.status().to_string();
      NvmeTier& tier = **opened;
      uint32_t found = 0;
      bool ready = false;
      tier.recover([&](const RecoveredObject&) { ++found; },
                   [&](const Status& status) { ready = status.is_ok(); });
      ASSERT_TRUE(run_until([&] { return ready; }));
      EXPECT_EQ(round * 60u, found);
      uint32_t done = 0;
      std::vector<TestPayload> payloads;
      for (uint64_t id = 0; id < 60; ++id) payloads.emplace_back(id);
      if (round == 0) {
        for (uint64_t id = 0; id < 60; ++id) {
          tier.write(test_key(id), payloads[id].bytes(), payloads[id].checksum(),
                     [&, id](const Expected<NvmeLocation>& result) {
                       if (result.is_ok()) locations[id] = *result;
                       done += result.is_ok();
                     });
        }
        ASSERT_TRUE(run_until([&] { return done == 60; }));
        bool synced = false;
        tier.sync([&](const Status& status) { synced = status.is_ok(); });
        ASSERT_TRUE(run_until([&] { return synced; }));
      }
      done = 0;
      std::vector<AlignedBuffer> targets;
      for (uint64_t id = 0; id < 60; ++id) {
        targets.emplace_back(payloads[id].bytes().size());
        tier.read(test_key(id), locations[id], payloads[id].checksum(), targets.back().span(),
                  [&](const Status& status) {
                    EXPECT_EQ("", TierHarness::text(status));
                    ++done;
                  });
      }
      ASSERT_TRUE(run_until([&] { return done == 60; }));
      for (uint64_t id = 0; id < 60; ++id) {
        EXPECT_EQ(0, std::memcmp(targets[id].data(), payloads[id].bytes().data(),
                                 payloads[id].bytes().size()));
      }
      for (std::thread& helper : helpers) helper.join();
      EXPECT_FALSE(helpers.empty());
      helpers.clear();
    }
    ::unlink(path.c_str());
  }
}

}  // namespace
}  // namespace quire
