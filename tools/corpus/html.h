// The visible text of an HTML page: headings, paragraphs, list items, preformatted blocks and table
// rows; scripts, styles, forms and navigation are left out. Parsed by gumbo (the HTML5 algorithm),
// so unclosed and misnested tags mean what a browser makes of them.
#ifndef QUIRE_TOOLS_CORPUS_HTML_H_
#define QUIRE_TOOLS_CORPUS_HTML_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tools/corpus/document.h"

namespace quire::corpus {

// Pages whose elements nest deeper are refused: the parser's clean-up is recursive.
inline constexpr uint32_t kHtmlDepthMax = 1024;

struct HtmlText {
  std::string title;  // <title>, else the first <h1>
  std::string text;   // Markdown-like: "# " headings, "- " items, rows as "a | b"
  std::vector<Paragraph> paragraphs;
};

// utf8 is canonical text (encoding.h). Thread safe.
Expected<HtmlText> extract_html(std::string_view utf8);

}  // namespace quire::corpus

#endif  // QUIRE_TOOLS_CORPUS_HTML_H_
