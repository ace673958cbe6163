#include "tests/server/crash_harness.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <random>

namespace quire::server {
namespace {

constexpr int kBusyRetries = 500;
constexpr uint64_t kStagingBytes = 16ull << 20;

uint64_t now_us() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                   std::chrono::steady_clock::now().time_since_epoch())
                                   .count());
}

void pause_ms(uint32_t ms) {
  std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

bool holds(TestClient& client, const wire::AcquireReply& lease, const TriedObject& object) {
  return lease.bytes == object.bytes && xxh3_128(client.leased(lease)) == object.checksum;
}

}  // namespace

uint64_t environment_number(const char* name, uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::strtoull(value, nullptr, 10);
}

void CrashHarness::start() {
  stop_ = false;
  if (auto client = TestClient::connect(config_.socket_path, "", kStagingBytes)) {
    (void)client->register_model(model_);
  }
  for (uint32_t i = 0; i < load_.durable_writers; ++i) {
    threads_.emplace_back([this] { write(true); });
  }
  for (uint32_t i = 0; i < load_.memory_writers; ++i) {
    threads_.emplace_back([this] { write(false); });
  }
  for (uint32_t i = 0; i < load_.readers; ++i) {
    threads_.emplace_back([this, i] { read(next_seed_ + i); });
  }
}

void CrashHarness::stop() {
  stop_ = true;
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void CrashHarness::wait_for_durable() const {
  for (int waited = 0; durable_puts_ == 0 && waited < kPatienceMs; waited += 5) pause_ms(5);
}

void CrashHarness::write(bool durable) {
  auto client = TestClient::connect(config_.socket_path, "", kStagingBytes);
  while (client != nullptr && !stop_) {
    std::this_thread::sleep_for(std::chrono::microseconds(load_.pause_us * (durable ? 1 : 5)));
    size_t index = 0;
    uint64_t seed = 0;
    {
      const std::lock_guard lock(mutex_);
      if (objects_.size() >= load_.objects_max) continue;
      seed = next_seed_++;
      index = objects_.size();
      objects_.emplace_back().seed = seed;
    }
    std::mt19937_64 random(seed);
    const auto n_tokens = static_cast<uint32_t>(
        load_.tokens_min + random() % (load_.tokens_max - load_.tokens_min + 1));
    const TestObject object = make_object(model_, seed, n_tokens);
    {
      const std::lock_guard lock(mutex_);
      objects_[index].id = object.id;
      objects_[index].bytes = object.bytes.size();
      objects_[index].checksum = xxh3_128(object.bytes);
    }
    const auto ack = durable ? wire::AckLevel::kDurable : wire::AckLevel::kMemory;
    uint64_t begun_us = now_us();
    Status status = client->put(object.id, object.bytes, ack);
    for (int i = 0; status.code() == StatusCode::kBusy && i < kBusyRetries && !stop_; ++i) {
      pause_ms(status.retry_after_ms());
      begun_us = now_us();
      status = client->put(object.id, object.bytes, ack);
    }
    if (status.code() == StatusCode::kUnavailable) return;
    if (!status.is_ok()) continue;
    const std::lock_guard lock(mutex_);
    objects_[index].acknowledged_us = now_us();
    objects_[index].durable = durable;
    if (!durable) continue;
    ++durable_puts_;
    uint64_t& last_us = durable_begun_us_[tier_of(objects_[index])];
    last_us = std::max(last_us, begun_us);
  }
}

void CrashHarness::read(uint64_t seed) {
  auto client = TestClient::connect(config_.socket_path, "", kStagingBytes);
  std::mt19937_64 random(seed);
  while (client != nullptr && !stop_) {
    std::this_thread::sleep_for(std::chrono::microseconds(load_.pause_us));
    TriedObject object;
    {
      const std::lock_guard lock(mutex_);
      if (objects_.empty()) continue;
      object = objects_[random() % objects_.size()];
    }
    if (object.bytes == 0) continue;
    auto lease = client->acquire(object.id);
    if (!lease && lease.status().code() == StatusCode::kUnavailable) return;
    if (!lease) continue;
    ++reads_;
    // A lease of a server that dies now shows memory that nobody changes any more.
    if (!holds(*client, *lease, object)) ++wrong_reads_;
    (void)client->release(lease->lease_id);
  }
}

VerifyReport CrashHarness::verify(bool durable_is_forever) {
  VerifyReport report;
  auto client = TestClient::connect(config_.socket_path, "", kStagingBytes);
  if (client == nullptr) {
    report.trouble = "the server does not answer";
    report.durable_lost = 1;
    return report;
  }
  const auto note = [&report](const TriedObject& object, const std::string& what) {
    if (report.trouble.empty()) report.trouble = "object " + std::to_string(object.seed) + what;
  };
  const std::lock_guard lock(mutex_);
  for (TriedObject& object : objects_) {
    if (object.bytes == 0) continue;  // its writer was stopped before it knew
    const bool expected = object.found || object.acknowledged_us != 0;
    const bool settled = expected && (object.found || object.durable ||
                                      object.acknowledged_us < durable_begun_us_[tier_of(object)]);
    object.acknowledged_us = 0;  // from now on it counts where it is found
    ++report.tried;
    report.durable += object.durable;
    report.expected += expected;
    report.settled += settled;
    const auto lease = client->acquire_patiently(object.id);
    object.found = lease.is_ok();
    if (!lease) {
      const bool miss = lease.status().code() == StatusCode::kNotFound;
      if (!miss || (object.durable && durable_is_forever)) {
        ++report.durable_lost;
        note(object, " is lost: " + lease.status().to_string());
      }
      continue;
    }
    ++report.present;
    report.expected_found += expected;
    report.settled_found += settled;
    if (!holds(*client, *lease, object)) {
      ++report.wrong_bytes;
      note(object, " has wrong bytes");
    }
    (void)client->release(lease->lease_id);
  }
  return report;
}

}  // namespace quire::server
