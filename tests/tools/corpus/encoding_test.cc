#include "tools/corpus/encoding.h"

#include <gtest/gtest.h>

namespace quire::corpus {
namespace {

TEST(Utf8, FindsTheFirstBadByte) {
  EXPECT_EQ(first_invalid_utf8(""), kNoInvalidByte);
  EXPECT_EQ(first_invalid_utf8("plain"), kNoInvalidByte);
  EXPECT_EQ(first_invalid_utf8("\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"), kNoInvalidByte);
  EXPECT_EQ(first_invalid_utf8("ab\xE9"), 2u);
  EXPECT_EQ(first_invalid_utf8("\xC0\xAF"), 0u) << "overlong slash";
  EXPECT_EQ(first_invalid_utf8("\xE0\x80\xAF"), 0u) << "overlong slash in three bytes";
  EXPECT_EQ(first_invalid_utf8("a\xED\xA0\x80"), 1u) << "surrogate";
  EXPECT_EQ(first_invalid_utf8("\xF4\x90\x80\x80"), 0u) << "above U+10FFFF";
  EXPECT_EQ(first_invalid_utf8("x\xE2\x82"), 1u) << "cut";
  EXPECT_EQ(first_invalid_utf8("\x80"), 0u);
}

TEST(Utf8, EveryTruncationInsideACodePointIsSeen) {
  const std::string text = "a\xF0\x9F\x98\x80z";
  for (size_t size = 2; size < 5; ++size)
    EXPECT_EQ(first_invalid_utf8(std::string_view(text).substr(0, size)), 1u);
}

TEST(Charset, OfMetaTagsAndXml) {
  EXPECT_EQ(declared_html_charset("<meta charset=\"ISO-8859-15\">"), "iso-8859-15");
  EXPECT_EQ(declared_html_charset("<META CHARSET = utf-8 >"), "utf-8");
  EXPECT_EQ(declared_html_charset("<meta name=x><meta http-equiv='Content-Type' "
                                  "content='text/html; charset=koi8-r'>"),
            "koi8-r");
  EXPECT_EQ(declared_html_charset("<?xml version='1.0' encoding='windows-1251'?><html>"),
            "windows-1251");
  EXPECT_EQ(declared_html_charset("<p>charset=koi8-r</p>"), "");
  EXPECT_EQ(declared_html_charset("<meta charset=utf-16>"), "utf-8");
  EXPECT_EQ(declared_html_charset("<meta charset"), "");
  EXPECT_EQ(declared_html_charset(std::string(kCharsetScanBytes, ' ') + "<meta charset=koi8-r>"),
            "");
}

TEST(Canonical, LineEndsAndMarks) {
  EXPECT_EQ(*to_canonical_utf8("a\r\nb\rc\n", ""), "a\nb\nc\n");
  EXPECT_EQ(*to_canonical_utf8("\xEF\xBB\xBFx", ""), "x");
  EXPECT_EQ(*to_canonical_utf8(std::string_view("\xFF\xFEx\0\xE9\0", 6), ""), "x\xC3\xA9");
  EXPECT_EQ(*to_canonical_utf8(std::string_view("\xFE\xFF\0x", 4), ""), "x");
  EXPECT_EQ(*to_canonical_utf8("\r", ""), "\n");
  EXPECT_EQ(*to_canonical_utf8("", ""), "");
}

TEST(Canonical, DeclaredCharsetsAreConverted) {
  EXPECT_EQ(*to_canonical_utf8("caf\xE9", "iso-8859-1"), "caf\xC3\xA9");
  EXPECT_EQ(*to_canonical_utf8("\x93q\x94", "ISO-8859-1"), "\xE2\x80\x9Cq\xE2\x80\x9D");
  EXPECT_EQ(*to_canonical_utf8("\xC1", "koi8-r"), "\xD0\xB0");
  const std::string large(300'000, '\xE9');
  EXPECT_EQ(to_canonical_utf8(large, "iso-8859-15")->size(), 600'000u);
}

TEST(Canonical, RefusesWithAdvice) {
  const auto undeclared = to_canonical_utf8("caf\xE9 au lait", "");
  ASSERT_FALSE(undeclared);
  EXPECT_EQ(undeclared.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(undeclared.status().message().find("0xE9 at offset 3"), std::string::npos);
  EXPECT_NE(undeclared.status().message().find("iconv -f"), std::string::npos);
  EXPECT_FALSE(to_canonical_utf8("caf\xE9", "utf-8"));
  EXPECT_FALSE(to_canonical_utf8("x", "no-such-charset"));
  EXPECT_FALSE(to_canonical_utf8("\x81\x20", "shift_jis"));
  EXPECT_FALSE(to_canonical_utf8(std::string_view("\xFF\xFEx", 3), "")) << "half a unit";
  const auto binary = to_canonical_utf8(std::string_view("a\0b", 3), "");
  ASSERT_FALSE(binary);
  EXPECT_NE(binary.status().message().find("binary"), std::string::npos);
}

}  // namespace
}  // namespace quire::corpus
