// quirectl seg as a program: what it prints, its exit codes, and that it stays off what a server
// has open.
#include <gtest/gtest.h>
#include <sys/file.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/tools/quirectl/offline/segment_image.h"
#include "tests/tools/quirectl/offline/store_image.h"
#include "tests/tools/quirectl/quirectl_process.h"
#include "tools/quirectl/commands.h"

namespace quire::ctl {
namespace {

using nlohmann::json;

class QuirectlSegTest : public ::testing::Test {
 protected:
  QuirectlSegTest() { sample_image().save(path()); }
  std::string path() const { return directory_.path() + "/nvme.quire"; }

  json run_json(std::vector<std::string> arguments, int exit_code = kExitOk) {
    arguments.insert(arguments.end(), {"--data", directory_.path(), "-o", "json"});
    const Result result = run(arguments);
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    json parsed = json::parse(result.out, nullptr, false);
    EXPECT_FALSE(parsed.is_discarded()) << result.out;
    return parsed;
  }

  TemporaryDirectory directory_;
};

TEST_F(QuirectlSegTest, LsShowsStateGenerationAndWhatIsLive) {
  // Object 1 again, newer, in the open segment: the sealed copy is dead.
  SegmentImage image = sample_image();
  image.add(1, 5000);
  image.save(path());
  const json file = run_json({"seg", "ls"})["files"][0];
  EXPECT_EQ(file["path"], path());
  EXPECT_EQ(file["epoch"], 2);
  ASSERT_EQ(file["segments"].size(), 4u);
  const json sealed = file["segments"][0];
  EXPECT_EQ(sealed["state"], "sealed");
  EXPECT_EQ(sealed["generation"], 0x10);
  EXPECT_EQ(sealed["objects"], 3);
  EXPECT_EQ(sealed["live_objects"], 2);
  EXPECT_EQ(file["segments"][1]["state"], "open");
  EXPECT_EQ(file["segments"][1]["live_objects"], 3);
  EXPECT_EQ(file["segments"][2]["objects"], 0);
  EXPECT_EQ(file["segments"][3]["state"], "free");
  const Result table = run({"seg", "ls", "--nvme", path()});
  EXPECT_EQ(table.exit_code, kExitOk) << table.err;
  EXPECT_TRUE(contains(table.out, "4 segments of 1.0 MiB, epoch 2")) << table.out;
  EXPECT_TRUE(contains(table.out, "      0  sealed")) << table.out;
}

TEST_F(QuirectlSegTest, DumpShowsObjects) {
  const json dump = run_json({"seg", "dump", "--segment", "1"})["files"][0]["segments"];
  ASSERT_EQ(dump.size(), 1u);
  ASSERT_EQ(dump[0]["objects"].size(), 2u);
  EXPECT_EQ(dump[0]["objects"][1]["key"], SegmentImage::key(5).to_hex());
  EXPECT_EQ(dump[0]["objects"][1]["bytes"], 300);
  EXPECT_EQ(run_json({"seg", "dump"})["files"][0]["segments"].size(), 3u);  // free ones left out
  const Result text = run({"seg", "dump", "--nvme", path()});
  EXPECT_TRUE(contains(text.out, SegmentImage::key(3).to_hex())) << text.out;
  EXPECT_EQ(run({"seg", "dump", "--nvme", path(), "--segment", "4"}).exit_code, kExitUsage);
}

TEST_F(QuirectlSegTest, VerifyNamesDamageAndExitsWithFour) {
  const json good = run_json({"seg", "verify"})["files"][0]["report"];
  EXPECT_EQ(good["objects_good"], 5);
  EXPECT_EQ(good["damaged"], 0);
  SegmentImage image = sample_image();
  image.flip(image.base(0) + 2 * kBlockBytes);
  image.save(path());
  const json bad = run_json({"seg", "verify"}, kExitDamage)["files"][0]["report"];
  EXPECT_EQ(bad["counts"], json({{"payload", 1}}));
  EXPECT_EQ(bad["damage"][0]["key"], SegmentImage::key(1).to_hex());
  const Result text = run({"seg", "verify", "--nvme", path()});
  EXPECT_EQ(text.exit_code, kExitDamage);
  EXPECT_TRUE(contains(text.out, "payload (1): bytes changed")) << text.out;
  EXPECT_TRUE(contains(text.out, "segment 0 offset 4096 key 0101")) << text.out;
  // Every file is looked at, also behind a damaged one.
  sample_image().save(directory_.path() + "/nvme2.quire");
  EXPECT_EQ(run_json({"seg", "verify"}, kExitDamage)["files"].size(), 2u);
}

TEST_F(QuirectlSegTest, RefusesWhatIsInUseAndWhatIsNotThere) {
  std::ofstream(directory_.path() + "/lock") << "4711";
  const int fd = open((directory_.path() + "/lock").c_str(), O_RDWR);
  ASSERT_EQ(flock(fd, LOCK_EX), 0);
  for (const char* command : {"ls", "dump", "verify"}) {
    const Result result = run({"seg", command, "--data", directory_.path()});
    EXPECT_EQ(result.exit_code, kExitError) << command;
    EXPECT_TRUE(contains(result.err, "a running quired (pid 4711)")) << result.err;
    EXPECT_EQ(result.out, "");
  }
  close(fd);
  TemporaryDirectory empty;
  EXPECT_EQ(run({"seg", "ls", "--data", empty.path()}).exit_code, kExitNotFound);
  EXPECT_EQ(run({"seg", "ls", "--data", "/no/such"}).exit_code, kExitNotFound);
  EXPECT_EQ(run({"seg", "ls", "--nvme", "/no/such"}).exit_code, kExitNotFound);
  EXPECT_EQ(run({"seg"}).exit_code, kExitUsage);
}

TEST(QuirectlFsck, ChecksRepairsAndTellsBoth) {
  StoreImage image;
  const auto fsck = [&](std::vector<std::string> more, int exit_code) {
    more.insert(more.begin(), {"fsck", "--data", image.directory(), "-o", "json"});
    const Result result = run(more);
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    return json::parse(result.out, nullptr, false);
  };
  const json good = fsck({}, kExitOk);
  EXPECT_EQ(good["records_good"], 6);
  EXPECT_EQ(good["damaged"], 0);
  image.write([&](tiers::MetadataBatch& batch) { batch.delete_blobs.push_back(image.small.id); });
  const json bad = fsck({}, kExitDamage);
  EXPECT_EQ(bad["counts"], json({{"payload lost", 1}}));
  EXPECT_EQ(bad["findings"][0]["id"], image.small.id.to_hex());
  EXPECT_EQ(bad["repair"]["drop_records"], 1);
  EXPECT_EQ(bad["repaired"], false);
  const Result text = run({"fsck", "--data", image.directory()});
  EXPECT_EQ(text.exit_code, kExitDamage);
  EXPECT_TRUE(contains(text.out, "payload lost (1)")) << text.out;
  EXPECT_TRUE(contains(text.out, "--repair makes them")) << text.out;
  const json repaired = fsck({"--repair"}, kExitOk);
  EXPECT_EQ(repaired["repaired"], true);
  EXPECT_EQ(repaired["damaged_after_repair"], 0);
  EXPECT_EQ(fsck({}, kExitOk)["records"], 5);
  // What no repair undoes stays damage.
  image.segments.flip(image.segments.base(0) + 2 * kBlockBytes);
  image.save();
  const json left = fsck({"--repair"}, kExitDamage);
  EXPECT_EQ(left["damaged_after_repair"], 1);
  EXPECT_EQ(fsck({}, kExitDamage)["records"], 4);
}

TEST(QuirectlFsck, RefusesARunningServerAndWhatIsNoStore) {
  const StoreImage image;
  std::ofstream(image.directory() + "/lock") << "4711";
  const int fd = open((image.directory() + "/lock").c_str(), O_RDWR);
  ASSERT_EQ(flock(fd, LOCK_EX), 0);
  for (const bool repair : {false, true}) {
    std::vector<std::string> arguments = {"fsck", "--data", image.directory()};
    if (repair) arguments.push_back("--repair");
    const Result result = run(arguments);
    EXPECT_EQ(result.exit_code, kExitError);
    EXPECT_TRUE(contains(result.err, "a running quired (pid 4711)")) << result.err;
  }
  close(fd);
  const int metadata = open((image.directory() + "/meta/LOCK").c_str(), O_RDWR);
  ASSERT_EQ(flock(metadata, LOCK_EX), 0);
  EXPECT_EQ(run({"fsck", "--data", image.directory()}).exit_code, kExitError);
  close(metadata);
  EXPECT_EQ(run({"fsck", "--data", image.directory()}).exit_code, kExitOk);
  TemporaryDirectory empty;
  EXPECT_EQ(run({"fsck", "--data", empty.path()}).exit_code, kExitNotFound);
  EXPECT_TRUE(contains(run({"fsck", "--help"}).out, "  quirectl fsck"));
}

TEST_F(QuirectlSegTest, HelpHasExamples) {
  for (const char* command : {"ls", "dump", "verify"}) {
    const Result help = run({"seg", command, "--help"});
    EXPECT_EQ(help.exit_code, kExitOk);
    EXPECT_TRUE(contains(help.out, std::string("  quirectl seg ") + command)) << help.out;
  }
}

}  // namespace
}  // namespace quire::ctl
