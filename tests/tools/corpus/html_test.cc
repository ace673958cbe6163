#include "tools/corpus/html.h"

#include <gtest/gtest.h>

#include <random>

namespace quire::corpus {
namespace {

std::string text_of(std::string_view html) {
  const auto result = extract_html(html);
  EXPECT_TRUE(result.is_ok()) << result.status().to_string();
  return result.is_ok() ? result->text : "";
}

void expect_tiles(const HtmlText& html) {
  uint64_t at = 0;
  for (const Paragraph& p : html.paragraphs) {
    EXPECT_EQ(p.begin, at);
    EXPECT_LT(p.begin, p.end);
    at = p.end;
  }
  EXPECT_EQ(at, html.text.size());
}

TEST(Html, HeadingsParagraphsAndTitle) {
  const auto html = extract_html(
      "<!DOCTYPE html><html><head><title> My\n page </title><style>p{}</style></head><body>"
      "<h1>Big <em>news</em></h1><p>One\n   two <b>three</b>.<p>Unclosed &amp; escaped &#233;"
      "<h2>Next</h2>tail</body></html>");
  ASSERT_TRUE(html.is_ok());
  EXPECT_EQ(html->title, "My page");
  EXPECT_EQ(html->text,
            "# Big news\n\nOne two three.\n\nUnclosed & escaped \xC3\xA9\n\n## Next\n\ntail\n\n");
  ASSERT_EQ(html->paragraphs.size(), 5u);
  EXPECT_TRUE(html->paragraphs[0].heading);
  EXPECT_FALSE(html->paragraphs[1].heading);
  EXPECT_TRUE(html->paragraphs[3].heading);
  EXPECT_FALSE(html->paragraphs[4].heading);
  expect_tiles(*html);
}

TEST(Html, TitleFallsBackToTheFirstHeading) {
  EXPECT_EQ(extract_html("<h2>no</h2><h1>Yes <i>it</i></h1><h1>2</h1>")->title, "Yes it");
  EXPECT_EQ(extract_html("<p>x")->title, "");
}

TEST(Html, Lists) {
  EXPECT_EQ(text_of("<p>a</p><ul><li>one<li><p>two</p><p>more</p><ol><li>deep</ol></ul>b"),
            "a\n\n- one\n- two\nmore\n  - deep\n\nb\n\n");
  EXPECT_EQ(text_of("<ul><li></li><li><ul><li>x</ul></ul><p>y"), "  - x\n\ny\n\n")
      << "an empty item leaves no dash";
}

TEST(Html, PreformattedIsKept) {
  EXPECT_EQ(text_of("<pre>\n  if x:\n\n\ty  z\n</pre><p>after"), "  if x:\n\n\ty  z\n\nafter\n\n");
}

TEST(Html, BreaksAndSpaces) {
  EXPECT_EQ(text_of("<p>a<br> b <br/><br>c&nbsp;&nbsp;d e\xC2\xAD"
                    "f\xE2\x80\x8B"),
            "a\nb\n\nc d ef\n\n");
  EXPECT_EQ(text_of("<p>wo<b>rd</b>s <i> x</i>y</p>"), "words xy\n\n");
}

TEST(Html, TablesAreRows) {
  EXPECT_EQ(text_of("<table><caption>C</caption><tr><th>h1<th>h2<tr><td>a<td>b</table>z"),
            "C\n\nh1 | h2\na | b\n\nz\n\n");
  EXPECT_EQ(text_of("<table><tr><td>a<td><td>c<td><tr><td><td><tr><td>d</table>"),
            "a | | c\nd\n\n");
  EXPECT_EQ(text_of("<p>ends with |</p>"), "ends with |\n\n");
  EXPECT_EQ(text_of("<table><tr><td><p>layout</p><p>page</p></table>"), "layout\n\npage\n\n");
}

TEST(Html, HiddenPartsAreSkipped) {
  EXPECT_EQ(
      text_of("<script>var x='<p>no</p>'</script><style>s{}</style><nav>n</nav>"
              "<noscript>js</noscript><div class='x Breadcrumbs'>b</div><ul class=docnav>"
              "<li>prev</ul><div hidden>h</div><span aria-hidden=true>i</span>"
              "<div role=navigation>r</div><p style='display: none'>d</p><template>t</template>"
              "<form><button>go</button><select><option>o</select></form><!-- c -->"
              "<div class=navigational>kept</div><div class=sidebar>note</div>"),
      "kept\n\nnote\n\n");
  EXPECT_EQ(text_of("<body class=nav><p>x"), "x\n\n");
}

TEST(Html, OddInputs) {
  EXPECT_EQ(text_of(""), "");
  EXPECT_EQ(text_of("just text"), "just text\n\n");
  EXPECT_EQ(text_of("<p>a<div>b</p>c"), "a\n\nb\n\nc\n\n");
  EXPECT_EQ(text_of("<b><p>mis</b>nested</p>"), "misnested\n\n");
  EXPECT_EQ(text_of("a < b && c > d"), "a < b && c > d\n\n");
  EXPECT_EQ(text_of("<p>unclosed <a href='x"), "unclosed\n\n");
  EXPECT_EQ(text_of("&#0;&bogus;&#x110000;").find('\0'), std::string::npos);
}

TEST(Html, DeepNestingIsRefused) {
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "<div>";
  const auto refused = extract_html(deep);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
  std::string many;
  for (int i = 0; i < 20'000; ++i) many += "<p>x<li>y<br>";
  EXPECT_TRUE(extract_html(many).is_ok()) << "unclosed paragraphs are not deep";
  std::string inner = "x";
  for (uint32_t i = 0; i < kHtmlDepthMax - 8; ++i) inner = "<b>" + inner + "</b>";
  EXPECT_EQ(text_of(inner), "x\n\n");
}

TEST(Html, RandomTagSoupTiles) {
  constexpr uint32_t kSeed = 20240817;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937 random(kSeed);
  const std::vector<std::string> parts = {"<p>",       "</p>",
                                          "<ul>",      "</ul>",
                                          "<li>",      "<table>",
                                          "<tr>",      "<td>",
                                          "</table>",  "<pre>",
                                          "</pre>",    "<h3>",
                                          "</h3>",     "word ",
                                          "\n\n",      "&amp;",
                                          "<br>",      "<b>",
                                          "</i>",      "<",
                                          "\xC3\xA9",  "<!--",
                                          "-->",       "<script>",
                                          "</script>", "<div class=nav>",
                                          "</div>"};
  for (int round = 0; round < 500; ++round) {
    std::string soup;
    for (int i = 0; i < 60; ++i) soup += parts[random() % parts.size()];
    const auto html = extract_html(soup);
    ASSERT_TRUE(html.is_ok()) << soup;
    expect_tiles(*html);
    for (size_t i = 0; i + 1 < html->paragraphs.size(); ++i)
      EXPECT_EQ(html->text[html->paragraphs[i].end - 1], '\n') << soup;
  }
}

}  // namespace
}  // namespace quire::corpus
