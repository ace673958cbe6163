// quired: the store as a process.
#include <poll.h>
#include <signal.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>

#include "server/config.h"
#include "server/control/control_server.h"
#include "server/http/http_server.h"
#include "server/server.h"

namespace {

using quire::EventLoop;
using quire::Expected;
using quire::Status;
using quire::server::Config;
using quire::server::ControlServer;
using quire::server::HttpServer;
using quire::server::Server;

constexpr int kExitUsage = 2;
constexpr int kExitFailure = 1;

constexpr const char* kExamples = R"(
Examples:
  quired                                     a store in the user's data directory
  quired --data /var/lib/quire --socket /run/quire/quired.sock
  quired --config /etc/quire.toml --check-config
  quired --print-config > quire.toml         all keys with their values, to start from

SIGTERM and SIGINT drain: no new objects, everything flushed, exit 0. A second one exits at once.)";

struct Arguments {
  std::string config_path;
  std::string data_directory;
  std::string socket_path;
  bool print_config = false;
  bool check_config = false;
};

Expected<Config> make_config(const Arguments& arguments) {
  Config config = Config::defaults();
  if (!arguments.config_path.empty()) {
    QUIRE_RETURN_IF_ERROR(config.apply_file(arguments.config_path));
  }
  if (!arguments.data_directory.empty()) config.data_directory = arguments.data_directory;
  if (!arguments.socket_path.empty()) config.socket_path = arguments.socket_path;
  config.fit_to_machine();
  QUIRE_RETURN_IF_ERROR(config.validate());
  return config;
}

int fail(const Status& status) {
  std::fprintf(stderr, "quired: %s\n", status.message().c_str());
  return status.code() == quire::StatusCode::kInvalidArgument ? kExitUsage : kExitFailure;
}

sigset_t stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

// First signal: drain. Second: out.
Status watch_signals(int fd, Server& server) {
  return server.loop().watch_fd(fd, POLLIN, [fd, &server, seen = 0](uint32_t) mutable {
    signalfd_siginfo info;
    while (::read(fd, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
      if (++seen == 1) {
        spdlog::info("signal {}: draining; once more to exit at once", info.ssi_signo);
        server.request_drain();
      } else {
        spdlog::warn("second signal: exit without flushing");
        server.stop_fast();
      }
    }
  });
}

template <typename Endpoint>
Status start_endpoint(const std::string& address, Server& server,
                      std::unique_ptr<Endpoint>& endpoint) {
  if (!quire::server::listens(address)) return Status::ok();
  auto started = Endpoint::start(server.admin(), address);
  if (!started) return started.status();
  endpoint = std::move(*started);
  return Status::ok();
}

int serve(Config config) {
  // Before any thread exists, so that all of them leave the signals to the descriptor.
  const sigset_t signals = stop_signals();
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);  // a write beyond RLIMIT_FSIZE is an error like others
  const int signal_fd = ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  auto opened = Server::open(std::move(config));
  if (!opened) return fail(opened.status());
  Server& server = **opened;
  std::unique_ptr<ControlServer> control;
  std::unique_ptr<HttpServer> http;
  Status status = watch_signals(signal_fd, server);
  if (status.is_ok()) status = start_endpoint(server.config().control_address, server, control);
  if (status.is_ok()) status = start_endpoint(server.config().http_address, server, http);
  if (!status.is_ok()) return fail(status);

  spdlog::info("ready: {} objects, recovered in {} ms, socket {}, data {}, control {}, http {}",
               server.store().objects(), server.store().recovery_ms(), server.config().socket_path,
               server.config().data_directory,
               control ? "127.0.0.1:" + std::to_string(control->port()) : "off",
               http ? "127.0.0.1:" + std::to_string(http->port()) : "off");
  spdlog::default_logger()->flush();
  status = server.run();
  if (control) control->stop();
  if (http) http->stop();
  if (!status.is_ok()) return fail(status);
  spdlog::info("stopped");
  return 0;
}

int run_main(int argc, char** argv) {
  CLI::App app{"quired: a tiered store for the KV caches of LLM inference", "quired"};
  Arguments arguments;
  app.add_option("--config", arguments.config_path, "TOML file; every key has a default");
  app.add_option("--data", arguments.data_directory, "data directory (overrides data_directory)");
  app.add_option("--socket", arguments.socket_path, "unix socket (overrides socket_path)");
  app.add_flag("--print-config", arguments.print_config, "print the configuration in force, exit");
  app.add_flag("--check-config", arguments.check_config, "check the configuration, exit");
  app.set_version_flag("--version", std::string("quired " QUIRE_VERSION));
  app.footer(kExamples);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : kExitUsage;
  }
  auto config = make_config(arguments);
  if (!config) return fail(config.status());
  if (arguments.print_config) {
    std::fputs(config->to_toml().c_str(), stdout);
    return 0;
  }
  if (arguments.check_config) {
    std::puts("configuration is valid");
    return 0;
  }
  spdlog::set_default_logger(spdlog::stderr_color_mt("quired"));
  spdlog::set_level(spdlog::level::from_str(config->log_level));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  spdlog::flush_on(spdlog::level::info);
  return serve(std::move(*config));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run_main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "quired: %s\n", error.what());
    return kExitFailure;
  }
}
