#include "bench/quire-bench/result.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace quire::bench {

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

void print_json(const Result& result, std::ostream& out) {
  const nlohmann::ordered_json json{{"bench", result.bench}, {"params", result.params},
                                    {"value", result.value}, {"unit", result.unit},
                                    {"floor", result.floor}, {"ratio", result.ratio()}};
  out << json.dump() << '\n' << std::flush;
}

void print_table(const std::vector<Result>& results, std::ostream& out) {
  char line[256];
  std::snprintf(line, sizeof(line), "%-26s %12s %12s  %-8s %7s  %s\n", "bench", "value", "floor",
                "unit", "ratio", "floor is");
  out << line;
  for (const Result& r : results) {
    std::snprintf(line, sizeof(line), "%-26s %12.4g %12.4g  %-8s %7.3f  %s\n", r.bench.c_str(),
                  r.value, r.floor, r.unit.c_str(), r.ratio(), r.floor_name.c_str());
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
