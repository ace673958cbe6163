#include "server/server.h"

#include <spdlog/spdlog.h>

#include <thread>

#include "server/reactor/short_slice.h"

namespace quire::server {
namespace {

// With one core, spinning would only keep the client from running.
EventLoopOptions loop_options() {
  constexpr uint32_t kSpinUs = 30;
  EventLoopOptions options;
  options.spin_us = std::thread::hardware_concurrency() > 1 ? kSpinUs : 0;
  return options;
}

}  // namespace

Expected<std::unique_ptr<Server>> Server::open(Config config) {
  QUIRE_RETURN_IF_ERROR(config.validate());
  std::unique_ptr<Server> server(new Server(std::move(config)));
  const Config& fixed = server->config_;
  QUIRE_RETURN_IF_ERROR(make_private_directory(fixed.data_directory));
  QUIRE_ASSIGN_OR_RETURN(server->lock_,
                         LockFile::acquire(fixed.data_directory + "/lock",
                                           "the data directory " + fixed.data_directory));
  // Before the recovery: a second server on this socket learns it at once, and clients that come
  // early wait in the backlog.
  auto listener = Listener::open(fixed.socket_path);
  if (!listener) return listener.status();
  QUIRE_ASSIGN_OR_RETURN(server->loop_, make_event_loop(loop_options()));
  QUIRE_ASSIGN_OR_RETURN(server->store_, Store::open(fixed, *server->loop_, system_clock()));
  server->slab_ = server->store_->shared_slab();
  QUIRE_ASSIGN_OR_RETURN(server->reactor_, Reactor::start(fixed, *server->loop_, system_clock(),
                                                          *server->store_, std::move(*listener)));
  Server* raw = server.get();
  server->admin_ = std::make_unique<AdminService>(*server->loop_, system_clock(), *server->store_,
                                                  *server->reactor_, [raw] {
                                                    raw->drained_ = true;
                                                    raw->loop_->stop();
                                                  });
  return server;
}

Server::~Server() {
  // Sessions first, then the store (its workers post to the loop), the loop last.
  reactor_.reset();
  store_.reset();
}

Status Server::run() {
  ask_for_short_slices();
  loop_->run();
  admin_->stop();
  reactor_.reset();
  if (!drained_) return Status::ok();
  return store_->shutdown();
}

void Server::request_drain() {
  loop_->post([this] {
    store_->drain([this](const Status& status) {
      if (!status.is_ok()) spdlog::error("drain: {}", status.to_string());
      drained_ = true;
      loop_->stop();
    });
  });
}

void Server::stop_fast() {
  loop_->stop();
}

}  // namespace quire::server
