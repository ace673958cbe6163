#include "server/reactor/frame.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iomanip>
#include <random>
#include <sstream>

#include "tests/server/test_client.h"

namespace quire::server {
namespace {

std::vector<std::byte> ping(uint64_t request_id = 7) {
  return make_frame(wire::Op::kPing, {}, request_id, 1000);
}

StatusCode code_of(ByteSpan message) {
  wire::FrameHeader header;
  return parse_request(message, &header).status().code();
}

// Rewrites one header field and makes the checksums right again.
template <typename Change>
std::vector<std::byte> changed(std::vector<std::byte> frame, Change change) {
  wire::FrameHeader header;
  std::memcpy(&header, frame.data(), sizeof(header));
  change(header);
  std::memcpy(frame.data(), &header, sizeof(header));
  reseal(frame);
  return frame;
}

TEST(Frame, SoundRequestIsRead) {
  const std::array<uint8_t, 3> body = {1, 2, 3};
  const auto message = make_frame(wire::Op::kReserve, std::as_bytes(std::span(body)), 42, 99);
  wire::FrameHeader header;
  auto frame = parse_request(message, &header);
  ASSERT_TRUE(frame.is_ok()) << frame.status().to_string();
  EXPECT_EQ(frame->op, wire::Op::kReserve);
  EXPECT_EQ(frame->header.request_id, 42u);
  EXPECT_EQ(frame->header.deadline_ms, 99u);
  EXPECT_EQ(frame->body.size(), 3u);
}

TEST(Frame, RulesAreChecked) {
  using H = wire::FrameHeader;
  EXPECT_EQ(code_of(changed(ping(), [](H& h) { h.magic ^= 1; })), StatusCode::kCorrupt);
  EXPECT_EQ(code_of(changed(ping(), [](H& h) { h.version = 2; })), StatusCode::kVersionMismatch);
  EXPECT_EQ(code_of(changed(ping(), [](H& h) { h.op = 0; })), StatusCode::kInvalidArgument);
  EXPECT_EQ(code_of(changed(ping(), [](H& h) { h.op = wire::kOpMax + 1; })),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(code_of(changed(ping(), [](H& h) { h.deadline_ms = 0; })),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(code_of(changed(ping(), [](H& h) { h.flags = wire::kFlagReply; })),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(code_of(changed(ping(), [](H& h) { h.flags = wire::kFlagNoReply; })),
            StatusCode::kInvalidArgument);
  const auto fill = make_frame(wire::Op::kFill, {}, 1, 1000, wire::kFlagNoReply);
  EXPECT_EQ(code_of(fill), StatusCode::kOk);
  EXPECT_EQ(code_of(changed(ping(), [](H& h) { h.body_bytes = 1; })), StatusCode::kCorrupt);
  EXPECT_EQ(code_of(changed(ping(), [](H& h) { h.body_bytes = UINT32_MAX; })),
            StatusCode::kCorrupt);
}

TEST(Frame, EveryFlippedBitAndEveryTruncationIsRefused) {
  const std::array<uint8_t, 16> body{};
  const auto sound = make_frame(wire::Op::kReserve, std::as_bytes(std::span(body)));
  for (size_t bit = 0; bit < sound.size() * 8; ++bit) {
    auto frame = sound;
    frame[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    EXPECT_NE(code_of(frame), StatusCode::kOk) << bit;
  }
  for (size_t size = 0; size < sound.size(); ++size) {
    EXPECT_EQ(code_of(ByteSpan(sound).first(size)), StatusCode::kCorrupt) << size;
  }
  EXPECT_EQ(code_of(std::vector<std::byte>(wire::kFrameBytesMax + 1)), StatusCode::kCorrupt);
}

TEST(Frame, RepliesCarryStatusAndAreBounded) {
  std::vector<std::byte> buffer(wire::kFrameBytesMax);
  wire::FrameHeader request;
  request.op = static_cast<uint16_t>(wire::Op::kAcquire);
  request.request_id = 5;
  ReplyBuilder builder(buffer, request, 77);
  builder.set_error(Status(StatusCode::kBusy, std::string(10'000, 'x'), 12));
  const ByteSpan frame = builder.seal();
  EXPECT_EQ(frame.size(), sizeof(wire::FrameHeader) + wire::kMessageBytesMax);
  wire::FrameHeader header;
  std::memcpy(&header, frame.data(), sizeof(header));
  EXPECT_EQ(header.status, static_cast<uint32_t>(StatusCode::kBusy));
  EXPECT_EQ(header.retry_after_ms, 12u);
  EXPECT_EQ(header.server_epoch, 77u);
  EXPECT_EQ(header.request_id, 5u);
  EXPECT_EQ(header.flags, wire::kFlagReply);

  ReplyBuilder full(buffer, request, 77);
  const std::vector<std::byte> big(wire::kFrameBytesMax - sizeof(wire::FrameHeader));
  EXPECT_TRUE(full.append(big));
  EXPECT_FALSE(full.append_value(uint8_t{1}));
  EXPECT_EQ(full.seal().size(), wire::kFrameBytesMax);
}

std::string hexdump(ByteSpan bytes) {
  std::ostringstream out;
  out << std::hex << std::setfill('0');
  for (size_t line = 0; line < bytes.size(); line += 16) {
    out << std::setw(4) << line << ' ';
    for (size_t i = line; i < std::min(line + 16, bytes.size()); ++i) {
      out << ' ' << std::setw(2) << std::to_integer<int>(bytes[i]);
    }
    out << '\n';
  }
  return out.str();
}

std::string golden(const std::string& name) {
  std::ifstream file(QUIRE_SOURCE_DIR "/tests/data/" + name);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// The frames of the example in docs/formats/wire.md, bit for bit as they were when it was written.
TEST(Frame, GoldenFrames) {
  wire::ReserveRequest reserve;
  for (size_t i = 0; i < reserve.representation.size(); ++i) {
    reserve.representation[i] = static_cast<uint8_t>(i);
  }
  reserve.bytes = 8'388'608;
  const auto request = make_frame(wire::Op::kReserve, bytes_of(reserve), 7, 10'000);
  wire::FrameHeader header;
  std::memcpy(&header, request.data(), sizeof(header));
  std::vector<std::byte> buffer(wire::kFrameBytesMax);
  ReplyBuilder builder(buffer, header, 0x0001020304050607);
  builder.append_value(wire::ReserveReply{3, 4'194'304});
  const std::string made = hexdump(request) + "\n" + hexdump(builder.seal());
  EXPECT_EQ(made, golden("wire_reserve.hex"));
  // The same window, 64 KiB of it written.
  const auto fill = make_frame(wire::Op::kFill, bytes_of(wire::FillRequest{3, 65'536}), 8, 1000,
                               wire::kFlagNoReply);
  const wire::FillProgress progress{.filled_bytes = 65'536, .send_fill = 1};
  EXPECT_EQ(hexdump(fill) + "\n" + hexdump(bytes_of(progress)), golden("wire_fill.hex"));
}

// A GPU pool of 8 MiB in chunks of 2 MiB, two of them there, and a lease in the second.
TEST(Frame, GoldenGpuFrames) {
  const auto ask = make_frame(wire::Op::kGpuLayout, bytes_of(wire::GpuLayoutRequest{}), 9, 1000);
  wire::FrameHeader header;
  std::memcpy(&header, ask.data(), sizeof(header));
  wire::GpuLayoutReply layout;
  layout.layout_version = 3;
  layout.capacity_bytes = 8 << 20;
  layout.chunk_bytes = 2 << 20;
  layout.n_chunks = layout.n_here = 2;
  for (uint8_t i = 0; i < 16; ++i) layout.device_uuid[i] = i;
  std::vector<std::byte> buffer(wire::kFrameBytesMax);
  ReplyBuilder reply(buffer, header, 0x0001020304050607);
  reply.append_value(layout);
  reply.append_value(uint64_t{1});
  reply.append_value(uint64_t{2});
  const std::string made = hexdump(reply.seal());
  header.op = static_cast<uint16_t>(wire::Op::kAcquireGpu);
  wire::AcquireGpuReply lease;
  lease.lease = {.index = 0,
                 .lease_ms = 30'000,
                 .lease_id = 0x100000005,
                 .generation = 17,
                 .slab_offset = 2 << 20,
                 .bytes = 1'048'896};
  lease.layout_version = 3;
  lease.tier = wire::TierId::kGpu;
  ReplyBuilder granted(buffer, header, 0x0001020304050607);
  granted.append_value(lease);
  EXPECT_EQ(made + "\n" + hexdump(granted.seal()), golden("wire_gpu.hex"));
}

}  // namespace
}  // namespace quire::server
