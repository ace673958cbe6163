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

TEST(Format, BytesAreWrittenAndRead) {
  EXPECT_EQ(format_bytes(0), "0");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(10ull << 30), "10.0 GiB");
  EXPECT_EQ(format_bytes(UINT64_MAX), "16384.0 PiB");
  EXPECT_EQ(parse_bytes("0").value(), 0u);
  EXPECT_EQ(parse_bytes("4096").value(), 4096u);
  EXPECT_EQ(parse_bytes("7B").value(), 7u);
  EXPECT_EQ(parse_bytes("10GiB").value(), 10ull << 30);
  EXPECT_EQ(parse_bytes("10G").value(), 10ull << 30);
  EXPECT_EQ(parse_bytes("512 MiB").value(), 512ull << 20);
  EXPECT_EQ(parse_bytes("1.5TiB").value(), 3ull << 39);
  EXPECT_EQ(parse_bytes("0.5K").value(), 512u);
  EXPECT_EQ(parse_bytes("18446744073709551615").value(), UINT64_MAX);
  for (const char* bad : {"", "GiB", "-1", "1.G", "1.5", "10GB", "10gib", "10 G B", "1e9", "16384P",
                          "18446744073709551616", "0x10", "1.1234567M"})
    EXPECT_FALSE(parse_bytes(bad).is_ok()) << bad;
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
