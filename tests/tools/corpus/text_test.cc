#include "tools/corpus/text.h"

#include <gtest/gtest.h>

namespace quire::corpus {
namespace {

std::vector<std::string> pieces(std::string_view text, const std::vector<Paragraph>& paragraphs) {
  std::vector<std::string> result;
  for (const Paragraph& p : paragraphs) result.emplace_back(text.substr(p.begin, p.end - p.begin));
  return result;
}

TEST(PlainText, ParagraphsKeepTheirBlankLines) {
  const std::string text = "\n one\ntwo\n\n \t\nthree";
  EXPECT_EQ(pieces(text, split_plain_paragraphs(text)),
            (std::vector<std::string>{"\n one\ntwo\n\n \t\n", "three"}));
}

TEST(PlainText, NothingInWhiteSpace) {
  EXPECT_TRUE(split_plain_paragraphs("").empty());
  EXPECT_TRUE(split_plain_paragraphs(" \n\n\t").empty());
}

TEST(PlainText, HashesAreWords) {
  const std::string text = "# not a heading\nx";
  EXPECT_EQ(split_plain_paragraphs(text).size(), 1u);
}

TEST(Markdown, HeadingsStandAlone) {
  const std::string text = "# T\nbody\n## S\n### U\nmore\n";
  const auto paragraphs = split_markdown_paragraphs(text);
  EXPECT_EQ(pieces(text, paragraphs),
            (std::vector<std::string>{"# T\n", "body\n", "## S\n", "### U\n", "more\n"}));
  EXPECT_TRUE(paragraphs[0].heading);
  EXPECT_FALSE(paragraphs[1].heading);
  EXPECT_TRUE(paragraphs[3].heading);
  EXPECT_EQ(markdown_title(text), "T");
  EXPECT_EQ(markdown_title("## only\n"), "");
  EXPECT_EQ(split_markdown_paragraphs("#hashtag\ntext\n").size(), 1u);
}

TEST(Markdown, FencesAreNotCut) {
  const std::string text = "intro\n\n````sh\n# no heading\n\n```\nx\n````\n\nend\n";
  EXPECT_EQ(
      pieces(text, split_markdown_paragraphs(text)),
      (std::vector<std::string>{"intro\n\n", "````sh\n# no heading\n\n```\nx\n````\n\n", "end\n"}));
  const std::string open = "~~~\na\n\nb";
  EXPECT_EQ(split_markdown_paragraphs(open).size(), 1u);
}

}  // namespace
}  // namespace quire::corpus
