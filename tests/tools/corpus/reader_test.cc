#include "tools/corpus/reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "tools/corpus/jsonl.h"

namespace quire::corpus {
namespace fs = std::filesystem;
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class ReaderTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "quire-corpus-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { fs::remove_all(root_); }

  std::string write(const std::string& name, std::string_view bytes) {
    const fs::path path = root_ / name;
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << bytes;
    return path.string();
  }

  std::vector<std::string> names(const FileList& list) const {
    std::vector<std::string> result;
    for (const SourceFile& file : list.files)
      result.push_back(fs::relative(file.path, root_).string());
    return result;
  }

  void read(const std::string& path) {
    documents_.clear();
    errors_.clear();
    FileList list = list_files({path});
    errors_ = list.errors;
    for (const SourceFile& file : list.files)
      read_documents(
          file,
          [this](Document document) {
            documents_.push_back(std::move(document));
            return documents_.size() < documents_max_;
          },
          [this](SourceError error) { errors_.push_back(std::move(error)); });
  }

  fs::path root_;
  size_t documents_max_ = 1000;
  std::vector<Document> documents_;
  std::vector<SourceError> errors_;
};

TEST_F(ReaderTest, FoldersAreSortedAndRecursive) {
  write("b.md", "b");
  write("a/z.txt", "z");
  write("a/y.HTML", "y");
  write("c.png", "no");
  write(".git/config.txt", "no");
  write("a/.hidden.txt", "no");
  fs::create_directory_symlink(root_ / "a", root_ / "loop");
  const FileList list = list_files({root_.string()});
  EXPECT_THAT(names(list), ElementsAre("a/y.HTML", "a/z.txt", "b.md"));
  EXPECT_EQ(list.skipped, 1u);
  EXPECT_TRUE(list.errors.empty());
}

TEST_F(ReaderTest, NamedTwiceIsListedOnce) {
  const std::string file = write("a.txt", "a");
  EXPECT_THAT(names(list_files({file, root_.string(), root_.string() + "/./a.txt"})),
              ElementsAre("a.txt"));
}

TEST_F(ReaderTest, Patterns) {
  write("x/1.md", "");
  write("x/2.txt", "");
  write("x/y/3.md", "");
  write("x/.h/4.md", "");
  const std::string root = root_.string();
  EXPECT_THAT(names(list_files({root + "/x/*.md"})), ElementsAre("x/1.md"));
  EXPECT_THAT(names(list_files({root + "/**/*.md"})), ElementsAre("x/1.md", "x/y/3.md"));
  EXPECT_THAT(names(list_files({root + "/x/[12].*"})), ElementsAre("x/1.md", "x/2.txt"));
  EXPECT_THAT(names(list_files({root + "/?"})), ElementsAre("x/1.md", "x/2.txt", "x/y/3.md"));
  const FileList none = list_files({root + "/*.nothing"});
  ASSERT_EQ(none.errors.size(), 1u);
  EXPECT_EQ(none.errors[0].status.code(), StatusCode::kNotFound);
  write("we[ir]d.txt", "");
  EXPECT_THAT(names(list_files({root + "/we[ir]d.txt"})), ElementsAre("we[ir]d.txt"));
}

TEST_F(ReaderTest, MissingAndOddPathsAreErrorsOfTheirOwn) {
  const std::string file = write("a.txt", "a");
  const FileList list = list_files({root_.string() + "/none", "/dev/null", file});
  EXPECT_EQ(list.files.size(), 1u);
  ASSERT_EQ(list.errors.size(), 2u);
  EXPECT_EQ(list.errors[0].status.code(), StatusCode::kNotFound);
  EXPECT_EQ(list.errors[1].status.code(), StatusCode::kInvalidArgument);
}

TEST_F(ReaderTest, TextWithCrLf) {
  read(write("a.txt", "one\r\ntwo\r\n\r\nthree\r\n"));
  ASSERT_EQ(documents_.size(), 1u);
  EXPECT_EQ(documents_[0].text, "one\ntwo\n\nthree\n");
  EXPECT_EQ(documents_[0].paragraphs.size(), 2u);
  EXPECT_EQ(documents_[0].id, documents_[0].path);
}

TEST_F(ReaderTest, EmptyFileIsAnEmptyDocument) {
  read(write("a.txt", ""));
  ASSERT_EQ(documents_.size(), 1u);
  EXPECT_TRUE(documents_[0].paragraphs.empty());
  read(write("a.html", "<html><head><title>t</title></head><body><nav>x</nav></body>"));
  ASSERT_EQ(documents_.size(), 1u);
  EXPECT_TRUE(documents_[0].paragraphs.empty());
}

TEST_F(ReaderTest, HtmlOfOtherCharsets) {
  read(write("a.html", "<meta charset=iso-8859-1><p>caf\xE9"));
  ASSERT_EQ(documents_.size(), 1u);
  EXPECT_EQ(documents_[0].text, "caf\xC3\xA9\n\n");
  read(write("b.html", "<p>caf\xE9"));
  ASSERT_EQ(errors_.size(), 1u);
  EXPECT_THAT(errors_[0].to_string(), HasSubstr("b.html: is not UTF-8"));
  read(write("c.html", std::string_view("\xFF\xFE<\0p\0>\0x\0", 10)));
  ASSERT_EQ(documents_.size(), 1u);
  EXPECT_EQ(documents_[0].text, "x\n\n");
}

TEST_F(ReaderTest, JsonlErrorsArePerLine) {
  read(write("a.jsonl",
             "\xEF\xBB\xBF{\"id\":\"one\",\"text\":\"First.\\r\\n\\r\\nSecond.\"}\n"
             "not json\n"
             "\n"
             "[1]\n"
             "{\"id\":2,\"text\":\"x\",\"title\":\"T\"}\r\n"
             "{\"id\":\"one\",\"text\":\"again\"}\n"
             "{\"id\":\"q\"}\n"
             "{\"text\":\"caf\xE9\"}\n"
             "{\"id\":[1],\"text\":\"x\"}\n"
             "{\"text\":\"nul \\u0000 inside\"}\n"
             "{\"text\":\"last\"}"));
  ASSERT_EQ(documents_.size(), 3u);
  EXPECT_THAT(documents_[0].id, HasSubstr("a.jsonl#one"));
  EXPECT_EQ(documents_[0].text, "First.\n\nSecond.");
  EXPECT_EQ(documents_[0].paragraphs.size(), 2u);
  EXPECT_THAT(documents_[1].id, HasSubstr("#2"));
  EXPECT_EQ(documents_[1].title, "T");
  EXPECT_THAT(documents_[2].id, HasSubstr("#L11"));
  std::vector<uint64_t> lines;
  for (const SourceError& error : errors_) lines.push_back(error.line);
  EXPECT_THAT(lines, ElementsAre(2, 4, 6, 7, 8, 9, 10));
  EXPECT_THAT(errors_[2].to_string(), HasSubstr("a.jsonl:6: repeats the id 'one' of line 1"));
}

TEST(Jsonl, EveryTruncationIsRefused) {
  const std::string line = R"({"id":"a","title":"t","text":"h\u00e9llo"})";
  ASSERT_TRUE(parse_jsonl_line(line).is_ok());
  for (size_t size = 0; size < line.size(); ++size)
    EXPECT_FALSE(parse_jsonl_line(std::string_view(line).substr(0, size)).is_ok()) << size;
  for (size_t at = 0; at < line.size(); ++at) {
    std::string flipped = line;
    flipped[at] = static_cast<char>(flipped[at] ^ 0x80);
    EXPECT_FALSE(parse_jsonl_line(flipped).is_ok()) << at;
  }
  EXPECT_FALSE(parse_jsonl_line(std::string(1'000'000, '[')).is_ok());
}

TEST_F(ReaderTest, VisitorStops) {
  documents_max_ = 1;
  read(write("a.jsonl", "{\"text\":\"1\"}\n{\"text\":\"2\"}\n"));
  EXPECT_EQ(documents_.size(), 1u);
}

TEST_F(ReaderTest, UnreadableAndBinaryFiles) {
  read(write("a.txt", std::string_view("ELF\0\0", 5)));
  ASSERT_EQ(errors_.size(), 1u);
  EXPECT_THAT(errors_[0].to_string(), HasSubstr("binary"));
  const SourceFile gone{root_.string() + "/gone.txt", SourceKind::kText, 3};
  read_documents(
      gone, [](Document) { return true; },
      [&](SourceError error) { EXPECT_EQ(error.status.code(), StatusCode::kNotFound); });
  const SourceFile huge{gone.path, SourceKind::kText, kTextFileBytesMax + 1};
  read_documents(
      huge, [](Document) { return true; },
      [&](SourceError error) { EXPECT_EQ(error.status.code(), StatusCode::kResourceExhausted); });
}

}  // namespace
}  // namespace quire::corpus
