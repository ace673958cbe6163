// A quired of our own, as a process: started, asked whether it is ready, killed, started again.
#ifndef QUIRE_BENCH_QUIRE_BENCH_SERVER_PROCESS_H_
#define QUIRE_BENCH_QUIRE_BENCH_SERVER_PROCESS_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "bench/quire-bench/server_metrics.h"
#include "client/client.h"

namespace quire::bench {

struct ServerOptions {
  std::string program;    // quired; empty: beside this program
  std::string directory;  // data, socket, configuration and log go there
  uint64_t host_bytes = 512ull << 20;
  uint64_t nvme_bytes = 2ull << 30;
  uint64_t nvme_segment_bytes = 256ull << 20;
  bool http = false;  // needed by metrics()
};

inline constexpr uint32_t kReadyTimeoutMs = 120'000;
inline constexpr uint32_t kStopTimeoutMs = 60'000;

// Not thread safe. The process dies with this object, and with this process.
class ServerProcess {
 public:
  explicit ServerProcess(ServerOptions options);
  ~ServerProcess();
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  // Starts the program and waits until a client gets its first answer; microseconds from the start
  // of the process to that answer.
  Expected<uint64_t> start();
  // SIGKILL; returns when the process is gone.
  void kill();
  // SIGTERM; an error where it does not end with 0 in time.
  Status stop();

  // A session of ours; staging_bytes 0: as the server likes.
  Expected<std::unique_ptr<Client>> connect(uint64_t staging_bytes = 0) const;
  // Of the process that runs now. kFailedPrecondition without ServerOptions::http.
  Expected<ServerMetrics> metrics() const;
  const std::string& socket_path() const { return socket_path_; }
  pid_t pid() const { return pid_; }  // -1 where it does not run

 private:
  Status write_config() const;
  // One answer from the server, by a session as small as can be.
  bool answers() const;
  Status spawn();
  std::string log_tail() const;
  bool reap(bool wait, int* exit_status);

  ServerOptions options_;
  std::string socket_path_;
  std::string config_path_;
  std::string log_path_;
  pid_t pid_ = -1;
  uint16_t http_port_ = 0;  // of the process that runs
};

// The folder this program lies in.
std::string program_directory();

}  // namespace quire::bench

#endif  // QUIRE_BENCH_QUIRE_BENCH_SERVER_PROCESS_H_
