// quirectl: looks at and steers a running quired over its gRPC control API.
#include <CLI/CLI.hpp>
#include <exception>
#include <functional>
#include <iostream>
#include <string>

#include "proto/control_metadata.h"
#include "tools/quirectl/commands.h"
#include "tools/quirectl/format.h"

namespace {

using quire::Status;
using quire::StatusCode;
namespace ctl = quire::ctl;

constexpr uint64_t kListLimitDefault = 1000;
constexpr uint64_t kIdArgumentsMax = 100'000;
constexpr uint64_t kTimeoutMsMax = 24ull * 3600 * 1000;

constexpr char kExitCodes[] =
    "Exit codes: 0 done, 1 error, 2 wrong usage, 3 not found, 4 no server or no answer in time.\n"
    "Ids may be cut to their first 6 or more digits where that is unique.";

// What a duration on the command line must be; empty where it is fine.
std::string check_duration(const std::string& text) {
  const auto duration_ms = ctl::parse_duration_ms(text);
  return duration_ms ? std::string() : duration_ms.status().message();
}

struct Arguments {
  ctl::GlobalOptions global;
  std::string output = "table";
  std::string timeout;
  ctl::FilterOptions filter;
  std::string tenant;
  uint64_t limit = kListLimitDefault;
  std::string id;
  std::vector<std::string> ids;
  std::string ttl;
  bool force = false;
  bool all = false;
  bool yes = false;
  bool exit_after = false;
  std::string model;
  std::string tokens_path;
};

// The subcommand that was given sets this.
using Action = std::function<Status()>;

CLI::App* add_command(CLI::App& app, const char* name, const char* what, const char* examples) {
  CLI::App* command = app.add_subcommand(name, what);
  command->footer(std::string("\nExamples:\n") + examples);
  return command;
}

CLI::Option* add_filter(CLI::App* command, Arguments& arguments) {
  command->add_option("--model", arguments.filter.model, "Model: name, id, or its first digits");
  command->add_option("--tier", arguments.filter.tier, "Tier: gpu, host, nvme or rocks")
      ->check(CLI::IsMember({"gpu", "host", "nvme", "rocks"}));
  return command->add_option("--tenant", arguments.tenant, "Tenant; \"\" is the default one");
}

void add_global(CLI::App& app, Arguments& arguments) {
  app.add_option("--server", arguments.global.server, "Control address of quired")
      ->envname("QUIRE_CONTROL")
      ->default_str(quire::control::kDefaultControlAddress);
  app.add_option("-o,--output", arguments.output, "table or json")
      ->check(CLI::IsMember({"table", "json"}))
      ->default_str("table");
  app.add_option("--timeout", arguments.timeout,
                 "Longest wait for each answer, such as 500ms or 30s (default 30s; clear, prefetch "
                 "and drain 10m)")
      ->check(check_duration);
}

void add_reading_commands(CLI::App& app, Arguments& arguments, Action& action) {
  auto* status = add_command(app, "status", "Show the server, its tiers and its counters",
                             "  quirectl status\n  quirectl status -o json | jq .tiers");
  status->callback([&] { action = [&] { return ctl::run_status(arguments.global); }; });

  auto* ls = add_command(app, "ls", "List stored objects",
                         "  quirectl ls --tier host\n  quirectl ls --model qwen --limit 20\n"
                         "  quirectl ls --limit 0 -o json");
  auto* tenant = add_filter(ls, arguments);
  ls->add_option("--limit", arguments.limit, "At most so many; 0 lists all")->capture_default_str();
  ls->callback([&arguments, &action, tenant] {
    if (tenant->count() != 0) arguments.filter.tenant = arguments.tenant;
    action = [&] { return ctl::run_ls(arguments.global, arguments.filter, arguments.limit); };
  });

  auto* stat = add_command(app, "stat", "Show one object", "  quirectl stat 3fa8c1");
  stat->add_option("ID", arguments.id, "Object")->required();
  stat->callback([&] { action = [&] { return ctl::run_stat(arguments.global, arguments.id); }; });

  auto* models = add_command(app, "models", "List registered models",
                             "  quirectl models\n  quirectl models -o json");
  models->callback([&] { action = [&] { return ctl::run_models(arguments.global); }; });

  auto* lookup = add_command(app, "lookup", "Show what is stored for a prompt's token ids",
                             "  quirectl lookup --model qwen --tokens prompt.json\n"
                             "  echo '1 2 3 4' | quirectl lookup --model qwen --tokens -");
  lookup->add_option("--model", arguments.model, "Model: name, id, or its first digits")
      ->required();
  lookup
      ->add_option("--tokens", arguments.tokens_path,
                   "File of decimal token ids (- reads standard input)")
      ->required();
  lookup->add_option("--tenant", arguments.tenant, "Tenant; the default one where not given");
  lookup->callback([&] {
    action = [&] {
      return ctl::run_lookup(arguments.global, arguments.model, arguments.tokens_path,
                             arguments.tenant);
    };
  });
}

void add_changing_commands(CLI::App& app, Arguments& arguments, Action& action) {
  const auto add_ids = [&](CLI::App* command) {
    command->add_option("ID", arguments.ids, "Objects")
        ->required()
        ->expected(1, static_cast<int>(kIdArgumentsMax));
  };
  auto* pin = add_command(app, "pin", "Keep objects from eviction",
                          "  quirectl pin 3fa8c1\n  quirectl pin 3fa8c1 77b02e --ttl 1h");
  add_ids(pin);
  pin->add_option("--ttl", arguments.ttl, "For so long, such as 30m, 1h or 7d; else until unpinned")
      ->check(check_duration);
  pin->callback([&] {
    action = [&]() -> Status {
      uint64_t ttl_ms = 0;
      if (!arguments.ttl.empty()) {
        ttl_ms = ctl::parse_duration_ms(arguments.ttl).value();
        if (ttl_ms == 0) return {StatusCode::kInvalidArgument, "--ttl must not be 0"};
      }
      return ctl::run_pin(arguments.global, arguments.ids, ttl_ms);
    };
  });

  auto* unpin =
      add_command(app, "unpin", "Let objects be evicted again", "  quirectl unpin 3fa8c1");
  add_ids(unpin);
  unpin->callback(
      [&] { action = [&] { return ctl::run_unpin(arguments.global, arguments.ids); }; });

  auto* rm = add_command(app, "rm", "Remove objects",
                         "  quirectl rm 3fa8c1\n  quirectl rm --force 3fa8c1 77b02e");
  add_ids(rm);
  rm->add_flag("--force", arguments.force, "Even if pinned; what a client uses stays");
  rm->callback([&] {
    action = [&] { return ctl::run_rm(arguments.global, arguments.ids, arguments.force); };
  });

  auto* clear = add_command(app, "clear", "Remove all objects that match",
                            "  quirectl clear --model qwen\n  quirectl clear --all --yes");
  auto* tenant = add_filter(clear, arguments);
  clear->add_flag("--all", arguments.all, "Every object");
  clear->add_flag("-y,--yes", arguments.yes, "Do not ask");
  clear->callback([&arguments, &action, tenant] {
    if (tenant->count() != 0) arguments.filter.tenant = arguments.tenant;
    action = [&] {
      return ctl::run_clear(arguments.global, arguments.filter, arguments.all, arguments.yes);
    };
  });

  auto* prefetch = add_command(app, "prefetch", "Bring objects into host memory",
                               "  quirectl prefetch 3fa8c1 77b02e");
  add_ids(prefetch);
  prefetch->callback(
      [&] { action = [&] { return ctl::run_prefetch(arguments.global, arguments.ids); }; });

  auto* drain = add_command(app, "drain", "Refuse new puts and make everything durable",
                            "  quirectl drain\n  quirectl drain --exit --timeout 5m");
  drain->add_flag("--exit", arguments.exit_after, "End the server afterwards");
  drain->callback(
      [&] { action = [&] { return ctl::run_drain(arguments.global, arguments.exit_after); }; });
}

int report(const Status& status) {
  std::cout.flush();
  if (!status.is_ok()) {
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
  return ctl::kExitOk;
}

int run(int argc, char** argv) {
  CLI::App app("Looks at and steers a running quired.", "quirectl");
  app.require_subcommand(1);
  app.fallthrough();
  app.footer(std::string("\n") + kExitCodes);
  Arguments arguments;
  arguments.global.server = quire::control::kDefaultControlAddress;
  Action action;
  add_global(app, arguments);
  add_reading_commands(app, arguments, action);
  add_changing_commands(app, arguments, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? ctl::kExitOk : ctl::kExitUsage;
  }
  arguments.global.json = arguments.output == "json";
  if (!arguments.timeout.empty()) {
    arguments.global.timeout_ms = ctl::parse_duration_ms(arguments.timeout).value();
    if (*arguments.global.timeout_ms == 0 || *arguments.global.timeout_ms > kTimeoutMsMax)
      return report({StatusCode::kInvalidArgument, "--timeout must be from 1ms to 24h"});
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
