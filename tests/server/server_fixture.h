// Servers to test against (in this process, or a real quired) and objects to store in them.
#ifndef QUIRE_TESTS_SERVER_SERVER_FIXTURE_H_
#define QUIRE_TESTS_SERVER_SERVER_FIXTURE_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/ids.h"
#include "server/config.h"
#include "server/server.h"
#include "tests/server/test_client.h"

namespace quire::server {

// A directory that goes with the object.
class TempDirectory {
 public:
  TempDirectory();
  ~TempDirectory();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Small tiers, no network ports: host 64 MiB, NVMe 64 MiB in 4 MiB segments, 256 KiB blobs.
Config test_config(const std::string& directory);

// A whole server on a thread of its own.
class InProcessServer {
 public:
  // status() tells whether it came up.
  explicit InProcessServer(const Config& config);
  // Drains and joins.
  ~InProcessServer();
  const Status& status() const { return status_; }
  Server& operator*() { return *server_; }
  AdminApi& admin() { return server_->admin(); }
  // As a crash, as far as one process can: nothing is flushed.
  void stop_fast();
  Status drain();

 private:
  Server* server_ = nullptr;
  Status status_;
  Status exit_status_;
  std::promise<void> released_;
  std::thread thread_;
};

struct SpawnOptions {
  std::vector<std::string> arguments;
  std::vector<std::string> environment;  // NAME=value, added to this process'
  // Runs in the child before quired does (limits, filters, mounts); false ends the child with
  // kSpawnRefused. Only what is safe after a fork.
  std::function<bool()> before_exec;
  int ready_wait_ms = kPatienceMs;
};
inline constexpr int kSpawnRefused = 126;

// A quired of its own process.
class ServerProcess {
 public:
  // Waits until it answers a hello, at most ready_wait_ms; ready() tells.
  explicit ServerProcess(const Config& config, const std::vector<std::string>& arguments = {})
      : ServerProcess(config, SpawnOptions{arguments, {}, nullptr}) {}
  ServerProcess(const Config& config, const SpawnOptions& options);
  // SIGKILL where it still runs.
  ~ServerProcess();
  bool ready() const { return ready_; }
  pid_t pid() const { return pid_; }
  void kill();
  // SIGTERM; the exit status.
  int terminate();
  // Waits for an exit that nobody asked for: the status (128 + signal where it was killed), -1
  // where it still runs after timeout_ms.
  int wait_for_exit(int timeout_ms);
  // From the start of the process to its first answer.
  uint64_t ready_us() const { return ready_us_; }
  // What it wrote to stderr so far.
  std::string log() const;

 private:
  std::string log_path_;
  pid_t pid_ = -1;
  int exit_status_ = -1;
  bool ready_ = false;
  uint64_t ready_us_ = 0;
};

// Runs quired until it exits by itself: (exit status, stdout and stderr).
std::pair<int, std::string> run_quired(const std::vector<std::string>& arguments);

// 2 layers, 2 KV heads, 64 dims: 1 KiB of raw f16 per token.
ModelDescriptor test_model(uint32_t seed = 1);

struct TestObject {
  Digest id;
  std::vector<TokenId> tokens;
  std::vector<std::byte> bytes;
};
// A raw-f16 representation of n_tokens tokens that seed determines, isolated unless told otherwise.
TestObject make_object(const ModelDescriptor& model, uint64_t seed, uint32_t n_tokens,
                       const TenantSalt& salt = {},
                       const VariantContext& context = VariantContext::isolated(),
                       uint64_t base_position = 0);

}  // namespace quire::server

#endif  // QUIRE_TESTS_SERVER_SERVER_FIXTURE_H_
