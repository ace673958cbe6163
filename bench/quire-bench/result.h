// One measured figure with the floor measured in the same run.
#ifndef QUIRE_BENCH_QUIRE_BENCH_RESULT_H_
#define QUIRE_BENCH_QUIRE_BENCH_RESULT_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

namespace quire::bench {

enum class Direction : uint8_t {
  kRate,   // more is better: ratio = value / floor
  kTime,   // less is better: ratio = floor / value
  kCount,  // a number of faults: ratio = 1 where value == floor, else 0
};

enum class GoalKind : uint8_t { kNone, kRatioMin, kValueMax };

struct Goal {
  GoalKind kind = GoalKind::kNone;
  double bound = 0;
};

struct Result {
  std::string bench;  // "local.acquire_release"
  nlohmann::ordered_json params = nlohmann::ordered_json::object();
  double value = 0;
  std::string unit;
  double floor = 0;
  std::string floor_name;  // for the table: "seqpacket ping-pong"
  Direction direction = Direction::kRate;
  std::vector<double> round_ratios;  // of the rounds behind value and floor; may be empty
  Goal goal;

  // More is better; 0 where it cannot be told.
  double ratio() const;
  // True without a goal.
  bool meets_goal() const;
};

// {"bench":..., "params":{...}, "value":..., "unit":..., "floor":..., "ratio":...}, one line; with
// where they are known "floor_name", "ratio_range":[min, max] and
// "goal":{"kind":"ratio_min"|"value_max", "bound":..., "met":...}.
void print_json(const Result& result, std::ostream& out);
void print_table(const std::vector<Result>& results, std::ostream& out);

// Nearest rank; values need not be sorted and must not be empty. fraction in [0, 1].
double percentile(std::vector<double> values, double fraction);
double median(std::vector<double> values);

}  // namespace quire::bench

#endif  // QUIRE_BENCH_QUIRE_BENCH_RESULT_H_
