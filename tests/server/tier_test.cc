// Objects beyond memory: eviction to NVMe and RocksDB, reading back, restarts, damage, full
// devices.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <set>

#include "tests/server/store_fixture.h"

namespace quire::server {
namespace {

class TierTest : public ServerTest {
 protected:
  std::vector<TestObject> put_many(int count, uint32_t n_tokens,
                                   wire::AckLevel ack = wire::AckLevel::kDurable) {
    std::vector<TestObject> objects;
    for (int i = 0; i < count; ++i) {
      objects.push_back(make_object(model_, 1000 * n_tokens + i, n_tokens));
      const Status status = put_patiently(*client_, objects.back(), ack);
      EXPECT_TRUE(status.is_ok()) << status.to_string();
    }
    return objects;
  }
};

TEST_F(TierTest, EvictedObjectsAreReadBack) {
  config_.host_bytes = 8 << 20;
  start();
  const auto large = put_many(20, 1024);
  const auto small = put_many(60, 64);
  EXPECT_GT(stats().tiers[0].evictions, 0u);
  EXPECT_EQ(tier_objects(wire::TierId::kNvme), 20u);
  EXPECT_EQ(tier_objects(wire::TierId::kRocks), 60u);
  for (int round = 0; round < 2; ++round) {
    for (const TestObject& object : large) expect_stored(*client_, object);
    for (const TestObject& object : small) expect_stored(*client_, object);
  }
  const ServerStats now = stats();
  EXPECT_GT(now.tiers[1].hits, 0u);
  EXPECT_GT(now.tiers[2].hits, 0u);
  EXPECT_EQ(now.leases, 0u);
}

TEST_F(TierTest, ResolveNamesTheTier) {
  config_.host_bytes = 8 << 20;
  start();
  const auto objects = put_many(20, 1024);
  std::set<wire::TierId> seen;
  for (const TestObject& object : objects) {
    auto found = client_->resolve(model_id(model_), object.tokens);
    ASSERT_EQ(found->size(), 1u);
    seen.insert(found->front().tier);
    EXPECT_GT(found->front().load_us, 0u);
  }
  EXPECT_EQ(seen, (std::set<wire::TierId>{wire::TierId::kHost, wire::TierId::kNvme}));
}

TEST_F(TierTest, ManyAcquiresShareOneRead) {
  start();
  const auto objects = put_many(1, 1500);
  stop();
  start();
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < 10; ++i) clients.push_back(TestClient::connect(config_.socket_path));
  const wire::AcquireRequest request{2, 0};
  std::vector<std::byte> body(sizeof(request) + 2 * sizeof(wire::Id));
  std::memcpy(body.data(), &request, sizeof(request));
  std::memcpy(body.data() + sizeof(request), objects[0].id.bytes.data(), 32);
  std::memcpy(body.data() + sizeof(request) + 32, objects[0].id.bytes.data(), 32);
  for (auto& client : clients) client->send(make_frame(wire::Op::kAcquire, body));
  for (auto& client : clients) {
    std::set<uint32_t> indexes;
    for (int i = 0; i < 2; ++i) {
      auto reply = client->receive();
      ASSERT_TRUE(reply.is_ok());
      EXPECT_EQ(reply->code(), StatusCode::kOk) << reply->message(40);
      EXPECT_EQ((reply->header.flags & wire::kFlagMore) != 0, i == 0);
      const auto lease = reply->read<wire::AcquireReply>();
      indexes.insert(lease.index);
      EXPECT_EQ(std::memcmp(client->leased(lease).data(), objects[0].bytes.data(), lease.bytes), 0);
    }
    EXPECT_EQ(indexes.size(), 2u);
  }
  EXPECT_EQ(stats().tiers[1].hits, 1u);
  EXPECT_EQ(stats().leases, 20u);
}

TEST_F(TierTest, DurableObjectsSurviveACrash) {
  start();
  const uint64_t epoch = client_->epoch();
  const auto large = put_many(10, 1024);
  const auto small = put_many(10, 64);
  crash();
  start();
  EXPECT_NE(client_->epoch(), epoch);
  EXPECT_EQ(stats().objects, 20u);
  for (const TestObject& object : large) {
    EXPECT_EQ(client_->resolve(model_id(model_), object.tokens)->size(), 1u);
    expect_stored(*client_, object);
  }
  for (const TestObject& object : small) expect_stored(*client_, object);
}

TEST_F(TierTest, MemoryObjectsSurviveADrain) {
  start();
  const auto large = put_many(10, 1024, wire::AckLevel::kMemory);
  const auto small = put_many(10, 64, wire::AckLevel::kMemory);
  client_.reset();
  EXPECT_TRUE(server_->drain().is_ok());
  stop();
  start();
  for (const TestObject& object : large) expect_stored(*client_, object);
  for (const TestObject& object : small) expect_stored(*client_, object);
}

TEST_F(TierTest, RemovedObjectsStayRemovedAfterACrash) {
  start();
  const auto large = put_many(3, 1024);
  const auto small = put_many(3, 64);
  ASSERT_TRUE(server_->admin().remove(large[0].id, false, kPatienceMs).is_ok());
  ASSERT_TRUE(server_->admin().remove(small[0].id, false, kPatienceMs).is_ok());
  crash();
  start();
  EXPECT_EQ(client_->acquire(large[0].id).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(client_->acquire(small[0].id).status().code(), StatusCode::kNotFound);
  expect_stored(*client_, large[1]);
  expect_stored(*client_, small[1]);
  // And can be stored anew, across another crash.
  ASSERT_TRUE(client_->put(large[0].id, large[0].bytes, wire::AckLevel::kDurable).is_ok());
  crash();
  start();
  expect_stored(*client_, large[0]);
}

// Far more than the NVMe tier holds: old segments are reclaimed, nothing wrong comes back, nothing
// hangs.
TEST_F(TierTest, NvmeIsReclaimedWhenFull) {
  config_.host_bytes = 16 << 20;
  config_.nvme_bytes = 32 << 20;
  config_.nvme_segment_bytes = 4 << 20;
  start();
  std::vector<TestObject> objects;
  for (int i = 0; i < 90; ++i) {
    objects.push_back(make_object(model_, 7000 + i, 900));
    const Status status = put_patiently(*client_, objects.back());
    ASSERT_TRUE(status.is_ok()) << i << ": " << status.to_string();
  }
  EXPECT_TRUE(eventually([&] { return stats().tiers[1].evictions > 0; }));
  int found = 0;
  for (const TestObject& object : objects) {
    auto lease = client_->acquire_patiently(object.id);
    if (!lease) {
      EXPECT_EQ(lease.status().code(), StatusCode::kNotFound) << lease.status().to_string();
      continue;
    }
    ++found;
    EXPECT_EQ(std::memcmp(client_->leased(*lease).data(), object.bytes.data(), lease->bytes), 0);
    ASSERT_TRUE(client_->release(lease->lease_id).is_ok());
  }
  EXPECT_GE(found, 10);
  EXPECT_LT(found, 90);
  crash();
  start();
  for (const TestObject& object : objects) {
    auto lease = client_->acquire_patiently(object.id);
    if (!lease) continue;
    EXPECT_EQ(std::memcmp(client_->leased(*lease).data(), object.bytes.data(), lease->bytes), 0);
    ASSERT_TRUE(client_->release(lease->lease_id).is_ok());
  }
}

TEST_F(TierTest, DamagedNvmeBytesBecomeAMiss) {
  start();
  const auto objects = put_many(6, 1024);
  stop();
  // Flip one byte in the middle of every payload: find them by their own bytes.
  std::fstream file(config_.nvme_path, std::ios::in | std::ios::out | std::ios::binary);
  std::string content(std::filesystem::file_size(config_.nvme_path), '\0');
  file.read(content.data(), static_cast<std::streamsize>(content.size()));
  for (int i = 0; i < 3; ++i) {
    const std::string needle(reinterpret_cast<const char*>(objects[i].bytes.data()) + 500'000, 64);
    const size_t at = content.find(needle);
    ASSERT_NE(at, std::string::npos);
    file.seekp(static_cast<std::streamoff>(at));
    file.put(static_cast<char>(content[at] ^ 1));
  }
  file.close();
  start();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(client_->acquire(objects[i].id).status().code(), StatusCode::kNotFound);
    EXPECT_TRUE(client_->resolve(model_id(model_), objects[i].tokens)->empty());
  }
  for (int i = 3; i < 6; ++i) expect_stored(*client_, objects[i]);
  EXPECT_EQ(stats().tiers[1].corruptions, 3u);
  // The place is free for a sound copy.
  EXPECT_TRUE(client_->put(objects[0].id, objects[0].bytes, wire::AckLevel::kDurable).is_ok());
  expect_stored(*client_, objects[0]);
}

TEST_F(TierTest, WithoutNvmeLargeObjectsLiveInMemory) {
  config_.nvme_bytes = 0;
  config_.host_bytes = 8 << 20;
  start();
  const TestObject object = make_object(model_, 1, 1024);
  EXPECT_EQ(client_->put(object.id, object.bytes, wire::AckLevel::kDurable).code(),
            StatusCode::kNoSpace);
  expect_stored(*client_, object);
  for (int i = 0; i < 20; ++i) {
    const TestObject filler = make_object(model_, 50 + i, 1024);
    const Status status = put_patiently(*client_, filler);
    ASSERT_TRUE(status.is_ok()) << status.to_string();
    expect_stored(*client_, filler);
  }
  const TestObject small = make_object(model_, 2, 64);
  EXPECT_TRUE(client_->put(small.id, small.bytes, wire::AckLevel::kDurable).is_ok());
}

TEST_F(TierTest, PinnedObjectsOutliveEviction) {
  config_.nvme_bytes = 0;
  config_.host_bytes = 8 << 20;
  start();
  const TestObject object = make_object(model_, 1, 1024);
  ASSERT_TRUE(client_->put(object.id, object.bytes).is_ok());
  ASSERT_TRUE(server_->admin().pin(object.id, 0, kPatienceMs).is_ok());
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(put_patiently(*client_, make_object(model_, 50 + i, 1024)).is_ok());
  }
  expect_stored(*client_, object);
  EXPECT_EQ(server_->admin().remove(object.id, false, kPatienceMs).code(),
            StatusCode::kFailedPrecondition);
  EXPECT_TRUE(server_->admin().remove(object.id, true, kPatienceMs).is_ok());
  EXPECT_EQ(client_->acquire(object.id).status().code(), StatusCode::kNotFound);
}

TEST_F(TierTest, ModelsAndTenantsSurvive) {
  config_.tenants.push_back({"blue", {}, {}, {}});
  start();
  const auto salt = TestClient::connect(config_.socket_path, "blue")->hello_reply().salt;
  stop();
  start();
  EXPECT_EQ(TestClient::connect(config_.socket_path, "blue")->hello_reply().salt, salt);
  const auto models = server_->admin().models(kPatienceMs);
  ASSERT_EQ(models->size(), 1u);
  EXPECT_EQ(models->front().name, "test");
  stop();
  config_.tenants[0].salt = TenantSalt(16, std::byte{1});
  InProcessServer changed(config_);
  EXPECT_EQ(changed.status().code(), StatusCode::kFailedPrecondition);
}

TEST_F(TierTest, AThousandSmallObjectsComeBack) {
  config_.nvme_bytes = 0;
  start();
  for (int i = 0; i < 1000; ++i) {
    const TestObject object = make_object(model_, i, 16);
    ASSERT_TRUE(put_patiently(*client_, object).is_ok());
  }
  client_.reset();
  ASSERT_TRUE(server_->drain().is_ok());
  stop();
  start();
  EXPECT_EQ(stats().objects, 1000u);
}

}  // namespace
}  // namespace quire::server
