// The log of a simulation: always hashed, printed only on demand.
#ifndef QUIRE_TESTS_SIM_TIER_SIMULATION_LOG_H_
#define QUIRE_TESTS_SIM_TIER_SIMULATION_LOG_H_

#include <string>
#include <string_view>
#include <type_traits>

#include "tests/sim/tier_simulation.h"

namespace quire::sim {

inline void append(std::string& text, std::string_view part) {
  text += part;
}
inline void append(std::string& text, const Status& status) {
  text += status.is_ok() ? "ok" : status.to_string();
}
inline void append(std::string& text, const Expected<NvmeLocation>& result) {
  if (!result.is_ok()) return append(text, result.status());
  text += "segment " + std::to_string(result->segment) + " offset " +
          std::to_string(result->offset) + " sequence " + std::to_string(result->sequence);
}
template <typename Number>
requires std::is_arithmetic_v<Number>
void append(std::string& text, Number number) {
  text += std::to_string(number);
}

template <typename... Parts>
void TierSimulation::log(const Parts&... parts) {
  std::string text;
  (append(text, parts), ...);
  note(text);
}

}  // namespace quire::sim

#endif  // QUIRE_TESTS_SIM_TIER_SIMULATION_LOG_H_
