// Frames of the data plane as the server sees them: hostile bytes in, well-formed bytes out. The
// layout is proto/wire.h, the rules are docs/formats/wire.md. Pure functions; nothing here touches
// a socket.
#ifndef QUIRE_SERVER_REACTOR_FRAME_H_
#define QUIRE_SERVER_REACTOR_FRAME_H_

#include <cstdint>
#include <string_view>

#include "base/bytes.h"
#include "base/status.h"
#include "proto/wire.h"

namespace quire::server {

// A request whose header and body have been checked; body points into the received bytes.
struct RequestFrame {
  wire::FrameHeader header;
  wire::Op op = wire::Op::kPing;
  ByteSpan body;
};

// kCorrupt: magic, sizes or a checksum do not hold (nothing of the frame can be trusted, not even
// its request id). kVersionMismatch: another protocol version. kInvalidArgument: a sound frame that
// breaks a rule (unknown op, reply flag, zero deadline). Where the header was sound, *header is
// filled in, so that a reply can name the request.
Expected<RequestFrame> parse_request(ByteSpan message, wire::FrameHeader* header);

// Builds one reply in a caller's buffer of kFrameBytesMax bytes: append body parts, then seal().
class ReplyBuilder {
 public:
  ReplyBuilder(MutableByteSpan buffer, const wire::FrameHeader& request, uint64_t server_epoch);

  // False (and nothing appended) where the frame would grow beyond kFrameBytesMax.
  bool append(ByteSpan bytes);
  template <typename T>
  bool append_value(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    return append(std::as_bytes(std::span(&value, 1)));
  }
  // Sets status and retry hint, appends the message (cut to kMessageBytesMax).
  void set_error(const Status& status);
  void set_flags(uint32_t flags) { header_.flags |= flags; }
  void set_features(uint32_t features) { header_.features = features; }

  // Writes checksums and header; the finished frame.
  ByteSpan seal();

 private:
  MutableByteSpan buffer_;
  wire::FrameHeader header_;
  uint64_t used_bytes_ = sizeof(wire::FrameHeader);
};

// Reads T from the front of body and cuts it off; false where body is too short.
template <typename T>
bool take(ByteSpan& body, T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (body.size() < sizeof(T)) return false;
  std::memcpy(&value, body.data(), sizeof(T));
  body = body.subspan(sizeof(T));
  return true;
}

}  // namespace quire::server

#endif  // QUIRE_SERVER_REACTOR_FRAME_H_
