// Accepts clients, owns their sessions, keeps time. Reactor thread only, but for the counters'
// readers, who come through AdminService.
#ifndef QUIRE_SERVER_REACTOR_REACTOR_H_
#define QUIRE_SERVER_REACTOR_REACTOR_H_

#include <cstdint>
#include <memory>
#include <unordered_map>

#include "server/config.h"
#include "server/reactor/listener.h"
#include "server/reactor/session.h"
#include "server/store/store.h"

namespace quire::server {

inline constexpr uint64_t kTickNs = 20'000'000;
// A socket that says no hello by then is closed.
inline constexpr uint64_t kHelloDeadlineNs = 10'000'000'000;
// When all sessions are taken, one that has been silent for this long makes room.
inline constexpr uint64_t kSilentGraceNs = 1'000'000'000;
// Descriptors of one session: its socket and its staging window.
inline constexpr uint64_t kDescriptorsPerSession = 2;
// Descriptors left to everything else: RocksDB's files, the control plane.
inline constexpr uint64_t kDescriptorsReserved = 16;

class Reactor {
 public:
  // Serves config.sessions_max clients, or as many as the limit of open files leaves room for
  // (raised as far as it may be; a warning tells). kResourceExhausted where that is not even one.
  static Expected<std::unique_ptr<Reactor>> start(const Config& config, EventLoop& loop,
                                                  Clock& clock, Store& store, Listener listener);
  // Closes all sessions and removes the socket.
  ~Reactor();
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  uint64_t sessions() const { return sessions_.size(); }
  uint64_t protocol_errors() const { return context_.protocol_errors; }

 private:
  Reactor(const Config& config, EventLoop& loop, Clock& clock, Store& store, Listener listener);
  Status fit_sessions_to_descriptors();
  void warn_of_slow_loop() const;
  void accept_all();
  bool make_room_for_session();
  void refuse(int fd, const Status& status);
  void schedule_tick();
  void tick();

  const Config& config_;
  EventLoop& loop_;
  Clock& clock_;
  Store& store_;
  Listener listener_;
  SessionContext context_;
  std::unordered_map<uint32_t, std::unique_ptr<Session>> sessions_;
  uint32_t next_session_id_ = 1;
  uint64_t sessions_limit_ = 0;
  bool accept_fails_ = false;  // said once, until it works again
  TimerId tick_timer_ = 0;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_REACTOR_REACTOR_H_
