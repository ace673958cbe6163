// Hints, tenants, quotas, checkpoints and the statistics of health: good and hostile arguments.
#include "server/control/messages.h"
#include "tests/server/control/control_test.h"

namespace quire::server {
namespace {

constexpr auto kInvalid = grpc::StatusCode::INVALID_ARGUMENT;

bool names(const grpc::Status& status, const char* field) {
  return status.error_message().find(field) != std::string::npos;
}

TEST_F(ControlServerTest, HintsReachTheStoreAsTheyWereGiven) {
  admin_.add_object(test_id({1}));
  pb::HintRequest request;
  request.add_representations(bytes_of(test_id({1})));
  request.add_representations(bytes_of(test_id({2})));
  request.set_steps_to_next_use(0);  // 0 is a hint: the next step
  request.set_priority(255);
  pb::HintResponse response;
  ASSERT_TRUE(call(&Stub::Hint, request, response).ok());
  EXPECT_EQ(response.applied(), 1u);
  EXPECT_EQ(response.missing(), 1u);
  EXPECT_EQ(admin_.last_hint().steps_to_next_use, 0u);
  EXPECT_EQ(admin_.last_hint().priority, 255);
  EXPECT_FALSE(admin_.last_hint().next_use_ms.has_value());
  EXPECT_FALSE(admin_.last_hint().finished);
  request.clear_steps_to_next_use();
  request.clear_priority();
  request.set_next_use_ms(kNextUseMsMax);
  ASSERT_TRUE(call(&Stub::Hint, request, response).ok());
  EXPECT_EQ(admin_.last_hint().next_use_ms, kNextUseMsMax);
  EXPECT_FALSE(admin_.last_hint().steps_to_next_use.has_value());
  request.clear_next_use_ms();
  request.set_finished(true);
  ASSERT_TRUE(call(&Stub::Hint, request, response).ok());
  EXPECT_TRUE(admin_.last_hint().finished);
}

TEST_F(ControlServerTest, HintsThatCannotBeAreRefusedByName) {
  const auto refused = [&](const pb::HintRequest& request, const char* field) {
    pb::HintResponse response;
    const grpc::Status status = call(&Stub::Hint, request, response);
    EXPECT_EQ(status.error_code(), kInvalid) << field;
    EXPECT_TRUE(names(status, field)) << status.error_message();
  };
  pb::HintRequest request;
  request.set_priority(1);
  refused(request, "representations");
  request.add_representations("short");
  refused(request, "representations[0]");
  request.set_representations(0, bytes_of(test_id({1})));
  request.set_priority(256);
  refused(request, "priority");
  request.set_priority(4'000'000'000u);
  refused(request, "priority");
  request.clear_priority();
  refused(request, "finished");  // nothing said
  request.set_next_use_ms(kNextUseMsMax + 1);
  refused(request, "next_use_ms");
  request.set_next_use_ms(1);
  request.set_finished(true);
  refused(request, "finished");
  request.clear_next_use_ms();
  while (request.representations_size() <= int(kHintIdsMax))
    request.add_representations(bytes_of(test_id({1})));
  refused(request, "representations");
  EXPECT_EQ(admin_.calls(), 0);
  request.mutable_representations()->RemoveLast();
  pb::HintResponse response;
  EXPECT_TRUE(call(&Stub::Hint, request, response).ok());
  EXPECT_EQ(response.missing(), kHintIdsMax);
}

TEST_F(ControlServerTest, TenantsAreListedWithEveryField) {
  admin_.tenant_infos = {{"", 0, 0, 1, 2, 3, 4}, {"ac\x1bme", 10, 20, 30, 40, 50, 60}};
  pb::ListTenantsResponse response;
  ASSERT_TRUE(call(&Stub::ListTenants, pb::ListTenantsRequest(), response).ok());
  ASSERT_EQ(response.tenants_size(), 2);
  EXPECT_EQ(response.tenants(0).name(), "");
  const pb::Tenant& tenant = response.tenants(1);
  EXPECT_EQ(tenant.name(), "ac?me");
  EXPECT_EQ(tenant.soft_bytes(), 10u);
  EXPECT_EQ(tenant.hard_bytes(), 20u);
  EXPECT_EQ(tenant.bytes(), 30u);
  EXPECT_EQ(tenant.host_bytes(), 40u);
  EXPECT_EQ(tenant.objects(), 50u);
  EXPECT_EQ(tenant.refused_puts(), 60u);
}

TEST_F(ControlServerTest, QuotasKeepTheLimitThatIsLeftOut) {
  admin_.tenant_infos = {{"acme", 10, 20, 0, 0, 0, 0}};
  pb::SetQuotaRequest request;
  pb::SetQuotaResponse response;
  request.set_tenant("acme");
  request.set_hard_bytes(30);
  ASSERT_TRUE(call(&Stub::SetQuota, request, response).ok());
  EXPECT_EQ(response.soft_bytes(), 10u);
  EXPECT_EQ(response.hard_bytes(), 30u);
  EXPECT_EQ(admin_.tenant_infos[0].soft_bytes, 10u);
  EXPECT_EQ(admin_.tenant_infos[0].hard_bytes, 30u);
  request.set_soft_bytes(0);
  request.set_hard_bytes(0);  // takes both away
  ASSERT_TRUE(call(&Stub::SetQuota, request, response).ok());
  EXPECT_EQ(admin_.tenant_infos[0].soft_bytes, 0u);
  EXPECT_EQ(admin_.tenant_infos[0].hard_bytes, 0u);
  request.set_soft_bytes(UINT64_MAX);  // a share without a hard limit
  EXPECT_TRUE(call(&Stub::SetQuota, request, response).ok());
}

TEST_F(ControlServerTest, QuotasThatCannotBeAreRefusedByName) {
  admin_.tenant_infos = {{"acme", 10, 20, 0, 0, 0, 0}};
  const auto code = [&](const pb::SetQuotaRequest& request, const char* field) {
    pb::SetQuotaResponse response;
    const grpc::Status status = call(&Stub::SetQuota, request, response);
    EXPECT_TRUE(names(status, field)) << status.error_message();
    return status.error_code();
  };
  pb::SetQuotaRequest request;
  request.set_tenant("acme");
  EXPECT_EQ(code(request, "hard_bytes"), kInvalid);
  request.set_soft_bytes(21);  // above the limit that stays
  EXPECT_EQ(code(request, "soft_bytes"), kInvalid);
  request.set_hard_bytes(20);
  EXPECT_EQ(code(request, "soft_bytes"), kInvalid);
  request.set_tenant(std::string(64, 'x'));
  EXPECT_EQ(code(request, "tenant"), kInvalid);
  request.set_tenant(std::string("a\0b", 3));
  EXPECT_EQ(code(request, "tenant"), kInvalid);
  request.set_soft_bytes(5);
  request.set_tenant("nobody");
  EXPECT_EQ(code(request, "tenant"), grpc::StatusCode::NOT_FOUND);
  request.clear_soft_bytes();
  EXPECT_EQ(code(request, "nobody"), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(admin_.tenant_infos[0].soft_bytes, 10u);
  EXPECT_EQ(admin_.tenant_infos[0].hard_bytes, 20u);
}

TEST_F(ControlServerTest, CheckpointsTakeOnlyPlainAbsolutePaths) {
  pb::CheckpointRequest request;
  pb::CheckpointResponse response;
  const std::string bad[] = {"",
                             "relative",
                             "/",
                             "//",
                             "/a/../b",
                             "/a/..",
                             "/./a",
                             "..",
                             std::string("/a\0b", 4),
                             "/" + std::string(4096, 'x')};
  for (const std::string& path : bad) {
    request.set_directory(path);
    const grpc::Status status = call(&Stub::Checkpoint, request, response);
    EXPECT_EQ(status.error_code(), kInvalid) << path;
    EXPECT_TRUE(names(status, "directory")) << status.error_message();
  }
  EXPECT_EQ(admin_.calls(), 0);
  admin_.add_object(test_id({1}));
  request.set_directory("/backup/..x/2026");
  ASSERT_TRUE(call(&Stub::Checkpoint, request, response).ok());
  EXPECT_EQ(response.directory(), "/backup/..x/2026");
  EXPECT_EQ(response.objects(), 1u);
  EXPECT_EQ(response.metadata_bytes(), 4096u);
  ASSERT_EQ(response.nvme_paths_size(), 1);
  EXPECT_EQ(response.nvme_paths(0), "/data/nvme.quire");
  EXPECT_TRUE(call(&Stub::Checkpoint, request, response, 100'000).ok());
  EXPECT_GT(admin_.last_deadline_ms(), 60'000u);  // a long call
}

TEST_F(ControlServerTest, PrefetchGivesUpAtItsOwnDeadline) {
  pb::PrefetchRequest request;
  request.add_representations(bytes_of(test_id({1})));
  request.set_deadline_ms(50);
  pb::PrefetchResponse response;
  ASSERT_TRUE(call(&Stub::Prefetch, request, response).ok());
  EXPECT_EQ(admin_.last_deadline_ms(), 50u);
  request.set_deadline_ms(UINT32_MAX);  // never beyond that of the call
  ASSERT_TRUE(call(&Stub::Prefetch, request, response).ok());
  EXPECT_LE(admin_.last_deadline_ms(), 10'500u);
}

TEST_F(ControlServerTest, StatsCarryWhatIsDegradedAndTheWearOfTiers) {
  TierStats tier;
  tier.tier = wire::TierId::kNvme;
  tier.device_written_bytes = 1;
  tier.reinserted_bytes = 2;
  tier.over_write_budget = true;
  tier.scrubbed_bytes = 3;
  tier.scrub_rounds = 4;
  tier.scrub_corruptions = 5;
  admin_.server_stats.tiers = {tier};
  admin_.server_stats.degraded = {"nvme: no space\n", "two"};
  admin_.server_stats.index_bytes = 6;
  admin_.server_stats.details_cache_bytes = 7;
  admin_.server_stats.quota_evictions = 8;
  admin_.server_stats.corruptions = 9;
  pb::StatsResponse got;
  ASSERT_TRUE(call(&Stub::Stats, pb::StatsRequest(), got).ok());
  ASSERT_EQ(got.degraded_size(), 2);
  EXPECT_EQ(got.degraded(0), "nvme: no space?");
  ASSERT_EQ(got.tiers_size(), 1);
  EXPECT_EQ(got.tiers(0).device_written_bytes(), 1u);
  EXPECT_EQ(got.tiers(0).reinserted_bytes(), 2u);
  EXPECT_TRUE(got.tiers(0).over_write_budget());
  EXPECT_EQ(got.tiers(0).scrubbed_bytes(), 3u);
  EXPECT_EQ(got.tiers(0).scrub_rounds(), 4u);
  EXPECT_EQ(got.tiers(0).scrub_corruptions(), 5u);
  EXPECT_EQ(got.index_bytes(), 6u);
  EXPECT_EQ(got.details_cache_bytes(), 7u);
  EXPECT_EQ(got.quota_evictions(), 8u);
  EXPECT_EQ(got.corruptions(), 9u);
}

}  // namespace
}  // namespace quire::server
