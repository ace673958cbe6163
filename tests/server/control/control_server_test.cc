// What each RPC does with good and bad arguments.
#include "server/control/control_server.h"

#include <limits>

#include "proto/control_metadata.h"
#include "tests/server/control/control_test.h"

namespace quire::server {
namespace {

TEST_F(ControlServerTest, StatGivesEveryField) {
  ObjectInfo& object = admin_.add_object(test_id({0xab, 0xcd}), 12345);
  object.tenant = "acme";
  object.context_kind = ContextKind::kContextual;
  object.frame = PositionFrame::kPreRope;
  object.base_position = 99;
  object.leases = 2;
  object.hits = 7;
  object.pinned_until_wall_ms = 42;
  object.tiers = {wire::TierId::kGpu, wire::TierId::kRocks};
  pb::StatRequest request;
  request.set_representation(bytes_of(test_id({0xab, 0xcd})));
  pb::StatResponse response;
  ASSERT_TRUE(call(&Stub::Stat, request, response).ok());
  const pb::Object& got = response.object();
  EXPECT_EQ(got.representation(), request.representation());
  EXPECT_EQ(got.variant(), bytes_of(test_id({1})));
  EXPECT_EQ(got.object(), bytes_of(test_id({2})));
  EXPECT_EQ(got.model(), bytes_of(test_id({3})));
  EXPECT_EQ(got.tenant(), "acme");
  EXPECT_EQ(got.context_kind(), pb::CONTEXT_KIND_CONTEXTUAL);
  EXPECT_EQ(got.codec(), 16u);
  EXPECT_EQ(got.frame(), pb::POSITION_FRAME_PRE_ROPE);
  EXPECT_EQ(got.n_tokens(), 256u);
  EXPECT_EQ(got.base_position(), 99u);
  EXPECT_EQ(got.bytes(), 12345u);
  ASSERT_EQ(got.tiers_size(), 2);
  EXPECT_EQ(got.tiers(0), pb::TIER_GPU);
  EXPECT_EQ(got.tiers(1), pb::TIER_ROCKS);
  EXPECT_TRUE(got.durable());
  EXPECT_EQ(got.leases(), 2u);
  EXPECT_EQ(got.hits(), 7u);
  EXPECT_EQ(got.created_wall_ms(), 1'700'000'000'000u);
  EXPECT_TRUE(got.pinned());
  EXPECT_EQ(got.pinned_until_wall_ms(), 42u);
}

TEST_F(ControlServerTest, NamesFromClientsBecomePrintableText) {
  admin_.add_object(test_id({1})).tenant = "a\x1b[31m\xff\xc3\xa9";
  pb::StatRequest request;
  request.set_representation(bytes_of(test_id({1})));
  pb::StatResponse response;
  ASSERT_TRUE(call(&Stub::Stat, request, response).ok());
  EXPECT_EQ(response.object().tenant(), "a?[31m?\xc3\xa9");
}

TEST_F(ControlServerTest, MissingObjectIsNotFoundWithQuiresCode) {
  pb::StatRequest request;
  request.set_representation(bytes_of(test_id({9})));
  pb::StatResponse response;
  const auto status = call(&Stub::Stat, request, response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "not stored");
  EXPECT_EQ(trailing(control::kStatusMetadataKey), "NOT_FOUND");
}

TEST_F(ControlServerTest, EveryErrorCodeTravels) {
  const std::pair<StatusCode, grpc::StatusCode> kPairs[] = {
      {StatusCode::kBusy, grpc::StatusCode::RESOURCE_EXHAUSTED},
      {StatusCode::kCorrupt, grpc::StatusCode::DATA_LOSS},
      {StatusCode::kUnsupported, grpc::StatusCode::UNIMPLEMENTED},
      {StatusCode::kUnavailable, grpc::StatusCode::UNAVAILABLE},
      {StatusCode::kFailedPrecondition, grpc::StatusCode::FAILED_PRECONDITION},
      {StatusCode::kInternal, grpc::StatusCode::INTERNAL},
  };
  for (const auto& [ours, theirs] : kPairs) {
    admin_.fail_with({ours, "because", 250});
    pb::StatsResponse response;
    const auto status = call(&Stub::Stats, pb::StatsRequest(), response);
    EXPECT_EQ(status.error_code(), theirs);
    EXPECT_EQ(trailing(control::kStatusMetadataKey), status_code_name(ours));
    EXPECT_EQ(trailing(control::kRetryAfterMetadataKey), "250");
  }
}

TEST_F(ControlServerTest, ListPagesThroughEverythingInOrder) {
  for (int i = 0; i < 250; ++i) admin_.add_object(test_id({uint8_t(i)}));
  pb::ListRequest request;
  request.set_limit(60);
  std::vector<std::string> ids;
  int pages = 0;
  do {
    pb::ListResponse response;
    ASSERT_TRUE(call(&Stub::List, request, response).ok());
    EXPECT_LE(response.objects_size(), 60);
    for (const auto& object : response.objects()) ids.push_back(object.representation());
    request.set_page_token(response.next_page_token());
    ++pages;
  } while (!request.page_token().empty() && pages < 10);
  EXPECT_EQ(ids.size(), 250u);
  EXPECT_EQ(pages, 5);
  EXPECT_TRUE(std::is_sorted(ids.begin(), ids.end()));
}

TEST_F(ControlServerTest, ListFiltersAndChecksItsInput) {
  admin_.add_object(test_id({1})).tenant = "a";
  admin_.add_object(test_id({2})).tiers = {wire::TierId::kRocks};
  admin_.add_object(test_id({3})).model = test_id({8});
  const auto count = [&](const pb::ListRequest& request) {
    pb::ListResponse response;
    EXPECT_TRUE(call(&Stub::List, request, response).ok());
    return response.objects_size();
  };
  pb::ListRequest request;
  EXPECT_EQ(count(request), 3);
  request.mutable_filter()->set_tenant("");
  EXPECT_EQ(count(request), 2);
  request.mutable_filter()->set_tenant("a");
  EXPECT_EQ(count(request), 1);
  request.mutable_filter()->clear_tenant();
  request.mutable_filter()->set_tier(pb::TIER_ROCKS);
  EXPECT_EQ(count(request), 1);
  request.mutable_filter()->clear_tier();
  request.mutable_filter()->set_model(bytes_of(test_id({8})));
  EXPECT_EQ(count(request), 1);

  const auto refused = [&](const pb::ListRequest& bad) {
    pb::ListResponse response;
    return call(&Stub::List, bad, response).error_code() == grpc::StatusCode::INVALID_ARGUMENT;
  };
  pb::ListRequest bad;
  bad.set_limit(kListLimitMax + 1);
  EXPECT_TRUE(refused(bad));
  bad = {};
  bad.set_page_token(std::string(5000, 'x'));
  EXPECT_TRUE(refused(bad));
  bad = {};
  bad.mutable_filter()->set_model("short");
  EXPECT_TRUE(refused(bad));
  bad = {};
  bad.mutable_filter()->set_tier(static_cast<pb::Tier>(77));
  EXPECT_TRUE(refused(bad));
  bad = {};
  bad.mutable_filter()->set_tenant(std::string(64, 't'));
  EXPECT_TRUE(refused(bad));
  bad = {};
  bad.set_id_prefix("xyz");
  EXPECT_TRUE(refused(bad));
  bad.set_id_prefix(std::string(65, '0'));
  EXPECT_TRUE(refused(bad));
}

TEST_F(ControlServerTest, ScopesAreThoseOfATenant) {
  const Digest alice = scope_id({}, "alice");
  admin_.add_object(test_id({1})).scope = alice;
  admin_.add_object(test_id({2}));
  admin_.add_object(test_id({3})).tenant = "acme";
  admin_.objects[test_id({3})].scope = alice;
  pb::ListRequest request;
  const auto list = [&] {
    pb::ListResponse response;
    EXPECT_TRUE(call(&Stub::List, request, response).ok());
    return response;
  };
  EXPECT_EQ(list().objects_size(), 3);
  EXPECT_EQ(list().scope(), "");
  // Of the default tenant where none is named.
  request.mutable_filter()->set_scope("alice");
  ASSERT_EQ(list().objects_size(), 1);
  EXPECT_EQ(list().objects(0).representation(), bytes_of(test_id({1})));
  EXPECT_EQ(list().objects(0).scope(), bytes_of(alice));
  EXPECT_EQ(list().scope(), bytes_of(alice));
  request.set_id_prefix("01");
  EXPECT_EQ(list().objects_size(), 1);
  EXPECT_EQ(list().scope(), bytes_of(alice));
  request.clear_id_prefix();
  request.mutable_filter()->set_tenant("acme");
  ASSERT_EQ(list().objects_size(), 1);
  EXPECT_EQ(list().objects(0).tenant(), "acme");
  request.mutable_filter()->clear_tenant();
  request.mutable_filter()->set_scope("");
  ASSERT_EQ(list().objects_size(), 1);
  EXPECT_EQ(list().objects(0).scope(), "");
  EXPECT_EQ(list().scope(), std::string(32, '\0'));
  request.mutable_filter()->set_scope(std::string(65, 's'));
  pb::ListResponse refused;
  const grpc::Status status = call(&Stub::List, request, refused);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);

  pb::ClearRequest clear;
  pb::ClearResponse cleared;
  clear.mutable_filter()->set_scope("alice");
  EXPECT_TRUE(call(&Stub::Clear, clear, cleared).ok());
  EXPECT_EQ(cleared.removed(), 1u);
  EXPECT_EQ(admin_.objects.size(), 2u);
  clear.set_all(true);
  EXPECT_EQ(call(&Stub::Clear, clear, cleared).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ControlServerTest, IdPrefixesFindWholeAndHalfBytes) {
  for (int high = 0; high < 256; ++high)
    for (int low = 0; low < 12; ++low) admin_.add_object(test_id({uint8_t(high), uint8_t(low)}));
  const auto find = [&](const std::string& prefix) {
    pb::ListRequest request;
    request.set_id_prefix(prefix);
    size_t found = 0;
    do {
      pb::ListResponse response;
      const auto status = call(&Stub::List, request, response);
      EXPECT_TRUE(status.ok()) << status.error_message();
      if (!status.ok()) break;
      found += static_cast<size_t>(response.objects_size());
      request.set_page_token(response.next_page_token());
    } while (!request.page_token().empty());
    return found;
  };
  EXPECT_EQ(find("f"), 16u * 12);
  EXPECT_EQ(find("Fe"), 12u);
  EXPECT_EQ(find("000b5"), 1u);
  EXPECT_EQ(find("000b6"), 0u);
  EXPECT_EQ(find("ff0b"), 1u);
  EXPECT_EQ(find(test_id({0x80, 3}).to_hex()), 1u);
  // All that can match lie in the first page of a thousand, so the search ends with it.
  const int before = admin_.calls();
  EXPECT_EQ(find("00"), 12u);
  EXPECT_EQ(admin_.calls(), before + 1);
}

TEST_F(ControlServerTest, PinUnpinDelete) {
  const Digest id = test_id({4});
  admin_.add_object(id);
  pb::PinRequest pin;
  pin.set_representation(bytes_of(id));
  pin.set_ttl_ms(3'600'000);
  pb::PinResponse pin_response;
  ASSERT_TRUE(call(&Stub::Pin, pin, pin_response).ok());
  EXPECT_EQ(admin_.last_ttl_ms(), 3'600'000u);
  pin.set_ttl_ms(std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(call(&Stub::Pin, pin, pin_response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);

  pb::DeleteRequest remove;
  remove.set_representation(bytes_of(id));
  pb::DeleteResponse remove_response;
  EXPECT_EQ(call(&Stub::Delete, remove, remove_response).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  pb::UnpinRequest unpin;
  unpin.set_representation(bytes_of(id));
  pb::UnpinResponse unpin_response;
  ASSERT_TRUE(call(&Stub::Unpin, unpin, unpin_response).ok());
  ASSERT_TRUE(call(&Stub::Delete, remove, remove_response).ok());
  EXPECT_EQ(call(&Stub::Delete, remove, remove_response).error_code(), grpc::StatusCode::NOT_FOUND);

  admin_.add_object(id).pinned_until_wall_ms = 1;
  remove.set_force(true);
  EXPECT_TRUE(call(&Stub::Delete, remove, remove_response).ok());
}

TEST_F(ControlServerTest, ClearNeedsAFilterOrAll) {
  admin_.add_object(test_id({1})).tenant = "a";
  admin_.add_object(test_id({2}));
  pb::ClearRequest request;
  pb::ClearResponse response;
  EXPECT_EQ(call(&Stub::Clear, request, response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.set_all(true);
  request.mutable_filter()->set_tenant("a");
  EXPECT_EQ(call(&Stub::Clear, request, response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(admin_.calls(), 0);
  request.set_all(false);
  ASSERT_TRUE(call(&Stub::Clear, request, response).ok());
  EXPECT_EQ(response.removed(), 1u);
  request.Clear();
  request.set_all(true);
  ASSERT_TRUE(call(&Stub::Clear, request, response).ok());
  EXPECT_EQ(response.removed(), 1u);
}

TEST_F(ControlServerTest, PrefetchCountsAndLimits) {
  admin_.add_object(test_id({1}));
  pb::PrefetchRequest request;
  pb::PrefetchResponse response;
  EXPECT_EQ(call(&Stub::Prefetch, request, response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  request.add_representations(bytes_of(test_id({1})));
  request.add_representations(bytes_of(test_id({2})));
  ASSERT_TRUE(call(&Stub::Prefetch, request, response).ok());
  EXPECT_EQ(response.ready(), 1u);
  EXPECT_EQ(response.missing(), 1u);
  while (request.representations_size() <= int(kPrefetchIdsMax))
    request.add_representations(bytes_of(test_id({2})));
  EXPECT_EQ(call(&Stub::Prefetch, request, response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ControlServerTest, LookupConvertsEntriesAndCountsCoveredTokens) {
  wire::ResolveEntry prefix;
  prefix.representation = test_id({0x11}).bytes;
  prefix.kind = wire::MatchKind::kPrefix;
  prefix.context_kind = uint8_t(ContextKind::kContextual);
  prefix.context_reference = test_id({0x22}).bytes;
  prefix.n_tokens = 100;
  prefix.tier = wire::TierId::kNvme;
  prefix.load_us = 55;
  wire::ResolveEntry chunk;
  chunk.token_begin = 150;
  chunk.n_tokens = 50;
  chunk.frame = uint8_t(PositionFrame::kLocal);
  admin_.lookup_entries = {prefix, chunk, chunk};  // two alternatives for the same tokens
  pb::LookupRequest request;
  request.set_model(bytes_of(test_id({3})));
  request.set_tenant("acme");
  for (uint32_t i = 0; i < 300; ++i) request.add_tokens(i);
  pb::LookupResponse response;
  ASSERT_TRUE(call(&Stub::Lookup, request, response).ok());
  EXPECT_EQ(admin_.last_tenant(), "acme");
  EXPECT_EQ(admin_.last_n_tokens(), 300u);
  ASSERT_EQ(response.entries_size(), 3);
  EXPECT_EQ(response.matched_tokens(), 150u);
  EXPECT_FALSE(response.truncated());
  EXPECT_EQ(response.entries(0).match_kind(), pb::MATCH_KIND_PREFIX);
  EXPECT_EQ(response.entries(0).context_kind(), pb::CONTEXT_KIND_CONTEXTUAL);
  EXPECT_EQ(response.entries(0).context_reference(), bytes_of(test_id({0x22})));
  EXPECT_EQ(response.entries(0).tier(), pb::TIER_NVME);
  EXPECT_EQ(response.entries(0).load_us(), 55u);
  EXPECT_EQ(response.entries(1).context_reference(), "");
  EXPECT_EQ(response.entries(1).frame(), pb::POSITION_FRAME_LOCAL);

  request.clear_tokens();
  EXPECT_EQ(call(&Stub::Lookup, request, response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ControlServerTest, StatsGivesCountersAndTiers) {
  ServerStats& stats = admin_.server_stats;
  stats.version = "1.2.3";
  stats.uptime_ms = 5000;
  stats.objects = 11;
  stats.misses = 12;
  TierStats tier;
  tier.tier = wire::TierId::kNvme;
  tier.state = "read_only: no space";
  tier.used_bytes = 13;
  tier.latency_us = 1.5;
  stats.tiers = {tier};
  pb::StatsResponse response;
  ASSERT_TRUE(call(&Stub::Stats, pb::StatsRequest(), response).ok());
  EXPECT_EQ(response.version(), "1.2.3");
  EXPECT_EQ(response.uptime_ms(), 5000u);
  EXPECT_EQ(response.objects(), 11u);
  EXPECT_EQ(response.misses(), 12u);
  ASSERT_EQ(response.tiers_size(), 1);
  EXPECT_EQ(response.tiers(0).tier(), pb::TIER_NVME);
  EXPECT_EQ(response.tiers(0).state(), "read_only: no space");
  EXPECT_EQ(response.tiers(0).used_bytes(), 13u);
  EXPECT_EQ(response.tiers(0).latency_us(), 1.5);
}

TEST_F(ControlServerTest, RegisterModelParsesTheCanonicalDescriptor) {
  const std::vector<std::byte> encoded = test_model().encode();
  const std::string descriptor(reinterpret_cast<const char*>(encoded.data()), encoded.size());
  pb::RegisterModelRequest request;
  request.set_name("tiny");
  request.set_model_descriptor(descriptor);
  pb::RegisterModelResponse response;
  ASSERT_TRUE(call(&Stub::RegisterModel, request, response).ok());
  EXPECT_EQ(response.model(), bytes_of(model_id(test_model())));
  pb::ListModelsResponse models;
  ASSERT_TRUE(call(&Stub::ListModels, pb::ListModelsRequest(), models).ok());
  ASSERT_EQ(models.models_size(), 1);
  EXPECT_EQ(models.models(0).name(), "tiny");
  EXPECT_EQ(models.models(0).layers(), 3u);
  EXPECT_TRUE(models.models(0).movable());

  const int calls = admin_.calls();
  const auto refused = [&] {
    return call(&Stub::RegisterModel, request, response).error_code() ==
           grpc::StatusCode::INVALID_ARGUMENT;
  };
  for (size_t bytes = 0; bytes < descriptor.size(); bytes += 7) {
    request.set_model_descriptor(descriptor.substr(0, bytes));
    EXPECT_TRUE(refused()) << bytes;
  }
  request.set_model_descriptor(descriptor + "x");
  EXPECT_TRUE(refused());
  request.set_model_descriptor(descriptor);
  for (const std::string& name : {std::string(), std::string(64, 'n'), std::string("a\nb")}) {
    request.set_name(name);
    EXPECT_TRUE(refused()) << name;
  }
  EXPECT_EQ(admin_.calls(), calls);
}

}  // namespace
}  // namespace quire::server
