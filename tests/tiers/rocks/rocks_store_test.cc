#include "tiers/rocks/rocks_store.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "tests/tiers/rocks/store_fixture.h"

namespace quire::tiers {
namespace {

namespace fs = std::filesystem;

class RocksStoreTest : public StoreDirectoryTest {
 protected:
  Status open_error(const RocksOptions& options = {}) {
    return RocksStore::open(directory_, options).status();
  }
  // The error must name the directory, so that a person knows where to look.
  void expect_refused(const Status& status, StatusCode code, const std::string& advice) {
    EXPECT_EQ(status.code(), code) << status.to_string();
    EXPECT_NE(status.message().find(directory_), std::string::npos) << status.message();
    EXPECT_NE(status.message().find(advice), std::string::npos) << status.message();
  }
};

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
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer starts no threads in a child of a process that has several";
#endif
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

TEST_F(RocksStoreTest, ALostMarkerIsDamageAndNotAForeignDirectory) {
  { ASSERT_TRUE(write_numbered(*open(), 0, true)); }
  fs::remove(directory_ + "/FORMAT");
  expect_refused(open_error(), StatusCode::kCorrupt, "lost its FORMAT");
  std::string moved_to;
  ASSERT_TRUE(RocksStore::set_aside(directory_, &moved_to));
  EXPECT_TRUE(fs::exists(moved_to + "/db/CURRENT"));
}

TEST_F(RocksStoreTest, ADamagedStoreIsSetAsideWhole) {
  { ASSERT_TRUE(write_numbered(*open(), 0, true)); }
  const std::string lost = directory_ + "/db/CURRENT";
  fs::rename(lost, root_ + "/CURRENT");
  expect_refused(open_error(), StatusCode::kCorrupt, "nothing was changed");
  std::string moved_to;
  ASSERT_TRUE(RocksStore::set_aside(directory_ + "/", &moved_to));
  EXPECT_FALSE(fs::exists(directory_));
  EXPECT_TRUE(moved_to.starts_with(directory_ + ".damaged-")) << moved_to;
  {
    const auto fresh = open();
    ASSERT_TRUE(fresh);
    EXPECT_TRUE(fresh->identity().created);
    EXPECT_EQ(count_whole(*fresh), 0u);
    expect_refused(RocksStore::set_aside(directory_), StatusCode::kFailedPrecondition, "in use");
  }
  // Two of them keep names of their own, and what was set aside is all there.
  std::string second;
  ASSERT_TRUE(RocksStore::set_aside(directory_, &second));
  EXPECT_NE(second, moved_to);
  fs::rename(root_ + "/CURRENT", moved_to + "/db/CURRENT");
  fs::rename(moved_to, directory_);
  EXPECT_EQ(count_whole(*open()), 1u);
}

TEST_F(RocksStoreTest, OnlyStoresAreSetAside) {
  EXPECT_EQ(RocksStore::set_aside(directory_).code(), StatusCode::kNotFound);
  put_file("thesis.tex", "years of work");
  expect_refused(RocksStore::set_aside(directory_), StatusCode::kFailedPrecondition, "not a meta");
  EXPECT_TRUE(fs::exists(directory_ + "/thesis.tex"));
  fs::remove_all(directory_);
  fs::create_directories(directory_);
  expect_refused(RocksStore::set_aside(directory_), StatusCode::kFailedPrecondition, "not a meta");
}

TEST_F(RocksStoreTest, BlobIdsAreThoseThatArePresent) {
  const auto store = open({.blob_write_buffer_bytes = 256 << 10});
  ASSERT_TRUE(store);
  // Overwritten, deleted and written again, in files and in memory.
  constexpr uint32_t kBlobs = 200;
  for (uint32_t round = 0; round < 2; ++round)
    for (uint32_t i = 0; i < kBlobs; ++i) ASSERT_TRUE(write_numbered(*store, i, false));
  MetadataBatch batch;
  for (uint32_t i = 0; i < kBlobs; i += 2) batch.delete_blobs.push_back(numbered(i));
  ASSERT_TRUE(store->write(batch, true));
  ASSERT_TRUE(write_numbered(*store, 100, true));
  std::vector<Digest> ids;
  EXPECT_EQ(*store->scan_blob_ids([&](const Digest& id) { return ids.push_back(id), true; }),
            kBlobs / 2 + 1);
  std::vector<Digest> expected;
  for (uint32_t i = 0; i < kBlobs; ++i)
    if (i % 2 == 1 || i == 100) expected.push_back(numbered(i));
  EXPECT_EQ(ids, expected);
  EXPECT_EQ(*store->scan_blob_ids([](const Digest&) { return false; }), 1u);
}

TEST_F(RocksStoreTest, PatchesOfManyThreadsBringNothingBack) {
  const auto store = open();
  ASSERT_TRUE(store);
  // Patches and deletes of the same ids: a deleted record must stay deleted.
  constexpr uint32_t kRounds = 300;
  std::thread patching([&] {
    for (uint32_t i = 0; i < kRounds; ++i) {
      RepresentationPatch patch;
      patch.last_used_wall_ms = i;
      MetadataBatch batch;
      for (uint32_t number = 0; number < 8; ++number)
        batch.patch_representations.emplace_back(numbered(number), patch);
      EXPECT_TRUE(store->write(batch, false));
    }
  });
  for (uint32_t i = 0; i < kRounds; ++i) {
    EXPECT_TRUE(write_numbered(*store, i % 8, false));
    MetadataBatch batch;
    batch.delete_representations = {numbered(i % 8)};
    EXPECT_TRUE(store->write(batch, false));
    EXPECT_EQ(store->get_representation(numbered(i % 8)).status().code(), StatusCode::kNotFound);
  }
  patching.join();
  EXPECT_EQ(store->scan_representations([](const Digest&, RepresentationRecord&&) { return true; })
                ->records,
            0u);
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
  MetadataBatch rest;
  rest.put_tenants = {{7, sample_tenant()}};
  rest.put_models = {{sample_digest(9), sample_model()}};
  ASSERT_TRUE(store->write(rest, false));
  const std::string copy = root_ + "/checkpoint";
  ASSERT_TRUE(store->checkpoint(copy));
  EXPECT_EQ(store->checkpoint(copy).code(), StatusCode::kAlreadyExists);
  const std::vector<std::string> before = dump(*store);
  ASSERT_TRUE(write_numbered(*store, 20, true));
  MetadataBatch deletion;
  deletion.delete_representations = deletion.delete_blobs = {numbered(20)};
  deletion.delete_tenants = {7};
  {
    const auto copied = RocksStore::open(copy);
    ASSERT_TRUE(copied) << copied.status().to_string();
    EXPECT_EQ((*copied)->identity().uuid, store->identity().uuid);
    EXPECT_FALSE((*copied)->identity().created);
    EXPECT_EQ(dump(**copied), before);
    EXPECT_EQ(count_whole(**copied), 20u);
    // Each goes its own way from here.
    ASSERT_TRUE(write_numbered(**copied, 20, true));
    ASSERT_TRUE((*copied)->write(deletion, true));
    EXPECT_NE(dump(**copied), before);
  }
  EXPECT_EQ(count_whole(*store), 21u);
  EXPECT_EQ(store->scan_tenants([](uint32_t, TenantRecord&&) { return true; })->records, 1u);
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
