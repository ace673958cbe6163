// One data-plane socket: whole frames in and out, each with a deadline. Checks what a frame says
// about itself (magic, version, lengths, checksums); what it means is the session's affair.
#ifndef QUIRE_CLIENT_CONNECTION_H_
#define QUIRE_CLIENT_CONNECTION_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/spin_gate.h"
#include "base/status.h"
#include "proto/wire.h"

namespace quire {

// Owns one file descriptor.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  ~UniqueFd();

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release();

 private:
  int fd_ = -1;
};

// Absolute, on the monotonic clock.
struct Deadline {
  uint64_t at_ns = 0;

  static Deadline after_ms(uint32_t timeout_ms);
  // Rounded up, so that 0 means "passed".
  uint32_t remaining_ms() const;
};

// A received frame; body points into the connection's buffer until the next receive.
struct Frame {
  wire::FrameHeader header;
  ByteSpan body;
  std::vector<UniqueFd> fds;
};

// The parts of one frame to send.
struct OutgoingFrame {
  wire::Op op = wire::Op::kPing;
  uint32_t flags = 0;
  uint64_t request_id = 0;
  uint64_t server_epoch = 0;
  ByteSpan body;
};

// send() may be called from any thread (one frame is one atomic message); receive() from one at a
// time.
class Connection {
 public:
  // kUnavailable: nobody listens at path. kPermissionDenied, kInvalidArgument (path too long).
  static Expected<Connection> open(const std::string& path, const Deadline& deadline);
  // Takes over a connected SOCK_SEQPACKET socket.
  explicit Connection(UniqueFd socket);

  // kUnavailable: the server is gone. kDeadlineExceeded: nothing was sent.
  Status send(const OutgoingFrame& frame, const Deadline& deadline) const;
  // kUnavailable, kDeadlineExceeded; kCorrupt / kVersionMismatch: the server sent what is no frame.
  // slow: the answer takes longer than a sleep and a wake-up, so that nothing is gained by looking
  // for it first.
  Expected<Frame> receive(const Deadline& deadline, bool slow = false);
  // True once the other end has closed, without reading anything.
  bool peer_closed() const;
  // Both directions, from any thread; a receive in progress ends with kUnavailable.
  void shut_down() const;

 private:
  UniqueFd socket_;
  std::vector<std::byte> buffer_;
  SpinGate spin_gate_;
};

// Header and checksums of one frame as it lies in bytes; the body follows the header.
Expected<wire::FrameHeader> parse_frame(ByteSpan bytes);
// The frame as it is sent: header with checksums, then the body.
std::vector<std::byte> encode_frame(wire::FrameHeader header, ByteSpan body);

}  // namespace quire

#endif  // QUIRE_CLIENT_CONNECTION_H_
