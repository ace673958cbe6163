#include "tools/corpus/html.h"

#include <gumbo.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <memory>
#include <string>

#include "tools/corpus/html_text.h"

namespace quire::corpus {
namespace {

constexpr std::string_view kSpaces = " \t\n\r\f";

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return result;
}

// Elements that never hold others, or end by themselves where the next of their kind begins.
bool nests(std::string_view tag) {
  static constexpr std::array<std::string_view, 27> kFlat = {
      "p",  "li",  "dt",    "dd",    "tr",     "td",    "th",    "option", "br",
      "hr", "img", "input", "meta",  "link",   "col",   "area",  "base",   "wbr",
      "rp", "rt",  "embed", "param", "source", "track", "tbody", "thead",  "tfoot"};
  return std::find(kFlat.begin(), kFlat.end(), tag) == kFlat.end();
}

// A cheap upper bound of the depth, so that no page can overflow the parser's stack.
uint32_t depth_bound(std::string_view html) {
  uint32_t depth = 0;
  uint32_t depth_max = 0;
  for (size_t at = html.find('<'); at != std::string_view::npos; at = html.find('<', at + 1)) {
    const bool closing = at + 1 < html.size() && html[at + 1] == '/';
    const size_t begin = at + (closing ? 2 : 1);
    size_t end = begin;
    while (end < html.size() && std::isalnum(static_cast<unsigned char>(html[end]))) ++end;
    if (end == begin || !nests(lower(html.substr(begin, end - begin)))) continue;
    if (!closing) {
      depth_max = std::max(depth_max, ++depth);
    } else if (depth > 0) {
      --depth;
    }
  }
  return depth_max;
}

bool is_hidden_tag(GumboTag tag) {
  switch (tag) {
    case GUMBO_TAG_HEAD:
    case GUMBO_TAG_SCRIPT:
    case GUMBO_TAG_STYLE:
    case GUMBO_TAG_NOSCRIPT:
    case GUMBO_TAG_TEMPLATE:
    case GUMBO_TAG_NAV:
    case GUMBO_TAG_FOOTER:
    case GUMBO_TAG_IFRAME:
    case GUMBO_TAG_OBJECT:
    case GUMBO_TAG_SVG:
    case GUMBO_TAG_CANVAS:
    case GUMBO_TAG_AUDIO:
    case GUMBO_TAG_VIDEO:
    case GUMBO_TAG_BUTTON:
    case GUMBO_TAG_SELECT:
    case GUMBO_TAG_INPUT:
    case GUMBO_TAG_TEXTAREA:
      return true;
    default:
      return false;
  }
}

// Class names that publishing systems (Sphinx, DocBook, Publican, MkDocs) give to navigation.
bool is_navigation_class(std::string_view classes) {
  static constexpr std::array<std::string_view, 13> kNames = {
      "nav",       "navbar",     "navigation",  "docnav",        "navheader",
      "navfooter", "breadcrumb", "breadcrumbs", "sphinxsidebar", "headerlink",
      "skip-link", "toc",        "noprint"};
  for (size_t at = 0; at < classes.size();) {
    const size_t begin = classes.find_first_not_of(kSpaces, at);
    if (begin == std::string_view::npos) break;
    const size_t end = std::min(classes.find_first_of(kSpaces, begin), classes.size());
    const std::string name = lower(classes.substr(begin, end - begin));
    if (std::find(kNames.begin(), kNames.end(), name) != kNames.end()) return true;
    at = end;
  }
  return false;
}

std::string_view attribute(const GumboElement& element, const char* name) {
  const GumboAttribute* found = gumbo_get_attribute(&element.attributes, name);
  return found == nullptr ? std::string_view{} : std::string_view(found->value);
}

bool is_hidden(const GumboElement& element) {
  if (is_hidden_tag(element.tag)) return true;
  if (gumbo_get_attribute(&element.attributes, "hidden") != nullptr) return true;
  if (lower(attribute(element, "aria-hidden")) == "true") return true;
  const std::string role = lower(attribute(element, "role"));
  if (role == "navigation" || role == "search") return true;
  std::string style = lower(attribute(element, "style"));
  style.erase(std::remove(style.begin(), style.end(), ' '), style.end());
  if (style.find("display:none") != std::string::npos) return true;
  // The body of a page may be marked by its theme; it is never navigation itself.
  return element.tag != GUMBO_TAG_BODY && is_navigation_class(attribute(element, "class"));
}

int heading_level(GumboTag tag) {
  switch (tag) {
    case GUMBO_TAG_H1:
      return 1;
    case GUMBO_TAG_H2:
      return 2;
    case GUMBO_TAG_H3:
      return 3;
    case GUMBO_TAG_H4:
      return 4;
    case GUMBO_TAG_H5:
      return 5;
    case GUMBO_TAG_H6:
      return 6;
    default:
      return 0;
  }
}

bool is_block(GumboTag tag) {
  switch (tag) {
    case GUMBO_TAG_P:
    case GUMBO_TAG_DIV:
    case GUMBO_TAG_SECTION:
    case GUMBO_TAG_ARTICLE:
    case GUMBO_TAG_MAIN:
    case GUMBO_TAG_ASIDE:
    case GUMBO_TAG_HEADER:
    case GUMBO_TAG_ADDRESS:
    case GUMBO_TAG_BLOCKQUOTE:
    case GUMBO_TAG_FIGURE:
    case GUMBO_TAG_FIGCAPTION:
    case GUMBO_TAG_DL:
    case GUMBO_TAG_DT:
    case GUMBO_TAG_DD:
    case GUMBO_TAG_UL:
    case GUMBO_TAG_OL:
    case GUMBO_TAG_LI:
    case GUMBO_TAG_TABLE:
    case GUMBO_TAG_CAPTION:
    case GUMBO_TAG_PRE:
    case GUMBO_TAG_HR:
    case GUMBO_TAG_FORM:
    case GUMBO_TAG_FIELDSET:
    case GUMBO_TAG_DETAILS:
    case GUMBO_TAG_SUMMARY:
    case GUMBO_TAG_BODY:
    case GUMBO_TAG_HTML:
    case GUMBO_TAG_CENTER:
      return true;
    default:
      return heading_level(tag) > 0;
  }
}

class Walker {
 public:
  // The depth of the tree is bounded by depth_bound(), so recursion is safe; beyond it text is
  // dropped.
  void walk(const GumboNode* node, uint32_t depth) {
    if (depth > 4 * kHtmlDepthMax) return;
    switch (node->type) {
      case GUMBO_NODE_TEXT:
      case GUMBO_NODE_WHITESPACE:
      case GUMBO_NODE_CDATA:
        if (preformatted_ > 0) {
          builder_.add_preformatted(node->v.text.text);
        } else {
          builder_.add_text(node->v.text.text);
        }
        break;
      case GUMBO_NODE_ELEMENT:
        if (!is_hidden(node->v.element)) walk_element(node->v.element, depth);
        break;
      default:
        break;
    }
  }

  HtmlTextBuilder& builder() { return builder_; }
  const std::string& first_heading() const { return first_heading_; }

 private:
  void walk_element(const GumboElement& element, uint32_t depth) {
    if (element.tag == GUMBO_TAG_BR) return builder_.add_line_break();
    const bool block = is_block(element.tag);
    if (block) end_block();
    enter(element);
    for (unsigned i = 0; i < element.children.length; ++i)
      walk(static_cast<const GumboNode*>(element.children.data[i]), depth + 1);
    leave(element);
    if (block) end_block();
    if (heading_level(element.tag) > 0) builder_.set_heading(false);
    if (element.tag == GUMBO_TAG_LI) builder_.set_prefix("");
    if (element.tag == GUMBO_TAG_UL || element.tag == GUMBO_TAG_OL) {
      if (--list_depth_ == 0) builder_.loosen();
    }
    if (element.tag == GUMBO_TAG_PRE) --preformatted_;
  }

  void enter(const GumboElement& element) {
    if (const int level = heading_level(element.tag); level > 0) {
      builder_.set_prefix(std::string(static_cast<size_t>(level), '#') + " ");
      builder_.set_heading(true);
    }
    if (element.tag == GUMBO_TAG_UL || element.tag == GUMBO_TAG_OL) ++list_depth_;
    if (element.tag == GUMBO_TAG_LI) {
      const uint32_t indent = std::clamp<uint32_t>(list_depth_, 1, 8) - 1;
      builder_.set_prefix(std::string(2 * indent, ' ') + "- ");
    }
    if (element.tag == GUMBO_TAG_PRE) ++preformatted_;
  }

  void leave(const GumboElement& element) {
    if (element.tag == GUMBO_TAG_TD || element.tag == GUMBO_TAG_TH) builder_.add_cell_separator();
    if (element.tag == GUMBO_TAG_TR) builder_.end_row();
    if (element.tag == GUMBO_TAG_H1 && first_heading_.empty()) first_heading_ = builder_.current();
  }

  void end_block() { builder_.end_block(list_depth_ > 0); }

  HtmlTextBuilder builder_;
  std::string first_heading_;
  uint32_t preformatted_ = 0;
  uint32_t list_depth_ = 0;
};

// The text of <title>, white space collapsed.
std::string find_title(const GumboNode* root) {
  if (root->type != GUMBO_NODE_ELEMENT) return {};
  const GumboVector& children = root->v.element.children;
  for (unsigned i = 0; i < children.length; ++i) {
    const auto* head = static_cast<const GumboNode*>(children.data[i]);
    if (head->type != GUMBO_NODE_ELEMENT || head->v.element.tag != GUMBO_TAG_HEAD) continue;
    const GumboVector& inside = head->v.element.children;
    for (unsigned j = 0; j < inside.length; ++j) {
      const auto* title = static_cast<const GumboNode*>(inside.data[j]);
      if (title->type != GUMBO_NODE_ELEMENT || title->v.element.tag != GUMBO_TAG_TITLE ||
          title->v.element.children.length == 0)
        continue;
      const auto* text = static_cast<const GumboNode*>(title->v.element.children.data[0]);
      if (text->type != GUMBO_NODE_TEXT) continue;
      HtmlTextBuilder builder;
      builder.add_text(text->v.text.text);
      return builder.current();
    }
  }
  return {};
}

}  // namespace

Expected<HtmlText> extract_html(std::string_view utf8) {
  if (utf8.size() > kHtmlFileBytesMax)
    return Status(StatusCode::kResourceExhausted,
                  "is larger than " + std::to_string(kHtmlFileBytesMax >> 20) +
                      " MiB of HTML; split it or convert it to text");
  if (depth_bound(utf8) > kHtmlDepthMax)
    return Status(
        StatusCode::kInvalidArgument,
        "has elements nested deeper than " + std::to_string(kHtmlDepthMax) + "; is it a web page?");
  const auto destroy = [](GumboOutput* output) {
    gumbo_destroy_output(&kGumboDefaultOptions, output);
  };
  const std::unique_ptr<GumboOutput, decltype(destroy)> output(
      gumbo_parse_with_options(&kGumboDefaultOptions, utf8.data(), utf8.size()), destroy);
  if (output == nullptr || output->root == nullptr)
    return Status(StatusCode::kInvalidArgument, "cannot be parsed as HTML");
  Walker walker;
  walker.walk(output->root, 0);
  walker.builder().end_block(false);
  HtmlText result;
  result.title = find_title(output->root);
  if (result.title.empty()) result.title = walker.first_heading();
  result.paragraphs = walker.builder().take_paragraphs();
  result.text = walker.builder().take_text();
  return result;
}

}  // namespace quire::corpus
