// What a crash, a power failure or a failing disk may do to the metadata: nothing that was
// acknowledged as durable is lost, no batch is torn, errors are typed.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "tests/tiers/rocks/faulty_file_system.h"
#include "tests/tiers/rocks/kill_child.h"
#include "tests/tiers/rocks/store_fixture.h"

namespace quire::tiers {
namespace {

namespace fs = std::filesystem;

// QUIRE_TEST_SEED=n repeats a run; QUIRE_TEST_ROUNDS=n makes it longer.
uint64_t number_from_environment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

uint64_t test_seed(const char* test) {
  const uint64_t seed = number_from_environment("QUIRE_TEST_SEED", 1);
  std::printf("seed %llu; again: QUIRE_TEST_SEED=%llu rocks_fault_test --gtest_filter=%s\n",
              static_cast<unsigned long long>(seed), static_cast<unsigned long long>(seed), test);
  return seed;
}

std::string newest_log(const std::string& directory) {
  std::string newest;
  for (const auto& file : fs::directory_iterator(directory + "/db"))
    if (file.path().extension() == ".log") newest = std::max(newest, file.path().string());
  return newest;
}

class RocksTornLogTest : public StoreDirectoryTest {
 protected:
  void copy_back(const std::string& copy) {
    fs::remove_all(directory_);
    fs::copy(copy, directory_, fs::copy_options::recursive);
  }
};

TEST_F(RocksTornLogTest, ATornEndLosesOnlyWhatItHeld) {
  std::mt19937_64 random(test_seed("RocksTornLogTest.*"));
  constexpr uint32_t kRecords = 24;
  std::vector<uint64_t> ends;  // of the log after each synced write
  {
    const auto store = open();
    ASSERT_TRUE(store);
    for (uint32_t i = 0; i < kRecords; ++i) {
      ASSERT_TRUE(write_numbered(*store, i, true));
      ends.push_back(fs::file_size(newest_log(directory_)));
    }
  }
  const std::string log = newest_log(directory_);
  const std::string log_name = fs::path(log).filename().string();
  const std::string copy = root_ + "/copy";
  fs::copy(directory_, copy, fs::copy_options::recursive);
  const uint64_t rounds = number_from_environment("QUIRE_TEST_ROUNDS", 24);
  for (uint64_t round = 0; round < rounds; ++round) {
    copy_back(copy);
    // A point just at, before or behind the end of a write, or anywhere.
    const uint64_t begin = round == 0 ? 0 : 1;
    uint64_t cut = random() % (ends.back() + 1);
    if (round % 2 == 0) cut = ends[random() % kRecords] + random() % 3 - begin;
    cut = std::min<uint64_t>(cut, ends.back());
    const uint64_t garbage_bytes = round % 3 == 0 ? 0 : 1 + random() % 100'000;
    const int garbage = static_cast<int>(round % 3 == 1 ? random() % 2 * 255 : 256);
    fs::resize_file(directory_ + "/db/" + log_name, cut);
    {
      std::ofstream file(directory_ + "/db/" + log_name, std::ios::binary | std::ios::app);
      for (uint64_t i = 0; i < garbage_bytes; ++i)
        file.put(static_cast<char>(garbage < 256 ? garbage : random()));
    }
    const auto whole = static_cast<uint32_t>(
        std::count_if(ends.begin(), ends.end(), [&](uint64_t end) { return end <= cut; }));
    SCOPED_TRACE("round " + std::to_string(round) + ", cut " + std::to_string(cut) + ", garbage " +
                 std::to_string(garbage_bytes) + " of " + std::to_string(garbage));
    {
      const auto store = open();
      ASSERT_TRUE(store);
      ASSERT_EQ(count_whole(*store), whole);
      ASSERT_TRUE(write_numbered(*store, whole, true));
    }
    // The torn log and the one behind it, torn as well.
    if (round % 4 != 0) continue;
    std::ofstream(newest_log(directory_), std::ios::binary | std::ios::app) << "garbage";
    const auto store = open();
    ASSERT_TRUE(store);
    ASSERT_EQ(count_whole(*store), whole + 1);
  }
}

class RocksFaultTest : public StoreDirectoryTest {
 protected:
  RocksFaultTest() : env_(rocksdb::NewCompositeEnv(files_)) {}
  RocksOptions options() {
    return {.blob_write_buffer_bytes = 256 << 10,
            .tokens_write_buffer_bytes = 128 << 10,
            .write_buffer_bytes = 128 << 10,
            .env = env_.get()};
  }
  std::shared_ptr<FaultyFileSystem> files_ = std::make_shared<FaultyFileSystem>();
  std::unique_ptr<rocksdb::Env> env_;
};

// Writes numbers from `next` until one fails; the status of that one.
Status write_until_failure(MetadataStore& store, uint32_t& next, uint32_t most) {
  for (uint32_t i = 0; i < most; ++i, ++next)
    if (Status status = write_numbered(store, next, true); !status) return status;
  return Status::ok();
}

TEST_F(RocksFaultTest, FailingDisksLoseNothingAcknowledged) {
  std::mt19937_64 random(test_seed("RocksFaultTest.Failing*"));
  uint32_t next = 0;
  for (const auto& [fault, code] : {std::pair(Fault::kWriteIoError, StatusCode::kIoError),
                                    std::pair(Fault::kWriteNoSpace, StatusCode::kNoSpace),
                                    std::pair(Fault::kSyncIoError, StatusCode::kIoError)}) {
    for (int round = 0; round < 3; ++round) {
      SCOPED_TRACE("fault " + std::to_string(static_cast<int>(fault)) + " round " +
                   std::to_string(round));
      auto store = open(options());
      ASSERT_TRUE(store);
      ASSERT_TRUE(write_until_failure(*store, next, 10));
      files_->arm(fault, static_cast<int64_t>(random() % 30));
      const Status failed = write_until_failure(*store, next, 200);
      EXPECT_EQ(failed.code(), code) << failed.to_string();
      // Still failing: typed again, and what is there can be read.
      const Status again = write_numbered(*store, next, true);
      EXPECT_FALSE(again.is_ok());
      EXPECT_NE(again.code(), StatusCode::kInternal) << again.to_string();
      EXPECT_NE(again.code(), StatusCode::kCorrupt) << again.to_string();
      EXPECT_TRUE(store->get_representation(numbered(next - 1)));
      files_->arm(Fault::kNone);
      if (round == 0 && fault == Fault::kWriteNoSpace) {
        // Space was freed: the store goes on by itself, soon.
        Status healed;
        for (int attempt = 0; attempt < 200; ++attempt) {
          healed = write_numbered(*store, next, true);
          if (healed) break;
          std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
        EXPECT_TRUE(healed) << healed.to_string();
        ++next;
        EXPECT_EQ(count_whole(*store), next);
      }
      if (round == 0 && fault != Fault::kWriteNoSpace) {
        // After an I/O error the log cannot be trusted: it writes nothing more until it is
        // reopened.
        EXPECT_EQ(write_numbered(*store, next, true).code(), StatusCode::kIoError);
        EXPECT_EQ(count_whole(*store), next);
      }
      if (round == 1) {
        const Status closed = store->close();  // the mark of a clean shutdown may fail as well
        EXPECT_TRUE(closed.is_ok() || closed.code() == code) << closed.to_string();
      }
      store.reset();
      if (round == 2) files_->lose_unsynced();
      const auto reopened = open();
      ASSERT_TRUE(reopened);
      // The write that failed may be there or not.
      const uint32_t whole = count_whole(*reopened);
      EXPECT_GE(whole, next);
      EXPECT_LE(whole, next + 1);
      next = whole;
    }
  }
  EXPECT_GT(files_->faults(), 0u);
}

TEST_F(RocksFaultTest, APowerFailureTakesOnlyWhatWasNotSynced) {
  std::mt19937_64 random(test_seed("RocksFaultTest.APower*"));
  const uint64_t rounds = number_from_environment("QUIRE_TEST_ROUNDS", 8);
  uint32_t next = 0;
  for (uint64_t round = 0; round < rounds; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    uint32_t durable = next;
    {
      const auto store = open(options());
      ASSERT_TRUE(store);
      for (uint64_t i = 5 + random() % 60; i > 0; --i, ++next) {
        const bool sync = random() % 8 == 0;
        ASSERT_TRUE(write_numbered(*store, next, sync));
        if (sync) durable = next + 1;
      }
    }
    files_->lose_unsynced();
    const auto store = open();
    ASSERT_TRUE(store);
    const uint32_t whole = count_whole(*store);
    ASSERT_GE(whole, durable);
    ASSERT_LE(whole, next);
    next = whole;
  }
}

// Failing disks while it opens: an error of a kind, or a whole store; never a crash.
TEST_F(RocksFaultTest, OpeningOnAFailingDiskIsRefused) {
  { ASSERT_TRUE(write_numbered(*open(), 0, true)); }
  uint32_t refused = 0;
  for (int64_t healthy = 0; healthy < 12; ++healthy) {
    for (const Fault fault : {Fault::kWriteIoError, Fault::kWriteNoSpace, Fault::kSyncIoError}) {
      files_->arm(fault, healthy);
      const auto store = RocksStore::open(directory_, options());
      files_->arm(Fault::kNone);
      if (store) continue;
      ++refused;
      const StatusCode code = store.status().code();
      EXPECT_TRUE(code == StatusCode::kIoError || code == StatusCode::kNoSpace)
          << store.status().to_string();
    }
  }
  EXPECT_GT(refused, 6u);
  const auto store = open();
  ASSERT_TRUE(store);
  EXPECT_EQ(count_whole(*store), 1u);
}

using RocksKillPointTest = StoreDirectoryTest;

constexpr uint32_t kLifeRecords = 8;

TEST(KillPointScenario, Life) {
  const std::string directory = kill_child_directory();
  if (directory.empty()) GTEST_SKIP() << "runs as the child of other tests";
  auto store = RocksStore::open(directory + "/metadata");
  ASSERT_TRUE(store) << store.status().to_string();
  std::ofstream acknowledged(directory + "/acknowledged");
  for (uint32_t i = 0; i < kLifeRecords; ++i) {
    ASSERT_TRUE(write_numbered(**store, i, true));
    acknowledged << 'x' << std::flush;
  }
  ASSERT_TRUE((*store)->checkpoint(directory + "/copy"));
  ASSERT_TRUE((*store)->close());
  store->reset();
  ASSERT_TRUE(RocksStore::set_aside(directory + "/metadata"));
}

TEST_F(RocksKillPointTest, EachIsHitAndCostsNothingAcknowledged) {
  for (const std::string point :
       {"rocks_marker_written", "rocks_marker_renamed", "rocks_opened", "rocks_write:5",
        "rocks_blob_write:3", "rocks_blob_written:3", "rocks_written:6", "rocks_checkpoint_begin",
        "rocks_checkpoint_copied", "rocks_marker_written:2", "rocks_marker_renamed:2",
        "rocks_checkpoint_end", "rocks_close", "rocks_close_marked", "rocks_closed",
        "rocks_set_aside", "rocks_set_aside_renamed"}) {
    SCOPED_TRACE(point);
    fs::remove_all(root_);
    fs::create_directories(root_);
    ASSERT_EQ(run_kill_child("KillPointScenario.Life", root_, point), -SIGKILL);
    uint64_t acknowledged = 0;
    std::error_code error;
    if (fs::exists(root_ + "/acknowledged")) acknowledged = fs::file_size(root_ + "/acknowledged");
    for (const auto& file : fs::directory_iterator(root_))
      if (file.path().string().starts_with(directory_ + ".damaged-"))
        fs::rename(file.path(), directory_, error);
    ASSERT_FALSE(error);
    const auto store = open();
    ASSERT_TRUE(store);
    const uint32_t whole = count_whole(*store);
    EXPECT_GE(whole, acknowledged);
    EXPECT_LE(whole, acknowledged + 1);
    const std::string copy = root_ + "/copy";
    if (fs::exists(copy + "/FORMAT")) {
      const auto copied = RocksStore::open(copy);
      ASSERT_TRUE(copied) << copied.status().to_string();
      EXPECT_EQ(count_whole(**copied), kLifeRecords);
    } else if (fs::exists(copy + "/db")) {
      EXPECT_FALSE(RocksStore::open(copy)) << "half a copy is not a store";
    }
  }
}

}  // namespace
}  // namespace quire::tiers
