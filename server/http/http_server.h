// Read-only HTTP endpoints for people and monitoring, on loopback:
//   /metrics  Prometheus text format (docs/ops/metrics.md)
//   /healthz  200 "ok"; 503 while draining or where the store does not answer
//   /         a status page that needs nothing from elsewhere
#ifndef QUIRE_SERVER_HTTP_HTTP_SERVER_H_
#define QUIRE_SERVER_HTTP_HTTP_SERVER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "server/admin.h"

namespace quire::server {

inline constexpr size_t kHttpThreads = 4;
// Accepted connections that wait for a thread; further ones wait in the kernel's backlog.
inline constexpr size_t kHttpQueueMax = 16;
inline constexpr int kHttpReadTimeoutSeconds = 5;
inline constexpr int kHttpWriteTimeoutSeconds = 5;
inline constexpr uint32_t kHttpAdminDeadlineMs = 2'000;

class HttpServer {
 public:
  // address is "host:port", port 0 for any free one. kInvalidArgument: cannot be parsed;
  // kPermissionDenied: not loopback; kUnavailable: the address is taken. admin must outlive the
  // server.
  static Expected<std::unique_ptr<HttpServer>> start(AdminApi& admin, const std::string& address);
  ~HttpServer();  // stops
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const;
  // Waits for running requests (bounded by the timeouts above). Never call it from the thread that
  // serves the AdminApi. Idempotent.
  void stop();

 private:
  struct State;
  explicit HttpServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_HTTP_HTTP_SERVER_H_
