#include "server/reactor/frame.h"

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstring>

#include "base/hash.h"

namespace quire::server {
namespace {

constexpr uint64_t kHeaderHashedBytes = offsetof(wire::FrameHeader, header_xxh3);
static_assert(kHeaderHashedBytes == 56);

Status corrupt(const char* what) {
  return Status(StatusCode::kCorrupt, what);
}

}  // namespace

Expected<RequestFrame> parse_request(ByteSpan message, wire::FrameHeader* header) {
  *header = {};
  RequestFrame frame;
  if (message.size() < sizeof(wire::FrameHeader))
    return corrupt("frame is shorter than its header");
  if (message.size() > wire::kFrameBytesMax) return corrupt("frame is longer than 64 KiB");
  std::memcpy(&frame.header, message.data(), sizeof(frame.header));
  if (frame.header.magic != wire::kFrameMagic) return corrupt("frame has no QWR1 magic");
  if (frame.header.header_xxh3 != xxh3_64(message.first(kHeaderHashedBytes))) {
    return corrupt("frame header checksum does not hold");
  }
  if (frame.header.body_bytes != message.size() - sizeof(wire::FrameHeader)) {
    return corrupt("body_bytes is not what came");
  }
  frame.body = message.subspan(sizeof(wire::FrameHeader));
  *header = frame.header;
  if (frame.header.version != wire::kProtocolVersion) {
    return Status(StatusCode::kVersionMismatch,
                  "protocol version " + std::to_string(frame.header.version) +
                      "; this server speaks " + std::to_string(wire::kProtocolVersion));
  }
  if (frame.header.body_xxh3 != xxh3_64(frame.body)) return corrupt("body checksum does not hold");
  if (frame.header.op == 0 || frame.header.op > wire::kOpMax) {
    return Status(StatusCode::kInvalidArgument, "unknown op " + std::to_string(frame.header.op));
  }
  if ((frame.header.flags & ~uint32_t{wire::kFlagNoReply}) != 0) {
    return Status(StatusCode::kInvalidArgument, "a request carries reply flags");
  }
  frame.op = static_cast<wire::Op>(frame.header.op);
  if (frame.header.flags != 0 && frame.op != wire::Op::kRelease && frame.op != wire::Op::kFill) {
    return Status(StatusCode::kInvalidArgument, "only release and fill may ask for no reply");
  }
  if (frame.header.deadline_ms == 0) {
    return Status(StatusCode::kInvalidArgument, "deadline_ms must not be 0");
  }
  return frame;
}

ReplyBuilder::ReplyBuilder(MutableByteSpan buffer, const wire::FrameHeader& request,
                           uint64_t server_epoch)
    : buffer_(buffer) {
  assert(buffer.size() >= wire::kFrameBytesMax);
  header_.op = request.op;
  header_.flags = wire::kFlagReply;
  header_.request_id = request.request_id;
  header_.server_epoch = server_epoch;
}

bool ReplyBuilder::append(ByteSpan bytes) {
  if (bytes.size() > wire::kFrameBytesMax - used_bytes_) return false;
  if (!bytes.empty()) std::memcpy(buffer_.data() + used_bytes_, bytes.data(), bytes.size());
  used_bytes_ += bytes.size();
  return true;
}

void ReplyBuilder::set_error(const Status& status) {
  header_.status = static_cast<uint32_t>(status.code());
  header_.retry_after_ms = status.retry_after_ms();
  std::string_view message = status.message();
  message = message.substr(0, std::min<size_t>(message.size(), wire::kMessageBytesMax));
  append(std::as_bytes(std::span(message)));
}

ByteSpan ReplyBuilder::seal() {
  header_.body_bytes = static_cast<uint32_t>(used_bytes_ - sizeof(wire::FrameHeader));
  header_.body_xxh3 = xxh3_64(buffer_.subspan(sizeof(wire::FrameHeader), header_.body_bytes));
  std::memcpy(buffer_.data(), &header_, sizeof(header_));
  header_.header_xxh3 = xxh3_64(buffer_.first(kHeaderHashedBytes));
  std::memcpy(buffer_.data(), &header_, sizeof(header_));
  return buffer_.first(used_bytes_);
}

}  // namespace quire::server
