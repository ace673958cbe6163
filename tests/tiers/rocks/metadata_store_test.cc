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
  batch.put_tokens = {{id, sample_tokens()}};
  batch.put_models = {{id, sample_model()}};
  batch.put_tenants = {{7, sample_tenant()}, {300, sample_tenant()}};
  batch.put_state = {{"cursor", {std::byte{1}}}};
  batch.put_blobs = {{id, blob}};
  EXPECT_FALSE(batch.empty());
  ASSERT_TRUE(store_->write(batch, true));

  EXPECT_EQ(*store_->get_representation(id), sample_representation());
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
  gone.delete_representations = gone.delete_models = gone.delete_blobs = {id, sample_digest(99)};
  gone.delete_tenants = {7, 300};
  gone.delete_state = {"cursor"};
  ASSERT_TRUE(store_->write(gone, false));
  EXPECT_EQ(store_->get_representation(id).status().code(), StatusCode::kNotFound);
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
  batch.put_tokens = {{sample_digest(1), sample_tokens()}};
  batch.put_state = {{"here", {std::byte{1}}}};
  batch.put_blobs = {{sample_digest(1), too_large}};
  EXPECT_EQ(store_->write(batch, false).code(), StatusCode::kInvalidArgument);
  batch.put_blobs.assign(kBatchBytesMax / kBlobBytesMax + 1, {sample_digest(2), large});
  EXPECT_EQ(store_->write(batch, false).code(), StatusCode::kInvalidArgument);
  batch.put_blobs.clear();
  batch.put_tokens.push_back({sample_digest(2), TokensRecord{}});
  EXPECT_EQ(store_->write(batch, false).code(), StatusCode::kInvalidArgument);
  batch.put_tokens.pop_back();
  TenantRecord greedy = sample_tenant();
  greedy.soft_bytes = greedy.hard_bytes + 1;
  batch.put_tenants = {{1, greedy}};
  EXPECT_EQ(store_->write(batch, false).code(), StatusCode::kInvalidArgument);
  batch.put_tenants.clear();
  RepresentationRecord misplaced = sample_representation();
  misplaced.location = PayloadLocation::kNone;
  batch.put_representations = {{sample_digest(3), misplaced}};
  EXPECT_EQ(store_->write(batch, false).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(store_->get_state("here").status().code(), StatusCode::kNotFound);
}

// What a written record and its tokens look like together.
TEST_P(MetadataStoreTest, DetailsJoinRecordsAndTokens) {
  const uint32_t count = 600;  // more than one lookup takes
  MetadataBatch batch;
  std::vector<Digest> ids;
  for (uint32_t i = 0; i < count; ++i) {
    Digest id = sample_digest(static_cast<uint8_t>(i));
    id.bytes[31] = static_cast<uint8_t>(i >> 8);
    ids.push_back(id);
    RepresentationRecord record = sample_representation();
    record.n_tokens = 1 + i % 7;
    record.hits = i;
    TokensRecord tokens;
    for (uint32_t t = 0; t < record.n_tokens; ++t) tokens.tokens.push_back(1000 * i + t);
    if (i == 5) record.n_tokens = 100;                              // does not fit its tokens
    if (i != 3) batch.put_representations.push_back({id, record});  // tokens alone
    if (i != 4) batch.put_tokens.push_back({id, tokens});           // record alone
  }
  ASSERT_TRUE(store_->write(batch, true));
  std::reverse(ids.begin(), ids.end());
  ids.push_back(ids.front());
  const auto answers = store_->get_details(ids);
  ASSERT_EQ(answers.size(), ids.size());
  for (size_t at = 0; at < ids.size(); ++at) {
    const auto i = static_cast<uint32_t>(at == count ? count - 1 : count - 1 - at);
    if (i == 3) {
      EXPECT_EQ(answers[at].status().code(), StatusCode::kNotFound);
    } else if (i == 4 || i == 5) {
      EXPECT_EQ(answers[at].status().code(), StatusCode::kCorrupt);
    } else {
      ASSERT_TRUE(answers[at]) << answers[at].status().to_string();
      EXPECT_EQ(answers[at]->record.hits, i);
      ASSERT_EQ(answers[at]->tokens.size(), 1 + i % 7);
      EXPECT_EQ(answers[at]->tokens.back(), 1000 * i + i % 7);
    }
  }
  EXPECT_TRUE(store_->get_details({}).empty());

  // Deleting a representation deletes its tokens: a later record finds none.
  const Digest gone = ids[0];
  MetadataBatch deletion;
  deletion.delete_representations = {gone};
  ASSERT_TRUE(store_->write(deletion, false));
  EXPECT_EQ(store_->get_details({&gone, 1})[0].status().code(), StatusCode::kNotFound);
  MetadataBatch again;
  RepresentationRecord same_length = sample_representation();
  same_length.n_tokens = 1 + (count - 1) % 7;
  again.put_representations = {{gone, same_length}};
  ASSERT_TRUE(store_->write(again, false));
  EXPECT_EQ(store_->get_details({&gone, 1})[0].status().code(), StatusCode::kCorrupt);
}

TEST_P(MetadataStoreTest, PatchesChangeWhatTheyNameAndNothingElse) {
  const Digest stored = sample_digest(1);
  const Digest put_here = sample_digest(2);
  const Digest absent = sample_digest(3);
  const Digest deleted = sample_digest(4);
  MetadataBatch first;
  RepresentationRecord in_memory = sample_representation();
  in_memory.location = PayloadLocation::kRocks;
  in_memory.nvme = {};
  first.put_representations = {{stored, in_memory}, {deleted, in_memory}};
  ASSERT_TRUE(store_->write(first, true));

  MetadataBatch batch;
  batch.put_representations = {{put_here, in_memory}};
  RepresentationPatch use;
  use.hits = 77;
  use.last_used_wall_ms = 1'800'000'000'000;
  RepresentationPatch place;
  place.nvme = NvmeRecordLocation{9, 8, 7 << 12, in_memory.bytes, 6};
  place.hits = 78;  // the later one counts
  RepresentationPatch rest;
  rest.pinned_until_wall_ms = kPinnedForever;
  rest.priority = 3;
  rest.fingerprints = RecordFingerprints{1, 2, 3};
  batch.patch_representations = {{stored, use},   {absent, use},   {deleted, use},
                                 {stored, place}, {put_here, use}, {stored, rest}};
  batch.delete_representations = {deleted};
  EXPECT_FALSE(batch.empty());
  ASSERT_TRUE(store_->write(batch, true));

  RepresentationRecord expected = in_memory;
  expected.hits = 77;
  expected.last_used_wall_ms = 1'800'000'000'000;
  EXPECT_EQ(*store_->get_representation(put_here), expected);
  expected.hits = 78;
  expected.location = PayloadLocation::kNvme;
  expected.nvme = *place.nvme;
  expected.pinned_until_wall_ms = kPinnedForever;
  expected.priority = 3;
  expected.tokens_fingerprint = 1;
  expected.first_fingerprint = 2;
  expected.level_fingerprint = 3;
  EXPECT_EQ(*store_->get_representation(stored), expected);
  EXPECT_EQ(store_->get_representation(absent).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(store_->get_representation(deleted).status().code(), StatusCode::kNotFound);

  // A place of another payload belongs to an earlier life of the id.
  RepresentationPatch stale;
  stale.nvme = NvmeRecordLocation{1, 1, 4096, in_memory.bytes + 1, 1};
  stale.hits = 99;
  MetadataBatch late;
  late.patch_representations = {{stored, stale}};
  EXPECT_TRUE(store_->write(late, true));
  EXPECT_EQ(*store_->get_representation(stored), expected);
}

TEST_P(MetadataStoreTest, NothingWorksAfterClose) {
  ASSERT_TRUE(store_->close());
  ASSERT_TRUE(store_->close());
  MetadataBatch batch;
  const Digest id = sample_digest(1);
  batch.put_tokens = {{id, sample_tokens()}};
  std::vector<std::byte> target(1);
  EXPECT_EQ(store_->write(batch, false).code(), StatusCode::kUnavailable);
  EXPECT_EQ(store_->get_representation(id).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(store_->get_details({&id, 1})[0].status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(store_->scan_blob_ids([](const Digest&) { return true; }).status().code(),
            StatusCode::kUnavailable);
  EXPECT_EQ(store_->get_blob(sample_digest(1), target, {}).code(), StatusCode::kUnavailable);
  EXPECT_EQ(store_->scan_models([](const Digest&, ModelRecord&&) { return true; }).status().code(),
            StatusCode::kUnavailable);
}

INSTANTIATE_TEST_SUITE_P(All, MetadataStoreTest, testing::Bool(), [](const auto& info) {
  return info.param ? std::string("Rocks") : std::string("Memory");
});

TEST(MemoryMetadataStore, FailsAndReopensWhenTold) {
  MemoryMetadataStore store;
  MetadataBatch batch;
  batch.put_representations = {{sample_digest(1), sample_representation()}};
  store.fail_writes_with({StatusCode::kNoSpace, "full"});
  EXPECT_EQ(store.write(batch, true).code(), StatusCode::kNoSpace);
  EXPECT_EQ(store.get_representation(sample_digest(1)).status().code(), StatusCode::kNotFound);
  store.fail_writes_with(Status::ok());
  ASSERT_TRUE(store.write(batch, true));
  const uint64_t epoch = store.identity().epoch;
  store.reopen();
  EXPECT_FALSE(store.identity().clean_shutdown);
  EXPECT_GT(store.identity().epoch, epoch);
  ASSERT_TRUE(store.close());
  store.reopen();
  EXPECT_TRUE(store.identity().clean_shutdown);
  EXPECT_TRUE(store.get_representation(sample_digest(1)));
}

}  // namespace
}  // namespace quire::tiers
