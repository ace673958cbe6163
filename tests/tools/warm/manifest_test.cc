#include "tools/quire-warm/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace quire::warm {
namespace fs = std::filesystem;
namespace {

using testing::HasSubstr;

ManifestHeader header_of_test() {
  ManifestHeader header;
  header.model.bytes.fill(1);
  header.model_name = "tiny";
  header.variant = "fixed_prefix";
  header.codec = "int8-channel";
  header.context_reference.bytes.fill(2);
  header.prefix_tokens = 31;
  header.chunk_tokens = 256;
  return header;
}

ChunkLine chunk_of_test(uint64_t index) {
  ChunkLine chunk;
  chunk.document = "guide.md";
  chunk.chunk = index;
  chunk.chunk_id = "1498eaced37a647c";
  chunk.text_begin = 10 * index;
  chunk.text_end = 10 * index + 10;
  chunk.n_tokens = 200;
  chunk.object.bytes.fill(3);
  chunk.variant.bytes.fill(4);
  chunk.representation.bytes.fill(static_cast<uint8_t>(5 + index));
  chunk.bytes = 123456;
  return chunk;
}

class ManifestTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "quire-manifest-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    path_ = (root_ / "docs.manifest").string();
  }
  void TearDown() override { fs::remove_all(root_); }

  std::string read() const {
    std::ifstream stream(path_, std::ios::binary);
    std::ostringstream text;
    text << stream.rdbuf();
    return text.str();
  }
  void write(const std::string& text) const { std::ofstream(path_, std::ios::binary) << text; }
  void fill(uint64_t chunks) const {
    auto manifest = Manifest::open(path_, header_of_test());
    ASSERT_TRUE(manifest.is_ok()) << manifest.status().to_string();
    for (uint64_t i = 0; i < chunks; ++i)
      ASSERT_TRUE((*manifest)->append(chunk_of_test(i)).is_ok());
    ASSERT_TRUE((*manifest)->append(DocumentLine{"guide.md", "guide.md", "T", chunks, 400, true}));
    ASSERT_TRUE((*manifest)->sync().is_ok());
  }

  fs::path root_;
  std::string path_;
};

TEST_F(ManifestTest, WhatIsWrittenIsRead) {
  fill(2);
  const auto manifest = Manifest::open(path_, header_of_test());
  ASSERT_TRUE(manifest.is_ok()) << manifest.status().to_string();
  const ManifestContents& contents = (*manifest)->contents();
  EXPECT_EQ(contents.header.model_name, "tiny");
  EXPECT_EQ(contents.header.prefix_tokens, 31u);
  EXPECT_EQ(contents.chunks.size(), 2u);
  EXPECT_EQ(contents.documents_complete, 1u);
  EXPECT_EQ(contents.lines_bad, 0u);
  const ChunkLine* found = (*manifest)->find("guide.md", 1);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->representation, chunk_of_test(1).representation);
  EXPECT_EQ(found->bytes, 123456u);
  EXPECT_EQ(found->text_end, 20u);
  EXPECT_EQ((*manifest)->find("guide.md", 2), nullptr);
}

// The page of the format shows exactly these lines.
TEST_F(ManifestTest, GoldenLines) {
  fill(1);
  std::ifstream stream(std::string(QUIRE_SOURCE_DIR) + "/tests/data/warm.manifest");
  std::ostringstream golden;
  golden << stream.rdbuf();
  EXPECT_EQ(read(), golden.str());
}

TEST_F(ManifestTest, EveryTruncationResumes) {
  fill(2);
  const std::string whole = read();
  const size_t header_end = whole.find('\n') + 1;
  for (size_t size = 0; size <= whole.size(); ++size) {
    write(whole.substr(0, size));
    const auto manifest = Manifest::open(path_, header_of_test());
    ASSERT_TRUE(manifest.is_ok()) << size << ": " << manifest.status().to_string();
    // Whole lines stay, a cut one goes, and a new line follows cleanly.
    ASSERT_TRUE((*manifest)->append(chunk_of_test(7)).is_ok());
    const std::string kept =
        whole.substr(0, size < header_end ? header_end : whole.rfind('\n', size - 1) + 1);
    EXPECT_EQ(read(), kept + encode_line(chunk_of_test(7))) << size;
  }
}

TEST_F(ManifestTest, ByteFlipsNeverCrashAndNeverInventChunks) {
  fill(2);
  const std::string whole = read();
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string flipped = whole;
    flipped[at] = static_cast<char>(flipped[at] ^ 0x21);
    const auto contents = parse_manifest(flipped);
    if (contents.is_ok()) {
      EXPECT_LE(contents->chunks.size(), 2u);
    }
  }
}

TEST_F(ManifestTest, AnotherModelIsRefused) {
  fill(1);
  ManifestHeader other = header_of_test();
  other.model.bytes.fill(9);
  other.model_name = "large";
  const std::string before = read();
  const auto manifest = Manifest::open(path_, other);
  ASSERT_FALSE(manifest);
  EXPECT_EQ(manifest.status().code(), StatusCode::kModelMismatch);
  EXPECT_THAT(manifest.status().message(), HasSubstr("'tiny'"));
  EXPECT_THAT(manifest.status().message(), HasSubstr("'large'"));
  EXPECT_THAT(manifest.status().message(), HasSubstr("docs.manifest"));
  EXPECT_EQ(read(), before);
}

TEST_F(ManifestTest, OtherSettingsAreRefused) {
  fill(1);
  ManifestHeader other = header_of_test();
  other.chunk_tokens = 512;
  EXPECT_THAT(Manifest::open(path_, other).status().message(), HasSubstr("--chunk-tokens 256"));
  other = header_of_test();
  other.variant = "isolated";
  EXPECT_EQ(Manifest::open(path_, other).status().code(), StatusCode::kFailedPrecondition);
  other = header_of_test();
  other.codec = "raw-f16";
  EXPECT_FALSE(Manifest::open(path_, other));
  other = header_of_test();
  other.context_reference = Digest{};
  EXPECT_THAT(Manifest::open(path_, other).status().message(), HasSubstr("--system"));
  other = header_of_test();
  other.overlap_tokens = 3;
  EXPECT_FALSE(Manifest::open(path_, other));
  other = header_of_test();
  other.tenant = "acme";
  EXPECT_FALSE(Manifest::open(path_, other));
}

TEST_F(ManifestTest, ForeignFilesAreNotTouched) {
  for (const std::string& text : {std::string("my thesis\n"), std::string("my thesis"),
                                  std::string("{}\n"), std::string("{\"quire_manifest\":2}\n")}) {
    write(text);
    EXPECT_FALSE(Manifest::open(path_, header_of_test())) << text;
    EXPECT_EQ(read(), text);
  }
  write("{\"quire_manifest\":2}\n");
  EXPECT_EQ(Manifest::open(path_, header_of_test()).status().code(), StatusCode::kVersionMismatch);
  EXPECT_FALSE(Manifest::open(root_.string(), header_of_test()));
  EXPECT_EQ(Manifest::open((root_ / "no/such").string(), header_of_test()).status().code(),
            StatusCode::kIoError);
}

TEST_F(ManifestTest, OneWriterAtATime) {
  const auto first = Manifest::open(path_, header_of_test());
  ASSERT_TRUE(first.is_ok());
  const auto second = Manifest::open(path_, header_of_test());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.status().code(), StatusCode::kBusy);
}

TEST_F(ManifestTest, BadLinesAreSkippedAndLaterLinesWin) {
  fill(1);
  ChunkLine again = chunk_of_test(0);
  again.status = ChunkStatus::kFailed;
  again.error = "BUSY: full";
  write(read() + "garbage\n{\"type\":\"chunk\"}\n{\"type\":\"chunk\",\"status\":\"odd\"}\n[]\n" +
        encode_line(again));
  const auto manifest = Manifest::open(path_, header_of_test());
  ASSERT_TRUE(manifest.is_ok());
  EXPECT_EQ((*manifest)->contents().lines_bad, 4u);
  EXPECT_EQ((*manifest)->find("guide.md", 0)->status, ChunkStatus::kFailed);
  EXPECT_EQ((*manifest)->find("guide.md", 0)->error, "BUSY: full");
}

TEST_F(ManifestTest, NamesThatAreNotUtf8AreWritten) {
  ChunkLine chunk = chunk_of_test(0);
  chunk.document = "caf\xE9.txt\n\"";
  EXPECT_EQ(encode_line(chunk).find('\n'), encode_line(chunk).size() - 1);
}

}  // namespace
}  // namespace quire::warm
