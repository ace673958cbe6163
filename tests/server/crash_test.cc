// SIGKILL under write load, again and again: every object that was acknowledged as durable is there
// with its own bytes, and no object ever comes back with wrong bytes. QUIRE_CRASH_ROUNDS and
// QUIRE_CRASH_SEED replay longer or particular runs.
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <random>
#include <set>

#include "tests/server/store_fixture.h"

namespace quire::server {
namespace {

constexpr int kRoundsDefault = 4;
constexpr int kWriters = 3;
constexpr int kPutsPerRoundMax = 100;  // of one writer

uint64_t environment_number(const char* name, uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::strtoull(value, nullptr, 10);
}

uint32_t tokens_of(uint64_t seed) {
  return seed % 3 == 0 ? 300 : 16 + seed % 200;
}

TEST(Crash, DurableObjectsSurviveKillUnderLoad) {
  const TempDirectory directory;
  Config config = test_config(directory.path());
  // Room for everything: nothing durable may go by reclaiming.
  config.nvme_bytes = 1ull << 30;
  config.host_bytes = 24ull << 20;
  config.log_level = "info";
  const ModelDescriptor model = test_model();
  const uint64_t rounds = environment_number("QUIRE_CRASH_ROUNDS", kRoundsDefault);
  const uint64_t seed = environment_number("QUIRE_CRASH_SEED", 1);
  std::printf("QUIRE_CRASH_ROUNDS=%lu QUIRE_CRASH_SEED=%lu\n", rounds, seed);
  std::mt19937_64 random(seed);
  std::mutex mutex;
  std::set<uint64_t> durable;
  std::set<uint64_t> tried;
  uint64_t next_seed = 1;
  for (uint64_t round = 0; round <= rounds; ++round) {
    ServerProcess server(config);
    ASSERT_TRUE(server.ready()) << server.log();
    auto client = TestClient::connect(config.socket_path);
    ASSERT_NE(client, nullptr);
    ASSERT_TRUE(client->register_model(model).is_ok());
    // The argument holds only while the NVMe tier has never been full.
    ASSERT_LT(tried.size(), 3 * (config.nvme_bytes / 2) / (400 << 10));
    uint64_t present = 0;
    for (const uint64_t object_seed : tried) {
      const TestObject object = make_object(model, object_seed, tokens_of(object_seed));
      auto lease = client->acquire(object.id);
      for (int i = 0; !lease && lease.status().code() == StatusCode::kBusy && i < 500; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        lease = client->acquire(object.id);
      }
      if (!lease) {
        ASSERT_EQ(lease.status().code(), StatusCode::kNotFound) << lease.status().to_string();
        ASSERT_FALSE(durable.contains(object_seed))
            << "round " << round << " lost durable object " << object_seed << ", "
            << lease.status().to_string() << "\n"
            << server.log();
        continue;
      }
      ++present;
      ASSERT_EQ(lease->bytes, object.bytes.size());
      ASSERT_EQ(std::memcmp(client->leased(*lease).data(), object.bytes.data(), lease->bytes), 0)
          << "round " << round << ": wrong bytes";
      ASSERT_TRUE(client->release(lease->lease_id).is_ok());
    }
    std::printf("round %lu: %zu tried, %zu durable, %lu present\n", round, tried.size(),
                durable.size(), present);
    if (round == rounds) break;
    std::atomic<bool> stop{false};
    std::vector<std::thread> writers;
    for (int w = 0; w < kWriters; ++w) {
      writers.emplace_back([&, w] {
        auto writer = TestClient::connect(config.socket_path);
        for (int puts = 0; writer != nullptr && !stop && puts < kPutsPerRoundMax; ++puts) {
          uint64_t mine;
          {
            const std::lock_guard lock(mutex);
            mine = next_seed++;
            tried.insert(mine);
          }
          const TestObject object = make_object(model, mine, tokens_of(mine));
          const auto ack = w == 0 ? wire::AckLevel::kMemory : wire::AckLevel::kDurable;
          Status status = writer->put(object.id, object.bytes, ack);
          while (status.code() == StatusCode::kBusy) {
            std::this_thread::sleep_for(std::chrono::milliseconds(status.retry_after_ms()));
            status = writer->put(object.id, object.bytes, ack);
          }
          if (status.code() == StatusCode::kUnavailable) return;
          if (status.is_ok() && ack == wire::AckLevel::kDurable) {
            const std::lock_guard lock(mutex);
            durable.insert(mine);
          }
        }
      });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100 + random() % 500));
    server.kill();
    stop = true;
    for (std::thread& writer : writers) writer.join();
  }
  EXPECT_GT(durable.size(), 0u);
}

}  // namespace
}  // namespace quire::server
