// What quirectl's subcommands do once the command line is read.
#ifndef QUIRE_TOOLS_QUIRECTL_COMMANDS_H_
#define QUIRE_TOOLS_QUIRECTL_COMMANDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace quire::ctl {

enum ExitCode : int {
  kExitOk = 0,
  kExitError = 1,
  kExitUsage = 2,
  kExitNotFound = 3,
  kExitUnavailable = 4,  // no server, draining, or no answer in time
  // Of single commands:
  kExitDegraded = 3,  // status --check
  kExitDamage = 4,    // seg verify, fsck: something is damaged (and was not repaired)
  kExitInterrupted = 130,
};

int exit_code_of(const Status& status);

struct GlobalOptions {
  std::string server;
  bool json = false;
  std::optional<uint64_t> timeout_ms;  // each call's own default where absent
};

// What ls and clear select. Texts as typed; checked and resolved by the commands.
struct FilterOptions {
  std::string model;  // id, unique id prefix, or name
  std::string tier;
  std::optional<std::string> tenant;
  std::optional<std::string> scope;
};

// Each prints its result to standard output and returns OK, or returns the error to print.
// Arguments that cannot be right are kInvalidArgument.
// check: kExitDegraded where anything is degraded.
Expected<int> run_status(const GlobalOptions& global, bool check);
// limit 0 = all.
Status run_ls(const GlobalOptions& global, const FilterOptions& filter, uint64_t limit);
Status run_stat(const GlobalOptions& global, const std::string& id);
// All ids are resolved before the first is touched.
Status run_pin(const GlobalOptions& global, const std::vector<std::string>& ids, uint64_t ttl_ms);
Status run_unpin(const GlobalOptions& global, const std::vector<std::string>& ids);
Status run_rm(const GlobalOptions& global, const std::vector<std::string>& ids, bool force);
// Asks on a terminal unless yes; without a terminal and without yes it refuses.
Status run_clear(const GlobalOptions& global, const FilterOptions& filter, bool all, bool yes);
// deadline_ms 0: the timeout of the call.
Status run_prefetch(const GlobalOptions& global, const std::vector<std::string>& ids,
                    uint64_t deadline_ms);
Status run_drain(const GlobalOptions& global, bool exit_after);
Status run_models(const GlobalOptions& global);
// commands_verdict.cc; path "-" reads standard input.
Status run_verdict_set(const GlobalOptions& global, const std::string& model,
                       const std::string& path);
Status run_verdict_clear(const GlobalOptions& global, const std::string& model);
// tokens_path "-" reads standard input.
Status run_lookup(const GlobalOptions& global, const std::string& model,
                  const std::string& tokens_path, const std::string& tenant,
                  const std::string& scope);

struct HintOptions {
  std::optional<uint32_t> steps;
  std::optional<uint64_t> next_use_ms;
  std::optional<uint32_t> priority;
  bool finished = false;
};
Status run_hint(const GlobalOptions& global, const std::vector<std::string>& ids,
                const HintOptions& hint);
Status run_tenant_ls(const GlobalOptions& global);
// A limit that is absent stays as it is.
Status run_set_quota(const GlobalOptions& global, const std::string& tenant,
                     std::optional<uint64_t> soft_bytes, std::optional<uint64_t> hard_bytes);
// directory is a path on the server's machine.
Status run_checkpoint(const GlobalOptions& global, const std::string& directory);

}  // namespace quire::ctl

#endif  // QUIRE_TOOLS_QUIRECTL_COMMANDS_H_
