#include "client/reuse/encode.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "base/hash.h"
#include "tests/client/fake_server.h"
#include "tests/client/reuse/engine_fixture.h"

namespace quire::reuse {
namespace {

constexpr uint32_t kTokens = 12;

struct Rig {
  ModelDescriptor model = toy_model();
  ToyEngine engine{model, 32, 0};
  Rig() { engine.randomize(3); }
  RepresentationHeader header(CodecId codec = CodecId::kRawF32,
                              PositionFrame frame = PositionFrame::kLocal) const {
    return toy_header(model, kTokens, codec, frame, 4);
  }
  Status encode(const RepresentationHeader& header, const EncodeOptions& options,
                std::vector<std::byte>* bytes) {
    QUIRE_ASSIGN_OR_RETURN(const auto writer, plan_representation(header, model));
    bytes->resize(writer.total_bytes());
    return encode_representation(writer, header, model, engine.planes(), options, *bytes);
  }
};

TEST(Encode, SectionsHoldLayerPlaneHeadTokenDim) {
  Rig rig;
  std::vector<std::byte> bytes;
  const std::vector<int64_t> rows = {31, 0, 5, 6, 7, 8, 9, 1, 2, 3, 4, 30};
  EncodeOptions options;
  options.rows.rows = rows;
  ASSERT_TRUE(rig.encode(rig.header(), options, &bytes).is_ok());
  const auto view = RepresentationView::parse(bytes);
  ASSERT_TRUE(view.is_ok()) << view.status().to_string();
  EXPECT_TRUE(view->verify_sections().is_ok());
  EXPECT_EQ(view->header().tokens, rig.header().tokens);
  for (const Plane plane : {Plane::kKey, Plane::kValue}) {
    const auto section = view->section(1, plane);
    ASSERT_TRUE(section.is_ok());
    const uint32_t dims = rig.engine.dims(1, plane);
    for (uint32_t head = 0; head < 2; ++head)
      for (uint32_t token = 0; token < kTokens; ++token)
        for (uint32_t dim = 0; dim < dims; ++dim) {
          float stored;
          std::memcpy(&stored, section->data() + ((head * kTokens + token) * dims + dim) * 4, 4);
          EXPECT_EQ(stored, rig.engine.at(1, plane, rows[token], head, dim));
        }
  }
}

TEST(Encode, PreRopeKeysDoNotDependOnThePositionTheyWereComputedAt) {
  Rig rig;
  std::vector<std::byte> bytes;
  ASSERT_TRUE(
      rig.encode(rig.header(CodecId::kRawF32, PositionFrame::kPreRope), {}, &bytes).is_ok());
  const auto view = RepresentationView::parse(bytes);
  ASSERT_TRUE(view.is_ok());
  const auto section = view->section(0, Plane::kKey);
  ASSERT_TRUE(section.is_ok());
  for (uint32_t token = 0; token < kTokens; ++token)
    for (uint32_t dim = 0; dim < 8; ++dim) {
      float stored;
      std::memcpy(&stored, section->data() + (token * 8 + dim) * 4, 4);
      EXPECT_NEAR(stored, rotated_key(rig.engine, rig.model, 0, token, 0, dim, -4.0 - token), 2e-6);
    }
}

TEST(Encode, RefusesWhatDoesNotFit) {
  Rig rig;
  std::vector<std::byte> bytes;
  EncodeOptions options;
  const std::vector<int64_t> short_rows(kTokens - 1, 0);
  options.rows.rows = short_rows;
  EXPECT_EQ(rig.encode(rig.header(), options, &bytes).code(), StatusCode::kInvalidArgument);
  options = {};
  options.rows.first_row = 32 - kTokens + 1;
  EXPECT_EQ(rig.encode(rig.header(), options, &bytes).code(), StatusCode::kInvalidArgument);
  options.rows.first_row = -1;
  EXPECT_EQ(rig.encode(rig.header(), options, &bytes).code(), StatusCode::kInvalidArgument);
  options = {};
  options.key_is_rotated = false;
  EXPECT_EQ(rig.encode(rig.header(), options, &bytes).code(), StatusCode::kInvalidArgument);
  RepresentationHeader header = rig.header();
  header.model.bytes[0] ^= 1;
  EXPECT_EQ(plan_representation(header, rig.model).status().code(), StatusCode::kModelMismatch);
  header = rig.header();
  const auto writer = plan_representation(header, rig.model);
  ASSERT_TRUE(writer.is_ok());
  bytes.resize(writer->total_bytes() - 1);
  EXPECT_EQ(
      encode_representation(*writer, header, rig.model, rig.engine.planes(), {}, bytes).code(),
      StatusCode::kInvalidArgument);
  bytes.resize(writer->total_bytes());
  const auto no_planes = [](uint32_t, Plane) { return EnginePlane{}; };
  EXPECT_EQ(encode_representation(*writer, header, rig.model, no_planes, {}, bytes).code(),
            StatusCode::kInvalidArgument);
}

TEST(Encode, NonFiniteKvIsNeverStored) {
  Rig rig;
  std::vector<std::byte> bytes;
  rig.engine.at(2, Plane::kValue, 3, 1, 2) = std::numeric_limits<float>::infinity();
  for (const CodecId codec : {CodecId::kRawF32, CodecId::kRawF16, CodecId::kInt8Channel})
    EXPECT_EQ(rig.encode(rig.header(codec), {}, &bytes).code(), StatusCode::kNonFinite);
}

TEST(PutRepresentation, EncodesIntoTheWindowAndWaitsWhileBusy) {
  Rig rig;
  std::vector<std::byte> expected;
  ASSERT_TRUE(rig.encode(rig.header(), {}, &expected).is_ok());
  uint32_t busy_left = 2;
  std::vector<std::byte> stored;
  FakeServer server([&](FakeServer& self, const FakeServer::Request& request) {
    if (request.op() == wire::Op::kReserve) {
      if (busy_left-- > 0) return self.reply_error(request, StatusCode::kBusy, "full", 1);
      EXPECT_EQ(request.as<wire::ReserveRequest>().bytes, expected.size());
      return self.reply_with(request, wire::ReserveReply{1, wire::kPromptScratchBytes});
    }
    const auto commit = request.as<wire::CommitRequest>();
    const ByteSpan window = self.staging().subspan(wire::kPromptScratchBytes, commit.bytes);
    EXPECT_EQ(commit.checksum_low, xxh3_128(window).low);
    EXPECT_EQ(commit.ack, wire::AckLevel::kDurable);
    EXPECT_EQ(commit.pin_ms, 9u);
    stored.assign(window.begin(), window.end());
    self.reply(request, {});
  });
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  PutOptions put;
  put.ack = wire::AckLevel::kDurable;
  put.pin_ms = 9;
  const auto result =
      put_representation(**client, rig.header(), rig.model, rig.engine.planes(), {}, put);
  ASSERT_TRUE(result.is_ok()) << result.status().to_string();
  EXPECT_EQ(*result, PutResult::kStored);
  EXPECT_EQ(stored, expected);
}

TEST(PutRepresentation, WhatIsStoredIsNotEncodedAgain) {
  Rig rig;
  FakeServer server([&](FakeServer& self, const FakeServer::Request& request) {
    self.reply_error(request, StatusCode::kAlreadyExists, "have it");
  });
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  const auto never = [](uint32_t, Plane) {
    ADD_FAILURE() << "the engine was read";
    return EnginePlane{};
  };
  const auto result = put_representation(**client, rig.header(), rig.model, never, {});
  ASSERT_TRUE(result.is_ok());
  EXPECT_EQ(*result, PutResult::kAlreadyStored);
}

}  // namespace
}  // namespace quire::reuse
