#include "tools/corpus/html_text.h"

#include <array>
#include <cstdint>

namespace quire::corpus {
namespace {

constexpr std::string_view kHtmlSpaces = " \t\n\r\f";
constexpr std::string_view kNoBreakSpace = "\xC2\xA0";
// Soft hyphen, zero-width space and joiners' kin: invisible, and poison for a tokenizer.
constexpr std::array<std::string_view, 4> kInvisible = {"\xC2\xAD", "\xE2\x80\x8B", "\xE2\x81\xA0",
                                                        "\xEF\xBB\xBF"};

uint64_t invisible_at(std::string_view text) {
  for (std::string_view mark : kInvisible)
    if (text.starts_with(mark)) return mark.size();
  return 0;
}

void trim_end(std::string& text, std::string_view set) {
  const size_t last = text.find_last_not_of(set);
  text.resize(last == std::string::npos ? 0 : last + 1);
}

}  // namespace

void HtmlTextBuilder::append_space_if_pending() {
  if (space_pending_ && !block_.empty() && block_.back() != '\n' && block_.back() != ' ')
    block_ += ' ';
  space_pending_ = false;
}

void HtmlTextBuilder::add_text(std::string_view utf8) {
  while (!utf8.empty()) {
    uint64_t skip = kHtmlSpaces.find(utf8[0]) != std::string_view::npos ? 1 : 0;
    if (skip == 0 && utf8.starts_with(kNoBreakSpace)) skip = kNoBreakSpace.size();
    if (skip > 0) {
      space_pending_ = true;
    } else if ((skip = invisible_at(utf8)) == 0) {
      append_space_if_pending();
      block_ += utf8[0];
      skip = 1;
    }
    utf8.remove_prefix(skip);
  }
}

void HtmlTextBuilder::add_preformatted(std::string_view utf8) {
  append_space_if_pending();
  block_ += utf8;
}

void HtmlTextBuilder::add_line_break() {
  space_pending_ = false;
  if (block_.empty()) return;
  trim_end(block_, " ");
  block_ += '\n';
}

void HtmlTextBuilder::add_cell_separator() {
  space_pending_ = false;
  if (block_.empty() || block_.back() == '\n') return;
  if (block_.back() != ' ') block_ += ' ';
  block_ += "| ";
}

void HtmlTextBuilder::end_row() {
  for (trim_end(block_, " "); block_.ends_with(" |"); trim_end(block_, " "))
    block_.resize(block_.size() - 2);
  if (!block_.empty() && block_.back() != '\n') add_line_break();
}

void HtmlTextBuilder::end_block(bool tight) {
  space_pending_ = false;
  trim_end(block_, " \t\n");
  block_.erase(0, block_.find_first_not_of('\n'));
  if (block_.find_first_not_of(" \t\n") == std::string::npos) {
    block_.clear();
    return;
  }
  const uint64_t begin = text_.size();
  text_ += prefix_;
  text_ += block_;
  text_ += tight ? "\n" : "\n\n";
  paragraphs_.push_back({begin, text_.size(), heading_});
  prefix_.clear();
  block_.clear();
}

void HtmlTextBuilder::loosen() {
  if (paragraphs_.empty() || text_.ends_with("\n\n")) return;
  text_ += '\n';
  ++paragraphs_.back().end;
}

}  // namespace quire::corpus
