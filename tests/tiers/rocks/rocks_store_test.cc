#include "tiers/rocks/rocks_store.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "tests/tiers/rocks/samples.h"

namespace quire::tiers {
namespace {

namespace fs = std::filesystem;

class RocksStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/quire-rocks-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    root_ = name;
    directory_ = root_ + "/metadata";
  }
  void TearDown() override { fs::remove_all(root_); }

  std::unique_ptr<RocksStore> open() {
    auto store = RocksStore::open(directory_);
    EXPECT_TRUE(store) << store.status().to_string();
    return store ? std::move(*store) : nullptr;
  }
  Status open_error(const RocksOptions& options = {}) {
    return RocksStore::open(directory_, options).status();
  }
  // The error must name the directory, so that a person knows where to look.
  void expect_refused(const Status& status, StatusCode code, const std::string& advice) {
    EXPECT_EQ(status.code(), code) << status.to_string();
    EXPECT_NE(status.message().find(directory_), std::string::npos) << status.message();
    EXPECT_NE(status.message().find(advice), std::string::npos) << status.message();
  }
  void put_file(const std::string& name, const std::string& text) {
    fs::create_directories(directory_);
    std::ofstream(directory_ + "/" + name, std::ios::binary) << text;
  }

  std::string root_;
  std::string directory_;
};

Digest numbered(uint32_t number) {
  Digest digest;
  for (size_t i = 0; i < 4; ++i) digest.bytes[i] = static_cast<uint8_t>(number >> (24 - 8 * i));
  return digest;
}

std::vector<std::byte> numbered_blob(uint32_t number) {
  std::vector<std::byte> blob(10'000 + number % 977);
  for (size_t i = 0; i < blob.size(); ++i) blob[i] = std::byte((number * 31 + i * 7) & 0xff);
  return blob;
}

// Record and blob number `number`, in one batch.
Status write_numbered(MetadataStore& store, uint32_t number, bool sync) {
  const std::vector<std::byte> blob = numbered_blob(number);
  RepresentationRecord record = sample_representation();
  record.location = PayloadLocation::kRocks;
  record.nvme = {};
  record.bytes = blob.size();
  record.checksum = xxh3_128(blob);
  record.hits = number;
  MetadataBatch batch;
  record.n_tokens = 1 + number % 5;
  batch.put_tokens = {{numbered(number), {std::vector<TokenId>(record.n_tokens, number)}}};
  batch.put_representations = {{numbered(number), record}};
  batch.put_blobs = {{numbered(number), blob}};
  return store.write(batch, sync);
}

// How many of the first records are there, each whole; the rest must be absent.
uint32_t count_whole(const MetadataStore& store) {
  uint32_t count = 0;
  const auto report =
      store.scan_representations([&](const Digest& id, RepresentationRecord&& record) {
        EXPECT_EQ(id, numbered(count)) << "a hole";
        EXPECT_EQ(record.hits, count);
        const auto details = store.get_details({&id, 1});
        EXPECT_TRUE(details[0]) << details[0].status().to_string();
        EXPECT_EQ(details[0]->tokens, std::vector<TokenId>(1 + count % 5, count));
        std::vector<std::byte> blob(record.bytes);
        EXPECT_TRUE(store.get_blob(id, blob, record.checksum));
        EXPECT_EQ(blob, numbered_blob(count));
        ++count;
        return true;
      });
  EXPECT_TRUE(report);
  EXPECT_EQ(report->corrupt, 0u);
  return count;
}

TEST_F(RocksStoreTest, ReopensWithEverythingAndANewEpoch) {
  StoreIdentity first;
  {
    const auto store = open();
    ASSERT_TRUE(store);
    first = store->identity();
    EXPECT_TRUE(first.created);
    EXPECT_FALSE(first.clean_shutdown);
    EXPECT_EQ(first.uuid.size(), 32u);
    for (uint32_t i = 0; i < 50; ++i) ASSERT_TRUE(write_numbered(*store, i, false));
    ASSERT_TRUE(store->close());
  }
  {
    const auto store = open();
    ASSERT_TRUE(store);
    EXPECT_EQ(store->identity().uuid, first.uuid);
    EXPECT_GT(store->identity().epoch, first.epoch);
    EXPECT_TRUE(store->identity().clean_shutdown);
    EXPECT_FALSE(store->identity().created);
    EXPECT_EQ(count_whole(*store), 50u);
    EXPECT_GT(store->approximate_sizes().representations, 0u);
  }
  const auto store = open();  // the last one was not closed
  ASSERT_TRUE(store);
  EXPECT_FALSE(store->identity().clean_shutdown);
}

TEST_F(RocksStoreTest, SyncedRecordsSurviveSigkill) {
  int progress[2];
  ASSERT_EQ(::pipe(progress), 0);
  uint32_t acknowledged = 0;
  for (int round = 0; round < 4; ++round) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      auto store = RocksStore::open(directory_);
      if (!store) ::_exit(1);
      for (uint32_t number = acknowledged;; ++number) {
        if (!write_numbered(**store, number, number % 3 == 0)) ::_exit(2);
        if (number % 3 == 0 && ::write(progress[1], &number, sizeof(number)) != sizeof(number))
          ::_exit(3);
      }
    }
    uint32_t synced = 0;
    for (int reports = 0; reports < 30 + 7 * round; ++reports)
      ASSERT_EQ(::read(progress[0], &synced, sizeof(synced)), ssize_t{sizeof(synced)});
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int exit_status = 0;
    ASSERT_EQ(::waitpid(child, &exit_status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(exit_status)) << "the child failed by itself";
    // What it reported between our last read and its death.
    ::close(progress[1]);
    uint32_t late = 0;
    while (::read(progress[0], &late, sizeof(late)) == ssize_t{sizeof(late)}) synced = late;
    ::close(progress[0]);
    ASSERT_EQ(::pipe(progress), 0);

    const auto store = open();
    ASSERT_TRUE(store);
    EXPECT_FALSE(store->identity().clean_shutdown);
    const uint32_t whole = count_whole(*store);
    EXPECT_GT(whole, synced);
    acknowledged = whole;
  }
  ::close(progress[0]);
  ::close(progress[1]);
}

TEST_F(RocksStoreTest, ASecondOpenIsRefused) {
  const auto store = open();
  ASSERT_TRUE(store);
  expect_refused(open_error(), StatusCode::kFailedPrecondition, "in use");
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const Status status = RocksStore::open(directory_).status();
    ::_exit(status.code() == StatusCode::kFailedPrecondition ? 0 : 1);
  }
  int exit_status = 0;
  ASSERT_EQ(::waitpid(child, &exit_status, 0), child);
  EXPECT_EQ(exit_status, 0);
  // The refused ones did no harm.
  EXPECT_TRUE(write_numbered(*store, 0, true));
}

TEST_F(RocksStoreTest, ForeignDirectoriesAreLeftAlone) {
  put_file("thesis.tex", "years of work");
  expect_refused(open_error(), StatusCode::kFailedPrecondition, "empty directory");
  EXPECT_EQ(std::distance(fs::directory_iterator(directory_), {}), 1);
  fs::remove_all(directory_);
  std::ofstream(directory_) << "a file";
  expect_refused(open_error(), StatusCode::kFailedPrecondition, "not a directory");
  fs::remove_all(directory_);
  expect_refused(open_error({.create_if_missing = false}), StatusCode::kNotFound, "no metadata");
}

TEST_F(RocksStoreTest, OtherVersionsAndDamagedMarkersAreRefused) {
  put_file("FORMAT", "quire metadata store\nversion 3\n");
  expect_refused(open_error(), StatusCode::kVersionMismatch, "version 3");
  expect_refused(RocksStore::set_aside(directory_), StatusCode::kVersionMismatch, "version 3");
  for (const char* text : {"", "quire", "quire metadata store\nversion x\n", "something else"}) {
    put_file("FORMAT", text);
    expect_refused(open_error(), StatusCode::kCorrupt, "nothing was changed");
  }
}

TEST_F(RocksStoreTest, DamagedDatabasesAreRefused) {
  {
    const auto store = open();
    ASSERT_TRUE(store);
    for (uint32_t i = 0; i < 20; ++i) ASSERT_TRUE(write_numbered(*store, i, true));
  }
  const std::string copy = root_ + "/copy";
  fs::copy(directory_, copy, fs::copy_options::recursive);
  const auto restore = [&] {
    fs::remove_all(directory_);
    fs::copy(copy, directory_, fs::copy_options::recursive);
  };
  fs::remove(directory_ + "/db/CURRENT");
  expect_refused(open_error(), StatusCode::kCorrupt, "nothing was changed");

  restore();
  for (const auto& file : fs::directory_iterator(directory_ + "/db"))
    if (file.path().filename().string().starts_with("MANIFEST")) fs::resize_file(file.path(), 20);
  expect_refused(open_error(), StatusCode::kCorrupt, "Move the directory away");

  restore();
  for (const auto& file : fs::directory_iterator(directory_ + "/db"))
    if (file.path().extension() == ".sst") fs::remove(file.path());
  const Status status = open_error();
  EXPECT_TRUE(status.is_ok() || status.code() == StatusCode::kCorrupt) << status.to_string();

  restore();
  const auto store = open();
  ASSERT_TRUE(store);
  EXPECT_EQ(count_whole(*store), 20u);
}

TEST_F(RocksStoreTest, AStartKilledBeforeItsMarkerIsTriedAgain) {
  put_file("LOCK", "123");
  put_file("FORMAT.tmp", "quire meta");
  EXPECT_TRUE(open());
  fs::remove_all(directory_);
  // Killed after the marker, before the database.
  put_file("FORMAT", "quire metadata store\nversion 1\n");
  const auto store = open();
  ASSERT_TRUE(store);
  EXPECT_TRUE(store->identity().created);
}

TEST_F(RocksStoreTest, CheckpointsAreStoresOfTheirOwn) {
  const auto store = open();
  ASSERT_TRUE(store);
  for (uint32_t i = 0; i < 20; ++i) ASSERT_TRUE(write_numbered(*store, i, false));
  const std::string copy = root_ + "/checkpoint";
  ASSERT_TRUE(store->checkpoint(copy));
  EXPECT_EQ(store->checkpoint(copy).code(), StatusCode::kAlreadyExists);
  ASSERT_TRUE(write_numbered(*store, 20, true));
  const auto copied = RocksStore::open(copy);
  ASSERT_TRUE(copied) << copied.status().to_string();
  EXPECT_EQ(count_whole(**copied), 20u);
  EXPECT_EQ(count_whole(*store), 21u);
}

TEST_F(RocksStoreTest, ManyThreadsWriteAndReadAtOnce) {
  const auto store = open();
  ASSERT_TRUE(store);
  constexpr uint32_t kThreads = 4;
  constexpr uint32_t kPerThread = 50;
  std::vector<std::thread> threads;
  for (uint32_t thread = 0; thread < kThreads; ++thread)
    threads.emplace_back([&, thread] {
      for (uint32_t i = 0; i < kPerThread; ++i) {
        const uint32_t number = i * kThreads + thread;
        EXPECT_TRUE(write_numbered(*store, number, false));
        EXPECT_EQ(store->get_representation(numbered(number))->hits, number);
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(count_whole(*store), kThreads * kPerThread);
}

}  // namespace
}  // namespace quire::tiers
