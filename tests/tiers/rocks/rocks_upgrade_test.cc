// A store that format version 1 wrote (tests/data/metadata_store_v1.tar.gz) opens and is upgraded,
// wherever an upgrade before it was killed.
//
// It holds objects 0 to 5 with 20 + number tokens: object 0 in two variants, even ones as blobs,
// odd ones on NVMe, 3 pinned, 5 without its object record; one tenant, one model, one state value.
// The first four records come from a table file, the rest from the log.
#include <rocksdb/db.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "tests/tiers/rocks/kill_child.h"
#include "tests/tiers/rocks/store_fixture.h"

namespace quire::tiers {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kRecords = 6;  // without object 5

class RocksUpgradeTest : public StoreDirectoryTest {
 protected:
  void SetUp() override {
    StoreDirectoryTest::SetUp();
    unpack();
  }
  void unpack() {
    fs::remove_all(directory_);
    const std::string command = "tar -xzf '" + std::string(QUIRE_SOURCE_DIR) +
                                "/tests/data/metadata_store_v1.tar.gz' -C '" + root_ + "'";
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
    fs::rename(root_ + "/meta", directory_);
  }
  std::string marker() {
    std::ifstream file(directory_ + "/FORMAT");
    return {std::istreambuf_iterator<char>(file), {}};
  }
  bool has_family(const std::string& name) {
    std::vector<std::string> names;
    EXPECT_TRUE(rocksdb::DB::ListColumnFamilies({}, directory_ + "/db", &names).ok());
    return std::find(names.begin(), names.end(), name) != names.end();
  }
};

Digest digest_of(const std::string& text) {
  Sha256 stream;
  stream.update(text);
  return stream.digest();
}

void expect_golden_contents(const MetadataStore& store) {
  std::map<Digest, RepresentationRecord> records;
  const auto report = store.scan_representations([&](const Digest& id, RepresentationRecord&& r) {
    records[id] = std::move(r);
    return true;
  });
  ASSERT_TRUE(report);
  EXPECT_EQ(report->corrupt, 0u);
  EXPECT_EQ(records.size(), kRecords);
  for (const auto& [object, variant] :
       std::vector<std::pair<uint32_t, uint32_t>>{{0, 0}, {0, 1}, {1, 0}, {2, 0}, {3, 0}, {4, 0}}) {
    const std::string name =
        "object " + std::to_string(object) + " variant " + std::to_string(variant);
    const Digest id = digest_of(name + " representation");
    ASSERT_TRUE(records.contains(id)) << name;
    const RepresentationRecord& record = records[id];
    EXPECT_EQ(record.variant, digest_of(name));
    EXPECT_EQ(record.object, digest_of("object " + std::to_string(object)));
    EXPECT_EQ(record.hits, 10 * object + variant);
    EXPECT_EQ(record.pinned_until_wall_ms, object == 3 ? kPinnedForever : 0);
    EXPECT_EQ(record.tokens_fingerprint, 0u);
    EXPECT_EQ(record.last_used_wall_ms, 0u);
    EXPECT_EQ(record.priority, kNormalPriority);
    const auto details = store.get_details({&id, 1});
    ASSERT_TRUE(details[0]) << name << details[0].status().to_string();
    EXPECT_EQ(details[0]->record, record);
    std::vector<TokenId> tokens;
    for (uint32_t i = 0; i < 20 + object; ++i) tokens.push_back(1000 * object + i);
    EXPECT_EQ(details[0]->tokens, tokens) << name;
    if (object % 2 == 0) {
      std::vector<std::byte> blob(record.bytes);
      EXPECT_TRUE(store.get_blob(id, blob, record.checksum));
      EXPECT_EQ(blob.back(), std::byte(object + variant));
    } else {
      EXPECT_EQ(record.location, PayloadLocation::kNvme);
      EXPECT_EQ(record.nvme.offset, 0x100000ull * object);
    }
  }
  EXPECT_EQ(*store.scan_blob_ids([](const Digest&) { return true; }), 4u);
  EXPECT_EQ(store.get_state("fingerprint_seed")->size(), 8u);
  EXPECT_EQ(store
                .scan_tenants([](uint32_t number, TenantRecord&& record) {
                  EXPECT_EQ(number, 1u);
                  EXPECT_EQ(record, sample_tenant_v1());
                  return true;
                })
                ->records,
            1u);
  EXPECT_EQ(store
                .scan_models([](const Digest& id, ModelRecord&& record) {
                  EXPECT_EQ(id, digest_of("model"));
                  EXPECT_EQ(record, sample_model());
                  return true;
                })
                ->records,
            1u);
}

TEST_F(RocksUpgradeTest, VersionOneIsUpgradedInPlace) {
  EXPECT_EQ(marker(), "quire metadata store\nversion 1\n");
  EXPECT_TRUE(has_family("objects"));
  std::string uuid;
  {
    const auto store = open();
    ASSERT_TRUE(store);
    EXPECT_EQ(store->identity().upgraded_from, 1u);
    EXPECT_FALSE(store->identity().created);
    EXPECT_TRUE(store->identity().clean_shutdown);
    uuid = store->identity().uuid;
    expect_golden_contents(*store);
    EXPECT_EQ(marker(), "quire metadata store\nversion 2\n");
    EXPECT_FALSE(has_family("objects"));
    // A record of version 1 that is patched becomes one of version 2.
    const Digest id = digest_of("object 1 variant 0 representation");
    RepresentationPatch patch;
    patch.fingerprints = RecordFingerprints{1, 2, 3};
    MetadataBatch batch;
    batch.patch_representations = {{id, patch}};
    ASSERT_TRUE(store->write(batch, true));
    EXPECT_EQ(store->get_representation(id)->tokens_fingerprint, 1u);
    patch.fingerprints = RecordFingerprints{};
    batch.patch_representations = {{id, patch}};
    ASSERT_TRUE(store->write(batch, true));
  }
  const auto store = open();
  ASSERT_TRUE(store);
  EXPECT_EQ(store->identity().upgraded_from, 0u);
  EXPECT_EQ(store->identity().uuid, uuid);
  expect_golden_contents(*store);
}

TEST_F(RocksUpgradeTest, AnUpgradeThatWasKilledGoesOn) {
  const std::vector<std::string> points = {"rocks_upgrade_tokens", "rocks_upgrade_synced",
                                           "rocks_marker_written", "rocks_marker_renamed",
                                           "rocks_upgrade_marked", "rocks_upgrade_dropped",
                                           "rocks_opened"};
  for (const std::string& first : points) {
    for (const bool twice : {false, true}) {
      if (twice && first != "rocks_upgrade_tokens" && first != "rocks_marker_renamed") continue;
      const std::string second = twice ? first : std::string();
      SCOPED_TRACE(first + ", then " + second);
      unpack();
      ASSERT_EQ(run_kill_child("KillPointScenario.OpenAndClose", directory_, first), -SIGKILL);
      // The second kill may come too late: then there was nothing left to do.
      if (!second.empty()) {
        const int exit = run_kill_child("KillPointScenario.OpenAndClose", directory_, second);
        ASSERT_TRUE(exit == -SIGKILL || exit == 0) << exit;
      }
      const auto store = open();
      ASSERT_TRUE(store);
      expect_golden_contents(*store);
      EXPECT_EQ(marker(), "quire metadata store\nversion 2\n");
      EXPECT_FALSE(has_family("objects"));
    }
  }
}

TEST_F(RocksUpgradeTest, AMissingTokensFamilyOfAnInterruptedStartIsMade) {
  // A version 1 store whose first start was killed before there was a database.
  fs::remove_all(directory_);
  put_file("FORMAT", "quire metadata store\nversion 1\n");
  const auto store = open();
  ASSERT_TRUE(store);
  EXPECT_TRUE(store->identity().created);
  EXPECT_EQ(marker(), "quire metadata store\nversion 2\n");
}

TEST(KillPointScenario, OpenAndClose) {
  const std::string directory = kill_child_directory();
  if (directory.empty()) GTEST_SKIP() << "runs as the child of other tests";
  auto store = RocksStore::open(directory);
  ASSERT_TRUE(store) << store.status().to_string();
  ASSERT_TRUE((*store)->close());
}

}  // namespace
}  // namespace quire::tiers
