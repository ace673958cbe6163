// The gRPC control API (proto/control.proto) over an AdminApi, with the standard health service and
// server reflection. It moves no KV bytes and has no authentication yet, so it listens on loopback
// only unless told otherwise.
#ifndef QUIRE_SERVER_CONTROL_CONTROL_SERVER_H_
#define QUIRE_SERVER_CONTROL_CONTROL_SERVER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "server/admin.h"

namespace quire::server {

// Calls that arrive while so many threads are in use are answered RESOURCE_EXHAUSTED.
inline constexpr int kControlThreadsMax = 16;
inline constexpr uint64_t kControlMemoryBytesMax = 128ull << 20;
// The deadline of a call: the client's, cut to the maximum; the default where it gave none. Calls
// that move data (Clear, Prefetch, Drain) may take long when the client says so.
inline constexpr uint32_t kControlDeadlineMsDefault = 30'000;
inline constexpr uint32_t kControlDeadlineMsMax = 30'000;
inline constexpr uint32_t kControlLongDeadlineMsMax = 600'000;
// How long stop() lets running calls finish before it cancels them.
inline constexpr uint32_t kControlStopMs = 2'000;

struct ControlOptions {
  bool allow_remote = false;  // listen on other than loopback addresses, unauthenticated
};

class ControlServer {
 public:
  // listen_address is "host:port", port 0 for any free one. kInvalidArgument: cannot be parsed;
  // kPermissionDenied: not loopback; kUnavailable: the address is taken or not this machine's.
  // admin must outlive the server. Health starts as SERVING.
  static Expected<std::unique_ptr<ControlServer>> start(AdminApi& admin,
                                                        const std::string& listen_address,
                                                        ControlOptions options = {});
  ~ControlServer();  // stops
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  int port() const;
  // What the health service answers. A successful Drain call sets false too. Any thread.
  void set_serving(bool serving);
  // Refuses new calls, gives running ones kControlStopMs, then cancels them and waits until their
  // AdminApi calls have returned: never call it from the thread that serves the AdminApi.
  // Idempotent.
  void stop();

 private:
  struct State;
  explicit ControlServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_CONTROL_CONTROL_SERVER_H_
