// Paragraphs of plain text and Markdown. Pure functions, thread safe.
#ifndef QUIRE_TOOLS_CORPUS_TEXT_H_
#define QUIRE_TOOLS_CORPUS_TEXT_H_

#include <string>
#include <string_view>
#include <vector>

#include "tools/corpus/document.h"

namespace quire::corpus {

// A paragraph ends at a run of blank lines, which belongs to it. The ranges tile the text; none for
// a text of white space only.
std::vector<Paragraph> split_plain_paragraphs(std::string_view text);

// The same, except that a heading line (#, ##, ...) is a paragraph of its own and a fenced code
// block is never cut at its blank lines.
std::vector<Paragraph> split_markdown_paragraphs(std::string_view text);

// The text of the first "# " heading, else empty.
std::string markdown_title(std::string_view text);

}  // namespace quire::corpus

#endif  // QUIRE_TOOLS_CORPUS_TEXT_H_
