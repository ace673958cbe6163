#include "codecs/registry.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "tests/codecs/representation_fixture.h"

namespace quire {
namespace {

using testing::tiny_header;
using testing::tiny_model;
using testing::tiny_representation;

TEST(Registry, FindsEachCodecByIdAndName) {
  std::set<std::string_view> names;
  for (const CodecInfo& codec : codecs()) {
    EXPECT_EQ(*find_codec(codec.id), &codec);
    EXPECT_EQ(*find_codec(codec.name), &codec);
    EXPECT_TRUE(names.insert(codec.name).second);
    EXPECT_NE(codec.lossless, codec.recodes_with_loss);
  }
  EXPECT_EQ(names.size(), 20u);
  EXPECT_EQ(find_codec(static_cast<CodecId>(999)).status().code(), StatusCode::kUnsupported);
  const auto unknown = find_codec("int9");
  EXPECT_EQ(unknown.status().code(), StatusCode::kNotFound);
  EXPECT_NE(unknown.status().message().find("int8-channel"), std::string::npos);
}

TEST(Registry, SectionSizesFollowTheModel) {
  ModelDescriptor model = tiny_model();
  model.layers.push_back({});
  model.layers.back().attention = AttentionKind::kNone;
  model.layers.push_back(model.layers[0]);
  model.layers.back().value_dims = 0;
  const auto sizes = section_sizes(CodecId::kRawF16, model, {0, 4, 0, 1}, 3);
  ASSERT_TRUE(sizes.is_ok()) << sizes.status().to_string();
  EXPECT_EQ(*sizes, (std::vector<uint64_t>{24, 24, 24, 24, 0, 0, 24, 0}));
  EXPECT_EQ(section_sizes(CodecId::kRawF16, model, {0, 5, 0, 1}, 3).status().code(),
            StatusCode::kModelMismatch);
  EXPECT_EQ(section_sizes(CodecId::kRawF16, model, {0, 4, 0, 2}, 3).status().code(),
            StatusCode::kModelMismatch);
  EXPECT_EQ(section_sizes(CodecId::kRawF16, model, {0, 4, 0, 1}, 0).status().code(),
            StatusCode::kInvalidArgument);
  model.layers[3].kv_heads = 2;  // more heads than the other layers
  const auto wider = section_sizes(CodecId::kRawF16, model, {0, 4, 0, 2}, 3);
  ASSERT_TRUE(wider.is_ok());
  EXPECT_EQ(*wider, (std::vector<uint64_t>{24, 24, 24, 24, 0, 0, 48, 0}));
}

TEST(Registry, CheckSectionsJudgesModelCodecAndSizes) {
  const RepresentationHeader header = tiny_header(CodecId::kInt8Channel);
  const auto bytes = tiny_representation(header);
  const auto view = RepresentationView::parse(bytes);
  ASSERT_TRUE(view.is_ok());
  EXPECT_TRUE(check_sections(*view, tiny_model()).is_ok());

  ModelDescriptor other = tiny_model();
  other.weights.bytes.fill(9);
  EXPECT_EQ(check_sections(*view, other).code(), StatusCode::kModelMismatch);

  const auto judged = [](RepresentationHeader changed, std::vector<uint64_t> sizes) {
    fill_ids(changed, {});
    const auto writer = RepresentationWriter::plan(changed, sizes);
    std::vector<std::byte> buffer(writer->total_bytes());
    writer->finish(buffer);
    const auto parsed = RepresentationView::parse(buffer);
    EXPECT_TRUE(parsed.is_ok());
    return check_sections(*parsed, tiny_model()).code();
  };
  RepresentationHeader raw = header;
  raw.codec = CodecId::kRawF16;
  EXPECT_EQ(judged(raw, {24, 24, 24, 24}), StatusCode::kOk);
  EXPECT_EQ(judged(raw, {24, 24, 23, 24}), StatusCode::kCorrupt);
  EXPECT_EQ(judged(raw, {24, 24, 24, 0}), StatusCode::kCorrupt);
  raw.coverage.layer_end = 3;
  EXPECT_EQ(judged(raw, {24, 24, 24, 24, 24, 24}), StatusCode::kModelMismatch);
  raw.coverage = {0, 2, 0, 2};
  EXPECT_EQ(judged(raw, {48, 48, 48, 48}), StatusCode::kModelMismatch);
  raw.coverage = header.coverage;
  raw.codec = static_cast<CodecId>(77);
  EXPECT_EQ(judged(raw, {24, 24, 24, 24}), StatusCode::kUnsupported);
}

TEST(Registry, KernelErrorsBecomeTypedStatus) {
  const auto bytes = tiny_representation(tiny_header(CodecId::kRawF16));
  const auto view = RepresentationView::parse(bytes);
  std::vector<std::byte> section(view->section(0, Plane::kKey)->begin(),
                                 view->section(0, Plane::kKey)->end());
  std::vector<float> engine(12, -1.0f);
  quire_load_params p{};
  p.struct_bytes = sizeof(p);
  p.codec = QUIRE_CODEC_RAW_F16;
  p.n_tokens = p.token_end = 3;
  p.n_heads = 1;
  p.head_dim = 4;
  p.dst_dtype = QUIRE_DTYPE_F32;
  p.src = section.data();
  p.src_bytes = section.size();
  p.dst = engine.data();
  p.dst_tokens = 3;
  p.dst_token_stride = p.dst_head_stride = 16;
  p.dst_dim_stride = 4;
  EXPECT_TRUE(decode_section(p).is_ok());
  EXPECT_EQ(engine[5], 4.125f);  // token 1, dim 1
  section[1] = std::byte{0x7e};  // a NaN in front
  EXPECT_EQ(decode_section(p).code(), StatusCode::kNonFinite);
  quire_load_params bad = p;
  bad.struct_bytes = 1;
  EXPECT_EQ(decode_section(bad).code(), StatusCode::kInvalidArgument);
  const quire_load_params batch[] = {p, bad};
  const Status status = decode_sections(batch);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("section 1"), std::string::npos) << status.message();
  EXPECT_EQ(kernel_status(QUIRE_KERNEL_OUT_OF_RANGE, "x").code(), StatusCode::kUnsupported);
  EXPECT_EQ(kernel_status(1234, "x").code(), StatusCode::kInternal);
  EXPECT_EQ(make_rope_table({}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(encode_section({}).code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quire
