#include "client/reuse/load.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "tests/client/reuse/engine_fixture.h"

namespace quire::reuse {
namespace {

constexpr uint32_t kTokens = 20;
constexpr uint32_t kBase = 37;
constexpr float kUntouched = 12345.0f;
constexpr int64_t kSourceRow = 3;
constexpr int64_t kRows = 64;

class LoadTest : public testing::Test {
 protected:
  LoadTest() : model_(toy_model()), source_(model_, kRows, 0), target_(model_, kRows, kUntouched) {
    source_.randomize(7);
  }

  void encode(CodecId codec = CodecId::kRawF32, PositionFrame frame = PositionFrame::kLocal,
              bool key_is_rotated = true) {
    header_ = toy_header(model_, kTokens, codec, frame, kBase);
    const auto writer = plan_representation(header_, model_);
    ASSERT_TRUE(writer.is_ok()) << writer.status().to_string();
    storage_.assign(writer->total_bytes() + 64, std::byte{0xee});
    const size_t skew = (64 - reinterpret_cast<uintptr_t>(storage_.data()) % 64) % 64;
    bytes_ = MutableByteSpan(storage_).subspan(skew, writer->total_bytes());
    EncodeOptions options;
    options.rows.first_row = kSourceRow;
    options.key_is_rotated = key_is_rotated;
    const Status status =
        encode_representation(*writer, header_, model_, source_.planes(), options, bytes_);
    ASSERT_TRUE(status.is_ok()) << status.to_string();
  }

  Status load(const LoadOptions& options) {
    const auto view = RepresentationView::parse(bytes_);
    if (!view.is_ok()) return view.status();
    return load_representation(*view, model_, target_.planes(), options);
  }

  // Every element of the target: token i of the slice in target row rows[i] turned by delta, all
  // other rows untouched.
  void expect_loaded(const std::vector<int64_t>& rows, uint32_t source_begin, double delta,
                     double tolerance) {
    std::vector<int64_t> token_of(kRows, -1);
    for (size_t i = 0; i < rows.size(); ++i)
      if (rows[i] >= 0) token_of[static_cast<size_t>(rows[i])] = static_cast<int64_t>(i);
    for (uint32_t layer = 0; layer < 3; ++layer)
      for (const Plane plane : {Plane::kKey, Plane::kValue})
        for (int64_t row = 0; row < kRows; ++row)
          for (uint32_t head = 0; head < 2; ++head)
            for (uint32_t dim = 0; dim < target_.dims(layer, plane); ++dim) {
              const float got = target_.at(layer, plane, row, head, dim);
              const int64_t token = token_of[static_cast<size_t>(row)];
              double want = kUntouched;
              if (token >= 0) {
                const int64_t from = kSourceRow + source_begin + token;
                want = plane == Plane::kKey
                           ? rotated_key(source_, model_, layer, from, head, dim, delta)
                           : source_.at(layer, plane, from, head, dim);
              }
              ASSERT_NEAR(got, want, token >= 0 ? tolerance : 0)
                  << "layer " << layer << " plane " << static_cast<int>(plane) << " row " << row
                  << " head " << head << " dim " << dim;
            }
  }

  static std::vector<int64_t> consecutive(int64_t first, uint32_t count) {
    std::vector<int64_t> rows;
    for (uint32_t i = 0; i < count; ++i) rows.push_back(first + i);
    return rows;
  }

  ModelDescriptor model_;
  ToyEngine source_;
  ToyEngine target_;
  RepresentationHeader header_;
  std::vector<std::byte> storage_;
  MutableByteSpan bytes_;
};

TEST_F(LoadTest, MovesEveryLayerByItsOwnRope) {
  encode();
  LoadOptions options;
  options.position = 1000;
  options.rows.first_row = 10;
  ASSERT_TRUE(load(options).is_ok());
  expect_loaded(consecutive(10, kTokens), 0, 1000 - kBase, 2e-6);
}

TEST_F(LoadTest, MovesBackwardsToo) {
  encode();
  LoadOptions options;
  options.position = 0;
  ASSERT_TRUE(load(options).is_ok());
  expect_loaded(consecutive(0, kTokens), 0, -static_cast<double>(kBase), 2e-6);
}

TEST_F(LoadTest, AtItsOwnPositionBytesArriveUnchanged) {
  encode();
  LoadOptions options;
  options.position = kBase;
  ASSERT_TRUE(load(options).is_ok());
  expect_loaded(consecutive(0, kTokens), 0, 0, 0);
}

TEST_F(LoadTest, PreRopeIsTurnedByTheAbsolutePosition) {
  encode(CodecId::kRawF32, PositionFrame::kPreRope);
  LoadOptions options;
  options.position = 500;
  ASSERT_TRUE(load(options).is_ok());
  expect_loaded(consecutive(0, kTokens), 0, 500 - kBase, 5e-6);
}

TEST_F(LoadTest, KeysTakenBeforeRopeAreStoredAsTheyAre) {
  encode(CodecId::kRawF32, PositionFrame::kPreRope, false);
  LoadOptions options;
  options.position = 0;
  ASSERT_TRUE(load(options).is_ok());
  // Token 0 at position 0 is not turned; token i by i.
  for (uint32_t dim = 0; dim < 8; ++dim) {
    EXPECT_EQ(target_.at(0, Plane::kKey, 0, 1, dim),
              source_.at(0, Plane::kKey, kSourceRow, 1, dim));
    EXPECT_NEAR(target_.at(0, Plane::kKey, 9, 1, dim),
                rotated_key(source_, model_, 0, kSourceRow + 9, 1, dim, 9), 2e-6);
  }
}

TEST_F(LoadTest, SliceInAChunk) {
  for (const PositionFrame frame : {PositionFrame::kLocal, PositionFrame::kPreRope}) {
    encode(CodecId::kRawF32, frame);
    LoadOptions options;
    options.source_begin = 5;
    options.n_tokens = 7;
    options.position = 2;  // the representation's first token would lie before the prompt
    options.rows.first_row = 30;
    target_ = ToyEngine(model_, kRows, kUntouched);
    ASSERT_TRUE(load(options).is_ok());
    expect_loaded(consecutive(30, 7), 5, 2.0 - (kBase + 5), 5e-6);
  }
}

TEST_F(LoadTest, MaskedRowsAreNeverWritten) {
  encode();
  std::vector<uint8_t> mask(kTokens, 1);
  mask[0] = mask[7] = mask[19] = 0;
  LoadOptions options;
  options.position = 100;
  options.row_mask = mask;
  ASSERT_TRUE(load(options).is_ok());
  auto rows = consecutive(0, kTokens);
  rows[0] = rows[7] = rows[19] = -1;
  expect_loaded(rows, 0, 100 - kBase, 2e-6);
}

TEST_F(LoadTest, MaskAndScatteredRowsOfASlice) {
  encode();
  const std::vector<int64_t> rows = {60, 2, 33, 34};
  const std::vector<uint8_t> mask = {1, 0, 1, 1};
  LoadOptions options;
  options.source_begin = 11;
  options.n_tokens = 4;
  options.position = 77;
  options.rows.rows = rows;
  options.row_mask = mask;
  ASSERT_TRUE(load(options).is_ok());
  expect_loaded({60, -1, 33, 34}, 11, 77.0 - (kBase + 11), 2e-6);
}

TEST_F(LoadTest, Int8IsCloseAndHalfPrecisionToo) {
  for (const CodecId codec : {CodecId::kInt8Channel, CodecId::kRawF16, CodecId::kRawBf16}) {
    encode(codec);
    target_ = ToyEngine(model_, kRows, kUntouched);
    LoadOptions options;
    options.position = 300;
    ASSERT_TRUE(load(options).is_ok());
    expect_loaded(consecutive(0, kTokens), 0, 300 - kBase, 0.04);
  }
}

TEST_F(LoadTest, EngineTablesFollowTheEnginesRope) {
  encode();
  LoadOptions options;
  options.position = 50;
  options.angles.mode = AngleMode::kEngineTable;
  EXPECT_EQ(load(options).code(), StatusCode::kInvalidArgument);
  std::vector<uint32_t> asked;
  options.angles.engine_rope = [&](uint32_t layer) {
    asked.push_back(layer);
    // base^(-2/8) = 0.1 and so on: layer 0's frequencies; layer 1's first pair differs by a factor.
    return EngineRope{10000.0f, 1.0f, {}};
  };
  ASSERT_TRUE(load(options).is_ok());
  EXPECT_EQ(asked, (std::vector<uint32_t>{0, 1}));
  for (uint32_t dim = 0; dim < 8; ++dim)
    EXPECT_NEAR(target_.at(0, Plane::kKey, 4, 0, dim),
                rotated_key(source_, model_, 0, kSourceRow + 4, 0, dim, 50 - kBase), 2e-5);
  const std::vector<float> too_many(3, 1.0f);
  options.angles.engine_rope = [&](uint32_t) { return EngineRope{10000.0f, 1.0f, too_many}; };
  EXPECT_EQ(load(options).code(), StatusCode::kInvalidArgument);
}

TEST_F(LoadTest, PlanesTheEngineDoesNotKeepAreLeftOut) {
  encode();
  const auto view = RepresentationView::parse(bytes_);
  ASSERT_TRUE(view.is_ok());
  LoadOptions options;
  options.position = kBase;
  const auto only_layer_one = [&](uint32_t layer, Plane plane) {
    return layer == 1 ? target_.plane(layer, plane) : EnginePlane{};
  };
  ASSERT_TRUE(load_representation(*view, model_, only_layer_one, options).is_ok());
  EXPECT_EQ(target_.at(0, Plane::kKey, 0, 0, 0), kUntouched);
  EXPECT_NE(target_.at(1, Plane::kKey, 0, 0, 0), kUntouched);
}

TEST_F(LoadTest, BadArgumentsWriteNothing) {
  encode();
  const std::vector<uint8_t> short_mask(kTokens - 1, 1);
  const std::vector<int64_t> short_rows(kTokens - 1, 0);
  const std::vector<int64_t> bad_rows(kTokens, kRows);
  const std::function<void(LoadOptions&)> cases[] = {
      [](auto& o) { o.source_begin = kTokens; },
      [](auto& o) { o.n_tokens = kTokens + 1; },
      [](auto& o) { o.source_begin = 1, o.n_tokens = kTokens; },
      [](auto& o) { o.position = -1; },
      [](auto& o) { o.position = int64_t{kPromptTokensMax} + 1; },
      [](auto& o) { o.rows.first_row = -1; },
      [](auto& o) { o.rows.first_row = kRows + 1; },
      [](auto& o) { o.rows.first_row = kRows - kTokens + 1; },
      [&](auto& o) { o.row_mask = short_mask; },
      [&](auto& o) { o.rows.rows = short_rows; },
      [&](auto& o) { o.rows.rows = bad_rows; },
  };
  for (size_t i = 0; i < std::size(cases); ++i) {
    LoadOptions options;
    options.position = 5;
    cases[i](options);
    EXPECT_EQ(load(options).code(), StatusCode::kInvalidArgument) << "case " << i;
  }
  expect_loaded({}, 0, 0, 0);
}

TEST_F(LoadTest, DamagedSectionsAreCaughtBeforeAnythingIsWritten) {
  encode();
  const auto view = RepresentationView::parse(bytes_);
  ASSERT_TRUE(view.is_ok());
  const SectionEntry last = view->sections().back();
  bytes_[last.offset + last.bytes / 2] ^= std::byte{0x10};
  EXPECT_EQ(load({}).code(), StatusCode::kCorrupt);
  expect_loaded({}, 0, 0, 0);
  LoadOptions trusting;
  trusting.verify_sections = false;
  EXPECT_TRUE(load(trusting).is_ok());
}

TEST_F(LoadTest, NonFinitePayloadIsRefused) {
  encode();
  const auto view = RepresentationView::parse(bytes_);
  ASSERT_TRUE(view.is_ok());
  const float bad = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(&bytes_[view->sections()[0].offset], &bad, sizeof(bad));
  LoadOptions options;
  options.verify_sections = false;
  EXPECT_EQ(load(options).code(), StatusCode::kNonFinite);
  expect_loaded({}, 0, 0, 0);
}

TEST_F(LoadTest, AnotherModelIsRefused) {
  encode();
  model_.layers[0].inverse_frequencies[1] = 0.2f;
  EXPECT_EQ(load({}).code(), StatusCode::kModelMismatch);
}

TEST_F(LoadTest, LengthDependentRopeStaysWhereItIs) {
  model_.layers[1].length_dependent = true;
  encode();
  LoadOptions options;
  options.position = kBase;
  EXPECT_TRUE(load(options).is_ok());
  options.position = kBase + 1;
  EXPECT_EQ(load(options).code(), StatusCode::kUnsupported);
}

TEST_F(LoadTest, WrongRopeBaseWouldShow) {
  encode();
  LoadOptions options;
  options.position = 1000;
  ASSERT_TRUE(load(options).is_ok());
  // The comparison of MovesEveryLayerByItsOwnRope, with layer 1's frequency changed: it must
  // differ.
  ModelDescriptor wrong = model_;
  wrong.layers[1].inverse_frequencies[0] = 0.71f;
  double worst = 0;
  for (uint32_t dim = 0; dim < 4; ++dim)
    worst = std::max(worst, std::abs(target_.at(1, Plane::kKey, 0, 0, dim) -
                                     rotated_key(source_, wrong, 1, kSourceRow, 0, dim,
                                                 1000 - static_cast<double>(kBase))));
  EXPECT_GT(worst, 1e-2);
}

}  // namespace
}  // namespace quire::reuse
