// The server's side of the wire format: requests as they come from a socket, and replies that are
// built from whatever a request asked for.
#include "base/hash.h"
#include "proto/wire.h"
#include "server/reactor/frame.h"
#include "tests/fuzz/fuzz_target.h"

namespace {

using quire::ByteSpan;
using quire::fuzz::expect;
namespace wire = quire::wire;

void reseal(std::vector<std::byte>& frame) {
  wire::FrameHeader header;
  if (frame.size() < sizeof(header)) return;
  std::memcpy(&header, frame.data(), sizeof(header));
  header.magic = wire::kFrameMagic;
  header.body_bytes = static_cast<uint32_t>(frame.size() - sizeof(header));
  header.body_xxh3 = quire::xxh3_64(ByteSpan(frame).subspan(sizeof(header)));
  std::memcpy(frame.data(), &header, sizeof(header));
  header.header_xxh3 = quire::xxh3_64(ByteSpan(frame).first(56));
  std::memcpy(frame.data(), &header, sizeof(header));
}

std::vector<std::byte> request(wire::Op op, ByteSpan body, uint32_t flags = 0) {
  wire::FrameHeader header;
  header.op = static_cast<uint16_t>(op);
  header.flags = flags;
  header.request_id = 7;
  header.deadline_ms = 1000;
  std::vector<std::byte> frame(sizeof(header) + body.size());
  std::memcpy(frame.data(), &header, sizeof(header));
  if (!body.empty()) std::memcpy(frame.data() + sizeof(header), body.data(), body.size());
  reseal(frame);
  return frame;
}

template <typename Body>
std::vector<std::byte> request(wire::Op op, const Body& body) {
  return request(op, std::as_bytes(std::span(&body, 1)));
}

// A reply of one error or of pieces of the body, which must be sound and within the limit.
void build_reply(const wire::FrameHeader& header, ByteSpan body) {
  std::vector<std::byte> buffer(wire::kFrameBytesMax);
  quire::server::ReplyBuilder builder(buffer, header, 99);
  bool fits = true;
  for (uint32_t piece = 0; piece < 4 && fits; ++piece) fits = builder.append(body);
  if (body.size() % 2 != 0) {
    builder.set_error({quire::StatusCode::kBusy, quire::fuzz::text_of(body), 5});
  }
  const ByteSpan frame = builder.seal();
  expect(frame.size() <= wire::kFrameBytesMax, "replies stay within the frame limit");
  wire::FrameHeader built;
  std::memcpy(&built, frame.data(), sizeof(built));
  expect(built.body_bytes == frame.size() - sizeof(built), "body_bytes of a reply");
  expect(built.request_id == header.request_id, "the request id is echoed");
  expect(built.header_xxh3 == quire::xxh3_64(frame.first(56)), "header checksum of a reply");
  expect(built.body_xxh3 == quire::xxh3_64(frame.subspan(sizeof(built))), "body checksum");
}

bool parse(ByteSpan message) {
  wire::FrameHeader header;
  const auto frame = quire::server::parse_request(message, &header);
  if (!frame) {
    if (header.magic == wire::kFrameMagic && header.header_xxh3 != 0) build_reply(header, {});
    return false;
  }
  expect(message.size() <= wire::kFrameBytesMax, "an oversized frame is refused");
  expect(frame->body.size() == frame->header.body_bytes, "the body is what the header says");
  expect(static_cast<uint16_t>(frame->op) >= 1 && static_cast<uint16_t>(frame->op) <= wire::kOpMax,
         "only known ops pass");
  expect(frame->header.deadline_ms != 0, "a deadline is set");
  expect((frame->header.flags & wire::kFlagReply) == 0, "requests carry no reply flag");
  build_reply(frame->header, frame->body);
  return true;
}

}  // namespace

QUIRE_FUZZ_SEEDS(frame) {
  quire::fuzz::Seeds seeds;
  seeds.emplace_back("hello", request(wire::Op::kHello, wire::HelloRequest{}));
  seeds.emplace_back("resolve", request(wire::Op::kResolve, wire::ResolveRequest{}));
  const std::vector<std::byte> acquire(sizeof(wire::AcquireRequest) + 2 * sizeof(wire::Id));
  seeds.emplace_back("acquire", request(wire::Op::kAcquire, ByteSpan(acquire)));
  const std::vector<std::byte> release(sizeof(wire::ReleaseRequest) + 8);
  seeds.emplace_back("release_no_reply",
                     request(wire::Op::kRelease, ByteSpan(release), wire::kFlagNoReply));
  seeds.emplace_back("reserve", request(wire::Op::kReserve, wire::ReserveRequest{}));
  seeds.emplace_back("commit", request(wire::Op::kCommit, wire::CommitRequest{}));
  seeds.emplace_back("ping", request(wire::Op::kPing, ByteSpan{}));
  return seeds;
}

// As it came, and with its checksums put right, so that what lies behind them is reached too.
QUIRE_FUZZ_TARGET(frame) {
  const bool sound = parse(input);
  std::vector<std::byte> sealed(input.begin(), input.end());
  reseal(sealed);
  return parse(sealed) && sound;
}
