// A document of a corpus: canonical UTF-8 text (LF line ends, no byte-order mark) with its
// paragraphs.
#ifndef QUIRE_TOOLS_CORPUS_DOCUMENT_H_
#define QUIRE_TOOLS_CORPUS_DOCUMENT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace quire::corpus {

// Larger files are refused: they are read whole, and a parse tree of HTML is many times its source.
inline constexpr uint64_t kTextFileBytesMax = 256ull << 20;
inline constexpr uint64_t kHtmlFileBytesMax = 32ull << 20;
inline constexpr uint64_t kJsonlLineBytesMax = 64ull << 20;
inline constexpr uint64_t kJsonlFileBytesMax = 64ull << 30;  // read line by line

// Byte range of Document::text, its trailing blank lines included.
struct Paragraph {
  uint64_t begin = 0;
  uint64_t end = 0;  // exclusive
  bool heading = false;
  bool operator==(const Paragraph&) const = default;
};

struct Document {
  std::string id;  // stable: the path as given, or "path#id" for a line of JSONL
  std::string path;
  std::string title;  // may be empty
  std::string text;
  std::vector<Paragraph>
      paragraphs;  // tile the text: the first begins at 0, the last ends at its end

  std::string_view paragraph_text(size_t index) const {
    const Paragraph& range = paragraphs[index];
    return std::string_view(text).substr(range.begin, range.end - range.begin);
  }
};

}  // namespace quire::corpus

#endif  // QUIRE_TOOLS_CORPUS_DOCUMENT_H_
