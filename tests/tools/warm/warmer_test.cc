#include "tools/quire-warm/warmer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tools/warm/warmer_fixture.h"

namespace quire::warm {
namespace {

using testing::HasSubstr;

TEST_F(WarmerTest, StoresEverythingOnceAndPlansIt) {
  write("a.txt", words(100, "a"));
  write("b.md", "# T\n\n" + words(50, "b"));
  ASSERT_TRUE(run({docs()}).is_ok());
  EXPECT_EQ(summary_.documents, 2u);
  EXPECT_EQ(summary_.files_failed, 0u);
  EXPECT_GE(summary_.chunks, 4u);
  EXPECT_EQ(summary_.chunks_stored, summary_.chunks);
  EXPECT_EQ(target_.stores, summary_.chunks);
  EXPECT_EQ(plan_.chunks, summary_.chunks);
  EXPECT_EQ(plan_.tokens, summary_.tokens);
  EXPECT_EQ(plan_.bytes, summary_.bytes);
  EXPECT_EQ(summary_.bytes_stored, summary_.bytes);
  const ManifestContents contents = manifest();
  EXPECT_EQ(contents.chunks.size(), summary_.chunks);
  EXPECT_EQ(contents.documents_complete, 2u);
}

TEST_F(WarmerTest, TheSecondRunStoresNothingAndWritesNothing) {
  write("a.txt", words(100, "a"));
  ASSERT_TRUE(run({docs()}).is_ok());
  const uint64_t stores = target_.stores;
  manifest();
  const std::string before = manifest_text_;
  ASSERT_TRUE(run({docs()}).is_ok());
  EXPECT_EQ(target_.stores, stores);
  EXPECT_EQ(summary_.chunks_already_stored, summary_.chunks);
  EXPECT_EQ(summary_.tokens_computed, 0u);
  manifest();
  EXPECT_EQ(manifest_text_, before);
}

TEST_F(WarmerTest, BytesAreThoseThatWereStored) {
  write("a.txt", words(100, "a"));
  target_.bytes_per_token = 7;
  ASSERT_TRUE(run({docs()}).is_ok());
  EXPECT_EQ(plan_.bytes, 10 * plan_.tokens);
  EXPECT_EQ(summary_.bytes, 7 * summary_.tokens);
  EXPECT_EQ(summary_.bytes_stored, 7 * summary_.tokens);
  for (const auto& [key, line] : manifest().chunks) EXPECT_EQ(line.bytes, 7 * line.n_tokens) << key;
  const std::string before = manifest_text_;
  ASSERT_TRUE(run({docs()}).is_ok());
  EXPECT_EQ(summary_.bytes, 7 * summary_.tokens) << "what the store says";
  EXPECT_EQ(summary_.bytes_stored, 0u);
  target_.knows_bytes = false;
  ASSERT_TRUE(run({docs()}).is_ok());
  EXPECT_EQ(summary_.bytes, 7 * summary_.tokens) << "what the manifest says";
  manifest();
  EXPECT_EQ(manifest_text_, before);
  fs::remove(root_ / "m");
  ASSERT_TRUE(run({docs()}).is_ok());
  EXPECT_EQ(summary_.bytes, 10 * summary_.tokens) << "nobody knows: the most it can be";
}

TEST_F(WarmerTest, AManifestWithOtherBytesIsPutRight) {
  write("a.txt", words(100, "a"));
  ASSERT_TRUE(run({docs()}).is_ok());
  target_.bytes_per_token = 7;
  ASSERT_TRUE(run({docs()}).is_ok());
  EXPECT_EQ(summary_.chunks_stored, 0u);
  for (const auto& [key, line] : manifest().chunks) EXPECT_EQ(line.bytes, 7 * line.n_tokens) << key;
}

TEST_F(WarmerTest, WhatTheStoreForgotIsStoredAgainWhateverTheManifestSays) {
  write("a.txt", words(100, "a"));
  ASSERT_TRUE(run({docs()}).is_ok());
  target_.stored.erase(target_.stored.begin());
  ASSERT_TRUE(run({docs()}).is_ok());
  EXPECT_EQ(summary_.chunks_stored, 1u);
}

TEST_F(WarmerTest, ACrashAtAnyChunkIsMadeGoodByTheNextRun) {
  for (int i = 0; i < 4; ++i)
    write("f" + std::to_string(i) + ".txt", words(100, "w" + std::to_string(i)));
  ASSERT_TRUE(run({docs()}).is_ok());
  const uint64_t total = target_.stores;
  ASSERT_GE(total, 8u);
  for (uint64_t crash = 0; crash < total; ++crash) {
    target_ = FakeTarget{};
    fs::remove(root_ / "m");
    target_.on_store = [&](uint64_t done) {
      return done == crash ? Status(StatusCode::kUnavailable, "gone") : Status::ok();
    };
    EXPECT_EQ(run({docs()}).code(), StatusCode::kUnavailable);
    EXPECT_EQ(summary_.chunks_stored, crash);
    EXPECT_EQ(summary_.chunks, crash);
    EXPECT_EQ(manifest().chunks.size(), crash);
    target_.on_store = nullptr;
    ASSERT_TRUE(run({docs()}).is_ok());
    EXPECT_EQ(target_.stores, total);
    EXPECT_EQ(summary_.chunks_already_stored, crash);
    EXPECT_EQ(manifest().chunks.size(), total);
    EXPECT_EQ(manifest().documents_complete, 4u) << crash;
  }
}

TEST_F(WarmerTest, StopEndsInOrder) {
  write("a.txt", words(100, "a"));
  write("b.txt", words(100, "b"));
  target_.on_store = [&](uint64_t done) {
    if (done == 1) stop_ = true;
    return Status::ok();
  };
  EXPECT_EQ(run({docs()}).code(), StatusCode::kCancelled);
  EXPECT_EQ(summary_.chunks_stored, 2u);
  EXPECT_EQ(manifest().chunks.size(), 2u);
  EXPECT_EQ(run({docs()}).code(), StatusCode::kCancelled) << "also while scanning";
}

TEST_F(WarmerTest, BadFilesAreReportedOnceAndTheRestGoesOn) {
  write("a.txt", words(40, "a"));
  write("bad.txt", "caf\xE9");
  write("lines.jsonl", "{\"text\":\"" + words(9, "j") + "\"}\nnope\n{\"id\":1,\"text\":\"" +
                           words(9, "k") + words(9, "l") + "\"}\n");
  write("z.html", "<p>" + words(40, "z"));
  ASSERT_TRUE(run({docs(), (root_ / "missing").string()}).is_ok());
  EXPECT_EQ(summary_.files, 4u);
  EXPECT_EQ(summary_.files_failed, 3u);
  EXPECT_EQ(summary_.documents, 4u);
  EXPECT_EQ(summary_.chunks_too_short, 1u);
  EXPECT_EQ(summary_.chunks_stored, 3u);
  const std::string log = out_.str();
  EXPECT_THAT(log, HasSubstr("lines.jsonl:2: is not valid JSON"));
  EXPECT_EQ(log.find("is not UTF-8"), log.rfind("is not UTF-8")) << log;
}

TEST_F(WarmerTest, AFailedChunkIsNotedAndTriedAgain) {
  write("a.txt", words(100, "a"));
  target_.on_store = [](uint64_t done) {
    static bool failed = false;
    if (done != 1 || failed) return Status::ok();
    failed = true;
    return Status(StatusCode::kNonFinite, "NaN in layer 3");
  };
  ASSERT_TRUE(run({docs()}).is_ok());
  EXPECT_EQ(summary_.chunks_failed, 1u);
  EXPECT_EQ(summary_.files_failed, 1u);
  EXPECT_EQ(manifest().documents_complete, 0u);
  EXPECT_THAT(manifest_text_, HasSubstr("NaN in layer 3"));
  ASSERT_TRUE(run({docs()}).is_ok());
  EXPECT_EQ(summary_.chunks_failed, 0u);
  EXPECT_EQ(summary_.chunks_stored, 1u);
  EXPECT_EQ(manifest().documents_complete, 1u);
}

TEST_F(WarmerTest, EmptyDocumentsAreCounted) {
  write("a.txt", "");
  write("b.txt", "tiny");
  ASSERT_TRUE(run({docs()}).is_ok());
  EXPECT_EQ(summary_.documents_empty, 1u);
  EXPECT_EQ(summary_.chunks_too_short, 1u);
  EXPECT_EQ(summary_.files_failed, 0u);
  EXPECT_EQ(target_.stores, 0u);
}

}  // namespace
}  // namespace quire::warm
