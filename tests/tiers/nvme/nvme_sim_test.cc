// Randomised runs of the tier against a model, with faults, power cuts and restarts. The promise: a
// read gives the right bytes or an error, and what a sync covered is there after a power cut.
// A failing seed is replayed with QUIRE_SIM_SEED=<seed>.
#include <cstdlib>
#include <map>
#include <string>

#include "tests/tiers/nvme/tier_harness.h"
#include "tiers/io/faulty_device.h"

namespace quire {
namespace {

constexpr uint64_t kSeeds = 60;
constexpr uint32_t kOperations = 600;
constexpr uint64_t kSegments = 7;

struct Entry {
  uint64_t id = 0;
  NvmeLocation location;
  bool durable = false;
};

// One store with the index that its owner would keep.
class Simulation {
 public:
  Simulation(uint64_t seed, const FaultRates& rates, bool silent_faults)
      : random_(seed), rates_(rates), silent_faults_(silent_faults), store_(kSegments) {}

  void run() {
    restart();
    for (uint32_t i = 0; i < kOperations && !testing::Test::HasFailure(); ++i) step();
    settle();
    if (silent_faults_) return;
    // Without faults the data must be there after all, not merely not wrong.
    EXPECT_GT(reads_ok_, 0u);
  }

 private:
  void step() {
    const uint64_t dice = random_.below(100);
    if (dice < 45) {
      start_write();
    } else if (dice < 70) {
      start_read();
    } else if (dice < 78) {
      start_sync();
    } else if (dice < 81) {
      remove_one();
    } else if (dice < 82) {
      if (random_.chance(0.5)) settle();
      restart();
    } else {
      for (uint64_t polls = random_.below(40); polls > 0; --polls) store_.tier->device().poll();
    }
  }

  struct PendingWrite {
    explicit PendingWrite(uint64_t write_id) : payload(write_id) {}
    TestPayload payload;
  };

  void start_write() {
    const uint64_t id = next_id_++;
    const uint64_t life = life_;
    ids_[test_key(id)] = id;
    auto& pending = *writes_.emplace(id, std::make_unique<PendingWrite>(id)).first->second;
    store_.tier->write(test_key(id), pending.payload.bytes(), pending.payload.checksum(),
                       [this, id, life](const Expected<NvmeLocation>& result) {
                         ASSERT_EQ(life, life_) << "callback of a destroyed tier";
                         if (result.is_ok()) index_[test_key(id)] = {id, *result, false};
                       });
  }

  const Entry* any_entry() {
    if (index_.empty()) return nullptr;
    auto found = index_.lower_bound(test_key(random_.next()));
    if (found == index_.end()) found = index_.begin();
    return &found->second;
  }

  struct PendingRead {
    explicit PendingRead(uint64_t read_id) : payload(read_id), target(payload.bytes().size()) {}
    TestPayload payload;
    AlignedBuffer target;
    bool done = false;
  };

  void start_read() {
    const Entry* entry = any_entry();
    if (entry == nullptr) return;
    reads_.push_back(std::make_unique<PendingRead>(entry->id));
    PendingRead* read = reads_.back().get();
    const Digest key = test_key(entry->id);
    const NvmeLocation location = entry->location;
    store_.tier->read(key, location, read->payload.checksum(), read->target.span(),
                      [this, read, key, location](const Status& status) {
                        on_read(*read, key, location, status);
                      });
  }

  void on_read(PendingRead& read, const Digest& key, const NvmeLocation& location,
               const Status& status) {
    read.done = true;
    const auto found = index_.find(key);
    const bool indexed = found != index_.end() && found->second.location == location;
    if (status.is_ok()) {
      ++reads_ok_;
      EXPECT_EQ(0, std::memcmp(read.target.data(), read.payload.bytes().data(),
                               read.payload.bytes().size()))
          << "wrong bytes";
    } else if (indexed) {
      if (faultless()) ADD_FAILURE() << "indexed object unreadable: " << status.to_string();
      index_.erase(found);
    }
  }

  void start_sync() {
    std::map<Digest, NvmeLocation> covered;
    for (const auto& [key, entry] : index_) covered[key] = entry.location;
    store_.tier->sync([this, covered](const Status& status) {
      if (!status.is_ok()) return;
      for (const auto& [key, location] : covered) {
        const auto found = index_.find(key);
        if (found != index_.end() && found->second.location == location) {
          found->second.durable = true;
        }
      }
    });
  }

  void remove_one() {
    const Entry* entry = any_entry();
    if (entry == nullptr) return;
    store_.tier->remove(entry->location);
    index_.erase(test_key(entry->id));
  }

  bool faultless() const { return rates_.read_error == 0 && !silent_faults_; }

  void settle() {
    ASSERT_TRUE(poll_until(store_.tier->device(), [&] {
      const NvmeStats stats = store_.tier->stats();
      return stats.writes_inflight == 0 && stats.reads_inflight == 0;
    })) << "something hangs";
  }

  // A power cut and a new process.
  void restart() {
    ++life_;
    store_.tier.reset();
    reads_.clear();
    writes_.clear();
    store_.image->cut_power(random_);
    auto device = std::make_unique<MemoryDevice>(
        store_.image, MemoryDeviceOptions{.shuffle = true, .seed = random_.next()});
    auto faulty = std::make_unique<FaultyDevice>(std::move(device), rates_, random_.next());
    const Status opened = store_.open_on(std::move(faulty));
    if (!opened.is_ok() && silent_faults_) {  // a misdirected write hit the superblocks
      store_.image = std::make_shared<MemoryImage>((1 << 20) + kSegments * kTestSegmentBytes);
      index_.clear();
      ASSERT_EQ("", store_.text(store_.open()));
    } else {
      ASSERT_EQ("", store_.text(opened));
    }
    install_hooks();
    ASSERT_EQ("", store_.text(store_.recover([this] { rebuild_index(); })));
    check_recovered();
  }

  void install_hooks() {
    const auto matches = [this](const Digest& key, const NvmeLocation& location) {
      const auto found = index_.find(key);
      return found != index_.end() && found->second.location == location;
    };
    NvmeTier::ReclaimHooks hooks;
    hooks.keep = [=, this](const Digest& key, const NvmeLocation& location) {
      return matches(key, location) && index_[key].id % 4 == 0;
    };
    hooks.on_move = [=, this](const Digest& key, const NvmeLocation& from, const NvmeLocation& to) {
      // Durable as before: the original is not overwritten until the copy is synced. A power cut
      // before that finds the original.
      if (!matches(key, from)) return;
      index_[key].location = to;
    };
    hooks.on_evict = [=, this](const Digest& key, const NvmeLocation& location) {
      if (matches(key, location)) index_.erase(key);
    };
    store_.tier->set_reclaim_hooks(hooks);
  }

  // What an owner does: the newest of each key it still wants. Runs before anything is reclaimed.
  void rebuild_index() {
    std::map<Digest, Entry> next;
    for (const RecoveredObject& object : store_.recovered) {
      const auto known = index_.find(object.key);
      if (known == index_.end()) continue;
      Entry& entry = next[object.key];
      if (object.location.sequence < entry.location.sequence) continue;
      entry = {known->second.id, object.location, known->second.durable};
    }
    for (const auto& [key, entry] : index_) {
      if (entry.durable && faultless()) {
        EXPECT_TRUE(next.contains(key)) << "synced object " << entry.id << " is lost";
      }
    }
    index_ = std::move(next);
  }

  // Without faults, everything reported is whole, also what the owner no longer wants.
  void check_recovered() {
    for (const RecoveredObject& object : store_.recovered) {
      if (!faultless()) break;
      const auto id = ids_.find(object.key);
      ASSERT_TRUE(id != ids_.end()) << "an object nobody wrote";
      const Status status = store_.read(object.key, object.location, TestPayload(id->second));
      EXPECT_TRUE(status.is_ok() || status.code() == StatusCode::kNotFound)  // reclaimed meanwhile
          << "reported object " << id->second << ": " << status.to_string();
    }
    const std::map<Digest, Entry> recovered = index_;
    for (const auto& [key, entry] : recovered) {
      if (!index_.contains(key)) continue;  // reclaimed meanwhile
      const Status status = store_.read(key, entry.location, TestPayload(entry.id));
      const auto now = index_.find(key);
      if (status.is_ok() || now == index_.end() || !(now->second.location == entry.location)) {
        continue;
      }
      EXPECT_FALSE(faultless()) << "recovered object " << entry.id << ": " << status.to_string();
      index_.erase(now);
    }
  }

  SeededRandom random_;
  const FaultRates rates_;
  const bool silent_faults_;
  std::map<uint64_t, std::unique_ptr<PendingWrite>> writes_;
  std::vector<std::unique_ptr<PendingRead>> reads_;
  std::map<Digest, Entry> index_;
  std::map<Digest, uint64_t> ids_;  // everything ever written
  uint64_t next_id_ = 1;
  uint64_t life_ = 0;
  uint64_t reads_ok_ = 0;
  TierHarness store_;  // last: its device looks at the payloads of unfinished writes when it goes
};

void run_seeds(const FaultRates& rates, bool silent_faults) {
  uint64_t first = 1;
  uint64_t count = kSeeds;
  if (const char* replay = std::getenv("QUIRE_SIM_SEED")) {
    first = std::strtoull(replay, nullptr, 10);
    count = 1;
  }
  for (uint64_t seed = first; seed < first + count; ++seed) {
    SCOPED_TRACE("QUIRE_SIM_SEED=" + std::to_string(seed));
    Simulation(seed, rates, silent_faults).run();
    if (testing::Test::HasFailure()) return;
  }
}

// One run of a fixed story, cut after a number of polls: durable objects are kept through several
// rounds of reclaiming, nothing is synced by the owner meanwhile, and they must be there after the
// cut.
void run_reclaim_until(uint64_t polls, uint64_t* polls_of_whole_story) {
  constexpr uint64_t kKept = 8;
  constexpr uint64_t kFiller = 150;
  constexpr uint64_t kPayloadBytes = 60'000;
  std::vector<TestPayload> payloads;  // outlive the tier
  for (uint64_t id = 0; id < kKept + kFiller; ++id) payloads.emplace_back(id, kPayloadBytes);
  TierHarness store(5);
  store.open_and_recover();
  std::map<Digest, NvmeLocation> kept;
  for (uint64_t id = 0; id < kKept; ++id) {
    const auto location = store.write(test_key(id), payloads[id]);
    ASSERT_TRUE(location.is_ok());
    kept[test_key(id)] = *location;
  }
  ASSERT_EQ("", store.text(store.sync()));
  NvmeTier::ReclaimHooks hooks;
  hooks.keep = [&](const Digest& key, const NvmeLocation& location) {
    return kept.contains(key) && kept[key] == location;
  };
  hooks.on_move = [&](const Digest& key, const NvmeLocation& from, const NvmeLocation& to) {
    if (kept[key] == from) kept[key] = to;
  };
  hooks.on_evict = [&](const Digest& key, const NvmeLocation& location) {
    if (kept.contains(key) && kept[key] == location) kept.erase(key);
  };
  store.tier->set_reclaim_hooks(hooks);
  uint64_t done = 0;
  for (uint64_t id = kKept; id < kKept + kFiller; ++id) {
    store.tier->write(test_key(id), payloads[id].bytes(), payloads[id].checksum(),
                      [&](const Expected<NvmeLocation>&) { ++done; });
  }
  uint64_t polled = 0;
  while (polled < polls && store.tier->device().poll()) ++polled;
  *polls_of_whole_story = polled;
  if (polled < polls) {
    EXPECT_EQ(kFiller, done);
    EXPECT_EQ(kKept, kept.size()) << "the story evicts what it should keep";
    EXPECT_GT(store.tier->stats().reinserted_bytes, 0u);
  }
  SeededRandom random(polls);
  store.tier.reset();
  store.image->cut_power(random);
  const std::map<Digest, NvmeLocation> expected = kept;
  kept.clear();
  ASSERT_EQ("", store.text(store.open()));
  store.tier->set_reclaim_hooks(hooks);
  ASSERT_EQ("", store.text(store.recover([&] {
    for (const auto& [key, location] : expected) {
      const RecoveredObject* object = store.find(key);
      ASSERT_NE(nullptr, object) << "a durable object is lost";
      kept[key] = object->location;
    }
  })));
  // A segment whose reuse was cut short must not show its old objects over new bytes.
  for (const RecoveredObject& object : store.recovered) {
    uint64_t id = 0;
    while (test_key(id) != object.key) ASSERT_LT(++id, kKept + kFiller);
    const Status status = store.read(object.key, object.location, payloads[id]);
    EXPECT_TRUE(status.is_ok() || status.code() == StatusCode::kNotFound) << status.to_string();
  }
  for (uint64_t id = 0; id < kKept; ++id) {
    if (!expected.contains(test_key(id)) || !kept.contains(test_key(id))) continue;
    EXPECT_EQ("", store.text(store.read(test_key(id), kept[test_key(id)], payloads[id]))) << id;
  }
}

TEST(NvmeSimulation, PowerCutAtEveryStepOfReclaiming) {
  uint64_t whole = 0;
  run_reclaim_until(~0ull, &whole);
  ASSERT_GT(whole, 300u);
  for (uint64_t polls = 0; polls <= whole && !testing::Test::HasFailure(); ++polls) {
    SCOPED_TRACE("cut after " + std::to_string(polls) + " completions");
    uint64_t polled = 0;
    run_reclaim_until(polls, &polled);
  }
}

TEST(NvmeSimulation, PowerCutsAndReordering) {
  FaultRates rates;
  rates.delay = 0.2;
  run_seeds(rates, false);
}

TEST(NvmeSimulation, ReportedErrors) {
  FaultRates rates;
  rates.delay = 0.1;
  rates.short_read = 0.01;
  rates.read_error = 0.01;
  rates.write_error = 0.0005;
  rates.sync_error = 0.003;
  rates.no_space = 0.0003;
  run_seeds(rates, false);
}

TEST(NvmeSimulation, SilentFaults) {
  FaultRates rates;
  rates.torn_write = 0.01;
  rates.lost_write = 0.01;
  rates.misdirected_write = 0.01;
  rates.write_bit_flip = 0.01;
  rates.read_bit_flip = 0.02;
  rates.misdirected_read = 0.02;
  rates.delay = 0.1;
  run_seeds(rates, true);
}

}  // namespace
}  // namespace quire
