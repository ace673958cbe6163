// A whole quired inside one thread: lock, event loop, store, reactor, admin service. main.cc runs
// it on the main thread, tests on threads of their own.
#ifndef QUIRE_SERVER_SERVER_H_
#define QUIRE_SERVER_SERVER_H_

#include <functional>
#include <memory>

#include "server/admin_service.h"
#include "server/config.h"
#include "server/lock_file.h"
#include "server/reactor/reactor.h"
#include "server/store/store.h"
#include "tiers/io/event_loop.h"

namespace quire::server {

class Server {
 public:
  // Locks the data directory, recovers, listens. Blocking; run() must be called on the same thread.
  static Expected<std::unique_ptr<Server>> open(Config config);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Serves until a drain that was asked to exit is done (then everything is flushed and closed), or
  // until stop_fast().
  Status run();
  // Any thread. No new objects; flush; run() returns.
  void request_drain();
  // Any thread. run() returns at once; what was not durable is lost.
  void stop_fast();

  const Config& config() const { return config_; }
  EventLoop& loop() { return *loop_; }
  Store& store() { return *store_; }
  AdminApi& admin() { return *admin_; }

 private:
  explicit Server(Config config) : config_(std::move(config)) {}

  const Config config_;
  LockFile lock_;
  std::shared_ptr<tiers::HostSlab> slab_;  // outlives the loop: I/O may be under way in it
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Reactor> reactor_;
  std::unique_ptr<AdminService> admin_;
  bool drained_ = false;  // reactor thread
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_SERVER_H_
