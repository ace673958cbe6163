#include "server/verdict.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace quire::server {
namespace {

Verdict sample() {
  Verdict verdict;
  verdict.chunks = false;
  verdict.reason = "0.51 of full prefill's answers";
  verdict.policy = "query:0.15";
  verdict.budget = 0.15;
  verdict.codec = "int8-channel";
  verdict.figures = {{"answers_right", 0.51}, {"kl", 1.5}};
  verdict.measured_wall_ms = 1'700'000'000'000;
  verdict.tool = "quire-eval 0.1.0";
  return verdict;
}

TEST(Verdict, RoundTrips) {
  Verdict verdict = sample();
  EXPECT_TRUE(verdict.validate().is_ok());
  EXPECT_EQ(*Verdict::parse(verdict.encode()), verdict);
  verdict.chunks = true;
  verdict.policy = verdict.codec = "";
  verdict.figures.clear();
  EXPECT_EQ(*Verdict::parse(verdict.encode()), verdict);
  EXPECT_EQ(verdict_state_key(Digest{{0xab}}).substr(0, 12), "verdict/ab00");
}

TEST(Verdict, LimitsAreNamed) {
  const auto refuse = [](const char* field, const auto& change) {
    Verdict verdict = sample();
    change(verdict);
    const Status status = verdict.validate();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << field;
    EXPECT_NE(status.message().find(field), std::string::npos) << status.message();
    EXPECT_FALSE(Verdict::parse(verdict.encode()).is_ok()) << field;
  };
  refuse("reason", [](Verdict& v) { v.reason = ""; });
  refuse("reason", [](Verdict& v) { v.reason = std::string(257, 'x'); });
  refuse("policy", [](Verdict& v) { v.policy = "a\nb"; });
  refuse("tool", [](Verdict& v) { v.tool = ""; });
  refuse("budget", [](Verdict& v) { v.budget = 1.01; });
  refuse("budget", [](Verdict& v) { v.budget = std::nan(""); });
  refuse("measured_wall_ms", [](Verdict& v) { v.measured_wall_ms = 0; });
  refuse("measured_wall_ms", [](Verdict& v) { v.measured_wall_ms = UINT64_MAX; });
  refuse("figure", [](Verdict& v) { v.figures["x"] = std::numeric_limits<double>::infinity(); });
  refuse("figure", [](Verdict& v) { v.figures[""] = 1; });
  refuse("figures", [](Verdict& v) {
    for (int i = 0; i < 65; ++i) v.figures["f" + std::to_string(i)] = i;
  });
}

TEST(Verdict, DamagedBytesAreRefusedOrAreAnotherVerdict) {
  const auto bytes = sample().encode();
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_FALSE(Verdict::parse(ByteSpan(bytes).first(size)).is_ok()) << size;
  auto longer = bytes;
  longer.push_back(std::byte{0});
  EXPECT_EQ(Verdict::parse(longer).status().code(), StatusCode::kCorrupt);
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    auto flipped = bytes;
    flipped[bit / 8] ^= std::byte{1} << bit % 8;
    const auto parsed = Verdict::parse(flipped);
    if (parsed) {
      EXPECT_EQ(parsed->encode(), flipped) << bit;
    }
  }
  auto later = bytes;
  later[0] = std::byte{2};
  EXPECT_EQ(Verdict::parse(later).status().code(), StatusCode::kVersionMismatch);
}

}  // namespace
}  // namespace quire::server
