#include "bench/quire-bench/server_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/clock.h"

namespace quire::bench {
namespace {

constexpr auto kPollInterval = std::chrono::microseconds(500);
constexpr uint64_t kLogTailBytes = 2000;
constexpr int kExecFailed = 127;

}  // namespace

std::string program_directory() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path().string();
}

ServerProcess::ServerProcess(ServerOptions options) : options_(std::move(options)) {
  if (options_.program.empty()) options_.program = program_directory() + "/quired";
  socket_path_ = options_.directory + "/quired.sock";
  config_path_ = options_.directory + "/quire.toml";
  log_path_ = options_.directory + "/quired.log";
}

ServerProcess::~ServerProcess() {
  kill();
}

Status ServerProcess::write_config() const {
  std::ofstream file(config_path_);
  file << "data_directory = \"" << options_.directory << "/data\"\n"
       << "socket_path = \"" << socket_path_ << "\"\n"
       << "log_level = \"warn\"\n"
       << "[host]\nbytes = " << options_.host_bytes << "\n"
       << "[nvme]\nbytes = " << options_.nvme_bytes << "\n"
       << "segment_bytes = " << options_.nvme_segment_bytes << "\n"
       << "[control]\nlisten = \"\"\n[http]\nlisten = \""
       << (http_port_ != 0 ? "127.0.0.1:" + std::to_string(http_port_) : "") << "\"\n";
  file.close();
  return file ? Status::ok() : Status(StatusCode::kIoError, "cannot write " + config_path_);
}

Status ServerProcess::spawn() {
  if (access(options_.program.c_str(), X_OK) != 0)
    return {StatusCode::kNotFound,
            options_.program + " is missing: build the target quired, or name it with --quired"};
  if (options_.http) {
    QUIRE_ASSIGN_OR_RETURN(http_port_, free_port());
  }
  QUIRE_RETURN_IF_ERROR(write_config());
  // Everything that allocates happens before the fork.
  const int log = ::open(log_path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) return {StatusCode::kIoError, "cannot write " + log_path_};
  std::string program = options_.program;
  std::string flag = "--config";
  std::string config = config_path_;
  char* arguments[] = {program.data(), flag.data(), config.data(), nullptr};
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(kExecFailed);
    // Ctrl-C is ours to handle; the server then goes with this process.
    setpgid(0, 0);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    execv(arguments[0], arguments);
    _exit(kExecFailed);
  }
  ::close(log);
  return pid_ > 0 ? Status::ok() : Status(StatusCode::kInternal, "fork failed");
}

Expected<uint64_t> ServerProcess::start() {
  if (pid_ > 0) return Status(StatusCode::kFailedPrecondition, "the server is running already");
  const uint64_t began_ns = system_clock().now_ns();
  QUIRE_RETURN_IF_ERROR(spawn());
  const uint64_t deadline_ns = began_ns + kReadyTimeoutMs * 1'000'000ull;
  while (system_clock().now_ns() < deadline_ns) {
    if (answers()) return (system_clock().now_ns() - began_ns) / 1000;
    int exit_status = 0;
    if (reap(false, &exit_status))
      return Status(StatusCode::kUnavailable, "quired ended at start: " + log_tail());
    std::this_thread::sleep_for(kPollInterval);
  }
  return Status(StatusCode::kDeadlineExceeded, "quired is not ready: " + log_tail());
}

bool ServerProcess::answers() const {
  ClientOptions options;
  options.socket_path = socket_path_;
  options.client_name = "quire-bench";
  options.timeout_ms = kReadyTimeoutMs;
  options.prefault = false;
  const auto client = Client::connect(options);
  return client && (*client)->ping().is_ok();
}

Expected<ServerMetrics> ServerProcess::metrics() const {
  if (http_port_ == 0 || pid_ <= 0)
    return Status(StatusCode::kFailedPrecondition, "no server with metrics runs");
  return read_server_metrics(http_port_);
}

Expected<std::unique_ptr<Client>> ServerProcess::connect(uint64_t staging_bytes) const {
  ClientOptions options;
  options.staging_bytes = staging_bytes;
  options.socket_path = socket_path_;
  options.client_name = "quire-bench";
  options.timeout_ms = 30'000;
  return Client::connect(options);
}

bool ServerProcess::reap(bool wait, int* exit_status) {
  if (pid_ <= 0) return true;
  int status = 0;
  pid_t result;
  do {
    result = waitpid(pid_, &status, wait ? 0 : WNOHANG);
  } while (result < 0 && errno == EINTR);
  if (result == 0) return false;
  *exit_status = status;
  pid_ = -1;
  return true;
}

void ServerProcess::kill() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  int ignored = 0;
  reap(true, &ignored);
}

Status ServerProcess::stop() {
  if (pid_ <= 0) return {StatusCode::kFailedPrecondition, "the server is not running"};
  ::kill(pid_, SIGTERM);
  const uint64_t deadline_ns = system_clock().now_ns() + kStopTimeoutMs * 1'000'000ull;
  int exit_status = 0;
  while (!reap(false, &exit_status)) {
    if (system_clock().now_ns() > deadline_ns) {
      kill();
      return {StatusCode::kDeadlineExceeded, "quired did not end on SIGTERM: " + log_tail()};
    }
    std::this_thread::sleep_for(kPollInterval);
  }
  if (WIFEXITED(exit_status) && WEXITSTATUS(exit_status) == 0) return Status::ok();
  return {StatusCode::kInternal, "quired ended badly: " + log_tail()};
}

std::string ServerProcess::log_tail() const {
  std::ifstream file(log_path_, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  std::string log = text.str();
  if (log.size() > kLogTailBytes) log.erase(0, log.size() - kLogTailBytes);
  return log.empty() ? "(no log)" : "\n" + log;
}

}  // namespace quire::bench
