// The command line: options into Arguments, the given subcommand into an Action.
#ifndef QUIRE_TOOLS_QUIRECTL_COMMAND_LINE_H_
#define QUIRE_TOOLS_QUIRECTL_COMMAND_LINE_H_

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "tools/quirectl/commands.h"
#include "tools/quirectl/offline/offline_commands.h"

namespace quire::ctl {

struct Arguments {
  GlobalOptions global;
  std::string output = "table";
  std::string timeout;
  FilterOptions filter;
  std::string tenant;
  std::string scope;
  uint64_t limit = 1000;
  std::string id;
  std::vector<std::string> ids;
  std::string ttl;
  std::string deadline;
  bool force = false;
  bool all = false;
  bool yes = false;
  bool exit_after = false;
  bool check = false;
  std::string model;
  std::string tokens_path;
  uint32_t steps = 0;
  std::string next_use;
  uint32_t priority = 0;
  bool finished = false;
  std::string soft;
  std::string hard;
  std::string directory;
  std::string verdict_path;
  OfflineOptions offline;
};

// The subcommand that was given sets this: what it returns is the exit code, or the error to print.
using Action = std::function<Expected<int>()>;

// For actions that are done or failed.
inline Expected<int> exit_code(const Status& status) {
  if (!status.is_ok()) return status;
  return static_cast<int>(kExitOk);
}

CLI::App* add_command(CLI::App& app, const char* name, const char* what, const char* examples);

// Options of every command.
void add_global(CLI::App& app, Arguments& arguments);
// These talk to a running server.
void add_reading_commands(CLI::App& app, Arguments& arguments, Action& action);
void add_changing_commands(CLI::App& app, Arguments& arguments, Action& action);
void add_tenancy_commands(CLI::App& app, Arguments& arguments, Action& action);
// These read the files of a stopped one.
void add_offline_commands(CLI::App& app, Arguments& arguments, Action& action);

}  // namespace quire::ctl

#endif  // QUIRE_TOOLS_QUIRECTL_COMMAND_LINE_H_
