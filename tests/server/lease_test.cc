// Leases over the socket: expiry, generations, dead clients, a slab full of leased objects.
#include <gtest/gtest.h>

#include "tests/server/store_fixture.h"

namespace quire::server {
namespace {

using LeaseTest = ServerTest;

TEST_F(LeaseTest, ReleasedAndForeignLeasesAreStale) {
  start();
  const TestObject object = make_object(model_, 1, 64);
  ASSERT_TRUE(client_->put(object.id, object.bytes).is_ok());
  auto lease = client_->acquire(object.id);
  ASSERT_TRUE(lease.is_ok());
  auto other = TestClient::connect(config_.socket_path);
  EXPECT_EQ(other->release(lease->lease_id).code(), StatusCode::kStaleLease);
  EXPECT_TRUE(client_->release(lease->lease_id).is_ok());
  EXPECT_EQ(client_->release(lease->lease_id).code(), StatusCode::kStaleLease);
  EXPECT_EQ(client_->release(0).code(), StatusCode::kStaleLease);
  EXPECT_EQ(client_->release(UINT64_MAX).code(), StatusCode::kStaleLease);
  EXPECT_EQ(stats().leases, 0u);
}

TEST_F(LeaseTest, ExpiresUnlessRenewed) {
  start();
  const TestObject object = make_object(model_, 1, 64);
  ASSERT_TRUE(client_->put(object.id, object.bytes).is_ok());
  // Long enough to be renewed on a loaded machine. When the second is gone the first would be, too.
  auto kept = client_->acquire(object.id, 2000);
  auto lost = client_->acquire(object.id, 2000);
  ASSERT_TRUE(kept.is_ok() && lost.is_ok());
  EXPECT_EQ(kept->lease_ms, 2000u);
  struct {
    wire::ReleaseRequest request{1, 60'000};
    uint64_t id;
  } renew{{1, 60'000}, kept->lease_id};
  EXPECT_EQ(client_->call(wire::Op::kRenew, bytes_of(renew))->code(), StatusCode::kOk);
  EXPECT_TRUE(eventually([&] { return stats().leases == 1; }));
  EXPECT_EQ(client_->release(lost->lease_id).code(), StatusCode::kStaleLease);
  renew.id = lost->lease_id;
  EXPECT_EQ(client_->call(wire::Op::kRenew, bytes_of(renew))->code(), StatusCode::kStaleLease);
  EXPECT_TRUE(client_->release(kept->lease_id).is_ok());
}

// A client reads by the longest time it was given: its lease must not end before that.
TEST_F(LeaseTest, RenewingForLessTakesNothingAway) {
  start();
  const TestObject object = make_object(model_, 1, 64);
  ASSERT_TRUE(client_->put(object.id, object.bytes).is_ok());
  auto kept = client_->acquire(object.id, 600'000);
  ASSERT_TRUE(kept.is_ok());
  struct {
    wire::ReleaseRequest request{1, 1};
    uint64_t id;
  } renew{{1, 1}, kept->lease_id};
  EXPECT_EQ(client_->call(wire::Op::kRenew, bytes_of(renew))->code(), StatusCode::kOk);
  // One that began later and is gone shows that the short time is over.
  ASSERT_TRUE(client_->acquire(object.id, 10).is_ok());
  EXPECT_TRUE(eventually([&] { return stats().leases < 2; }));
  EXPECT_TRUE(client_->release(kept->lease_id).is_ok());
}

TEST_F(LeaseTest, LeaseTimeIsCutToTheMaximum) {
  config_.lease_max_ms = 5000;
  config_.lease_default_ms = 1000;
  start();
  const TestObject object = make_object(model_, 1, 64);
  ASSERT_TRUE(client_->put(object.id, object.bytes).is_ok());
  EXPECT_EQ(client_->acquire(object.id)->lease_ms, 1000u);
  EXPECT_EQ(client_->acquire(object.id, UINT32_MAX)->lease_ms, 5000u);
}

TEST_F(LeaseTest, DeadClientsLeasesGoAtOnce) {
  start();
  const TestObject object = make_object(model_, 1, 64);
  ASSERT_TRUE(client_->put(object.id, object.bytes).is_ok());
  auto dying = TestClient::connect(config_.socket_path);
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(dying->acquire(object.id, 600'000).is_ok());
  ASSERT_TRUE(client_->acquire(object.id).is_ok());
  EXPECT_EQ(stats().leases, 11u);
  EXPECT_EQ(server_->admin().remove(object.id, true, kPatienceMs).code(),
            StatusCode::kFailedPrecondition);
  dying.reset();
  EXPECT_TRUE(eventually([&] { return stats().leases == 1; }));
}

// Memory full of leased objects: BUSY, and not one leased byte changes. Then everything goes on.
TEST_F(LeaseTest, FullOfLeasesIsBusyAndKeepsEveryByte) {
  config_.host_bytes = 8 << 20;
  start();
  std::vector<TestObject> objects;
  std::vector<wire::AcquireReply> leases;
  Status status;
  for (int i = 0; i < 20; ++i) {
    objects.push_back(make_object(model_, 100 + i, 1024));
    status = client_->put(objects.back().id, objects.back().bytes, wire::AckLevel::kDurable);
    if (!status.is_ok()) break;
    auto lease = client_->acquire(objects.back().id);
    ASSERT_TRUE(lease.is_ok()) << lease.status().to_string();
    leases.push_back(*lease);
  }
  EXPECT_EQ(status.code(), StatusCode::kBusy);
  EXPECT_GT(status.retry_after_ms(), 0u);
  ASSERT_GE(leases.size(), 5u);
  for (size_t i = 0; i < leases.size(); ++i) {
    EXPECT_EQ(std::memcmp(client_->leased(leases[i]).data(), objects[i].bytes.data(),
                          objects[i].bytes.size()),
              0);
  }
  const uint64_t old_generation = leases[0].generation;
  ASSERT_TRUE(client_->release(leases[0].lease_id).is_ok());
  const TestObject& refused = objects[leases.size()];
  ASSERT_TRUE(client_->put(refused.id, refused.bytes).is_ok());
  auto lease = client_->acquire(refused.id);
  ASSERT_TRUE(lease.is_ok());
  EXPECT_EQ(lease->slab_offset, leases[0].slab_offset);
  EXPECT_NE(lease->generation, old_generation);
  EXPECT_GE(stats().busy_replies, 1u);
}

TEST_F(LeaseTest, LeasesPerSessionAreLimited) {
  config_.leases_per_session_max = 4;
  start();
  const TestObject object = make_object(model_, 1, 64);
  ASSERT_TRUE(client_->put(object.id, object.bytes).is_ok());
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(client_->acquire(object.id).is_ok());
  EXPECT_EQ(client_->acquire(object.id).status().code(), StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace quire::server
