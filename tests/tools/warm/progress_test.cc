#include "tools/quire-warm/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

namespace quire::warm {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(Format, BytesSecondsCounts) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(340ull << 20), "340 MiB");
  EXPECT_EQ(format_seconds(12), "12s");
  EXPECT_EQ(format_seconds(200), "3m 20s");
  EXPECT_EQ(format_seconds(3900), "1h 05m");
  EXPECT_EQ(format_seconds(2 * 86400 + 3 * 3600), "2d 3h");
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(1234567), "1,234,567");
}

TEST(Progress, RateCountsComputedTokensOnly) {
  ManualClock clock;
  std::ostringstream out;
  Progress progress(out, {}, clock);
  progress.set_total_tokens(1000);
  progress.add(400, false, 0, "a");
  EXPECT_EQ(progress.tokens_per_second(), 0);
  EXPECT_THAT(progress.status_line("a"), HasSubstr(" 40 %  400/1,000 tokens"));
  EXPECT_THAT(progress.status_line("a"), Not(HasSubstr("left")));
  progress.add(200, true, 2'000'000, "b");
  EXPECT_DOUBLE_EQ(progress.tokens_per_second(), 100);
  EXPECT_THAT(progress.status_line("b"), HasSubstr("100 tokens/s  4s left  b"));
}

TEST(Progress, PlainLinesAreRare) {
  ManualClock clock;
  std::ostringstream out;
  Progress progress(out, {}, clock);
  progress.set_total_tokens(100);
  for (int i = 0; i < 100; ++i) {
    progress.add(1, true, 100'000, "doc");
    clock.advance_ns(100'000'000);
  }
  const std::string text = out.str();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2) << text;
  EXPECT_THAT(text, Not(HasSubstr("\r")));
}

TEST(Progress, BarFitsTheTerminalAndGivesWayToMessages) {
  ManualClock clock;
  std::ostringstream out;
  Progress progress(out, {.terminal = true, .columns = 50, .quiet = false}, clock);
  progress.set_total_tokens(10);
  progress.add(5, true, 1'000'000, "a-very-long-\xC3\xA9-document-name-that-does-not-fit.html");
  EXPECT_EQ(out.str().find('\n'), std::string::npos);
  EXPECT_LE(out.str().size(), 49 + std::string("\r\x1b[K").size());
  EXPECT_THAT(out.str(), HasSubstr("[############............]"));
  out.str("");
  progress.message("error: x");
  EXPECT_EQ(out.str(), "\r\x1b[Kerror: x\n");
  out.str("");
  progress.finish();
  EXPECT_TRUE(out.str().ends_with("\n"));
}

TEST(Progress, QuietIsQuietButErrorsAreShown) {
  ManualClock clock;
  std::ostringstream out;
  Progress progress(out, {.terminal = true, .columns = 80, .quiet = true}, clock);
  progress.add(5, true, 1, "x");
  progress.finish();
  EXPECT_EQ(out.str(), "");
  progress.message("error: y");
  EXPECT_EQ(out.str(), "error: y\n");
}

TEST(Progress, MoreThanPlannedDoesNotOverflow) {
  ManualClock clock;
  std::ostringstream out;
  Progress progress(out, {.terminal = true, .columns = 200, .quiet = false}, clock);
  progress.set_total_tokens(10);
  progress.add(50, true, 1'000'000, "grown");
  EXPECT_THAT(out.str(), HasSubstr("100 %  50/50"));
}

}  // namespace
}  // namespace quire::warm
