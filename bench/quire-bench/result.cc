#include "bench/quire-bench/result.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace quire::bench {
namespace {

// "ratio >= 0.9: met".
std::string goal_text(const Result& result) {
  if (result.goal.kind == GoalKind::kNone) return "-";
  char text[64];
  std::snprintf(text, sizeof(text), "%s %.4g: %s",
                result.goal.kind == GoalKind::kRatioMin ? "ratio >=" : "value <=",
                result.goal.bound, result.meets_goal() ? "met" : "missed");
  return text;
}

}  // namespace

double Result::ratio() const {
  switch (direction) {
    case Direction::kRate:
      return floor > 0 ? value / floor : 0;
    case Direction::kTime:
      return value > 0 ? floor / value : 0;
    case Direction::kCount:
      return value == floor ? 1 : 0;
  }
  return 0;
}

bool Result::meets_goal() const {
  switch (goal.kind) {
    case GoalKind::kNone:
      return true;
    case GoalKind::kRatioMin:
      return ratio() >= goal.bound;
    case GoalKind::kValueMax:
      return value <= goal.bound;
  }
  return true;
}

void print_json(const Result& result, std::ostream& out) {
  nlohmann::ordered_json json{{"bench", result.bench}, {"params", result.params},
                              {"value", result.value}, {"unit", result.unit},
                              {"floor", result.floor}, {"ratio", result.ratio()}};
  if (!result.floor_name.empty()) json["floor_name"] = result.floor_name;
  if (!result.round_ratios.empty()) {
    const auto [least, most] =
        std::minmax_element(result.round_ratios.begin(), result.round_ratios.end());
    json["ratio_range"] = {*least, *most};
  }
  if (result.goal.kind != GoalKind::kNone)
    json["goal"] = {{"kind", result.goal.kind == GoalKind::kRatioMin ? "ratio_min" : "value_max"},
                    {"bound", result.goal.bound},
                    {"met", result.meets_goal()}};
  out << json.dump() << '\n' << std::flush;
}

namespace {

// The bench and, where several results bear its name, the parameters that tell them apart.
std::string label(const Result& result, const std::vector<Result>& all) {
  std::string text = result.bench;
  for (const auto& [key, value] : result.params.items()) {
    const bool differs = std::any_of(all.begin(), all.end(), [&](const Result& other) {
      return other.bench == result.bench && other.params.contains(key) &&
             other.params[key] != value;
    });
    if (differs && value.is_primitive())
      text += " " + (value.is_string() ? value.get<std::string>() : value.dump());
  }
  return text;
}

}  // namespace

void print_table(const std::vector<Result>& results, std::ostream& out) {
  std::vector<std::string> labels;
  int width = 26;
  for (const Result& r : results) {
    labels.push_back(label(r, results));
    width = std::max(width, static_cast<int>(labels.back().size()));
  }
  char line[512];
  std::snprintf(line, sizeof(line), "%-*s %12s %12s  %-8s %7s  %-22s %s\n", width, "bench", "value",
                "floor", "unit", "ratio", "goal", "floor is");
  out << line;
  for (size_t i = 0; i < results.size(); ++i) {
    const Result& r = results[i];
    std::snprintf(line, sizeof(line), "%-*s %12.4g %12.4g  %-8s %7.3f  %-22s %s\n", width,
                  labels[i].c_str(), r.value, r.floor, r.unit.c_str(), r.ratio(),
                  goal_text(r).c_str(), r.floor_name.c_str());
    out << line;
  }
  out << "ratio: value / floor for rates, floor / value for times; more is better\n";
}

double percentile(std::vector<double> values, double fraction) {
  const auto rank = static_cast<size_t>(std::ceil(fraction * static_cast<double>(values.size())));
  const size_t index = std::min(values.size() - 1, rank == 0 ? 0 : rank - 1);
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(index), values.end());
  return values[index];
}

double median(std::vector<double> values) {
  return percentile(std::move(values), 0.5);
}

}  // namespace quire::bench
