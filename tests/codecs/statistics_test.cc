#include "codecs/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iterator>

#include "codecs/registry.h"
#include "tests/codecs/representation_fixture.h"

namespace quire {
namespace {

using testing::tiny_model;
using Bytes = std::vector<std::byte>;

constexpr uint16_t kHalf = 0x3800;     // 0.5
constexpr uint16_t kQuarter = 0x3400;  // 0.25

template <typename T>
ByteSpan raw(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

// The worked example of docs/formats/statistics.md: 3 tokens behind runs of 4 and 2 tokens.
struct Example {
  std::vector<uint32_t> segments = {4, 2};
  std::vector<uint16_t> received = {kHalf, kQuarter, 0};
  std::vector<uint16_t> inter_of_segment = {kHalf, kHalf, kHalf, kQuarter, 0, kQuarter};
  std::vector<float> cache_craft = {0.5f, 0.25f, 0.880797f};
  std::vector<uint32_t> own = {7};
  Statistics statistics{
      3,
      2,
      2,
      {{StatisticsType::kSegments, StatisticsDtype::kU32, {2, 1, 1}, raw(segments)},
       {StatisticsType::kReceived, StatisticsDtype::kF16, {3, 1, 1}, raw(received)},
       {StatisticsType::kInterOfSegment, StatisticsDtype::kF16, {2, 3, 1}, raw(inter_of_segment)},
       {StatisticsType::kCacheCraft, StatisticsDtype::kF32, {3, 1, 1}, raw(cache_craft)},
       {StatisticsType::kUser, StatisticsDtype::kU32, {1, 1, 1}, raw(own)}}};
};

void expect_equal(const Statistics& a, const Statistics& b) {
  EXPECT_EQ(a.n_tokens, b.n_tokens);
  EXPECT_EQ(a.n_layers, b.n_layers);
  EXPECT_EQ(a.n_segments, b.n_segments);
  ASSERT_EQ(a.vectors.size(), b.vectors.size());
  for (size_t i = 0; i < a.vectors.size(); ++i) {
    EXPECT_EQ(a.vectors[i].type, b.vectors[i].type);
    EXPECT_EQ(a.vectors[i].dtype, b.vectors[i].dtype);
    EXPECT_EQ(a.vectors[i].dims, b.vectors[i].dims);
    EXPECT_TRUE(std::ranges::equal(a.vectors[i].values, b.vectors[i].values)) << i;
  }
}

Bytes golden() {
  std::ifstream in(QUIRE_SOURCE_DIR "/tests/data/statistics_v1.bin", std::ios::binary);
  const std::vector<char> chars{std::istreambuf_iterator<char>(in), {}};
  const auto bytes = std::as_bytes(std::span(chars));
  return {bytes.begin(), bytes.end()};
}

TEST(Statistics, GoldenFileIsTheExample) {
  const Example example;
  const auto block = encode_statistics(example.statistics);
  ASSERT_TRUE(block.is_ok()) << block.status().to_string();
  const Bytes file = golden();
  EXPECT_EQ(*block, file);
  const auto parsed = parse_statistics(file);
  ASSERT_TRUE(parsed.is_ok()) << parsed.status().to_string();
  expect_equal(*parsed, example.statistics);
  ASSERT_NE(parsed->find(StatisticsType::kCacheCraft), nullptr);
  EXPECT_EQ(parsed->find(StatisticsType::kQuestion), nullptr);
}

TEST(Statistics, TruncationsAndOtherSizesAreRefused) {
  const Bytes block = golden();
  for (size_t size = 0; size < block.size(); ++size)
    EXPECT_FALSE(parse_statistics(ByteSpan(block).first(size)).is_ok()) << size;
  Bytes longer = block;
  longer.resize(block.size() + 8);
  EXPECT_FALSE(parse_statistics(longer).is_ok());
  longer[24] = static_cast<std::byte>(longer.size());
  EXPECT_EQ(parse_statistics(longer).status().code(), StatusCode::kCorrupt);
}

// A flip is refused, or lies in a value and changes just that.
TEST(Statistics, FlippedBitsAreRefusedOrAreValues) {
  const Bytes block = golden();
  const auto original = parse_statistics(block);
  uint32_t values_changed = 0;
  for (size_t bit = 0; bit < 8 * block.size(); ++bit) {
    Bytes flipped = block;
    flipped[bit / 8] ^= std::byte{1} << bit % 8;
    const auto parsed = parse_statistics(flipped);
    if (!parsed) continue;
    const auto again = encode_statistics(*parsed);
    ASSERT_TRUE(again.is_ok()) << bit;
    EXPECT_EQ(*again, flipped) << bit;
    const bool in_table = bit / 8 < 32 + 24 * 5;
    // The count of layers, which no vector here depends on; a type turned into another one of this
    // shape, or into one that is not known; the dtype of a user's type.
    const size_t byte = bit / 8;
    const bool type = byte >= 32 && (byte - 32) % 24 < 2;
    const bool harmless = (byte >= 16 && byte < 20) || type || byte == 130;
    EXPECT_TRUE(!in_table || harmless) << "bit " << bit;
    values_changed += !in_table;
  }
  EXPECT_GT(values_changed, 100u);
}

TEST(Statistics, RulesOfTheTable) {
  const auto refuse = [](const char* what, const auto& change) {
    Example example;
    change(example);
    const auto block = encode_statistics(example.statistics);
    EXPECT_EQ(block.status().code(), StatusCode::kInvalidArgument) << what;
  };
  refuse("no vectors", [](Example& e) { e.statistics.vectors.clear(); });
  refuse("too many", [](Example& e) {
    for (uint16_t i = 0; i < 64; ++i)
      e.statistics.vectors.push_back(
          {static_cast<StatisticsType>(2000 + i), StatisticsDtype::kU32, {1, 1, 1}, raw(e.own)});
  });
  refuse("types do not ascend",
         [](Example& e) { std::swap(e.statistics.vectors[0], e.statistics.vectors[1]); });
  refuse("twice", [](Example& e) { e.statistics.vectors[1] = e.statistics.vectors[0]; });
  refuse("type 0", [](Example& e) { e.statistics.vectors[0].type = StatisticsType{0}; });
  refuse("other dims", [](Example& e) { e.statistics.vectors[2].dims = {3, 2, 1}; });
  refuse("a dim of 0", [](Example& e) { e.statistics.vectors[4].dims = {1, 0, 1}; });
  refuse("other dtype", [](Example& e) { e.statistics.vectors[3].dtype = StatisticsDtype::kU32; });
  refuse("fewer values", [](Example& e) {
    e.statistics.vectors[4].values = e.statistics.vectors[4].values.first(2);
  });
  refuse("huge dims", [](Example& e) {
    e.statistics.vectors[4].dims = {UINT32_MAX, UINT32_MAX, UINT32_MAX};
  });
  refuse("no tokens", [](Example& e) { e.statistics.n_tokens = 0; });
  refuse("many tokens", [](Example& e) { e.statistics.n_tokens = kChunkTokensMax + 1; });
  refuse("no layers", [](Example& e) { e.statistics.n_layers = 0; });
  refuse("many segments", [](Example& e) { e.statistics.n_segments = 1026; });
  refuse("infinity", [](Example& e) { e.received[1] = 0x7c00; });
  refuse("not a number", [](Example& e) { e.inter_of_segment[5] = 0x7e01; });
  refuse("negative", [](Example& e) { e.received[0] = 0xb800; });
  refuse("negative f32", [](Example& e) { e.cache_craft[0] = -1; });
  refuse("f32 nan", [](Example& e) { e.cache_craft[2] = std::nanf(""); });
}

TEST(Statistics, UnknownTypesAreCarriedAndLaterVersionsRefused) {
  Example example;
  const std::vector<uint16_t> not_finite = {0x7e00, 0xfc00};
  example.statistics.vectors[4] = {
      static_cast<StatisticsType>(900), StatisticsDtype::kF16, {1, 2, 1}, raw(not_finite)};
  auto block = encode_statistics(example.statistics);
  ASSERT_TRUE(block.is_ok());
  const auto parsed = parse_statistics(*block);
  ASSERT_TRUE(parsed.is_ok());
  expect_equal(*parsed, example.statistics);
  (*block)[8] = std::byte{2};
  EXPECT_EQ(parse_statistics(*block).status().code(), StatusCode::kVersionMismatch);
}

// As a representation.
RepresentationHeader header_of(const std::vector<TokenId>& tokens) {
  RepresentationHeader header;
  header.tokens = tokens;
  header.context = VariantContext::synthetic({Digest{{5}}}, Digest{{6}});
  return header;
}

TEST(StatisticsRepresentation, IsCheckedAgainstTheModel) {
  const Example example;
  const Bytes block = *encode_statistics(example.statistics);
  const ModelDescriptor model = tiny_model();
  ASSERT_EQ(model.layers.size(), 2u);
  const auto packed = pack_statistics(header_of({1, 2, 3}), {}, model, block);
  ASSERT_TRUE(packed.is_ok()) << packed.status().to_string();
  const auto view = RepresentationView::parse(*packed);
  ASSERT_TRUE(view.is_ok());
  EXPECT_TRUE(view->verify_sections().is_ok());
  EXPECT_TRUE(view->verify_object({}).is_ok());
  EXPECT_TRUE(check_sections(*view, model).is_ok());
  EXPECT_EQ(*view->section(0, Plane::kKey)->data(), block[0]);

  ModelDescriptor other = model;
  other.weights.bytes[0] ^= 1;
  EXPECT_EQ(check_sections(*view, other).code(), StatusCode::kModelMismatch);
  EXPECT_EQ(pack_statistics(header_of({1, 2}), {}, model, block).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(
      pack_statistics(header_of({1, 2, 3}), {}, model, ByteSpan(block).first(40)).status().code(),
      StatusCode::kInvalidArgument);
  other = model;
  other.layers.push_back(other.layers[0]);
  EXPECT_EQ(pack_statistics(header_of({1, 2, 3}), {}, other, block).status().code(),
            StatusCode::kInvalidArgument);
}

TEST(StatisticsRepresentation, OtherPlacesAreRefused) {
  const Example example;
  const Bytes block = *encode_statistics(example.statistics);
  const ModelDescriptor model = tiny_model();
  const auto check = [&](const auto& change, std::vector<uint64_t> sizes) {
    RepresentationHeader header = header_of({1, 2, 3});
    header.model = model_id(model);
    header.codec = CodecId::kStatistics;
    header.frame = PositionFrame::kPreRope;
    header.coverage = kStatisticsCoverage;
    change(header);
    fill_ids(header, {});
    const auto writer = RepresentationWriter::plan(header, sizes);
    EXPECT_TRUE(writer.is_ok()) << writer.status().to_string();
    Bytes bytes(writer->total_bytes());
    const MutableByteSpan section =
        writer->section(bytes, header.coverage.layer_begin, Plane::kKey);
    std::memcpy(section.data(), block.data(), std::min(section.size(), block.size()));
    writer->finish(bytes);
    const auto view = RepresentationView::parse(bytes);
    EXPECT_TRUE(view.is_ok());
    return check_sections(*view, model).code();
  };
  const auto nothing = [](RepresentationHeader&) {};
  EXPECT_EQ(check(nothing, {block.size(), 0}), StatusCode::kOk);
  EXPECT_EQ(check(nothing, {block.size(), 8}), StatusCode::kCorrupt);
  EXPECT_EQ(check(nothing, {block.size() + 8, 0}), StatusCode::kCorrupt);
  EXPECT_EQ(
      check([](RepresentationHeader& h) { h.frame = PositionFrame::kLocal; }, {block.size(), 0}),
      StatusCode::kUnsupported);
  EXPECT_EQ(check([](RepresentationHeader& h) { h.base_position = 1; }, {block.size(), 0}),
            StatusCode::kCorrupt);
  EXPECT_EQ(check(
                [](RepresentationHeader& h) {
                  h.coverage = {1, 2, 0, 1};
                },
                {block.size(), 0}),
            StatusCode::kCorrupt);
  EXPECT_EQ(check(
                [](RepresentationHeader& h) {
                  h.coverage = {0, 1, 0, 2};
                },
                {block.size(), 0}),
            StatusCode::kCorrupt);
}

TEST(StatisticsRepresentation, IsNoCodecOfKeysAndValues) {
  EXPECT_EQ(find_codec(CodecId::kStatistics).status().code(), StatusCode::kUnsupported);
  EXPECT_EQ(find_codec("statistics").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(section_bytes(CodecId::kStatistics, Plane::kKey, 1, 1, 4).status().code(),
            StatusCode::kUnsupported);
  EXPECT_EQ(codec_name(CodecId::kStatistics), "statistics");
  EXPECT_EQ(codec_name(CodecId::kRawF16), "raw-f16");
  EXPECT_EQ(codec_name(static_cast<CodecId>(999)), "");
  quire_load_params params{};
  params.struct_bytes = sizeof(params);
  params.codec = static_cast<int32_t>(CodecId::kStatistics);
  EXPECT_FALSE(decode_section(params).is_ok());
}

}  // namespace
}  // namespace quire
