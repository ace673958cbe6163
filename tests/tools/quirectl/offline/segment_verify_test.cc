// Every kind of damage once, named as what it is; flips anywhere in what a start relies on.
#include "tools/quirectl/offline/segment_verify.h"

#include <fcntl.h>
#include <sys/file.h>

#include <fstream>
#include <iterator>
#include <map>

#include "tests/tools/quirectl/offline/segment_image.h"
#include "tools/quirectl/offline/segment_output.h"
#include "tools/quirectl/offline/store_lock.h"

namespace quire::ctl {
namespace {

constexpr uint64_t kSegmentBytes = SegmentImage::kSegmentBytes;

class SegmentVerifyTest : public ::testing::Test {
 protected:
  std::string path() const { return directory_.path() + "/nvme.quire"; }

  VerifyReport verify(const SegmentImage& image) {
    image.save(path());
    return verify_saved();
  }
  VerifyReport verify_saved() {
    VerifyReport report;
    auto file = SegmentFile::open(path());
    if (file) {
      verify_segments(**file, report, nullptr);
      return report;
    }
    auto of_open = damage_of_open(file.status());
    EXPECT_TRUE(of_open.is_ok()) << file.status().to_string();
    return of_open ? *of_open : report;
  }
  // The kinds found, with their counts.
  static std::map<std::string, uint64_t> kinds(const VerifyReport& report) {
    std::map<std::string, uint64_t> found;
    for (size_t i = 0; i < report.damage_counts.size(); ++i)
      if (report.damage_counts[i] != 0)
        found[damage_name(static_cast<DamageKind>(i))] = report.damage_counts[i];
    return found;
  }
  using Kinds = std::map<std::string, uint64_t>;

  TemporaryDirectory directory_;
};

TEST_F(SegmentVerifyTest, AGoodFileIsGood) {
  const VerifyReport report = verify(sample_image());
  EXPECT_EQ(kinds(report), Kinds{}) << report_text(report);
  EXPECT_EQ(report.segments, 4u);
  EXPECT_EQ(report.segments_sealed, 1u);
  EXPECT_EQ(report.segments_open, 2u);
  EXPECT_EQ(report.segments_free, 1u);
  EXPECT_EQ(report.objects, 5u);
  EXPECT_EQ(report.objects_good, 5u);
  EXPECT_EQ(report.payload_bytes, 5000u + 1 + 100'000 + 8192 + 300);
  EXPECT_FALSE(report.interrupted);
}

TEST_F(SegmentVerifyTest, VerifyingChangesNothing) {
  SegmentImage image = sample_image();
  verify(image);
  std::ifstream file(path(), std::ios::binary);
  const std::vector<char> after((std::istreambuf_iterator<char>(file)), {});
  ASSERT_EQ(after.size(), image.bytes().size());
  EXPECT_EQ(0, std::memcmp(after.data(), image.bytes().data(), after.size()));
}

TEST_F(SegmentVerifyTest, PayloadOfASealedSegment) {
  SegmentImage image = sample_image();
  image.flip(image.base(0) + 2 * kBlockBytes + 4999, 7);  // the last byte of object 1
  const VerifyReport report = verify(image);
  EXPECT_EQ(kinds(report), (Kinds{{"payload", 1}}));
  EXPECT_EQ(report.objects_good, 4u);
  ASSERT_EQ(report.damage.size(), 1u);
  EXPECT_EQ(report.damage[0].segment, 0u);
  EXPECT_EQ(report.damage[0].offset, kBlockBytes);
  EXPECT_EQ(report.damage[0].key, SegmentImage::key(1));
  // Padding is nobody's.
  SegmentImage padding = sample_image();
  padding.flip(padding.base(0) + 2 * kBlockBytes + 5000);
  EXPECT_EQ(kinds(verify(padding)), Kinds{});
}

TEST_F(SegmentVerifyTest, PayloadOfAnOpenSegment) {
  SegmentImage image = sample_image();
  image.flip(image.base(1) + 2 * kBlockBytes);
  EXPECT_EQ(kinds(verify(image)), (Kinds{{"payload", 1}}));
}

TEST_F(SegmentVerifyTest, ObjectHeaders) {
  SegmentImage sealed = sample_image();
  sealed.flip(sealed.base(0) + kBlockBytes + 70);
  EXPECT_EQ(kinds(verify(sealed)), (Kinds{{"object header", 1}}));
  // In an open segment the walk ends there: the object behind it is lost too.
  SegmentImage open = sample_image();
  open.flip(open.base(1) + kBlockBytes + 70);
  const VerifyReport report = verify(open);
  EXPECT_EQ(kinds(report), (Kinds{{"object header", 1}}));
  EXPECT_NE(report.damage[0].what.find("1 objects lie behind"), std::string::npos);
  // The magic itself: that may also be a write that was in flight.
  SegmentImage hole = sample_image();
  hole.flip(hole.base(1) + kBlockBytes);
  const VerifyReport unsure = verify(hole);
  EXPECT_EQ(kinds(unsure), (Kinds{{"hole", 1}}));
  EXPECT_EQ(unsure.certain_damage(), 0u);
}

TEST_F(SegmentVerifyTest, AnObjectWrittenOverAnother) {
  // A whole valid object where the footer names another one: a misdirected or stale write.
  SegmentImage image = sample_image();
  nvme::ObjectHeader header = *nvme::decode_object_header(image.block(image.base(0) + kBlockBytes));
  ++header.sequence;
  nvme::encode(header, image.block(image.base(0) + kBlockBytes));
  const VerifyReport report = verify(image);
  EXPECT_EQ(kinds(report), (Kinds{{"object header", 1}}));
  EXPECT_NE(report.damage[0].what.find("footer"), std::string::npos);
}

TEST_F(SegmentVerifyTest, SegmentHeaders) {
  SegmentImage image = sample_image();
  image.flip(image.base(0) + 40);
  EXPECT_EQ(kinds(verify(image)), (Kinds{{"segment header", 1}}));
  SegmentImage magic = sample_image();
  magic.flip(magic.base(0) + 3);
  const VerifyReport sealed = verify(magic);
  EXPECT_EQ(kinds(sealed), (Kinds{{"segment header", 1}}));
  EXPECT_NE(sealed.damage[0].what.find("3 objects"), std::string::npos);
  SegmentImage open_magic = sample_image();
  open_magic.flip(open_magic.base(1) + 3);
  EXPECT_EQ(kinds(verify(open_magic)), (Kinds{{"segment header", 1}}));
}

TEST_F(SegmentVerifyTest, LostAndMisdirectedHeaderWrites) {
  // The header of the generation before is back: its footer and objects are newer.
  SegmentImage lost = sample_image();
  nvme::SegmentHeader header = *nvme::decode_segment_header(lost.block(lost.base(0)));
  --header.generation;
  nvme::encode(header, lost.block(lost.base(0)));
  const VerifyReport report = verify(lost);
  EXPECT_GE(kinds(report)["segment header"], 1u) << report_text(report);
  SegmentImage other = sample_image();
  std::memcpy(other.block(other.base(0)).data(), other.block(other.base(1)).data(), kBlockBytes);
  EXPECT_EQ(kinds(verify(other)), (Kinds{{"segment header", 1}}));
}

TEST_F(SegmentVerifyTest, FootersAndTables) {
  SegmentImage footer = sample_image();
  footer.flip(footer.base(1) - kBlockBytes + 41);
  const VerifyReport report = verify(footer);
  EXPECT_EQ(kinds(report), (Kinds{{"footer", 1}}));
  EXPECT_EQ(report.objects_good, 5u);  // found by walking
  SegmentImage magic = sample_image();
  magic.flip(magic.base(1) - kBlockBytes);
  EXPECT_EQ(kinds(verify(magic)), (Kinds{{"footer", 1}}));
  SegmentImage table = sample_image();
  table.flip(table.base(1) - 2 * kBlockBytes + 100);
  EXPECT_EQ(kinds(verify(table)), (Kinds{{"footer table", 1}}));
}

TEST_F(SegmentVerifyTest, Superblocks) {
  SegmentImage newer = sample_image();
  newer.flip(50);  // epoch 2 lies in slot 0
  EXPECT_EQ(kinds(verify(newer)), (Kinds{{"superblock", 1}}));
  SegmentImage older = sample_image();
  older.flip(kBlockBytes + 50);
  EXPECT_EQ(kinds(verify(older)), (Kinds{{"superblock", 1}}));
  SegmentImage both = sample_image();
  both.flip(50);
  both.flip(kBlockBytes + 50);
  const VerifyReport report = verify(both);
  EXPECT_EQ(kinds(report), (Kinds{{"superblock", 1}}));
  EXPECT_EQ(report.segments, 0u);
  SegmentImage fresh(4, 1);  // its other slot was never written
  EXPECT_EQ(kinds(verify(fresh)), Kinds{});
}

TEST_F(SegmentVerifyTest, AFileThatWasCutShort) {
  SegmentImage image = sample_image();
  image.bytes().resize(image.base(1) + kSegmentBytes / 2);
  const VerifyReport report = verify(image);
  EXPECT_EQ(kinds(report), (Kinds{{"file cut short", 1}}));
  EXPECT_EQ(report.objects_good, 3u);
  image.bytes().resize(8192);
  EXPECT_EQ(kinds(verify(image)), (Kinds{{"file cut short", 1}}));
}

TEST_F(SegmentVerifyTest, FlippedBitsInRecordsAndPayloadsNeverPassUnseen) {
  constexpr uint64_t kSeed = 7;
  constexpr int kFlips = 80;
  std::cout << "seed " << kSeed << "; replay: segment_verify_test --gtest_filter='*NeverPass*'\n";
  const SegmentImage good = sample_image();
  const uint64_t base0 = good.base(0);
  const uint64_t base1 = good.base(1);
  // First byte and length of what a start relies on.
  const std::pair<uint64_t, uint64_t> kRanges[] = {
      {0, 2 * kBlockBytes},                        // superblocks
      {base0, 2 * kBlockBytes + 5000},             // header, object 1
      {base1 - 2 * kBlockBytes, 2 * kBlockBytes},  // table, footer
      {base1, 2 * kBlockBytes + 8192},             // header, object 4
  };
  SeededRandom random(kSeed);
  SegmentImage image = good;
  image.save(path());
  const auto write_byte = [&](uint64_t offset) {
    std::fstream file(path(), std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(static_cast<char>(image.bytes()[offset]));
  };
  for (int i = 0; i < kFlips; ++i) {
    const auto& [begin, length] = kRanges[i % std::size(kRanges)];
    const uint64_t offset = begin + random.below(length);
    const auto bit = static_cast<uint8_t>(random.below(8));
    image.flip(offset, bit);
    write_byte(offset);
    const VerifyReport report = verify_saved();
    EXPECT_FALSE(report.damage.empty()) << "flip " << i << " at " << offset;
    image.flip(offset, bit);
    write_byte(offset);
  }
  EXPECT_TRUE(verify_saved().damage.empty());
}

TEST_F(SegmentVerifyTest, NoiseNeitherCrashesNorPasses) {
  constexpr uint64_t kSeed = 11;
  std::cout << "seed " << kSeed << "; replay: segment_verify_test --gtest_filter='*Noise*'\n";
  SeededRandom random(kSeed);
  for (int round = 0; round < 8; ++round) {
    SegmentImage image = sample_image();
    for (int i = 0; i < 30; ++i) {
      const uint64_t block = random.below(image.bytes().size() / kBlockBytes - 2) + 2;
      for (std::byte& value : image.block(block * kBlockBytes))
        value = static_cast<std::byte>(random.next());
    }
    image.flip(image.base(0) + kBlockBytes + 70);  // certainly one
    EXPECT_FALSE(verify(image).damage.empty()) << round;
  }
}

TEST_F(SegmentVerifyTest, GivenUpEntriesAreNoDamage) {
  SegmentImage image(4);
  image.open_segment(0, 5);
  image.add(1, 5000);
  image.flip(image.base(0) + 2 * kBlockBytes);
  nvme::SegmentFooter footer;
  footer.uuid = image.superblock().uuid;
  footer.generation = 5;
  footer.end_offset = kBlockBytes + nvme::object_bytes(5000);
  const auto header = *nvme::decode_object_header(image.block(image.base(0) + kBlockBytes));
  const auto table = nvme::encode_table(
      {{header.key, header.checksum, kBlockBytes, 5000, header.sequence, nvme::kEntryDamaged}},
      &footer);
  std::memcpy(image.block(image.base(1) - 2 * kBlockBytes).data(), table.data(), table.size());
  nvme::encode(footer, image.block(image.base(1) - kBlockBytes));
  const VerifyReport report = verify(image);
  EXPECT_EQ(kinds(report), Kinds{});
  EXPECT_EQ(report.objects_given_up, 1u);
  EXPECT_EQ(report.objects, 0u);
}

TEST_F(SegmentVerifyTest, AnInterruptEndsTheRunAndSaysSo) {
  sample_image().save(path());
  auto file = SegmentFile::open(path());
  ASSERT_TRUE(file.is_ok()) << file.status().to_string();
  VerifyReport report;
  int calls = 0;
  verify_segments(**file, report, [&](uint64_t, uint64_t, uint64_t) { return ++calls < 3; });
  EXPECT_TRUE(report.interrupted);
  EXPECT_LT(report.objects, 5u);
}

TEST_F(SegmentVerifyTest, AFileInUseOrMissingOrForeignIsAnErrorNotDamage) {
  EXPECT_EQ(SegmentFile::open(path()).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(SegmentFile::open(directory_.path()).status().code(), StatusCode::kFailedPrecondition);
  sample_image().save(path());
  const int fd = open(path().c_str(), O_RDWR);
  ASSERT_EQ(flock(fd, LOCK_EX | LOCK_NB), 0);
  const Status in_use = SegmentFile::open(path()).status();
  EXPECT_EQ(in_use.code(), StatusCode::kFailedPrecondition) << in_use.to_string();
  EXPECT_NE(in_use.message().find("running quired"), std::string::npos);
  close(fd);
  EXPECT_TRUE(SegmentFile::open(path()).is_ok());
  std::ofstream(path(), std::ios::trunc) << std::string(2 << 20, 'x');
  const Status foreign = SegmentFile::open(path()).status();
  EXPECT_EQ(foreign.code(), StatusCode::kFailedPrecondition);
  EXPECT_FALSE(damage_of_open(foreign).is_ok());
}

TEST_F(SegmentVerifyTest, TheGoldenRecordsAreUnderstood) {
  // tests/data/segment_v1.bin: superblock, segment header, object header, table, footer, a block
  // each; put where they belong in a file of their geometry.
  std::ifstream file(QUIRE_SOURCE_DIR "/tests/data/segment_v1.bin", std::ios::binary);
  const std::vector<char> golden((std::istreambuf_iterator<char>(file)), {});
  ASSERT_EQ(golden.size(), 5 * kBlockBytes);
  SegmentImage image(8);
  const auto put = [&](size_t from, uint64_t offset) {
    std::memcpy(image.block(offset).data(), golden.data() + from * kBlockBytes, kBlockBytes);
  };
  put(0, 0);
  put(0, kBlockBytes);
  put(1, image.base(2));
  put(2, image.base(2) + kBlockBytes);
  put(3, image.base(3) - 2 * kBlockBytes);
  put(4, image.base(3) - kBlockBytes);
  image.save(path());
  auto opened = SegmentFile::open(path());
  ASSERT_TRUE(opened.is_ok()) << opened.status().to_string();
  EXPECT_EQ(file_json(**opened)["uuid"], "000102030405060708090a0b0c0d0e0f");
  EXPECT_EQ(file_json(**opened)["epoch"], 3);
  const nvme::SegmentContents contents = (*opened)->scan(2);
  const auto dumped = contents_json(2, contents);
  EXPECT_EQ(dumped["state"], "sealed");
  EXPECT_EQ(dumped["generation"], 0x30000000005);
  ASSERT_EQ(dumped["objects"].size(), 2u);
  EXPECT_EQ(dumped["objects"][0]["key"],
            "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f");
  EXPECT_EQ(dumped["objects"][0]["bytes"], 5000);
  EXPECT_EQ(dumped["objects"][0]["xxh3_128"], "00000000000000020000000000000001");
  EXPECT_NE(contents_text(2, contents).find("0000030000000012"), std::string::npos);
  // The records name payloads that are not there.
  const VerifyReport report = verify_saved();
  EXPECT_EQ(kinds(report), (Kinds{{"object header", 2}, {"payload", 2}}));
}

TEST(StoreLock, RefusesWhileAServerRuns) {
  TemporaryDirectory directory;
  EXPECT_EQ(StoreLock::acquire(directory.path() + "/none").status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(StoreLock::acquire(directory.path()).is_ok());
  std::ofstream(directory.path() + "/lock") << "4711";
  const int fd = open((directory.path() + "/lock").c_str(), O_RDWR);
  ASSERT_EQ(flock(fd, LOCK_EX), 0);
  const auto refused = StoreLock::acquire(directory.path());
  EXPECT_EQ(refused.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(refused.status().message().find("pid 4711"), std::string::npos);
  close(fd);
  auto held = StoreLock::acquire(directory.path());
  ASSERT_TRUE(held.is_ok());
  // And a server is kept out while we look.
  const int second = open((directory.path() + "/lock").c_str(), O_RDWR);
  EXPECT_NE(flock(second, LOCK_EX | LOCK_NB), 0);
  close(second);
}

TEST(StoreLock, FindsSegmentFiles) {
  TemporaryDirectory directory;
  for (const char* name : {"nvme1.quire", "nvme.quire", "other", "registry.quire"})
    std::ofstream(directory.path() + "/" + name) << "x";
  EXPECT_EQ(segment_files(directory.path(), {}),
            (std::vector<std::string>{directory.path() + "/nvme.quire",
                                      directory.path() + "/nvme1.quire"}));
  EXPECT_EQ(segment_files(directory.path(), {"/dev/x"}), std::vector<std::string>{"/dev/x"});
}

}  // namespace
}  // namespace quire::ctl
