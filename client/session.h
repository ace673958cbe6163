// The state of one session behind Client: connection, mapped memory, epoch, the request in flight.
#ifndef QUIRE_CLIENT_SESSION_H_
#define QUIRE_CLIENT_SESSION_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "base/bytes.h"
#include "base/ids.h"
#include "base/status.h"
#include "client/client.h"
#include "client/connection.h"
#include "proto/wire.h"

namespace quire {

// Of every object and window in shared memory.
inline constexpr uint64_t kSlabAlignment = 64;
inline constexpr uint64_t kNsPerMs = 1'000'000;

// A request's struct as it travels.
template <typename T>
ByteSpan bytes_of(const T& request) {
  return std::as_bytes(std::span(&request, 1));
}

// A shared mapping of a whole file descriptor.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();
  // kCorrupt where the file is shorter than bytes (access would raise SIGBUS).
  static Expected<Mapping> map(const UniqueFd& fd, uint64_t bytes, bool writable);
  MutableByteSpan bytes() const { return bytes_; }
  // Gives a range its pages now; a machine that has none left is no error.
  void prefault(uint64_t offset, uint64_t bytes) const;

 private:
  MutableByteSpan bytes_;
};

// Threads: any. Requests take turns; send_and_forget() and healthy() do not wait for them.
//
// A request that runs out of time leaves the session usable: the request id tells its late replies
// from those of later requests, and what they granted (leases, reservations) is given back.
// Anything that breaks the protocol ends the session: every later call is kUnavailable.
class Client::Session {
 public:
  static Expected<std::unique_ptr<Session>> open(const ClientOptions& options);
  // Over an open connection (open() uses it; tests bring a socketpair).
  static Expected<std::unique_ptr<Session>> start(Connection connection,
                                                  const ClientOptions& options);
  ~Session();

  // Called for each reply to the request; whether more must come. An error ends the session.
  // It may take descriptors out of the frame.
  using ReplyHandler = std::function<Expected<bool>(Frame&)>;

  // Exclusive use of the request channel (and of the prompt scratch) until destroyed.
  class Turn {
   public:
    // Sends one request and hands its replies to on_reply until that says there are no more.
    Status call(wire::Op op, ByteSpan body, const ReplyHandler& on_reply);
    // A request whose reply carries a status and nothing else.
    Status call(wire::Op op, ByteSpan body);
    // A request with one reply of type T, followed by the bytes that `rest` receives (if given).
    template <typename T>
    Expected<T> call_for(wire::Op op, ByteSpan body, std::vector<std::byte>* rest = nullptr);
    const Deadline& deadline() const { return deadline_; }

   private:
    friend class Session;
    Turn(Session& session, const Deadline& deadline) : session_(session), deadline_(deadline) {}
    Session& session_;
    Deadline deadline_;
    std::unique_lock<std::timed_mutex> lock_;
  };
  // kDeadlineExceeded: other threads' requests took all of the time. kUnavailable: session over.
  Expected<Turn> turn() { return turn(Deadline::after_ms(timeout_ms_)); }
  Expected<Turn> turn(const Deadline& deadline);

  // A frame whose reply nobody waits for; errors do not matter to the caller.
  void send_and_forget(wire::Op op, uint32_t flags, ByteSpan body);
  // OK while the session lives, else why not. Notices a server that went away.
  Status healthy() const;
  // Marks the session as over with the first reason given, which is returned.
  Status fail(const Status& reason);

  ByteSpan slab() const { return slab_.bytes(); }
  MutableByteSpan staging() const { return staging_.bytes(); }
  MutableByteSpan prompt_scratch() const {
    return staging_.bytes().first(wire::kPromptScratchBytes);
  }
  const TenantSalt& salt() const { return salt_; }
  uint64_t epoch() const { return epoch_; }
  uint64_t object_bytes_max() const { return object_bytes_max_; }
  bool can(wire::Feature feature) const { return (features_ & feature) != 0; }
  uint32_t timeout_ms() const { return timeout_ms_; }
  Digest scope() const {
    const std::scoped_lock lock(state_mutex_);
    return scope_;
  }
  void set_scope(const Digest& scope) {
    const std::scoped_lock lock(state_mutex_);
    scope_ = scope;
  }
  // How long a lease lasts unless the server says otherwise.
  uint32_t lease_ms() const { return lease_ms_; }

 private:
  Session(Connection connection, uint32_t timeout_ms);
  Status hello(const ClientOptions& options);
  Status accept_hello(const wire::HelloReply& reply, std::vector<UniqueFd> fds);
  Expected<Frame> next_reply(wire::Op op, uint64_t request_id, const Deadline& deadline);
  void give_back(const Frame& late);

  Connection connection_;
  uint32_t timeout_ms_;
  Mapping slab_;
  Mapping staging_;
  TenantSalt salt_;
  uint64_t epoch_ = 0;
  uint32_t features_ = 0;
  uint64_t object_bytes_max_ = 0;
  uint32_t lease_ms_ = 0;

  std::timed_mutex request_mutex_;
  std::atomic<uint64_t> next_request_id_{1};

  mutable std::mutex state_mutex_;
  Status failure_;  // OK while the session lives
  Digest scope_;
};

// The Status that an error reply carries: its code, and the rest of the body as message.
Status reply_status(const wire::FrameHeader& header, ByteSpan message);

template <typename T>
Expected<T> Client::Session::Turn::call_for(wire::Op op, ByteSpan body,
                                            std::vector<std::byte>* rest) {
  T result{};
  Status refused;
  QUIRE_RETURN_IF_ERROR(call(op, body, [&](const Frame& frame) -> Expected<bool> {
    if (frame.header.status != 0) {
      refused = reply_status(frame.header, frame.body);
      return false;
    }
    ByteReader reader(frame.body);
    result = reader.read<T>();
    if (!reader.ok() || (rest == nullptr && !reader.at_end()))
      return Status(StatusCode::kCorrupt, "the server sent a reply of the wrong length");
    if (rest != nullptr) {
      const ByteSpan tail = reader.read_bytes(reader.remaining());
      rest->assign(tail.begin(), tail.end());
    }
    return false;
  }));
  QUIRE_RETURN_IF_ERROR(refused);
  return result;
}

}  // namespace quire

#endif  // QUIRE_CLIENT_SESSION_H_
