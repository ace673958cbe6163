// A whole data directory, damaged once in each way: fsck names it, changes nothing, and --repair
// leaves a store without damage that still has what was good.
#include "tools/quirectl/offline/fsck.h"

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "tests/tiers/rocks/raw_database.h"
#include "tests/tools/quirectl/offline/store_image.h"

namespace quire::ctl {
namespace {

namespace fs = std::filesystem;
using Kinds = std::map<std::string, uint64_t>;

FsckReport check(const StoreImage& image) {
  FsckInput input;
  input.data_directory = image.directory();
  if (fs::exists(image.nvme_path())) input.segment_files = {image.nvme_path()};
  return check_store(input, nullptr);
}

Kinds kinds(const FsckReport& report) {
  Kinds found;
  for (size_t i = 0; i < report.counts.size(); ++i)
    if (report.counts[i] != 0)
      found[finding_text(static_cast<FindingKind>(i)).name] = report.counts[i];
  return found;
}

// Names, sizes and contents of all files, without what RocksDB's own lock file holds.
std::map<std::string, std::string> contents(const std::string& directory) {
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    all[entry.path()] = text.str();
  }
  return all;
}

bool has_record(const StoreImage& image, const Digest& id) {
  const auto store = image.open();
  return store->get_representation(id).is_ok();
}

// Repairs and checks again.
FsckReport repair(const StoreImage& image, const FsckReport& report) {
  const Status repaired = apply_repair(image.directory(), report.plan);
  EXPECT_TRUE(repaired.is_ok()) << repaired.to_string();
  return check(image);
}

TEST(Fsck, AGoodStoreIsGood) {
  const StoreImage image;
  const FsckReport report = check(image);
  EXPECT_EQ(kinds(report), Kinds{});
  EXPECT_EQ(report.records, 6u);
  EXPECT_EQ(report.records_good, 6u);
  EXPECT_EQ(report.blobs, 1u);
  EXPECT_EQ(report.tenants, 1u);
  EXPECT_EQ(report.models, 1u);
  EXPECT_TRUE(report.plan.empty());
}

TEST(Fsck, CheckingChangesNothing) {
  StoreImage image;
  image.segments.flip(image.segments.base(0) + 2 * kBlockBytes);
  image.save();
  image.write([&](tiers::MetadataBatch& batch) {
    batch.put_blobs.emplace_back(SegmentImage::key(9), image.small.payload);
  });
  const auto before = contents(image.directory());
  EXPECT_GT(check(image).damage(), 0u);
  EXPECT_TRUE(contents(image.directory()) == before);
}

TEST(Fsck, ADamagedPayloadCostsItsRecordAlone) {
  StoreImage image;
  image.segments.flip(image.segments.base(0) + image.objects[1].offset + kBlockBytes + 5);
  image.save();
  const FsckReport report = check(image);
  EXPECT_EQ(kinds(report), (Kinds{{"payload lost", 1}, {"segment damage", 1}}));
  EXPECT_EQ(report.records_good, 5u);
  EXPECT_EQ(report.plan.drop_records, std::vector<Digest>{image.objects[1].id});
  const FsckReport after = repair(image, report);
  EXPECT_EQ(after.records, 5u);
  EXPECT_EQ(after.records_good, 5u);
  EXPECT_FALSE(has_record(image, image.objects[1].id));
  EXPECT_TRUE(has_record(image, image.objects[0].id));
}

TEST(Fsck, ADamagedRecordIsRebuiltFromItsPayload) {
  const StoreImage image;
  const StoreImage::Object& object = image.objects[2];  // of a tenant with a salt
  ASSERT_TRUE(tiers::flip_stored_bit(image.directory() + "/meta", "meta",
                                     StoreImage::key_text(object.id), 60));
  const FsckReport report = check(image);
  EXPECT_EQ(kinds(report), (Kinds{{"record damaged", 1}}));
  ASSERT_EQ(report.plan.put_records.size(), 1u);
  const FsckReport after = repair(image, report);
  EXPECT_EQ(kinds(after), Kinds{});
  EXPECT_EQ(after.records_good, 6u);
  const auto store = image.open();
  const auto record = store->get_representation(object.id);
  ASSERT_TRUE(record.is_ok());
  tiers::RepresentationRecord expected = image.record_of(object, 1);
  expected.location = tiers::PayloadLocation::kNvme;
  expected.nvme = {0, 0x10, object.offset, object.payload.size(), record->nvme.sequence};
  EXPECT_TRUE(*record == expected);
}

TEST(Fsck, ADamagedRecordWithoutAGoodPayloadIsDropped) {
  StoreImage image;
  const StoreImage::Object& object = image.objects[0];
  ASSERT_TRUE(tiers::flip_stored_bit(image.directory() + "/meta", "meta",
                                     StoreImage::key_text(object.id), 60));
  image.segments.flip(image.segments.base(0) + object.offset + kBlockBytes + 5);
  image.save();
  const FsckReport after = repair(image, check(image));
  EXPECT_EQ(kinds(after), (Kinds{{"segment damage", 1}}));
  EXPECT_EQ(after.records, 5u);
}

TEST(Fsck, DamagedAndMissingTokensAreRebuilt) {
  const StoreImage image;
  ASSERT_TRUE(tiers::flip_stored_bit(image.directory() + "/meta", "tokens",
                                     StoreImage::key_text(image.objects[4].id), 20));
  ASSERT_TRUE(tiers::flip_stored_bit(image.directory() + "/meta", "tokens",
                                     StoreImage::key_text(image.small.id), 20));
  const FsckReport report = check(image);
  EXPECT_EQ(kinds(report), (Kinds{{"tokens damaged", 2}}));
  EXPECT_EQ(report.plan.put_tokens.size(), 2u);
  EXPECT_TRUE(report.plan.drop_records.empty());
  EXPECT_EQ(repair(image, report).records_good, 6u);
}

TEST(Fsck, TokensOfAnotherTextAreFoundByTheObjectId) {
  const StoreImage image;
  tiers::TokensRecord other{image.objects[0].header.tokens};
  other.tokens[3] ^= 1;  // as long, verifies, and is wrong
  image.write([&](tiers::MetadataBatch& batch) {
    batch.put_tokens.emplace_back(image.objects[0].id, other);
  });
  const FsckReport report = check(image);
  EXPECT_EQ(kinds(report), (Kinds{{"wrong identity", 1}}));
  EXPECT_EQ(repair(image, report).damage(), 0u);
  EXPECT_FALSE(has_record(image, image.objects[0].id));
}

TEST(Fsck, AnotherTenantsObjectIsFoundByTheSalt) {
  const StoreImage image;
  tiers::RepresentationRecord record = image.record_of(image.small, 1);  // is tenant 0's
  record.location = tiers::PayloadLocation::kRocks;
  image.write([&](tiers::MetadataBatch& batch) {
    batch.put_representations.emplace_back(image.small.id, record);
  });
  EXPECT_EQ(kinds(check(image)), (Kinds{{"wrong identity", 1}}));
}

TEST(Fsck, Blobs) {
  const StoreImage image;
  std::vector<std::byte> wrong = image.small.payload;
  wrong.back() ^= std::byte{1};
  image.write([&](tiers::MetadataBatch& batch) {
    batch.put_blobs.emplace_back(image.small.id, wrong);
    batch.put_blobs.emplace_back(SegmentImage::key(9), image.small.payload);
  });
  const FsckReport report = check(image);
  EXPECT_EQ(kinds(report), (Kinds{{"blob damaged", 1}, {"blob orphan", 1}}));
  const FsckReport after = repair(image, report);
  EXPECT_EQ(kinds(after), Kinds{});
  EXPECT_EQ(after.blobs, 0u);
  EXPECT_EQ(after.records, 5u);
}

TEST(Fsck, ARecordWithoutItsBlobIsDropped) {
  const StoreImage image;
  image.write([&](tiers::MetadataBatch& batch) { batch.delete_blobs.push_back(image.small.id); });
  const FsckReport report = check(image);
  EXPECT_EQ(kinds(report), (Kinds{{"payload lost", 1}}));
  EXPECT_EQ(kinds(repair(image, report)), Kinds{});
}

TEST(Fsck, OrphanAndForeignPayloads) {
  StoreImage image;
  image.segments.add(SegmentImage::key(9), image.small.payload);  // nobody's
  // Its key is recorded, but the payload is another object's.
  const StoreImage::Object other = image.make(40, 0);
  const Digest id = SegmentImage::key(8);
  const uint64_t offset = image.segments.add(id, other.payload);
  image.save();
  image.write([&](tiers::MetadataBatch& batch) {
    auto record = image.record_of(other, 0);
    record.location = tiers::PayloadLocation::kNvme;
    record.nvme = {1, 0x11, offset, other.payload.size(), image.segments.sequence()};
    batch.put_representations.emplace_back(id, record);
    batch.put_tokens.emplace_back(id, tiers::TokensRecord{other.header.tokens});
  });
  const FsckReport report = check(image);
  EXPECT_EQ(kinds(report),
            (Kinds{{"payload foreign", 1}, {"payload orphan", 1}, {"wrong identity", 1}}));
  EXPECT_EQ(report.plan.drop_records, std::vector<Digest>{id});
}

TEST(Fsck, AReclaimedSegmentIsNoDamage) {
  StoreImage image;
  image.segments.open_segment(0, 0x12);  // opened again; its records are not gone yet
  image.save();
  const FsckReport report = check(image);
  EXPECT_EQ(kinds(report), (Kinds{{"payload overwritten", 3}}));
  EXPECT_EQ(report.damage(), 0u);
  const FsckReport after = repair(image, report);
  EXPECT_EQ(kinds(after), Kinds{});
  EXPECT_EQ(after.records, 3u);
}

TEST(Fsck, AnOlderSegmentFileDropsNothing) {
  StoreImage image;
  image.segments.open_segment(0, 0x09);
  image.save();
  const FsckReport report = check(image);
  EXPECT_EQ(report.count(FindingKind::kPayloadUnknown), 3u);
  EXPECT_TRUE(report.plan.drop_records.empty());
}

TEST(Fsck, AMissingOrShortSegmentFileDropsNothing) {
  StoreImage image;
  fs::remove(image.nvme_path());
  FsckReport report = check(image);
  EXPECT_EQ(kinds(report), (Kinds{{"segment file", 5}}));
  EXPECT_TRUE(report.plan.empty());
  image.segments.bytes().resize(image.segments.base(1) + 4 * kBlockBytes);
  image.save();
  report = check(image);
  EXPECT_EQ(report.count(FindingKind::kSegmentFile), 2u);
  EXPECT_EQ(report.count(FindingKind::kSegmentDamage), 1u);
  EXPECT_TRUE(report.plan.drop_records.empty());
}

TEST(Fsck, MetadataLostOrDamaged) {
  const StoreImage damaged;
  std::ofstream(damaged.directory() + "/meta/db/CURRENT", std::ios::trunc) << "MANIFEST-999999\n";
  const auto before = contents(damaged.directory());
  FsckReport report = check(damaged);
  EXPECT_EQ(kinds(report), (Kinds{{"metadata damaged", 1}}));
  EXPECT_EQ(report.findings[0].what.find("quirectl_"), std::string::npos)
      << "names the copy: " << report.findings[0].what;
  EXPECT_TRUE(report.plan.empty());
  EXPECT_EQ(report.files[0].second.objects_good, 5u);
  EXPECT_TRUE(contents(damaged.directory()) == before);
  fs::remove_all(damaged.directory() + "/meta");
  report = check(damaged);
  EXPECT_EQ(kinds(report), (Kinds{{"metadata missing", 1}}));
}

TEST(Fsck, ALaterVersionIsLeftAlone) {
  const StoreImage image;
  std::ofstream(image.directory() + "/meta/FORMAT", std::ios::trunc)
      << "quire metadata store\nversion 99\n";
  const FsckReport report = check(image);
  EXPECT_EQ(kinds(report), (Kinds{{"metadata unreadable", 1}}));
  EXPECT_TRUE(report.plan.empty());
}

TEST(Fsck, TheRegistryCopy) {
  const StoreImage image;
  const std::string path = image.directory() + "/registry.quire";
  tiers::Registry registry = *tiers::read_registry(path);
  std::ofstream(path, std::ios::trunc) << "noise";
  EXPECT_EQ(kinds(check(image)), (Kinds{{"registry damaged", 1}}));
  fs::remove(path);
  FsckReport report = check(image);
  EXPECT_EQ(kinds(report), (Kinds{{"registry missing", 1}}));
  EXPECT_EQ(report.damage(), 0u);
  registry.tenants[0].second.hard_bytes = 5;
  ASSERT_TRUE(tiers::write_registry(path, registry).is_ok());
  EXPECT_EQ(kinds(check(image)), (Kinds{{"registry stale", 1}}));
}

TEST(Fsck, TenantsAndModelsComeBackFromTheRegistryCopy) {
  const StoreImage image;
  image.write([&](tiers::MetadataBatch& batch) {
    batch.delete_tenants.push_back(1);
    batch.delete_models.push_back(image.objects[0].header.model);
  });
  const FsckReport report = check(image);
  EXPECT_EQ(kinds(report), (Kinds{{"tenant lost", 1}, {"model lost", 1}}));
  const FsckReport after = repair(image, report);
  EXPECT_EQ(kinds(after), Kinds{});
  EXPECT_EQ(after.records_good, 6u);
  // Without a copy nothing is dropped: the salt may come back.
  const StoreImage lost;
  lost.write([&](tiers::MetadataBatch& batch) { batch.delete_tenants.push_back(1); });
  fs::remove(lost.directory() + "/registry.quire");
  const FsckReport unknown = check(lost);
  EXPECT_EQ(unknown.count(FindingKind::kOwnerUnknown), 2u);
  EXPECT_TRUE(unknown.plan.drop_records.empty());
}

TEST(Fsck, AVerdictComesBackFromTheRegistryCopy) {
  const StoreImage image;
  const std::vector<std::byte> value(9, std::byte{3});
  const auto put = [&](std::vector<std::byte> bytes) {
    image.write(
        [&](tiers::MetadataBatch& batch) { batch.put_state.emplace_back("verdict/1", bytes); });
  };
  put(value);
  const std::string path = image.directory() + "/registry.quire";
  tiers::Registry registry = *tiers::read_registry(path);
  registry.states.emplace_back("verdict/1", value);
  ASSERT_TRUE(tiers::write_registry(path, registry).is_ok());
  EXPECT_EQ(kinds(check(image)), Kinds{});
  put({std::byte{1}});
  EXPECT_EQ(kinds(check(image)), (Kinds{{"registry stale", 1}}));
  ASSERT_TRUE(tiers::flip_stored_bit(image.directory() + "/meta", "state", "state/verdict/1", 16));
  const FsckReport report = check(image);
  EXPECT_EQ(kinds(report), (Kinds{{"verdict damaged", 1}}));
  EXPECT_EQ(kinds(repair(image, report)), Kinds{});
  EXPECT_EQ(*image.open()->get_state("verdict/1"), value);
}

// A registry copy of the first version has none.
TEST(Fsck, AVerdictThatIsNotInTheRegistryCopyIsSeen) {
  const StoreImage image;
  const std::string key = "verdict/" + image.objects[0].header.model.to_hex();
  image.write([&](tiers::MetadataBatch& batch) {
    batch.put_state.emplace_back(key, std::vector<std::byte>(9, std::byte{3}));
  });
  EXPECT_EQ(kinds(check(image)), (Kinds{{"registry stale", 1}}));
  ASSERT_TRUE(tiers::flip_stored_bit(image.directory() + "/meta", "state", "state/" + key, 16));
  for (const bool with_registry : {true, false}) {
    if (!with_registry) fs::remove(image.directory() + "/registry.quire");
    const FsckReport report = check(image);
    EXPECT_EQ(report.count(FindingKind::kVerdictDamaged), 1u);
    EXPECT_EQ(report.count(FindingKind::kRegistryStale), 0u);
    EXPECT_TRUE(report.plan.empty());
  }
}

TEST(Fsck, AnInterruptedCheckRepairsNothing) {
  StoreImage image;
  image.segments.flip(image.segments.base(0) + 2 * kBlockBytes);
  image.save();
  FsckInput input{image.directory(), {image.nvme_path()}, true};
  for (int calls = 1; calls < 12; ++calls) {
    int left = calls;
    const FsckReport report =
        check_store(input, [&](const std::string&, uint64_t, uint64_t) { return --left > 0; });
    if (!report.interrupted) continue;
    EXPECT_TRUE(report.plan.empty()) << calls;
  }
}

}  // namespace
}  // namespace quire::ctl
