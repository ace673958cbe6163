#include "tiers/io/kill_point.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

namespace quire {
namespace {

struct KillPoint {
  std::string name;
  std::atomic<int64_t> arrivals_left{1};
};

KillPoint& armed_point() {
  static KillPoint* point = [] {
    auto* parsed = new KillPoint;
    const char* value = std::getenv("QUIRE_KILL_POINT");
    if (value == nullptr) return parsed;
    parsed->name = value;
    const size_t colon = parsed->name.find(':');
    if (colon != std::string::npos) {
      parsed->arrivals_left = std::strtoll(parsed->name.c_str() + colon + 1, nullptr, 10);
      parsed->name.resize(colon);
    }
    return parsed;
  }();
  return *point;
}

}  // namespace

const bool kill_points_armed = !armed_point().name.empty();

void reach_kill_point(const char* name) {
  KillPoint& point = armed_point();
  if (point.name == name && point.arrivals_left.fetch_sub(1) == 1) ::kill(::getpid(), SIGKILL);
}

}  // namespace quire
