// quirectl: looks at and steers a running quired over its gRPC control API; inspects and repairs
// the files of a stopped one.
#include <exception>
#include <iostream>
#include <string>

#include "proto/control_metadata.h"
#include "tools/quirectl/command_line.h"
#include "tools/quirectl/format.h"

namespace {

using quire::Expected;
using quire::Status;
using quire::StatusCode;
namespace ctl = quire::ctl;

constexpr uint64_t kTimeoutMsMax = 24ull * 3600 * 1000;

constexpr char kExitCodes[] =
    "Exit codes: 0 done, 1 error, 2 wrong usage, 3 not found (status --check: degraded), 4 no "
    "server\n"
    "or no answer in time (seg verify, fsck: damage found), 130 interrupted.\n"
    "Ids may be cut to their first 6 or more digits where that is unique.";

int report(const Expected<int>& outcome) {
  std::cout.flush();
  if (!outcome) {
    const Status& status = outcome.status();
    std::cerr << "quirectl: " << status.message();
    if (status.code() == StatusCode::kBusy)
      std::cerr << " (busy; try again in " << status.retry_after_ms() << " ms)";
    std::cerr << "\n";
    return ctl::exit_code_of(status);
  }
  if (!std::cout) {
    std::cerr << "quirectl: cannot write to standard output\n";
    return ctl::kExitError;
  }
  return *outcome;
}

int run(int argc, char** argv) {
  CLI::App app(
      "Looks at and steers a running quired; inspects and repairs the files of a stopped "
      "one.",
      "quirectl");
  app.require_subcommand(1);
  app.fallthrough();
  app.footer(std::string("\n") + kExitCodes);
  ctl::Arguments arguments;
  arguments.global.server = quire::control::kDefaultControlAddress;
  ctl::Action action;
  ctl::add_global(app, arguments);
  ctl::add_reading_commands(app, arguments, action);
  ctl::add_changing_commands(app, arguments, action);
  ctl::add_tenancy_commands(app, arguments, action);
  ctl::add_offline_commands(app, arguments, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? ctl::kExitOk : ctl::kExitUsage;
  }
  arguments.global.json = arguments.output == "json";
  if (!arguments.timeout.empty()) {
    arguments.global.timeout_ms = ctl::parse_duration_ms(arguments.timeout).value();
    if (*arguments.global.timeout_ms == 0 || *arguments.global.timeout_ms > kTimeoutMsMax)
      return report(Status(StatusCode::kInvalidArgument, "--timeout must be from 1ms to 24h"));
  }
  return report(action());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "quirectl: " << error.what() << "\n";
    return ctl::kExitError;
  }
}
