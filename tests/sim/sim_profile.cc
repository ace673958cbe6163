#include "tests/sim/sim_profile.h"

#include <algorithm>

namespace quire::sim {
namespace {

void add_delays(FaultRates* rates) {
  rates->delay = 0.15;
  rates->stuck = 0.003;
}

void add_reported(FaultRates* rates) {
  rates->short_read = 0.01;
  rates->read_error = 0.01;
  rates->write_error = 0.0007;
  rates->sync_error = 0.01;
  rates->no_space = 0.0005;
  rates->blocking_error = 0.05;
}

void add_silent(FaultProfile* profile) {
  FaultRates& rates = profile->rates;
  rates.torn_write = 0.005;
  rates.lost_write = 0.005;
  rates.misdirected_write = 0.003;
  rates.write_bit_flip = 0.005;
  rates.read_bit_flip = 0.01;
  rates.misdirected_read = 0.01;
  profile->bit_rot = 0.005;
}

}  // namespace

FaultProfile pick_profile(SeededRandom& random) {
  FaultProfile profile;
  switch (random.below(6)) {
    case 0:
      profile.name = "no faults";
      break;
    case 1:
      profile.name = "delays";
      add_delays(&profile.rates);
      break;
    case 2:
      profile.name = "reported errors";
      add_reported(&profile.rates);
      break;
    case 3:
    case 4:
      profile.name = "silent faults";
      add_silent(&profile);
      break;
    default:
      profile.name = "everything";
      add_delays(&profile.rates);
      add_reported(&profile.rates);
      add_silent(&profile);
  }
  return profile;
}

std::vector<Totals::Line> Totals::lines() const {
  std::vector<Line> lines = {{"operations", operations, true},
                             {"device steps", steps, true},
                             {"writes", writes, true},
                             {"writes acknowledged", writes_ok, true},
                             {"writes answered busy", writes_busy, true},
                             {"writes failed", writes_failed, true},
                             {"reads", reads, true},
                             {"hits, bytes compared", hits, true},
                             {"misses", misses, true},
                             {"corrupt reads detected", corrupt_reads, true},
                             {"reads failed", failed_reads, true},
                             {"reads of the wrong thing refused", wrong_questions, true},
                             {"reads by locate()", located, true},
                             {"verified on another thread", offloaded, true},
                             {"syncs", syncs, true},
                             {"syncs failed", syncs_failed, true},
                             {"removes", removes, true},
                             {"seals", seals, true},
                             {"kills", kills, true},
                             {"power cuts", power_cuts, true},
                             {"unsynced blocks at power cuts", unsynced_blocks, true},
                             {"reverted blocks", reverted_blocks, true},
                             {"torn blocks", torn_blocks, true},
                             {"power cuts that reordered writes", reordered_cuts, true},
                             {"recoveries", recoveries, true},
                             {"second recoveries, equal to the first", double_recoveries, true},
                             {"recoveries without records", amnesias, true},
                             {"audits of all objects", audits, true},
                             {"stores lost with both superblocks", stores_reset, false},
                             {"synced objects checked after a crash", durable_checked, true},
                             {"synced objects lost to a media fault", durable_excused, true},
                             {"segments reclaimed", reclaimed_segments, true},
                             {"objects moved", moved_objects, true},
                             {"objects evicted", evicted_objects, true},
                             {"lives ended read-only", read_only_lives, true},
                             {"lives ended without space", full_lives, true},
                             {"lives ended in quarantine", quarantined_lives, true},
                             {"lives ended stuck", stuck_lives, true},
                             {"objects scrubbed", scrubbed_objects, true},
                             {"objects that the scrub removed", scrub_finds, true},
                             {"fault: bit rot at rest", bit_rots, true}};
  static std::vector<std::string> names;  // the lines point into it
  if (names.empty()) {
    for (size_t i = 0; i < kFaultKinds; ++i) {
      names.push_back("fault: " + std::string(fault_name(static_cast<Fault>(i))));
    }
  }
  for (size_t i = 0; i < kFaultKinds; ++i) lines.push_back({names[i].c_str(), faults[i], true});
  return lines;
}

std::string Totals::to_text() const {
  constexpr size_t kNameWidth = 40;
  std::string text;
  for (const Line& line : lines()) {
    std::string name = line.name;
    name.resize(std::max(kNameWidth, name.size()), ' ');
    text += "  " + name + " " + std::to_string(line.value) + "\n";
  }
  return text;
}

std::vector<std::string> Totals::missing() const {
  std::vector<std::string> names;
  for (const Line& line : lines()) {
    if (line.required && line.value == 0) names.emplace_back(line.name);
  }
  return names;
}

}  // namespace quire::sim
