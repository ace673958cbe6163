// The subcommands that read the files of a stopped server. Nothing is written without repair; all
// refuse (kFailedPrecondition) while a server has the files open.
#ifndef QUIRE_TOOLS_QUIRECTL_OFFLINE_OFFLINE_COMMANDS_H_
#define QUIRE_TOOLS_QUIRECTL_OFFLINE_OFFLINE_COMMANDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace quire::ctl {

struct OfflineOptions {
  bool json = false;
  std::string data_directory;           // empty: default_data_directory()
  std::vector<std::string> nvme_paths;  // empty: those in data_directory
  std::optional<uint32_t> segment;      // dump: all where absent
  bool repair = false;                  // fsck
};

// Each prints its result to standard output and returns the exit code, or the error to print.
Expected<int> run_seg_ls(const OfflineOptions& options);
Expected<int> run_seg_dump(const OfflineOptions& options);
// kExitDamage where anything is certainly damaged.
Expected<int> run_seg_verify(const OfflineOptions& options);
Expected<int> run_fsck(const OfflineOptions& options);

}  // namespace quire::ctl

#endif  // QUIRE_TOOLS_QUIRECTL_OFFLINE_OFFLINE_COMMANDS_H_
