#include "tools/quire-warm/warmer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

namespace quire::warm {
namespace fs = std::filesystem;
namespace {

using testing::HasSubstr;

// A store in memory; tokens are words.
class FakeTarget final : public WarmTarget {
 public:
  Expected<std::vector<TokenId>> tokenize(std::string_view text) override {
    std::vector<TokenId> tokens;
    std::istringstream words{std::string(text)};
    for (std::string word; words >> word;)
      tokens.push_back(static_cast<TokenId>(std::hash<std::string>{}(word)));
    return tokens;
  }
  Expected<ChunkIds> identify(std::span<const TokenId> tokens) override {
    ChunkIds ids;
    ids.object = object_id(Digest{}, tokens, {});
    ids.variant = variant_id(ids.object, VariantContext::isolated());
    ids.representation = representation_id(ids.variant, 1, PositionFrame::kLocal, {});
    ids.bytes_max = 10 * tokens.size();
    return ids;
  }
  Expected<std::optional<uint64_t>> find_stored(std::span<const TokenId> tokens,
                                                const ChunkIds& ids) override {
    if (!stored.contains(ids.representation)) return std::optional<uint64_t>();
    return std::optional(knows_bytes ? bytes_per_token * tokens.size() : 0);
  }
  Expected<StoreResult> store(std::span<const TokenId> tokens, const ChunkIds& ids) override {
    if (on_store) {
      if (const Status status = on_store(stores); !status) return status;
    }
    ++stores;
    stored.insert(ids.representation);
    return StoreResult{false, 1000, bytes_per_token * tokens.size()};
  }

  std::set<Digest> stored;
  uint64_t stores = 0;
  uint64_t bytes_per_token = 10;  // less than 10: a codec of variable size
  bool knows_bytes = true;        // of what was there before
  std::function<Status(uint64_t)> on_store;
};

class WarmerTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "quire-warmer-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    chunking_.target_tokens = 40;
  }
  void TearDown() override { fs::remove_all(root_); }

  std::string write(const std::string& name, std::string_view bytes) {
    const fs::path path = root_ / "docs" / name;
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << bytes;
    return path.string();
  }
  static std::string words(int n, const std::string& stem) {
    std::string text;
    for (int i = 0; i < n; ++i) text += stem + std::to_string(i) + (i % 10 == 9 ? "\n\n" : " ");
    return text;
  }
  std::string docs() const { return (root_ / "docs").string(); }

  // One run of the program, from scan to end.
  Status run(const std::vector<std::string>& paths) {
    auto manifest = Manifest::open((root_ / "m").string(), ManifestHeader{});
    EXPECT_TRUE(manifest.is_ok()) << manifest.status().to_string();
    out_.str("");
    Progress progress(out_, {}, clock_);
    Warmer warmer(target_, chunking_, manifest->get(), progress, stop_);
    const auto plan = warmer.scan(paths);
    if (!plan) return plan.status();
    plan_ = *plan;
    const Status status = warmer.run();
    summary_ = warmer.summary();
    return status;
  }
  ManifestContents manifest() const {
    std::ifstream stream(root_ / "m", std::ios::binary);
    std::ostringstream text;
    text << stream.rdbuf();
    manifest_text_ = text.str();
    return parse_manifest(manifest_text_).value();
  }

  fs::path root_;
  FakeTarget target_;
  corpus::ChunkOptions chunking_;
  std::atomic<bool> stop_{false};
  ManualClock clock_;
  std::ostringstream out_;
  WarmSummary plan_;
  WarmSummary summary_;
  mutable std::string manifest_text_;
};

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
