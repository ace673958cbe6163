#include "tools/corpus/chunker.h"

#include <gtest/gtest.h>

#include <cctype>
#include <random>
#include <set>

#include "tools/corpus/encoding.h"
#include "tools/corpus/text.h"

namespace quire::corpus {
namespace {

uint64_t count_words(std::string_view text) {
  uint64_t words = 0;
  bool inside = false;
  for (char c : text) {
    const bool space = c == ' ' || c == '\n';
    if (!space && !inside) ++words;
    inside = !space;
  }
  return words;
}
uint64_t count_bytes(std::string_view text) {
  return text.size();
}
// Like a byte-pair tokenizer: letters pair up, so counts depend on where a piece begins.
uint64_t count_pairs(std::string_view text) {
  uint64_t tokens = 0;
  for (size_t i = 0; i < text.size(); ++tokens)
    i += i + 1 < text.size() && std::isalpha(static_cast<unsigned char>(text[i])) &&
                 std::isalpha(static_cast<unsigned char>(text[i + 1]))
             ? 2
             : 1;
  return tokens;
}

Document document_of(std::string text) {
  Document document;
  document.id = "doc";
  document.text = std::move(text);
  document.paragraphs = split_markdown_paragraphs(document.text);
  return document;
}

std::string words(int n, const std::string& word = "word") {
  std::string text;
  for (int i = 0; i < n; ++i) text += (i > 0 ? " " : "") + word;
  return text;
}

std::vector<Chunk> chunk(const Document& document, const TokenCounter& counter,
                         const ChunkOptions& options) {
  auto chunks = chunk_document(document, options, counter);
  EXPECT_TRUE(chunks.is_ok()) << chunks.status().to_string();
  return std::move(chunks).value();
}

TEST(Chunker, EmptyAndShortDocuments) {
  EXPECT_TRUE(chunk(document_of(""), count_words, {}).empty());
  EXPECT_TRUE(chunk(document_of("\n \n"), count_words, {}).empty());
  const auto chunks = chunk(document_of("just three words"), count_words, {});
  ASSERT_EQ(chunks.size(), 1u);
  EXPECT_EQ(chunks[0].tokens, 3u);
}

TEST(Chunker, CutsAtTheLastParagraphEndThatFits) {
  const Document document =
      document_of(words(20) + "\n\n" + words(20) + "\n\n" + words(20) + "\n\n" + words(20));
  const auto chunks = chunk(document, count_words, {.target_tokens = 50});
  ASSERT_EQ(chunks.size(), 2u);
  EXPECT_EQ(chunks[0].tokens, 40u);
  EXPECT_EQ(chunks[0].end, document.paragraphs[1].end);
  EXPECT_EQ(chunks[1].tokens, 40u);
}

TEST(Chunker, ExactFitIsOneChunk) {
  const Document document = document_of(words(20) + "\n\n" + words(20) + "\n\n");
  EXPECT_EQ(chunk(document, count_words, {.target_tokens = 40}).size(), 1u);
  EXPECT_EQ(chunk(document, count_words, {.target_tokens = 39}).size(), 2u);
}

TEST(Chunker, AHeadingGoesWithWhatFollows) {
  const Document document =
      document_of(words(20) + "\n\n# Head line\n\n" + words(30) + "\n\n" + words(5));
  const auto chunks = chunk(document, count_words, {.target_tokens = 40, .min_tokens = 10});
  ASSERT_EQ(chunks.size(), 2u);
  EXPECT_TRUE(chunks[1].text(document).starts_with("# Head line"));
}

TEST(Chunker, OversizeParagraphsAreCutAtSentencesThenWords) {
  std::string text;
  for (int i = 0; i < 12; ++i) text += words(9) + " end. ";
  const Document sentences = document_of(text);
  for (const Chunk& c : chunk(sentences, count_words, {.target_tokens = 35}))
    EXPECT_TRUE(c.text(sentences).ends_with("end. ")) << c.text(sentences);
  const Document no_sentences = document_of(words(100));
  const auto chunks = chunk(no_sentences, count_words, {.target_tokens = 32});
  ASSERT_EQ(chunks.size(), 4u);
  EXPECT_EQ(chunks[0].tokens, 32u);
  EXPECT_TRUE(chunks[0].text(no_sentences).ends_with("word "));
  EXPECT_TRUE(chunks[1].text(no_sentences).starts_with("word"));
}

TEST(Chunker, CodeIsCutAtLineEnds) {
  std::string text;
  for (int i = 0; i < 30; ++i) text += "call(" + std::to_string(i) + ", x, y)\n";
  const Document code = document_of(text);
  const auto chunks = chunk(code, count_words, {.target_tokens = 32});
  ASSERT_EQ(chunks.size(), 3u);
  for (const Chunk& c : chunks) EXPECT_TRUE(c.text(code).ends_with("y)\n"));
}

TEST(Chunker, SentenceEndsOfQuotesAndFullWidthStops) {
  std::string text;
  for (int i = 0; i < 12; ++i) text += words(9) + " \"(end!)\" ";
  const Document quoted = document_of(text);
  for (const Chunk& c : chunk(quoted, count_words, {.target_tokens = 35}))
    EXPECT_TRUE(c.text(quoted).ends_with("\"(end!)\" "));
  std::string wide;
  for (int i = 0; i < 40; ++i) wide += "\xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E\xE3\x80\x82";
  const Document japanese = document_of(wide);
  for (const Chunk& c : chunk(japanese, count_bytes, {.target_tokens = 64}))
    EXPECT_TRUE(c.text(japanese).ends_with("\xE3\x80\x82"));
}

TEST(Chunker, OneHugeWord) {
  const Document document = document_of(std::string(100'000, 'x'));
  const auto chunks = chunk(document, count_bytes, {.target_tokens = 1000});
  EXPECT_EQ(chunks.size(), 100u);
  std::string many;
  for (int i = 0; i < 500; ++i) many += "\xF0\x9F\x98\x80";
  const Document emoji = document_of(many);
  for (const Chunk& c : chunk(emoji, count_bytes, {.target_tokens = 33})) {
    EXPECT_EQ(first_invalid_utf8(c.text(emoji)), kNoInvalidByte);
    EXPECT_LE(c.tokens, 33u);
  }
}

TEST(Chunker, NoSmallTail) {
  // 70 words with a target of 64: cut near the middle enough that both halves have the minimum.
  const auto chunks = chunk(document_of(words(70)), count_words, {.target_tokens = 64});
  ASSERT_EQ(chunks.size(), 2u);
  EXPECT_EQ(chunks[1].tokens, 16u);
  EXPECT_EQ(chunks[0].tokens, 54u);
}

TEST(Chunker, OverlapRepeatsWholeWordsOfTheChunkBefore) {
  const Document document = document_of(words(100));
  const auto chunks = chunk(document, count_words, {.target_tokens = 40, .overlap_tokens = 7});
  ASSERT_GE(chunks.size(), 2u);
  EXPECT_EQ(chunks[0].text_begin, 0u);
  for (size_t i = 1; i < chunks.size(); ++i) {
    EXPECT_LT(chunks[i].text_begin, chunks[i].begin);
    EXPECT_EQ(count_words(document.text.substr(chunks[i].text_begin,
                                               chunks[i].begin - chunks[i].text_begin)),
              7u);
    EXPECT_TRUE(chunks[i].text(document).starts_with("word"));
  }
}

TEST(Chunker, OptionsAreChecked) {
  const Document document = document_of("x");
  for (const ChunkOptions& options :
       {ChunkOptions{.target_tokens = kTargetTokensMin - 1},
        ChunkOptions{.target_tokens = kTargetTokensMax + 1}, ChunkOptions{.min_tokens = 129},
        ChunkOptions{.overlap_tokens = 129}}) {
    const auto chunks = chunk_document(document, options, count_words);
    ASSERT_FALSE(chunks);
    EXPECT_EQ(chunks.status().code(), StatusCode::kInvalidArgument);
  }
}

TEST(Chunker, IdsDependOnDocumentAndText) {
  EXPECT_EQ(chunk_id("doc", "text"), chunk_id("doc", "text"));
  EXPECT_EQ(chunk_id("doc", "text").size(), 16u);
  EXPECT_NE(chunk_id("doc", "text"), chunk_id("doc2", "text"));
  EXPECT_NE(chunk_id("doc", "text"), chunk_id("do", "ctext"));
  // The worked example of docs/formats/manifest.md.
  EXPECT_EQ(chunk_id("guide.md", "Hello.\n"), "1498eaced37a647c");
  std::set<std::string> ids;
  Document document = document_of("a " + words(200, "b") + " c");
  for (const Chunk& c : chunk(document, count_words, {.target_tokens = 32})) ids.insert(c.id);
  EXPECT_GE(ids.size(), 2u);
}

TEST(Chunker, ABrokenCounterStillEnds) {
  const Document document = document_of(words(50));
  EXPECT_EQ(chunk(document, [](std::string_view) { return 0; }, {}).size(), 1u);
  const auto chunks =
      chunk(document, [](std::string_view t) { return t.empty() ? 0 : 1'000'000; }, {});
  EXPECT_EQ(chunks.size(), document.text.size());
}

// Random documents: chunks tile the text, hold their bounds, and are the same the second time.
TEST(Chunker, PropertiesOverRandomDocuments) {
  constexpr uint32_t kSeed = 777;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937 random(kSeed);
  const std::vector<std::string> parts = {"word",
                                          " ",
                                          " ",
                                          "\n\n",
                                          ". ",
                                          "\n# Heading\n",
                                          "\xC3\xA9",
                                          "long-long-word",
                                          "\n",
                                          "a b c d e ",
                                          "\xE6\x97\xA5\xE3\x80\x82"};
  const std::vector<TokenCounter> counters = {count_words, count_bytes, count_pairs};
  for (int round = 0; round < 200; ++round) {
    std::string text;
    const uint32_t n_parts = random() % 1500;
    for (uint32_t i = 0; i < n_parts; ++i) text += parts[random() % parts.size()];
    const Document document = document_of(text);
    const TokenCounter& counter = counters[random() % counters.size()];
    ChunkOptions options;
    options.target_tokens = 32 + random() % 100;
    options.min_tokens = 1 + random() % (options.target_tokens / 4);
    options.overlap_tokens = random() % 2 == 0 ? 0 : random() % (options.target_tokens / 2);
    const auto chunks = chunk(document, counter, options);
    std::string joined;
    for (const Chunk& c : chunks) {
      EXPECT_EQ(c.begin, joined.size());
      joined += document.text.substr(c.begin, c.end - c.begin);
      const uint64_t own =
          counter(std::string_view(document.text).substr(c.begin, c.end - c.begin));
      EXPECT_LE(own, options.target_tokens);
      if (chunks.size() > 1) {
        EXPECT_GE(own, options.min_tokens) << "round " << round;
      }
      EXPECT_LE(c.text_begin, c.begin);
      if (c.index == 0) {
        EXPECT_EQ(c.text_begin, c.begin);
      }
      EXPECT_LE(
          counter(std::string_view(document.text).substr(c.text_begin, c.begin - c.text_begin)),
          options.overlap_tokens);
      EXPECT_EQ(first_invalid_utf8(c.text(document)), kNoInvalidByte);
    }
    if (!document.paragraphs.empty()) {
      EXPECT_EQ(joined, document.text);
    }
    const auto again = chunk(document, counter, options);
    ASSERT_EQ(again.size(), chunks.size());
    for (size_t i = 0; i < chunks.size(); ++i) EXPECT_EQ(again[i].id, chunks[i].id);
  }
}

}  // namespace
}  // namespace quire::corpus
