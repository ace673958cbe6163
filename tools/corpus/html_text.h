// Collects the text of a page block by block; knows white space, nothing of HTML's tree.
#ifndef QUIRE_TOOLS_CORPUS_HTML_TEXT_H_
#define QUIRE_TOOLS_CORPUS_HTML_TEXT_H_

#include <string>
#include <string_view>
#include <vector>

#include "tools/corpus/document.h"

namespace quire::corpus {

class HtmlTextBuilder {
 public:
  // Runs of white space become one space; the edges of a block are trimmed.
  void add_text(std::string_view utf8);
  // Kept as it is, up to blank lines at the edges.
  void add_preformatted(std::string_view utf8);
  void add_line_break();
  // " | " between the cells of a row.
  void add_cell_separator();
  // A line end behind the cells; the separators of empty last cells are dropped.
  void end_row();

  // Ends the current block. A tight block is followed by one line end, else by a blank line.
  void end_block(bool tight);
  // Goes in front of the next block that has any text.
  void set_prefix(std::string prefix) { prefix_ = std::move(prefix); }
  void set_heading(bool heading) { heading_ = heading; }
  // A blank line after the last block, where it was tight.
  void loosen();

  const std::string& current() const { return block_; }
  std::string take_text() { return std::move(text_); }
  std::vector<Paragraph> take_paragraphs() { return std::move(paragraphs_); }

 private:
  void append_space_if_pending();

  std::string text_;
  std::vector<Paragraph> paragraphs_;
  std::string block_;
  std::string prefix_;
  bool space_pending_ = false;
  bool heading_ = false;
};

}  // namespace quire::corpus

#endif  // QUIRE_TOOLS_CORPUS_HTML_TEXT_H_
