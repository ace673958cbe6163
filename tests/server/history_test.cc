// Eight clients put, read, resolve, remove and pin the same objects of one server; every answer is
// checked against the history of all of them, every byte against what its version must hold.
//   QUIRE_HISTORY_SEED=7 QUIRE_HISTORY_OPERATIONS=1000000 server_history_test
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <random>
#include <thread>

#include "codecs/registry.h"
#include "codecs/representation.h"
#include "tests/server/server_fixture.h"
#include "tests/sim/value_history.h"

namespace quire::server {
namespace {

using sim::HistoryOperation;
using sim::HistoryVerdict;
using sim::PutOutcome;
using sim::RemoveOutcome;

constexpr uint32_t kThreads = 8;
constexpr uint32_t kTokens = 64;
constexpr uint64_t kOperationsDefault = 1'000'000;
// On a slow machine fewer operations are made, and their number is printed. But never so few that
// the tiers below saw nothing: a slow disk gets more time for that.
constexpr auto kConfigurationTimeMax = std::chrono::seconds(22);
constexpr auto kSlowConfigurationTimeMax = std::chrono::seconds(120);
constexpr uint32_t kProblemsPrintedMax = 5;
constexpr uint32_t kAdminDeadlineMs = kPatienceMs;

uint64_t environment_number(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

struct Workload {
  const char* name;
  uint32_t share_percent;  // of all operations
  uint32_t n_keys;
  bool large;  // 64 KiB instead of 8 KiB
  bool evictions_possible;
  uint32_t durable_percent;
  // Of 1000 operations; the rest are acquires.
  uint32_t resolves;
  uint32_t puts;
  uint32_t removes;
  uint32_t replacements;
  uint32_t pins;
  uint32_t stored_min;  // puts after which tiers that are to be full are full
};

// 14 bits in each half keep it finite: the key, then the version.
uint64_t make_tag(uint32_t key, uint64_t version) {
  return key | (version & 0x3fff) << 16 | (version >> 14 & 0x3fff) << 32 |
         (version >> 28 & 0x3fff) << 48;
}
sim::HistoryValue read_tag(uint64_t tag) {
  return {static_cast<uint32_t>(tag & 0xffff),
          (tag >> 16 & 0xffff) | (tag >> 32 & 0xffff) << 14 | (tag >> 48) << 28};
}

// The objects of a run: one id per key, and any number of versions of its bytes.
class Catalog {
 public:
  Catalog(uint64_t seed, uint32_t n_keys, bool large) : model_(test_model()) {
    if (!large) {
      model_.layers.resize(1);
      model_.layers[0].kv_heads = 1;
      model_.layers[0].key_dims = model_.layers[0].value_dims = 32;
      model_.layers[0].rotary_dims = 32;
      model_.layers[0].inverse_frequencies.resize(16);
    }
    std::mt19937_64 random(seed);
    for (uint32_t key = 0; key < n_keys; ++key) headers_.push_back(make_header(random));
    const auto sizes = section_sizes(CodecId::kRawF16, model_, headers_[0].coverage, kTokens);
    for (const RepresentationHeader& header : headers_) {
      writers_.push_back(*RepresentationWriter::plan(header, *sizes));
    }
    std::vector<std::byte> bytes(writers_[0].total_bytes());
    tag_offset_ = writers_[0].section(bytes, 0, Plane::kKey).data() - bytes.data();
  }

  const ModelDescriptor& model() const { return model_; }
  const Digest& id(uint32_t key) const { return headers_[key].representation; }
  std::span<const TokenId> tokens(uint32_t key) const { return headers_[key].tokens; }

  void make(uint32_t key, uint64_t version, std::vector<std::byte>& bytes) const {
    const RepresentationWriter& writer = writers_[key];
    bytes.resize(writer.total_bytes());
    const uint64_t tag = make_tag(key, version);
    uint64_t state = (tag + 1) * 0x9e3779b97f4a7c15ull;
    for (uint32_t layer = 0; layer < model_.layers.size(); ++layer) {
      for (const Plane plane : {Plane::kKey, Plane::kValue}) {
        const MutableByteSpan section = writer.section(bytes, layer, plane);
        std::memcpy(section.data(), &tag, sizeof(tag));
        for (size_t i = sizeof(tag); i + 8 <= section.size(); i += 8) {
          state = state * 6364136223846793005ull + 1442695040888963407ull;
          const uint64_t word = (state ^ state >> 29) & 0xbfffbfffbfffbfffull;
          std::memcpy(section.data() + i, &word, sizeof(word));
        }
      }
    }
    writer.finish(bytes);
  }

  sim::HistoryValue read(ByteSpan bytes) const {
    uint64_t tag = UINT64_MAX;
    if (bytes.size() >= tag_offset_ + sizeof(tag)) {
      std::memcpy(&tag, bytes.data() + tag_offset_, sizeof(tag));
    }
    return read_tag(tag);
  }

 private:
  RepresentationHeader make_header(std::mt19937_64& random) const {
    RepresentationHeader header;
    header.codec = CodecId::kRawF16;
    header.context = VariantContext::isolated();
    header.model = model_id(model_);
    header.coverage = {0, static_cast<uint16_t>(model_.layers.size()), 0,
                       static_cast<uint16_t>(model_.layers[0].kv_heads)};
    for (uint32_t i = 0; i < kTokens; ++i) {
      header.tokens.push_back(static_cast<TokenId>(random() % 50'000));
    }
    fill_ids(header, {});
    return header;
  }

  ModelDescriptor model_;
  std::vector<RepresentationHeader> headers_;
  std::vector<RepresentationWriter> writers_;
  size_t tag_offset_ = 0;
};

struct Counts {
  std::atomic<uint64_t> operations{0}, hits{0}, misses{0}, found{0}, unanswered{0};
  std::atomic<uint64_t> stored{0}, exists{0}, put_failures{0}, cancelled{0};
  std::atomic<uint64_t> removed{0}, absent{0}, refused{0}, remove_failures{0}, pinned{0};
};

struct SharedRun {
  SharedRun(const Workload& workload_in, uint64_t seed_in, uint64_t operations_in)
      : workload(workload_in),
        seed(seed_in),
        operations(operations_in),
        catalog(seed_in, workload_in.n_keys, workload_in.large),
        history(workload_in.n_keys) {}

  void fail(const std::string& problem) {
    const std::lock_guard lock(mutex);
    if (++problems <= kProblemsPrintedMax) {
      ADD_FAILURE() << workload.name << ": " << problem << "\nreplay: QUIRE_HISTORY_SEED=" << seed
                    << " QUIRE_HISTORY_OPERATIONS="
                    << environment_number("QUIRE_HISTORY_OPERATIONS", kOperationsDefault)
                    << " server_history_test --gtest_filter=*" << workload.name;
    }
  }
  void judge(const HistoryVerdict& verdict) {
    if (verdict) fail(*verdict);
  }

  const Workload workload;
  const uint64_t seed;
  const uint64_t operations;
  const Catalog catalog;
  sim::ValueHistory history;
  Counts counts;
  std::mutex mutex;
  std::atomic<uint64_t> problems{0};
};

// One thread's client and choices.
class Worker {
 public:
  Worker(SharedRun& run, AdminApi& admin, const std::string& socket_path, uint32_t number)
      : run_(run),
        admin_(admin),
        client_(TestClient::connect(socket_path, "", 8 << 20)),
        random_(run.seed * 1'000 + number),
        number_(number) {
    if (client_ == nullptr) run_.fail("no connection");
  }

  void work() {
    const auto begin = std::chrono::steady_clock::now();
    const auto in_time = [&] {
      const auto elapsed = std::chrono::steady_clock::now() - begin;
      const bool enough = run_.counts.stored > run_.workload.stored_min;
      return elapsed < (enough ? kConfigurationTimeMax : kSlowConfigurationTimeMax);
    };
    while (client_ != nullptr && run_.problems < kProblemsPrintedMax &&
           run_.counts.operations < run_.operations && in_time()) {
      step();
    }
  }

  // True for a hit.
  bool acquire(uint32_t key) {
    ++run_.counts.operations;
    const HistoryOperation get = run_.history.begin_get(key);
    auto lease = client_->acquire(run_.catalog.id(key));
    if (!lease) {
      end_without_hit(get, lease.status());
      return false;
    }
    const ByteSpan bytes = client_->leased(*lease);
    const sim::HistoryValue value = run_.catalog.read(bytes);
    run_.judge(run_.history.end_hit(get, value));
    ++run_.counts.hits;
    compare(key, value.version, bytes);
    if (random_() % 16 == 0) {
      // What is leased stays as it is, whatever the others remove and put meanwhile.
      std::this_thread::yield();
      compare(key, value.version, bytes);
    }
    const Status released = client_->release(lease->lease_id);
    if (!released.is_ok()) run_.fail("release: " + released.to_string());
    return true;
  }

 private:
  void step() {
    const Workload& workload = run_.workload;
    const uint32_t key = pick_key();
    uint64_t choice = random_() % 1000;
    const auto chosen = [&choice](uint32_t weight) {
      const bool is = choice < weight;
      choice -= is ? 0 : weight;
      return is;
    };
    if (chosen(workload.resolves)) return resolve(key);
    if (chosen(workload.puts)) return put(key);
    if (chosen(workload.removes)) return void(remove(key));
    if (chosen(workload.replacements)) {
      remove(key);
      return put(key);
    }
    if (chosen(workload.pins)) return pin(key / kThreads * kThreads + number_);
    if (!acquire(key) && random_() % 8 == 0) put(key);
  }

  // Half of the operations meet on few keys. A multiple of kThreads of them, for pin().
  uint32_t pick_key() {
    const uint32_t range = random_() % 2 == 0 ? run_.workload.n_keys / 16 : run_.workload.n_keys;
    return static_cast<uint32_t>(random_() % range);
  }

  void compare(uint32_t key, uint64_t version, ByteSpan bytes) {
    run_.catalog.make(key, version, expected_);
    if (bytes.size() != expected_.size() ||
        std::memcmp(bytes.data(), expected_.data(), expected_.size()) != 0) {
      run_.fail("key " + std::to_string(key) + ": its bytes are not those of version " +
                std::to_string(version));
    }
  }

  void end_without_hit(const HistoryOperation& get, const Status& status) {
    if (status.code() == StatusCode::kNotFound) {
      ++run_.counts.misses;
      return run_.judge(run_.history.end_miss(get, run_.workload.evictions_possible));
    }
    run_.history.end_unanswered(get);
    ++run_.counts.unanswered;
    if (!status_is_retryable(status.code())) run_.fail("get: " + status.to_string());
  }

  void resolve(uint32_t key) {
    ++run_.counts.operations;
    const HistoryOperation get = run_.history.begin_get(key);
    auto entries = client_->resolve(model_, run_.catalog.tokens(key));
    if (!entries) return end_without_hit(get, entries.status());
    if (entries->empty()) return end_without_hit(get, {StatusCode::kNotFound, ""});
    if (entries->front().representation != run_.catalog.id(key).bytes) {
      run_.fail("resolve answers with another object");
    }
    ++run_.counts.found;
    run_.judge(run_.history.end_found(get));
  }

  void put(uint32_t key) {
    ++run_.counts.operations;
    const uint64_t version = static_cast<uint64_t>(number_) << 32 | ++versions_;
    run_.catalog.make(key, version, expected_);
    const bool durable = random_() % 100 < run_.workload.durable_percent;
    const HistoryOperation put = run_.history.begin_put(key, version);
    const PutOutcome outcome = send_put(key, durable);
    run_.judge(run_.history.end_put(put, outcome, run_.workload.evictions_possible));
  }

  PutOutcome send_put(uint32_t key, bool durable) {
    auto window = client_->reserve(run_.catalog.id(key), expected_.size());
    if (!window) {
      const bool exists = window.status().code() == StatusCode::kAlreadyExists;
      ++(exists ? run_.counts.exists : run_.counts.put_failures);
      if (!exists && !status_is_retryable(window.status().code())) {
        run_.fail("reserve: " + window.status().to_string());
      }
      return PutOutcome::kNothing;
    }
    std::memcpy(client_->staging().data() + window->staging_offset, expected_.data(),
                expected_.size());
    const Status status =
        client_->commit(window->reservation_id, expected_,
                        durable ? wire::AckLevel::kDurable : wire::AckLevel::kMemory);
    if (status.is_ok()) {
      ++run_.counts.stored;
      return durable ? PutOutcome::kDurable : PutOutcome::kMemory;
    }
    // Acknowledged as durable too late: a remove came first.
    if (status.code() == StatusCode::kCancelled) {
      ++run_.counts.cancelled;
      return PutOutcome::kCancelled;
    }
    const wire::AbortRequest abort{window->reservation_id};
    (void)client_->call(wire::Op::kAbort, bytes_of(abort));
    ++run_.counts.put_failures;
    if (!status_is_retryable(status.code())) run_.fail("commit: " + status.to_string());
    return PutOutcome::kUnknown;
  }

  RemoveOutcome remove(uint32_t key) {
    ++run_.counts.operations;
    const HistoryOperation remove = run_.history.begin_remove(key);
    const Status status = admin_.remove(run_.catalog.id(key), false, kAdminDeadlineMs);
    RemoveOutcome outcome = RemoveOutcome::kUnknown;
    if (status.is_ok()) {
      outcome = RemoveOutcome::kRemoved;
      ++run_.counts.removed;
    } else if (status.code() == StatusCode::kNotFound) {
      outcome = RemoveOutcome::kAbsent;
      ++run_.counts.absent;
    } else if (status.code() == StatusCode::kFailedPrecondition) {
      outcome = RemoveOutcome::kRefused;
      ++run_.counts.refused;
    } else {
      ++run_.counts.remove_failures;
      if (!status_is_retryable(status.code())) run_.fail("remove: " + status.to_string());
    }
    run_.judge(run_.history.end_remove(remove, outcome, run_.workload.evictions_possible));
    return outcome;
  }

  // Nobody else pins this thread's keys: what it pinned stays until it unpins it.
  void pin(uint32_t key) {
    if (key >= run_.workload.n_keys) return;
    const Digest& id = run_.catalog.id(key);
    const Status pinned = admin_.pin(id, 0, kAdminDeadlineMs);
    if (pinned.code() == StatusCode::kNotFound) return;
    if (!pinned.is_ok()) return run_.fail("pin: " + pinned.to_string());
    ++run_.counts.pinned;
    if (!acquire(key)) run_.fail("key " + std::to_string(key) + " is missed while pinned");
    if (remove(key) != RemoveOutcome::kRefused) {
      run_.fail("key " + std::to_string(key) + " is removed while pinned");
    }
    const Status unpinned = admin_.unpin(id, kAdminDeadlineMs);
    if (!unpinned.is_ok()) run_.fail("unpin: " + unpinned.to_string());
  }

  SharedRun& run_;
  AdminApi& admin_;
  std::unique_ptr<TestClient> client_;
  std::mt19937_64 random_;
  const uint32_t number_;
  const Digest model_ = model_id(run_.catalog.model());
  uint64_t versions_ = 0;
  std::vector<std::byte> expected_;
};

class HistoryTest : public testing::Test {
 protected:
  void run(const Workload& workload) {
    const uint64_t seed = environment_number("QUIRE_HISTORY_SEED", std::random_device{}());
    const uint64_t total = environment_number("QUIRE_HISTORY_OPERATIONS", kOperationsDefault);
    run_ = std::make_unique<SharedRun>(workload, seed, total * workload.share_percent / 100);
    std::printf("%s: QUIRE_HISTORY_SEED=%llu\n", workload.name,
                static_cast<unsigned long long>(seed));
    const auto begin = std::chrono::steady_clock::now();
    InProcessServer server(config_);
    ASSERT_TRUE(server.status().is_ok()) << server.status().to_string();
    auto client = TestClient::connect(config_.socket_path, "", 8 << 20);
    ASSERT_NE(client, nullptr);
    ASSERT_TRUE(client->register_model(run_->catalog.model()).is_ok());
    std::vector<std::thread> threads;
    for (uint32_t number = 0; number < kThreads; ++number) {
      threads.emplace_back(
          [&, number] { Worker(*run_, server.admin(), config_.socket_path, number).work(); });
    }
    for (std::thread& thread : threads) thread.join();
    // Now that nothing overlaps any more.
    Worker last(*run_, server.admin(), config_.socket_path, kThreads);
    for (uint32_t key = 0; key < workload.n_keys; ++key) last.acquire(key);
    stats_ = *server.admin().stats(kAdminDeadlineMs);
    print(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    expect_sound();
  }

  void print(double seconds) const {
    const Counts& c = run_->counts;
    const auto n = [](const std::atomic<uint64_t>& count) {
      return static_cast<unsigned long long>(count.load());
    };
    std::printf(
        "%s: %llu operations in %.1f s, %llu hits, %llu misses, %llu resolved, %llu unanswered; "
        "puts: %llu stored, %llu existed, %llu cancelled, %llu failed; removes: %llu removed, %llu "
        "absent, %llu "
        "refused, %llu failed; %llu pins\n",
        run_->workload.name, n(c.operations), seconds, n(c.hits), n(c.misses), n(c.found),
        n(c.unanswered), n(c.stored), n(c.exists), n(c.cancelled), n(c.put_failures), n(c.removed),
        n(c.absent), n(c.refused), n(c.remove_failures), n(c.pinned));
    for (const TierStats& tier : stats_.tiers) {
      std::printf("  tier %d: %llu objects, %llu hits, %llu evictions\n",
                  static_cast<int>(tier.tier), static_cast<unsigned long long>(tier.objects),
                  static_cast<unsigned long long>(tier.hits),
                  static_cast<unsigned long long>(tier.evictions));
    }
  }

  // A run in which nothing happened proves nothing.
  void expect_sound() const {
    const Counts& c = run_->counts;
    EXPECT_EQ(run_->problems, 0u);
    EXPECT_EQ(stats_.corruptions, 0u);
    EXPECT_GT(c.hits, 0u);
    EXPECT_GT(c.misses, 0u);
    EXPECT_GT(c.found, 0u);
    EXPECT_GT(c.stored, run_->workload.stored_min);
    EXPECT_GT(c.exists, 0u);
    EXPECT_GT(c.removed, 0u);
    EXPECT_LT(c.unanswered, c.hits);
  }
  const TierStats& tier(wire::TierId id) const {
    for (const TierStats& row : stats_.tiers) {
      if (row.tier == id) return row;
    }
    static const TierStats kAbsent;
    return kAbsent;
  }

  TempDirectory directory_;
  Config config_ = test_config(directory_.path());
  std::unique_ptr<SharedRun> run_;
  ServerStats stats_;
};

TEST_F(HistoryTest, NvmeIsReclaimed) {
  config_.host_bytes = 8 << 20;
  config_.nvme_bytes = 32 << 20;
  config_.nvme_segment_bytes = 4 << 20;
  config_.rocks_blob_bytes_max = 0;
  run({"NvmeIsReclaimed", 10, 1024, true, true, 20, 80, 30, 10, 20, 0, 700});
  EXPECT_GT(tier(wire::TierId::kHost).evictions, 0u);
  EXPECT_GT(tier(wire::TierId::kNvme).evictions, 0u);
  EXPECT_GT(tier(wire::TierId::kNvme).hits, 0u);
}

TEST_F(HistoryTest, SmallObjectsInRocks) {
  config_.host_bytes = 8 << 20;
  config_.nvme_bytes = 0;
  run({"SmallObjectsInRocks", 25, 3072, false, false, 50, 80, 20, 5, 15, 0, 1500});
  EXPECT_GT(tier(wire::TierId::kHost).evictions, 0u);
  EXPECT_GT(tier(wire::TierId::kRocks).hits, 0u);
}

TEST_F(HistoryTest, NothingIsEvicted) {
  run({"NothingIsEvicted", 40, 1024, false, false, 100, 80, 30, 5, 10, 0, 256});
  EXPECT_EQ(tier(wire::TierId::kHost).evictions, 0u);
}

TEST_F(HistoryTest, DeletesAndPins) {
  run({"DeletesAndPins", 25, 256, false, false, 50, 80, 30, 30, 20, 10, 64});
  EXPECT_EQ(tier(wire::TierId::kHost).evictions, 0u);
  EXPECT_GT(run_->counts.refused, 0u);
  EXPECT_GT(run_->counts.pinned, 0u);
}

}  // namespace
}  // namespace quire::server
