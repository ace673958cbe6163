// One connected client: frames in, frames out. Reactor thread only. A client can hurt nobody but
// itself: what it sends is checked (server/reactor/frame.h), what it does not read is bounded, and
// what it leaves open goes when its socket does.
#ifndef QUIRE_SERVER_REACTOR_SESSION_H_
#define QUIRE_SERVER_REACTOR_SESSION_H_

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "proto/wire.h"
#include "server/reactor/frame.h"
#include "server/store/store.h"
#include "tiers/io/event_loop.h"

namespace quire::server {

// Broken frames and broken rules a client gets away with before it is disconnected.
inline constexpr uint32_t kViolationsMax = 8;
// Replies that wait for a client to read. While any waits, nothing more is read from it, so that
// only answers of slow work pile up; beyond this it is disconnected.
inline constexpr uint64_t kOutgoingBytesMax = 512ull << 10;
// And so it is where none of them was taken for this long.
inline constexpr uint64_t kUnreadRepliesNs = 5'000'000'000;
// Requests of one session that wait for I/O; beyond, BUSY.
inline constexpr size_t kPendingRequestsMax = 256;
// Frames handled, and replies sent, before other sessions get their turn.
inline constexpr uint32_t kFramesPerTurnMax = 64;
inline constexpr uint32_t kRepliesPerTurnMax = 256;

// What sessions share; owned by the reactor.
struct SessionContext {
  const Config& config;
  EventLoop& loop;
  Clock& clock;
  Store& store;
  uint64_t protocol_errors = 0;
  std::vector<std::byte> receive_buffer;    // kFrameBytesMax + 1
  std::vector<std::byte> send_buffer;       // kFrameBytesMax
  std::shared_ptr<ResolveJob> resolve_job;  // not in use, if any
  // The live session of that id, or nullptr: callbacks of slow work ask, sessions may be gone by
  // then.
  std::function<class Session*(uint32_t)> find_session;
  // The session is closed and wants to be destroyed (not at once: it is on the stack).
  std::function<void(uint32_t)> on_closed;
};

class Session {
 public:
  // Takes the socket. start() watches it.
  Session(uint32_t id, int fd, SessionContext& context);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  Status start();
  // Drops leases and reservations and closes the socket; the object stays until its owner destroys
  // it.
  void close(const char* why);

  bool closed() const { return fd_ < 0; }
  bool said_hello() const { return said_hello_; }
  uint64_t connected_ns() const { return connected_ns_; }
  // Replies wait, and the client has taken none since then; UINT64_MAX where none waits.
  uint64_t unread_since_ns() const { return outgoing_.empty() ? UINT64_MAX : unread_since_ns_; }

 private:
  struct Pending {
    wire::FrameHeader header;
    uint32_t remaining = 0;        // replies still to send
    uint32_t lease_ms = 0;         // acquire
    std::vector<bool> unanswered;  // acquire, by index
    TimerId timer = 0;
  };

  void on_ready(uint32_t events);
  void read_frames();
  void handle(ByteSpan message);
  void dispatch(const RequestFrame& frame);
  void handle_hello(const RequestFrame& frame);
  void handle_resolve(const RequestFrame& frame);
  void handle_acquire(const RequestFrame& frame);
  void handle_gpu_layout(const RequestFrame& frame);
  void handle_release(const RequestFrame& frame);
  void handle_reserve(const RequestFrame& frame);
  void handle_fill(const RequestFrame& frame);
  void handle_commit(const RequestFrame& frame);
  void handle_abort(const RequestFrame& frame);
  void handle_hint(const RequestFrame& frame);
  void handle_scope(const RequestFrame& frame);
  void handle_feedback(const RequestFrame& frame);
  void handle_register_model(const RequestFrame& frame);

  uint64_t add_pending(const RequestFrame& frame, uint32_t remaining);
  void on_deadline(uint64_t ticket);
  void finish_pending(uint64_t ticket, const Status& status);
  void finish_acquire(uint64_t ticket, uint32_t index, const Digest& id, const Status& status);
  void load_details(uint64_t ticket, const std::shared_ptr<ResolveJob>& job);
  void finish_resolve(uint64_t ticket, const std::shared_ptr<ResolveJob>& job,
                      const Status& status);
  void reply_resolve(const wire::FrameHeader& header, const ResolveJob& job);
  void reply_acquire(const wire::FrameHeader& header, uint32_t index, const Expected<Grant>& result,
                     bool more);
  void violation(const wire::FrameHeader& header, const Status& status);
  void reply(const wire::FrameHeader& header, const Status& status, ByteSpan body = {});
  void send(ByteSpan frame);
  // False, with errno: nothing was sent.
  bool send_with_descriptors(ByteSpan frame, std::span<const int> descriptors);
  void flush_outgoing();

  const uint32_t id_;
  int fd_;
  SessionContext& context_;
  const uint64_t connected_ns_;
  bool said_hello_ = false;
  std::string client_name_;
  StoreSession store_session_;
  uint32_t violations_ = 0;
  bool watching_output_ = false;
  std::deque<std::vector<std::byte>> outgoing_;
  uint64_t outgoing_bytes_ = 0;
  uint64_t unread_since_ns_ = 0;
  uint32_t replies_this_turn_ = 0;
  uint64_t next_ticket_ = 1;
  std::unordered_map<uint64_t, Pending> pending_;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_REACTOR_SESSION_H_
