#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tools/warm/warmer_fixture.h"

namespace quire::warm {
namespace {

using testing::HasSubstr;

// By the first letter of a text, and by its first word a little.
class LetterEmbedder final : public Embedder {
 public:
  Expected<Embeddings> embed(std::span<const std::string> texts) override {
    ++calls;
    if (!answer.is_ok()) return answer;
    Embeddings embeddings;
    embeddings.dims = 26 + 8;
    for (const std::string& text : texts) {
      std::vector<float> vector(embeddings.dims, 0.0F);
      vector[static_cast<size_t>(text.at(0) - 'a')] = 1;
      vector[26 + std::hash<std::string>{}(text.substr(0, 12)) % 8] = 0.1F;
      embeddings.values.insert(embeddings.values.end(), vector.begin(), vector.end());
    }
    return embeddings;
  }
  int calls = 0;
  Status answer;
};

class WarmerNeighboursTest : public WarmerTest {
 protected:
  void SetUp() override {
    WarmerTest::SetUp();
    neighbours_.groups.neighbours = 2;
    neighbours_.embedder = &embedder_;
  }
  // Files of three chunks each; those of one letter are near each other.
  void write_corpus() {
    for (const std::string letter : {"a", "b", "c"})
      for (int i = 0; i < 3; ++i)
        write(letter + std::to_string(i) + ".txt", words(100, letter + std::to_string(i) + "x"));
  }
  std::set<Digest> objects() const {
    std::set<Digest> found;
    for (const auto& [key, line] : manifest().chunks) found.insert(line.object);
    return found;
  }

  LetterEmbedder embedder_;
};

TEST_F(WarmerNeighboursTest, EveryChunkStandsBehindNearOnesAndSaysSo) {
  write_corpus();
  ASSERT_TRUE(run({docs()}).is_ok()) << out_.str();
  EXPECT_EQ(summary_.chunks_stored, summary_.chunks);
  EXPECT_EQ(plan_.chunks, summary_.chunks);
  EXPECT_EQ(target_.stores, summary_.chunks);
  EXPECT_GT(summary_.lead_tokens_computed, 0u);
  EXPECT_EQ(summary_.chunks_stale, 0u);
  const ManifestContents contents = manifest();
  EXPECT_EQ(contents.documents_complete, 9u);
  std::map<Digest, std::string> document_of;
  for (const auto& [key, line] : contents.chunks)
    document_of[line.object] = fs::path(line.document).filename().string();
  uint64_t near = 0;
  for (const auto& [key, line] : contents.chunks) {
    ASSERT_GE(line.neighbours.size(), 1u);
    EXPECT_LE(line.neighbours.size(), 3u);
    EXPECT_EQ(target_.fronts.at(line.object), line.neighbours);
    EXPECT_EQ(line.variant, variant_id(line.object, VariantContext::synthetic(line.neighbours)));
    EXPECT_TRUE(std::find(line.neighbours.begin(), line.neighbours.end(), line.object) ==
                line.neighbours.end())
        << "a chunk is not its own neighbour";
    near += document_of.at(line.neighbours.back())[0] == document_of.at(line.object)[0] ? 1 : 0;
  }
  // Where little is left, strangers stand in front.
  EXPECT_GE(near * 10, contents.chunks.size() * 8);
}

TEST_F(WarmerNeighboursTest, TheSecondRunAsksNobodyAndWritesNothing) {
  write_corpus();
  ASSERT_TRUE(run({docs()}).is_ok());
  const uint64_t stores = target_.stores;
  manifest();
  const std::string before = manifest_text_;
  ASSERT_TRUE(run({docs()}).is_ok());
  EXPECT_EQ(target_.stores, stores);
  EXPECT_EQ(embedder_.calls, 1);
  EXPECT_EQ(summary_.chunks_already_stored, summary_.chunks);
  manifest();
  EXPECT_EQ(manifest_text_, before);
}

TEST_F(WarmerNeighboursTest, WithoutAManifestTheSameGroupsAreFoundAgain) {
  write_corpus();
  ASSERT_TRUE(run({docs()}).is_ok());
  const uint64_t stores = target_.stores;
  fs::remove(root_ / "m");
  ASSERT_TRUE(run({docs()}).is_ok());
  EXPECT_EQ(target_.stores, stores);
  EXPECT_EQ(summary_.chunks_already_stored, summary_.chunks);
  EXPECT_EQ(summary_.lead_tokens_computed, 0u);
}

TEST_F(WarmerNeighboursTest, OnlyWhatLostANeighbourIsBuiltAnew) {
  write_corpus();
  ASSERT_TRUE(run({docs()}).is_ok());
  const ManifestContents first = manifest();
  write("b1.txt", words(100, "b7y"));
  ASSERT_TRUE(run({docs()}).is_ok());
  const std::set<Digest> now = objects();
  uint64_t stale = 0;
  for (const auto& [key, line] : first.chunks) {
    if (!now.contains(line.object)) continue;
    const bool lost = std::any_of(line.neighbours.begin(), line.neighbours.end(),
                                  [&](const Digest& id) { return !now.contains(id); });
    stale += lost ? 1 : 0;
    if (lost) continue;
    EXPECT_EQ(manifest().chunks.at(key).variant, line.variant) << key;
  }
  EXPECT_GT(stale, 0u);
  EXPECT_EQ(summary_.chunks_stale, stale);
  EXPECT_EQ(summary_.chunks_stored, stale + 3);
  for (const auto& [key, line] : manifest().chunks)
    for (const Digest& neighbour : line.neighbours) EXPECT_TRUE(now.contains(neighbour)) << key;
  const uint64_t stores = target_.stores;
  ASSERT_TRUE(run({docs()}).is_ok());
  EXPECT_EQ(target_.stores, stores) << "nothing is left to do";
}

TEST_F(WarmerNeighboursTest, WhatTheStoreForgotIsStoredAgain) {
  write_corpus();
  ASSERT_TRUE(run({docs()}).is_ok());
  target_.stored.erase(target_.stored.begin());
  ASSERT_TRUE(run({docs()}).is_ok());
  EXPECT_EQ(summary_.chunks_stored, 1u);
}

TEST_F(WarmerNeighboursTest, ACrashAtAnyChunkIsMadeGoodByTheNextRun) {
  write_corpus();
  ASSERT_TRUE(run({docs()}).is_ok());
  const uint64_t total = target_.stores;
  for (uint64_t crash = 0; crash < total; crash += 4) {
    target_ = FakeTarget{};
    fs::remove(root_ / "m");
    target_.on_store = [&](uint64_t done) {
      return done == crash ? Status(StatusCode::kUnavailable, "gone") : Status::ok();
    };
    EXPECT_EQ(run({docs()}).code(), StatusCode::kUnavailable);
    EXPECT_EQ(manifest().chunks.size(), crash);
    target_.on_store = nullptr;
    ASSERT_TRUE(run({docs()}).is_ok());
    EXPECT_EQ(target_.stores, total);
    EXPECT_EQ(summary_.chunks_already_stored, crash);
    EXPECT_EQ(manifest().documents_complete, 9u) << crash;
  }
}

TEST_F(WarmerNeighboursTest, EqualChunksAreComputedOnce) {
  write("a.txt", words(40, "a"));
  write("b.txt", words(40, "a"));
  write("c.txt", words(40, "b"));
  ASSERT_TRUE(run({docs()}).is_ok());
  EXPECT_EQ(summary_.chunks_stored, 2u);
  EXPECT_EQ(summary_.chunks_already_stored, 1u);
  EXPECT_EQ(manifest().documents_complete, 3u);
  ASSERT_TRUE(run({docs()}).is_ok());
  EXPECT_EQ(summary_.chunks_already_stored, 3u);
}

TEST_F(WarmerNeighboursTest, AFailedChunkIsNotedAndTheGroupGoesOn) {
  write_corpus();
  target_.on_store = [](uint64_t done) {
    static bool failed = false;
    if (done != 4 || failed) return Status::ok();
    failed = true;
    return Status(StatusCode::kNonFinite, "NaN in layer 3");
  };
  ASSERT_TRUE(run({docs()}).is_ok());
  EXPECT_EQ(summary_.chunks_failed, 1u);
  EXPECT_EQ(summary_.chunks_stored, summary_.chunks - 1);
  EXPECT_EQ(manifest().documents_complete, 8u);
  ASSERT_TRUE(run({docs()}).is_ok());
  EXPECT_EQ(summary_.chunks_stored, 1u);
  EXPECT_EQ(summary_.chunks_failed, 0u);
  EXPECT_EQ(manifest().documents_complete, 9u);
}

TEST_F(WarmerNeighboursTest, ErrorsOfTheEmbedderEndTheRun) {
  write_corpus();
  embedder_.answer = Status(StatusCode::kDeadlineExceeded, "no answer");
  EXPECT_EQ(run({docs()}).code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(target_.stores, 0u);
}

TEST_F(WarmerNeighboursTest, OneChunkHasNoNeighbours) {
  write("a.txt", words(40, "a"));
  write("b.txt", "tiny");
  EXPECT_EQ(run({docs()}).code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(target_.stores, 0u);
}

TEST_F(WarmerNeighboursTest, StopEndsInOrder) {
  write_corpus();
  target_.on_store = [&](uint64_t done) {
    if (done == 6) stop_ = true;
    return Status::ok();
  };
  EXPECT_EQ(run({docs()}).code(), StatusCode::kCancelled);
  EXPECT_EQ(manifest().chunks.size(), 7u);
}

}  // namespace
}  // namespace quire::warm
