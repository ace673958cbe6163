// The end of a run, as a table for people or one JSON object for programs.
#ifndef QUIRE_TOOLS_QUIRE_WARM_REPORT_H_
#define QUIRE_TOOLS_QUIRE_WARM_REPORT_H_

#include <ostream>
#include <string>

#include "tools/quire-warm/manifest.h"
#include "tools/quire-warm/warmer.h"

namespace quire::warm {

struct RunReport {
  bool dry_run = false;
  bool interrupted = false;
  bool variable_size = false;  // of the codec: a dry run's bytes are the most it can take
  bool statistics = false;
  ManifestHeader settings;
  WarmSummary summary;
  double tokens_per_second = 0;  // measured or given; 0: unknown
  uint64_t wall_us = 0;
  std::string manifest_path;
};

// Seconds the engine needs for the tokens of a dry run; 0 where the speed is unknown.
uint64_t estimated_seconds(const RunReport& report);

void print_table(const RunReport& report, std::ostream& out);
void print_json(const RunReport& report, std::ostream& out);

}  // namespace quire::warm

#endif  // QUIRE_TOOLS_QUIRE_WARM_REPORT_H_
