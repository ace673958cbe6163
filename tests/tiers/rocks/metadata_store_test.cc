// What every MetadataStore promises, on the one in memory and on RocksDB.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <set>

#include "tests/tiers/rocks/samples.h"
#include "tiers/rocks/memory_metadata_store.h"
#include "tiers/rocks/rocks_store.h"

namespace quire::tiers {
namespace {

class MetadataStoreTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!GetParam()) {
      store_ = std::make_unique<MemoryMetadataStore>();
      return;
    }
    char name[] = "/tmp/quire-metadata-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    directory_ = name;
    auto store = RocksStore::open(directory_);
    ASSERT_TRUE(store) << store.status().to_string();
    store_ = std::move(*store);
  }
  void TearDown() override {
    store_.reset();
    if (!directory_.empty()) std::filesystem::remove_all(directory_);
  }

  std::string directory_;
  std::unique_ptr<MetadataStore> store_;
};

TEST_P(MetadataStoreTest, PutsAndDeletesOfEveryKind) {
  const Digest id = sample_digest(1);
  const std::vector<std::byte> blob(100'000, std::byte{0x33});
  MetadataBatch batch;
  EXPECT_TRUE(batch.empty());
  batch.put_representations = {{id, sample_representation()}};
  batch.put_objects = {{id, sample_object()}};
  batch.put_models = {{id, sample_model()}};
  batch.put_tenants = {{7, sample_tenant()}, {300, sample_tenant()}};
  batch.put_state = {{"cursor", {std::byte{1}}}};
  batch.put_blobs = {{id, blob}};
  EXPECT_FALSE(batch.empty());
  ASSERT_TRUE(store_->write(batch, true));

  EXPECT_EQ(*store_->get_representation(id), sample_representation());
  EXPECT_EQ(*store_->get_object(id), sample_object());
  EXPECT_EQ(*store_->get_state("cursor"), (std::vector<std::byte>{std::byte{1}}));
  std::set<uint32_t> tenants;
  const auto tenant_scan = store_->scan_tenants([&](uint32_t tenant, TenantRecord&& record) {
    EXPECT_EQ(record, sample_tenant());
    tenants.insert(tenant);
    return true;
  });
  EXPECT_EQ(tenant_scan->records, 2u);
  EXPECT_EQ(tenants, (std::set<uint32_t>{7, 300}));
  const auto model_scan = store_->scan_models([&](const Digest& key, ModelRecord&& record) {
    EXPECT_EQ(key, id);
    EXPECT_EQ(record, sample_model());
    return true;
  });
  EXPECT_EQ(model_scan->records, 1u);
  std::vector<std::byte> target(blob.size());
  EXPECT_TRUE(store_->get_blob(id, target, xxh3_128(blob)));
  EXPECT_EQ(target, blob);
  EXPECT_EQ(*store_->scan_blob_ids([&](const Digest& key) { return key == id; }), 1u);

  MetadataBatch gone;
  gone.delete_representations = gone.delete_objects = gone.delete_models =
      gone.delete_blobs = {id, sample_digest(99)};
  gone.delete_tenants = {7, 300};
  gone.delete_state = {"cursor"};
  ASSERT_TRUE(store_->write(gone, false));
  EXPECT_EQ(store_->get_representation(id).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(store_->get_object(id).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(store_->get_state("cursor").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(store_->get_blob(id, target, xxh3_128(blob)).code(), StatusCode::kNotFound);
  EXPECT_EQ(store_->scan_models([](const Digest&, ModelRecord&&) { return true; })->records, 0u);
}

TEST_P(MetadataStoreTest, BlobsAreVerified) {
  const Digest id = sample_digest(1);
  const std::vector<std::byte> blob(5000, std::byte{0x44});
  MetadataBatch batch;
  batch.put_blobs = {{id, blob}};
  ASSERT_TRUE(store_->write(batch, true));
  std::vector<std::byte> target(blob.size());
  Hash128 wrong = xxh3_128(blob);
  wrong.high ^= 1;
  EXPECT_EQ(store_->get_blob(id, target, wrong).code(), StatusCode::kCorrupt);
  target.pop_back();
  EXPECT_EQ(store_->get_blob(id, target, xxh3_128(blob)).code(), StatusCode::kCorrupt);
}

TEST_P(MetadataStoreTest, ScansAreOrderedAndCanStop) {
  MetadataBatch batch;
  for (uint8_t i = 0; i < 100; ++i)
    batch.put_representations.push_back(
        {sample_digest(static_cast<uint8_t>(37 * i)), sample_representation()});
  ASSERT_TRUE(store_->write(batch, false));
  std::vector<Digest> seen;
  auto report = store_->scan_representations([&](const Digest& id, RepresentationRecord&&) {
    seen.push_back(id);
    return true;
  });
  EXPECT_EQ(report->records, 100u);
  EXPECT_EQ(report->corrupt, 0u);
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  report =
      store_->scan_representations([&](const Digest&, RepresentationRecord&&) { return false; });
  EXPECT_EQ(report->records, 1u);
}

TEST_P(MetadataStoreTest, BatchesBeyondALimitChangeNothing) {
  const std::vector<std::byte> too_large(kBlobBytesMax + 1);
  const std::vector<std::byte> large(kBlobBytesMax);
  MetadataBatch batch;
  batch.put_objects = {{sample_digest(1), sample_object()}};
  batch.put_blobs = {{sample_digest(1), too_large}};
  EXPECT_EQ(store_->write(batch, false).code(), StatusCode::kInvalidArgument);
  batch.put_blobs.assign(kBatchBytesMax / kBlobBytesMax + 1, {sample_digest(2), large});
  EXPECT_EQ(store_->write(batch, false).code(), StatusCode::kInvalidArgument);
  batch.put_blobs.clear();
  batch.put_objects.push_back({sample_digest(2), ObjectRecord{}});
  EXPECT_EQ(store_->write(batch, false).code(), StatusCode::kInvalidArgument);
  batch.put_objects.pop_back();
  RepresentationRecord misplaced = sample_representation();
  misplaced.location = PayloadLocation::kNone;
  batch.put_representations = {{sample_digest(3), misplaced}};
  EXPECT_EQ(store_->write(batch, false).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(store_->get_object(sample_digest(1)).status().code(), StatusCode::kNotFound);
}

TEST_P(MetadataStoreTest, NothingWorksAfterClose) {
  ASSERT_TRUE(store_->close());
  ASSERT_TRUE(store_->close());
  MetadataBatch batch;
  batch.put_objects = {{sample_digest(1), sample_object()}};
  std::vector<std::byte> target(1);
  EXPECT_EQ(store_->write(batch, false).code(), StatusCode::kUnavailable);
  EXPECT_EQ(store_->get_object(sample_digest(1)).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(store_->get_blob(sample_digest(1), target, {}).code(), StatusCode::kUnavailable);
  EXPECT_EQ(
      store_->scan_objects([](const Digest&, ObjectRecord&&) { return true; }).status().code(),
      StatusCode::kUnavailable);
}

INSTANTIATE_TEST_SUITE_P(All, MetadataStoreTest, testing::Bool(), [](const auto& info) {
  return info.param ? std::string("Rocks") : std::string("Memory");
});

TEST(MemoryMetadataStore, FailsAndReopensWhenTold) {
  MemoryMetadataStore store;
  MetadataBatch batch;
  batch.put_objects = {{sample_digest(1), sample_object()}};
  store.fail_writes_with({StatusCode::kNoSpace, "full"});
  EXPECT_EQ(store.write(batch, true).code(), StatusCode::kNoSpace);
  EXPECT_EQ(store.get_object(sample_digest(1)).status().code(), StatusCode::kNotFound);
  store.fail_writes_with(Status::ok());
  ASSERT_TRUE(store.write(batch, true));
  const uint64_t epoch = store.identity().epoch;
  store.reopen();
  EXPECT_FALSE(store.identity().clean_shutdown);
  EXPECT_GT(store.identity().epoch, epoch);
  ASSERT_TRUE(store.close());
  store.reopen();
  EXPECT_TRUE(store.identity().clean_shutdown);
  EXPECT_TRUE(store.get_object(sample_digest(1)));
}

}  // namespace
}  // namespace quire::tiers
