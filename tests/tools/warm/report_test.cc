#include "tools/quire-warm/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

namespace quire::warm {
namespace {

RunReport report_of_test() {
  RunReport report;
  report.dry_run = true;
  report.settings.model_name = "tiny";
  report.settings.variant = "isolated";
  report.summary.tokens = 1001;
  report.summary.chunks = 4;
  report.summary.bytes = 3 << 20;
  report.tokens_per_second = 100;
  return report;
}

TEST(Report, EstimateRoundsUp) {
  RunReport report = report_of_test();
  EXPECT_EQ(estimated_seconds(report), 11u);
  report.tokens_per_second = 0;
  EXPECT_EQ(estimated_seconds(report), 0u);
}

TEST(Report, JsonIsOneLine) {
  std::ostringstream out;
  print_json(report_of_test(), out);
  const auto json = nlohmann::json::parse(out.str());
  EXPECT_EQ(json["tokens"], 1001);
  EXPECT_EQ(json["estimated_seconds"], 11);
  EXPECT_EQ(json["dry_run"], true);
  EXPECT_EQ(out.str().find('\n'), out.str().size() - 1);
}

TEST(Report, Table) {
  std::ostringstream out;
  print_table(report_of_test(), out);
  EXPECT_THAT(out.str(), testing::HasSubstr("estimated time  11s"));
  EXPECT_THAT(out.str(), testing::HasSubstr("3.0 MiB"));
}

TEST(Report, ADryRunOfACodecOfVariableSizeTellsABound) {
  RunReport report = report_of_test();
  report.variable_size = true;
  std::ostringstream table, json;
  print_table(report, table);
  print_json(report, json);
  EXPECT_THAT(table.str(), testing::HasSubstr("at most 3.0 MiB"));
  EXPECT_EQ(nlohmann::json::parse(json.str())["bytes_exact"], false);
  report.dry_run = false;
  std::ostringstream stored, stored_json;
  print_table(report, stored);
  print_json(report, stored_json);
  EXPECT_THAT(stored.str(), testing::Not(testing::HasSubstr("at most")));
  EXPECT_EQ(nlohmann::json::parse(stored_json.str())["bytes_exact"], true);
}

}  // namespace
}  // namespace quire::warm
