#include "tools/corpus/text.h"

#include <algorithm>

namespace quire::corpus {
namespace {

constexpr std::string_view kBlanks = " \t\f\v";

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\f\v\n") == std::string_view::npos;
}

std::string_view trim(std::string_view line) {
  const size_t first = line.find_first_not_of(" \t\f\v\n");
  if (first == std::string_view::npos) return {};
  return line.substr(first, line.find_last_not_of(" \t\f\v\n") - first + 1);
}

// "# " to "###### " at the start of a line.
bool is_heading(std::string_view line) {
  const size_t hashes = std::min(line.find_first_not_of('#'), line.size());
  return hashes >= 1 && hashes <= 6 && hashes < line.size() &&
         (kBlanks.find(line[hashes]) != std::string_view::npos);
}

// The fence ("```", "~~~~") a line opens, indented by at most three spaces; empty where it opens
// none.
std::string_view fence_of(std::string_view line) {
  const size_t indent = std::min(line.find_first_not_of(' '), line.size());
  if (indent > 3 || indent == line.size()) return {};
  const char mark = line[indent];
  if (mark != '`' && mark != '~') return {};
  const size_t end = std::min(line.find_first_not_of(mark, indent), line.size());
  return end - indent >= 3 ? line.substr(indent, end - indent) : std::string_view{};
}

bool closes(std::string_view line, std::string_view fence) {
  const std::string_view found = fence_of(line);
  return !found.empty() && found[0] == fence[0] && found.size() >= fence.size() &&
         trim(line) == found;
}

class Splitter {
 public:
  Splitter(std::string_view text, bool markdown) : text_(text), markdown_(markdown) {}

  std::vector<Paragraph> split() {
    for (uint64_t at = 0; at < text_.size();) {
      const size_t newline = text_.find('\n', at);
      const uint64_t end = newline == std::string_view::npos ? text_.size() : newline + 1;
      take_line(at, end);
      at = end;
    }
    if (!has_words_) return {};
    finish(text_.size());
    return std::move(result_);
  }

 private:
  void take_line(uint64_t begin, uint64_t end) {
    const std::string_view line = text_.substr(begin, end - begin);
    if (!fence_.empty()) {
      if (closes(line, fence_)) fence_ = {};
      return;
    }
    if (is_blank(line)) {
      blank_seen_ = true;
      return;
    }
    const bool heading = markdown_ && is_heading(line);
    // Blank lines before the first words belong to the first paragraph.
    if (has_words_ && (blank_seen_ || heading || heading_)) finish(begin);
    has_words_ = true;
    blank_seen_ = false;
    heading_ = heading;
    if (markdown_) fence_ = fence_of(line);
  }

  void finish(uint64_t end) {
    result_.push_back({begin_, end, heading_});
    begin_ = end;
  }

  std::string_view text_;
  bool markdown_;
  std::string_view fence_;
  bool blank_seen_ = false;
  bool has_words_ = false;
  bool heading_ = false;
  uint64_t begin_ = 0;
  std::vector<Paragraph> result_;
};

}  // namespace

std::vector<Paragraph> split_plain_paragraphs(std::string_view text) {
  return Splitter(text, false).split();
}

std::vector<Paragraph> split_markdown_paragraphs(std::string_view text) {
  return Splitter(text, true).split();
}

std::string markdown_title(std::string_view text) {
  const auto paragraphs = split_markdown_paragraphs(text);
  for (const Paragraph& range : paragraphs) {
    const std::string_view line = trim(text.substr(range.begin, range.end - range.begin));
    if (range.heading && line.starts_with("#") && !line.starts_with("##"))
      return std::string(trim(line.substr(1)));
  }
  return {};
}

}  // namespace quire::corpus
