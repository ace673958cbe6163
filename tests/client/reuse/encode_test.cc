#include "client/reuse/encode.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/hash.h"
#include "client/reuse/salient.h"
#include "codecs/registry.h"
#include "kernels/math/bits.h"
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

// The second layer has half of the others' KV heads; its planes hold nothing behind those.
TEST(Encode, LayersMayHaveDifferentNumbersOfHeads) {
  Rig rig;
  rig.model.layers[1].kv_heads = 1;
  rig.engine = ToyEngine(rig.model, 32, 0);
  rig.engine.randomize(7);
  for (const CodecId codec : {CodecId::kRawF32, CodecId::kInt8Channel, CodecId::kInt4Rans}) {
    const RepresentationHeader header = rig.header(codec);
    const auto bytes = encode_to_memory(header, rig.model, rig.engine.planes(), {});
    ASSERT_TRUE(bytes.is_ok()) << bytes.status().to_string();
    const auto view = RepresentationView::parse(*bytes);
    ASSERT_TRUE(view.is_ok()) << view.status().to_string();
    ToyEngine target(rig.model, 32, 9);
    LoadOptions load;
    load.position = static_cast<int64_t>(header.base_position);
    ASSERT_TRUE(load_representation(*view, rig.model, target.planes(), load).is_ok());
    const double error_max = codec == CodecId::kRawF32        ? 1e-6
                             : codec == CodecId::kInt8Channel ? 0.05
                                                              : 0.5;
    for (uint32_t layer = 0; layer < 3; ++layer)
      for (const Plane plane : {Plane::kKey, Plane::kValue})
        for (uint32_t token = 0; token < kTokens; ++token)
          for (uint32_t head = 0; head < rig.model.layers[layer].kv_heads; ++head)
            for (uint32_t dim = 0; dim < rig.engine.dims(layer, plane); ++dim)
              ASSERT_NEAR(target.at(layer, plane, token, head, dim),
                          rig.engine.at(layer, plane, token, head, dim), error_max)
                  << layer << " " << token << " " << head << " " << dim;
    EXPECT_EQ(target.at(1, Plane::kKey, kTokens, 0, 0), 9) << "what lies behind stays as it is";
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

// Values that bf16 holds, so that lossless codecs give them back.
void round_to_bf16(Rig& rig) {
  for (uint32_t layer = 0; layer < rig.model.layers.size(); ++layer)
    for (const Plane plane : {Plane::kKey, Plane::kValue})
      for (float& value : rig.engine.values(layer, plane))
        value = quire_kernels::bf16_to_float(quire_kernels::float_to_bf16(value));
}

std::vector<const CodecInfo*> variable_codecs() {
  std::vector<const CodecInfo*> found;
  for (const CodecInfo& codec : codecs())
    if (codec.variable_size) found.push_back(&codec);
  return found;
}

// Every codec there is: what is encoded parses, has the sizes its codec demands, and loads back to
// where it was.
TEST(EncodeToMemory, EveryCodecGivesWhatItsSectionsDemand) {
  Rig rig;
  round_to_bf16(rig);
  for (const CodecInfo& codec : codecs()) {
    SCOPED_TRACE(codec.name);
    const RepresentationHeader header = rig.header(codec.id);
    const auto bytes = encode_to_memory(header, rig.model, rig.engine.planes(), {});
    ASSERT_TRUE(bytes.is_ok()) << bytes.status().to_string();
    const auto bound = plan_representation(header, rig.model);
    ASSERT_TRUE(bound.is_ok());
    EXPECT_LE(bytes->size(), bound->total_bytes());
    if (!codec.variable_size) {
      std::vector<std::byte> direct;
      ASSERT_TRUE(rig.encode(header, {}, &direct).is_ok());
      EXPECT_EQ(*bytes, direct);
    }
    const auto view = RepresentationView::parse(*bytes);
    ASSERT_TRUE(view.is_ok()) << view.status().to_string();
    EXPECT_TRUE(view->verify_sections().is_ok());
    const Status fits = check_sections(*view, rig.model);
    EXPECT_TRUE(fits.is_ok()) << fits.to_string();
    ToyEngine loaded(rig.model, kTokens, 0);
    LoadOptions load;
    load.position = 4;
    const Status status = load_representation(*view, rig.model, loaded.planes(), load);
    ASSERT_TRUE(status.is_ok()) << status.to_string();
    double error = 0;
    double norm = 0;
    for (uint32_t layer = 0; layer < rig.model.layers.size(); ++layer)
      for (const Plane plane : {Plane::kKey, Plane::kValue})
        for (uint32_t token = 0; token < kTokens; ++token)
          for (uint32_t dim = 0; dim < rig.engine.dims(layer, plane); ++dim) {
            const double wanted = rig.engine.at(layer, plane, token, 1, dim);
            const double difference = loaded.at(layer, plane, token, 1, dim) - wanted;
            error += difference * difference;
            norm += wanted * wanted;
          }
    if (codec.lossless && codec.element != ElementType::kF16) {
      EXPECT_EQ(error, 0);
    } else {
      EXPECT_LT(error, 0.2 * norm);
    }
  }
}

TEST(EncodeToMemory, VariableSizesAreLaidOutOnlyOnceTheyAreKnown) {
  ASSERT_FALSE(variable_codecs().empty());
  Rig rig;
  for (const CodecInfo* codec : variable_codecs()) {
    SCOPED_TRACE(codec->name);
    std::vector<std::byte> bytes;
    EXPECT_EQ(rig.encode(rig.header(codec->id), {}, &bytes).code(), StatusCode::kUnsupported);
    const RepresentationHeader header = rig.header(codec->id);
    const EnginePlaneOf planes = rig.engine.planes();
    const EncodeOptions options;
    const auto pending = PendingRepresentation::make(header, rig.model, planes, options);
    ASSERT_TRUE(pending.is_ok()) << pending.status().to_string();
    bytes.resize(pending->total_bytes() + 1);
    EXPECT_EQ(pending->finish(bytes).code(), StatusCode::kInvalidArgument);
    rig.engine.at(2, Plane::kValue, 3, 1, 2) = std::numeric_limits<float>::quiet_NaN();
    EXPECT_EQ(encode_to_memory(header, rig.model, planes, {}).status().code(),
              StatusCode::kNonFinite);
    rig.engine.at(2, Plane::kValue, 3, 1, 2) = 0;
  }
}

TEST(EncodeToMemory, SalientTokensTakeMoreBytesAndLoseLess) {
  Rig rig;
  std::vector<uint8_t> salient(kTokens, 0);
  for (const uint32_t token : {0u, 5u, 11u}) salient[token] = 1;
  EncodeOptions options;
  options.salient = std::span(salient).first(kTokens - 1);
  std::vector<std::byte> unused;
  EXPECT_EQ(rig.encode(rig.header(), options, &unused).code(), StatusCode::kInvalidArgument);
  options.salient = salient;
  bool found = false;
  for (const CodecInfo& codec : codecs()) {
    if (codec.element != ElementType::kMixed) continue;
    SCOPED_TRACE(codec.name);
    found = true;
    const auto bytes =
        encode_to_memory(rig.header(codec.id), rig.model, rig.engine.planes(), options);
    ASSERT_TRUE(bytes.is_ok()) << bytes.status().to_string();
    const auto view = RepresentationView::parse(*bytes);
    ToyEngine loaded(rig.model, kTokens, 0);
    LoadOptions load;
    load.position = 4;
    ASSERT_TRUE(load_representation(*view, rig.model, loaded.planes(), load).is_ok());
    double errors[2] = {0, 0};
    for (uint32_t token = 0; token < kTokens; ++token)
      for (uint32_t dim = 0; dim < 6; ++dim)
        errors[salient[token]] += std::abs(loaded.at(2, Plane::kValue, token, 0, dim) -
                                           rig.engine.at(2, Plane::kValue, token, 0, dim));
    EXPECT_LT(errors[1] / 3, 0.2 * errors[0] / (kTokens - 3));
  }
  EXPECT_TRUE(found) << "no mixed codec in the registry";
}

TEST(PutRepresentation, ReservesTheSizeThatAVariableCodecTakes) {
  ASSERT_FALSE(variable_codecs().empty());
  Rig rig;
  const RepresentationHeader header = rig.header(variable_codecs().front()->id);
  const auto expected = encode_to_memory(header, rig.model, rig.engine.planes(), {});
  ASSERT_TRUE(expected.is_ok()) << expected.status().to_string();
  std::vector<uint64_t> reserved;
  std::vector<std::byte> stored;
  FakeServer server([&](FakeServer& self, const FakeServer::Request& request) {
    if (request.op() == wire::Op::kReserve) {
      reserved.push_back(request.as<wire::ReserveRequest>().bytes);
      return self.reply_with(request,
                             wire::ReserveReply{reserved.size(), wire::kPromptScratchBytes});
    }
    if (request.op() != wire::Op::kCommit) return self.reply(request, {});
    const auto commit = request.as<wire::CommitRequest>();
    const ByteSpan window = self.staging().subspan(wire::kPromptScratchBytes, commit.bytes);
    stored.assign(window.begin(), window.end());
    self.reply(request, {});
  });
  const auto client = server.connect();
  ASSERT_TRUE(client.is_ok());
  uint64_t bytes_stored = 0;
  const auto result =
      put_representation(**client, header, rig.model, rig.engine.planes(), {}, {}, &bytes_stored);
  ASSERT_TRUE(result.is_ok()) << result.status().to_string();
  EXPECT_EQ(stored, *expected);
  EXPECT_EQ(bytes_stored, expected->size());
  ASSERT_EQ(reserved.size(), 2u);  // is it there; then its room
  EXPECT_EQ(reserved[1], expected->size());
}

TEST(PutRepresentation, AVariableCodecIsNotEncodedWhereItIsStored) {
  ASSERT_FALSE(variable_codecs().empty());
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
  const auto result =
      put_representation(**client, rig.header(variable_codecs().front()->id), rig.model, never, {});
  ASSERT_TRUE(result.is_ok()) << result.status().to_string();
  EXPECT_EQ(*result, PutResult::kAlreadyStored);
}

TEST(SalientTokens, FirstOnesThenThoseWithMostMass) {
  const std::vector<float> mass = {0, 0, 0, 0, 1, 5, 2, 5, 9, 0};
  const auto marks = [&](double share) { return salient_tokens(mass, share); };
  EXPECT_EQ(marks(0), std::vector<uint8_t>(10, 0));
  EXPECT_EQ(marks(0.21), (std::vector<uint8_t>{1, 1, 1, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(marks(0.4), (std::vector<uint8_t>{1, 1, 1, 1, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(marks(0.6), (std::vector<uint8_t>{1, 1, 1, 1, 0, 1, 0, 0, 1, 0}));
  EXPECT_EQ(marks(2), std::vector<uint8_t>(10, 1));
  EXPECT_TRUE(salient_tokens({}, 0.5).empty());
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
