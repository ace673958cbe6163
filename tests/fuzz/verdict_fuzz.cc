// Verdicts as the store keeps them: one sequence of bytes stands for each, and what was read is
// valid.
#include "server/verdict.h"
#include "tests/fuzz/fuzz_target.h"

using quire::fuzz::expect;
using quire::server::Verdict;

QUIRE_FUZZ_SEEDS(verdict) {
  Verdict verdict;
  verdict.reason = "measured";
  verdict.tool = "quire-eval";
  verdict.measured_wall_ms = 1;
  quire::fuzz::Seeds seeds;
  seeds.emplace_back("shortest", verdict.encode());
  verdict.policy = "query-value:0.15";
  verdict.codec = "int8-channel";
  verdict.budget = 0.15;
  verdict.figures = {{"kl", 0.05}, {"right", 0.97}};
  seeds.emplace_back("figures", verdict.encode());
  return seeds;
}

QUIRE_FUZZ_TARGET(verdict) {
  const auto verdict = Verdict::parse(input);
  if (!verdict) {
    expect(!verdict.status().message().empty(), "a refusal says why");
    return false;
  }
  expect(verdict->validate().is_ok(), "what was read is valid");
  const std::vector<std::byte> again = verdict->encode();
  expect(again.size() == input.size() && std::memcmp(again.data(), input.data(), again.size()) == 0,
         "a verdict has one encoding");
  return true;
}
