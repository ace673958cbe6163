#include "tools/quirectl/command_line.h"

#include "proto/control_metadata.h"
#include "tools/quirectl/command_support.h"
#include "tools/quirectl/format.h"

namespace quire::ctl {
namespace {

constexpr uint64_t kIdArgumentsMax = 100'000;

// What a duration on the command line must be; empty where it is fine.
std::string check_duration(const std::string& text) {
  const auto duration_ms = parse_duration_ms(text);
  return duration_ms ? std::string() : duration_ms.status().message();
}

std::string check_bytes(const std::string& text) {
  const auto bytes = parse_bytes(text);
  return bytes ? std::string() : bytes.status().message();
}

void add_id_arguments(CLI::App* command, Arguments& arguments) {
  command->add_option("ID", arguments.ids, "Objects")
      ->required()
      ->expected(1, static_cast<int>(kIdArgumentsMax));
}

void add_filter(CLI::App* command, Arguments& arguments) {
  command->add_option("--model", arguments.filter.model, "Model: name, id, or its first digits");
  command->add_option("--tier", arguments.filter.tier, "Tier: gpu, host, nvme or rocks")
      ->check(CLI::IsMember({"gpu", "host", "nvme", "rocks"}));
  command->add_option("--tenant", arguments.tenant, "Tenant; \"\" is the default one");
  command->add_option(
      "--scope", arguments.scope,
      "Label of one of the tenant's scopes (the default tenant's where none is given); \"\": what "
      "is bound to none");
}

// Of these an empty one says something, too.
void read_filter(const CLI::App* command, Arguments& arguments) {
  if (command->count("--tenant") != 0) arguments.filter.tenant = arguments.tenant;
  if (command->count("--scope") != 0) arguments.filter.scope = arguments.scope;
}

}  // namespace

CLI::App* add_command(CLI::App& app, const char* name, const char* what, const char* examples) {
  CLI::App* command = app.add_subcommand(name, what);
  command->footer(std::string("\nExamples:\n") + examples);
  return command;
}

void add_global(CLI::App& app, Arguments& arguments) {
  app.add_option("--server", arguments.global.server, "Control address of quired")
      ->envname("QUIRE_CONTROL")
      ->default_str(control::kDefaultControlAddress);
  app.add_option("-o,--output", arguments.output, "table or json")
      ->check(CLI::IsMember({"table", "json"}))
      ->default_str("table");
  app.add_option(
         "--timeout", arguments.timeout,
         "Longest wait for each answer, such as 500ms or 30s (default 30s; clear, prefetch, "
         "drain and checkpoint 10m)")
      ->check(check_duration);
}

void add_reading_commands(CLI::App& app, Arguments& arguments, Action& action) {
  auto* status = add_command(app, "status", "Show the server, its tiers and its counters",
                             "  quirectl status\n  quirectl status -o json | jq .degraded\n"
                             "  quirectl status --check || page-somebody");
  status->add_flag("--check", arguments.check, "Exit with 3 where anything is degraded");
  status->callback([&] { action = [&] { return run_status(arguments.global, arguments.check); }; });

  auto* ls = add_command(app, "ls", "List stored objects",
                         "  quirectl ls --tier host\n  quirectl ls --model qwen --limit 20\n"
                         "  quirectl ls --tenant acme --scope alice\n"
                         "  quirectl ls --limit 0 -o json");
  add_filter(ls, arguments);
  ls->add_option("--limit", arguments.limit, "At most so many; 0 lists all")->capture_default_str();
  ls->callback([&arguments, &action, ls] {
    read_filter(ls, arguments);
    action = [&] { return exit_code(run_ls(arguments.global, arguments.filter, arguments.limit)); };
  });

  auto* stat = add_command(app, "stat", "Show one object", "  quirectl stat 3fa8c1");
  stat->add_option("ID", arguments.id, "Object")->required();
  stat->callback(
      [&] { action = [&] { return exit_code(run_stat(arguments.global, arguments.id)); }; });

  auto* models = add_command(app, "models", "List registered models",
                             "  quirectl models\n  quirectl models -o json");
  models->callback([&] { action = [&] { return exit_code(run_models(arguments.global)); }; });

  auto* verdict = add_command(app, "verdict", "Say whether a model's chunks may be reused, and how",
                              "  quirectl verdict set qwen --file verdict.json\n"
                              "  quirectl verdict clear qwen");
  verdict->require_subcommand(1);
  auto* set = add_command(*verdict, "set", "Store a verdict that was measured",
                          "  quire-eval gate model.gguf --verdict verdict.json; "
                          "quirectl verdict set qwen --file verdict.json");
  set->add_option("MODEL", arguments.model, "Model: name, id, or its first digits")->required();
  set->add_option("--file", arguments.verdict_path, "JSON (- reads standard input)")->required();
  set->callback([&] {
    action = [&] {
      return exit_code(run_verdict_set(arguments.global, arguments.model, arguments.verdict_path));
    };
  });
  auto* clear = add_command(*verdict, "clear", "Take a verdict away; the model is served as before",
                            "  quirectl verdict clear qwen");
  clear->add_option("MODEL", arguments.model, "Model: name, id, or its first digits")->required();
  clear->callback([&] {
    action = [&] { return exit_code(run_verdict_clear(arguments.global, arguments.model)); };
  });

  auto* lookup = add_command(app, "lookup", "Show what is stored for a prompt's token ids",
                             "  quirectl lookup --model qwen --tokens prompt.json\n"
                             "  quirectl lookup --model qwen --tokens prompt.json --scope alice\n"
                             "  echo '1 2 3 4' | quirectl lookup --model qwen --tokens -");
  lookup->add_option("--model", arguments.model, "Model: name, id, or its first digits")
      ->required();
  lookup
      ->add_option("--tokens", arguments.tokens_path,
                   "File of decimal token ids (- reads standard input)")
      ->required();
  lookup->add_option("--tenant", arguments.tenant, "Tenant; the default one where not given");
  lookup->add_option("--scope", arguments.scope,
                     "As a session in this scope finds it; the tenant's own where not given");
  lookup->callback([&] {
    action = [&] {
      return exit_code(run_lookup(arguments.global, arguments.model, arguments.tokens_path,
                                  arguments.tenant, arguments.scope));
    };
  });
}

void add_changing_commands(CLI::App& app, Arguments& arguments, Action& action) {
  const auto add_ids = [&](CLI::App* command) { add_id_arguments(command, arguments); };
  auto* pin = add_command(app, "pin", "Keep objects from eviction",
                          "  quirectl pin 3fa8c1\n  quirectl pin 3fa8c1 77b02e --ttl 1h");
  add_ids(pin);
  pin->add_option("--ttl", arguments.ttl, "For so long, such as 30m, 1h or 7d; else until unpinned")
      ->check(check_duration);
  pin->callback([&] {
    action = [&]() -> Expected<int> {
      uint64_t ttl_ms = 0;
      if (!arguments.ttl.empty()) {
        ttl_ms = parse_duration_ms(arguments.ttl).value();
        if (ttl_ms == 0) return Status(StatusCode::kInvalidArgument, "--ttl must not be 0");
      }
      return exit_code(run_pin(arguments.global, arguments.ids, ttl_ms));
    };
  });

  auto* unpin =
      add_command(app, "unpin", "Let objects be evicted again", "  quirectl unpin 3fa8c1");
  add_ids(unpin);
  unpin->callback(
      [&] { action = [&] { return exit_code(run_unpin(arguments.global, arguments.ids)); }; });

  auto* rm = add_command(app, "rm", "Remove objects",
                         "  quirectl rm 3fa8c1\n  quirectl rm --force 3fa8c1 77b02e");
  add_ids(rm);
  rm->add_flag("--force", arguments.force, "Even if pinned; what a client uses stays");
  rm->callback([&] {
    action = [&] { return exit_code(run_rm(arguments.global, arguments.ids, arguments.force)); };
  });

  auto* clear = add_command(app, "clear", "Remove all objects that match",
                            "  quirectl clear --model qwen\n  quirectl clear --scope alice --yes\n"
                            "  quirectl clear --all --yes");
  add_filter(clear, arguments);
  clear->add_flag("--all", arguments.all, "Every object");
  clear->add_flag("-y,--yes", arguments.yes, "Do not ask");
  clear->callback([&arguments, &action, clear] {
    read_filter(clear, arguments);
    action = [&] {
      return exit_code(run_clear(arguments.global, arguments.filter, arguments.all, arguments.yes));
    };
  });

  auto* prefetch = add_command(app, "prefetch", "Bring objects into host memory",
                               "  quirectl prefetch 3fa8c1 77b02e\n"
                               "  quirectl prefetch --deadline 500ms 3fa8c1");
  add_ids(prefetch);
  prefetch
      ->add_option("--deadline", arguments.deadline,
                   "They are of no use later than this, such as 500ms; exit code 4 when it passes")
      ->check(check_duration);
  prefetch->callback([&] {
    action = [&]() -> Expected<int> {
      uint64_t deadline_ms = 0;
      if (!arguments.deadline.empty()) {
        deadline_ms = parse_duration_ms(arguments.deadline).value();
        if (deadline_ms == 0 || deadline_ms > kLongTimeoutMs)
          return Status(StatusCode::kInvalidArgument, "--deadline must be from 1ms to 10m");
      }
      return exit_code(run_prefetch(arguments.global, arguments.ids, deadline_ms));
    };
  });

  auto* drain = add_command(app, "drain", "Refuse new puts and make everything durable",
                            "  quirectl drain\n  quirectl drain --exit --timeout 5m");
  drain->add_flag("--exit", arguments.exit_after, "End the server afterwards");
  drain->callback([&] {
    action = [&] { return exit_code(run_drain(arguments.global, arguments.exit_after)); };
  });
}

void add_tenancy_commands(CLI::App& app, Arguments& arguments, Action& action) {
  auto* hint = add_command(app, "hint", "Tell when objects are needed next",
                           "  quirectl hint 3fa8c1 --steps 2\n"
                           "  quirectl hint 3fa8c1 77b02e --next-use 30s --priority 200\n"
                           "  quirectl hint 3fa8c1 --finished");
  add_id_arguments(hint, arguments);
  auto* steps = hint->add_option("--steps", arguments.steps,
                                 "Steps of the workflow until the next use; 0 = the next one");
  hint->add_option("--next-use", arguments.next_use, "Time until the next use, such as 30s")
      ->check(check_duration);
  auto* priority = hint->add_option("--priority", arguments.priority,
                                    "0 to 255; 128 is as any other, more stays longer")
                       ->check(CLI::Range(0, 255));
  hint->add_flag("--finished", arguments.finished, "Nobody asks for them again");
  hint->callback([&arguments, &action, steps, priority] {
    action = [&arguments, steps, priority] {
      HintOptions options;
      if (steps->count() != 0) options.steps = arguments.steps;
      if (priority->count() != 0) options.priority = arguments.priority;
      if (!arguments.next_use.empty())
        options.next_use_ms = parse_duration_ms(arguments.next_use).value();
      options.finished = arguments.finished;
      return exit_code(run_hint(arguments.global, arguments.ids, options));
    };
  });

  auto* tenant = add_command(app, "tenant", "List tenants and set their quotas",
                             "  quirectl tenant ls\n"
                             "  quirectl tenant set-quota acme --soft 10GiB --hard 20GiB");
  tenant->require_subcommand(1);
  auto* ls = add_command(*tenant, "ls", "List tenants with what they use and may use",
                         "  quirectl tenant ls\n  quirectl tenant ls -o json");
  ls->callback([&] { action = [&] { return exit_code(run_tenant_ls(arguments.global)); }; });
  auto* quota = add_command(*tenant, "set-quota", "Set the limits of a tenant; 0 takes one away",
                            "  quirectl tenant set-quota acme --soft 10GiB --hard 20GiB\n"
                            "  quirectl tenant set-quota acme --hard 0");
  quota->add_option("NAME", arguments.tenant, "Tenant; \"\" is the default one")->required();
  quota
      ->add_option("--soft", arguments.soft,
                   "Share that other tenants' puts do not evict; stays where not given")
      ->check(check_bytes);
  quota->add_option("--hard", arguments.hard, "Never keep more; stays where not given")
      ->check(check_bytes);
  quota->callback([&] {
    action = [&]() -> Expected<int> {
      if (arguments.soft.empty() && arguments.hard.empty())
        return Status(StatusCode::kInvalidArgument, "give --soft, --hard or both");
      const auto limit = [](const std::string& text) -> std::optional<uint64_t> {
        if (text.empty()) return std::nullopt;
        return parse_bytes(text).value();
      };
      return exit_code(run_set_quota(arguments.global, arguments.tenant, limit(arguments.soft),
                                     limit(arguments.hard)));
    };
  });

  auto* checkpoint =
      add_command(app, "checkpoint", "Write a copy of the metadata for a backup",
                  "  quirectl checkpoint /backup/2026-01-31\n"
                  "  quirectl checkpoint /backup/now -o json | jq -r '.nvme_paths[]'");
  checkpoint
      ->add_option("DIR", arguments.directory,
                   "New directory on the server's machine; an absolute path")
      ->required();
  checkpoint->callback([&] {
    action = [&] { return exit_code(run_checkpoint(arguments.global, arguments.directory)); };
  });
}

}  // namespace quire::ctl
