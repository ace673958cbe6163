#include "tools/quirectl/format.h"

#include <gtest/gtest.h>

namespace quire::ctl {
namespace {

TEST(Format, SizesAndAges) {
  EXPECT_EQ(format_mib(0), "0.0 MiB");
  EXPECT_EQ(format_mib(3 << 19), "1.5 MiB");
  EXPECT_EQ(format_duration_ms(59'999), "59s");
  EXPECT_EQ(format_duration_ms(60'000), "1m");
  EXPECT_EQ(format_duration_ms(3'599'999), "59m");
  EXPECT_EQ(format_duration_ms(3'600'000), "1h");
  EXPECT_EQ(format_duration_ms(86'400'000), "1d");
  EXPECT_EQ(format_age(0, 5), "-");
  EXPECT_EQ(format_age(1'000, 6'000), "5s");
  EXPECT_EQ(format_age(6'000, 1'000), "0s");  // clocks differ
}

TEST(Format, DurationsAreParsedOrRefused) {
  EXPECT_EQ(parse_duration_ms("250ms").value(), 250u);
  EXPECT_EQ(parse_duration_ms("30s").value(), 30'000u);
  EXPECT_EQ(parse_duration_ms("30").value(), 30'000u);
  EXPECT_EQ(parse_duration_ms("1h30m").value(), 5'400'000u);
  EXPECT_EQ(parse_duration_ms("2d").value(), 172'800'000u);
  for (const char* bad : {"", "h", "1x", "1h30", "-1s", "1.5h", "1 h", "99999999999999999999s",
                          "18446744073709551615d"})
    EXPECT_FALSE(parse_duration_ms(bad).is_ok()) << bad;
}

TEST(Format, TablesAlign) {
  Table table({"NAME", ">N"});
  table.add({"a", "1"});
  table.add({"\xc3\xa9long", "100"});
  EXPECT_EQ(table.text(), "NAME     N\na        1\n\xc3\xa9long  100\n");
}

TEST(Format, Hex) {
  EXPECT_EQ(to_hex(std::string("\x00\xff\x1a", 3)), "00ff1a");
}

}  // namespace
}  // namespace quire::ctl
