#include "bench/codec/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "bench/codec/kv_dump.h"
#include "tests/tools/codec/toy_dump.h"

namespace quire::bench {
namespace {

constexpr uint32_t kSeed = 3;

std::vector<std::byte> file_of(const std::string& header, size_t payload_bytes) {
  std::vector<std::byte> bytes(8 + header.size() + payload_bytes, std::byte{1});
  const uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, 8);
  std::memcpy(bytes.data() + 8, header.data(), header.size());
  return bytes;
}

StatusCode code_of(const std::string& header, size_t payload_bytes) {
  return SafetensorsView::parse(file_of(header, payload_bytes)).status().code();
}

TEST(Safetensors, ReadsWhatItWrote) {
  SafetensorsWriter writer;
  writer.set_metadata("model", "a \"name\"");
  writer.add("first", {2, 3}, {1, 2, 3, 4, 5, 6});
  writer.add("nothing", {0}, {});
  writer.add("last", {1}, {-0.5f});
  const auto bytes = writer.encode();
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  EXPECT_EQ((8 + header_bytes) % kTensorAlignment, 0u);
  const auto view = SafetensorsView::parse(bytes);
  ASSERT_TRUE(view.is_ok()) << view.status().to_string();
  EXPECT_EQ(view->metadata().at("model"), "a \"name\"");
  const uint64_t shape[] = {2, 3};
  const auto values = view->floats("first", shape);
  ASSERT_TRUE(values.is_ok());
  EXPECT_EQ(*values, (std::vector<float>{1, 2, 3, 4, 5, 6}));
  const uint64_t other[] = {3, 2};
  EXPECT_EQ(view->floats("first", other).status().code(), StatusCode::kCorrupt);
  EXPECT_EQ(view->find("second").status().code(), StatusCode::kNotFound);
}

TEST(Safetensors, ReadsNarrowFloats) {
  auto bytes = file_of(R"({"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]},)"
                       R"("b":{"dtype":"F16","shape":[1],"data_offsets":[2,4]}})",
                       4);
  const uint16_t bits[2] = {0xc040, 0x4200};  // -3 and 3
  std::memcpy(bytes.data() + bytes.size() - 4, bits, 4);
  const auto view = SafetensorsView::parse(bytes);
  ASSERT_TRUE(view.is_ok()) << view.status().to_string();
  const uint64_t shape[] = {1};
  EXPECT_EQ(view->floats("a", shape)->front(), -3.0f);
  EXPECT_EQ(view->floats("b", shape)->front(), 3.0f);
}

TEST(Safetensors, RefusesWhatTheFormatDoesNotAllow) {
  const std::string ok = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  EXPECT_EQ(code_of(ok, 8), StatusCode::kOk);
  EXPECT_EQ(code_of(ok, 9), StatusCode::kCorrupt);  // bytes of no tensor
  EXPECT_EQ(code_of(ok, 7), StatusCode::kCorrupt);
  const std::vector<std::string> corrupt = {
      "", "{", "[]", "3", R"({"a":1})", R"({"a":{"dtype":"F32","shape":[2]}})",
      R"({"a":{"dtype":4,"shape":[2],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})",
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})",
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}})",
      R"({"a":{"dtype":"F32","shape":[4611686018427387906],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}})",
      R"({"__metadata__":{"a":1}})", R"({"__metadata__":[]})",
      // Overlap, and a hole that the other end makes up for.
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})"};
  for (const std::string& header : corrupt)
    EXPECT_EQ(code_of(header, 8), StatusCode::kCorrupt) << header;
  EXPECT_EQ(code_of(R"({"a":{"dtype":"F7","shape":[2],"data_offsets":[0,8]}})", 8),
            StatusCode::kUnsupported);
  auto bytes = file_of(ok, 8);
  const uint64_t huge = UINT64_MAX;
  std::memcpy(bytes.data(), &huge, 8);
  EXPECT_EQ(SafetensorsView::parse(bytes).status().code(), StatusCode::kResourceExhausted);
}

TEST(KvDump, ComesBackAsItWas) {
  const KvDump dump = toy_dump(kSeed, 20, 6);
  const auto bytes = encode_dump(dump);
  const auto again = parse_dump(bytes);
  ASSERT_TRUE(again.is_ok()) << again.status().to_string();
  EXPECT_EQ(again->model, dump.model);
  EXPECT_EQ(again->first_query, dump.first_query);
  ASSERT_EQ(again->layers.size(), dump.layers.size());
  for (size_t i = 0; i < dump.layers.size(); ++i) {
    EXPECT_EQ(again->layers[i].shape, dump.layers[i].shape);
    EXPECT_EQ(again->layers[i].keys, dump.layers[i].keys);
    EXPECT_EQ(again->layers[i].values, dump.layers[i].values);
    EXPECT_EQ(again->layers[i].queries, dump.layers[i].queries);
    EXPECT_EQ(again->layers[i].attention_scale, dump.layers[i].attention_scale);
  }
  EXPECT_EQ(encode_dump(*again), bytes);
}

TEST(KvDump, TruncationsAndFlippedBytesEndInAStatus) {
  const auto bytes = encode_dump(toy_dump(kSeed, 8, 4));
  for (size_t size = 0; size < bytes.size(); size += size < 1024 ? 1 : 97)
    EXPECT_FALSE(parse_dump(ByteSpan(bytes).first(size)).is_ok()) << size;
  std::mt19937 random(kSeed);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  for (int i = 0; i < 3000; ++i) {
    auto broken = bytes;
    const size_t at = random() % (8 + header_bytes);
    broken[at] ^= static_cast<std::byte>(1 + random() % 255);
    const auto parsed = parse_dump(broken);
    if (parsed.is_ok()) {
      EXPECT_TRUE(parsed->validate().is_ok());
    }
  }
}

TEST(KvDump, NonFiniteValuesAreRefused) {
  KvDump dump = toy_dump(kSeed, 8, 4);
  dump.layers[1].values[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(parse_dump(encode_dump(dump)).status().code(), StatusCode::kNonFinite);
}

}  // namespace
}  // namespace quire::bench
