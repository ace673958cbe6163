// How the targets `section` and `wrapped` read a shape from the first eight bytes of an input; the
// section follows.
#ifndef QUIRE_TESTS_FUZZ_SECTION_SHAPE_H_
#define QUIRE_TESTS_FUZZ_SECTION_SHAPE_H_

#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "codecs/registry.h"
#include "codecs/wrapped.h"
#include "tests/fuzz/fuzz_target.h"

namespace quire::fuzz {

struct SectionInput {
  CodecId codec = CodecId::kRawF16;
  SectionShape shape;
  std::vector<std::byte> section;  // of its own, so that every byte outside is one too many
};

inline constexpr uint32_t kShapeBytes = 8;
inline constexpr uint32_t kFuzzTokensMax = 300;
inline constexpr uint32_t kFuzzHeadsMax = 3;
inline constexpr uint32_t kFuzzDimsMax = 130;

inline std::optional<SectionInput> section_input(ByteSpan input) {
  if (input.size() < kShapeBytes) return std::nullopt;
  uint16_t codec, tokens, dims;
  std::memcpy(&codec, input.data(), 2);
  std::memcpy(&tokens, input.data() + 2, 2);
  std::memcpy(&dims, input.data() + 4, 2);
  SectionInput result;
  result.codec = static_cast<CodecId>(codec);
  result.shape.plane = (static_cast<uint32_t>(input[6]) & 1) != 0 ? Plane::kValue : Plane::kKey;
  result.shape.n_tokens = 1 + tokens % kFuzzTokensMax;
  result.shape.n_heads = 1 + static_cast<uint32_t>(input[7]) % kFuzzHeadsMax;
  result.shape.head_dim = 1 + dims % kFuzzDimsMax;
  result.section.assign(input.begin() + kShapeBytes, input.end());
  return result;
}

inline quire_load_params load_params(const SectionInput& input, std::vector<float>& engine) {
  const SectionShape& shape = input.shape;
  engine.assign(uint64_t{shape.n_tokens} * shape.n_heads * shape.head_dim, 0);
  quire_load_params p{};
  p.struct_bytes = sizeof(p);
  p.codec = static_cast<int32_t>(input.codec);
  p.plane = static_cast<int32_t>(shape.plane);
  p.n_tokens = p.token_end = shape.n_tokens;
  p.n_heads = shape.n_heads;
  p.head_dim = shape.head_dim;
  p.dst_dtype = QUIRE_DTYPE_F32;
  p.src = input.section.data();
  p.src_bytes = input.section.size();
  p.dst = engine.data();
  p.dst_tokens = shape.n_tokens;
  p.dst_dim_stride = 4;
  p.dst_head_stride = int64_t{4} * shape.head_dim;
  p.dst_token_stride = p.dst_head_stride * shape.n_heads;
  return p;
}

// Input of a sound section of 65 tokens that is not plain or stored where the
// codec can do better.
inline std::vector<std::byte> section_seed(CodecId codec, Plane plane) {
  constexpr uint32_t kTokens = 65;
  const bool rans = codec == CodecId::kInt4Rans;  // small sections gain nothing by it
  const uint32_t n_heads = rans ? 2 : 1;
  const uint32_t dims = rans ? 128 : 24;
  std::vector<float> values(size_t{kTokens} * n_heads * dims);
  uint32_t x = 1;
  for (float& value : values) {
    x = x * 1664525 + 1013904223;
    value = static_cast<float>(__builtin_popcount(x >> 8)) / 4 - 3;
  }
  std::vector<std::byte> section(*section_bytes(codec, plane, kTokens, n_heads, dims));
  std::vector<uint8_t> salient(kTokens);
  for (uint32_t t = 0; t < kTokens; t += 9) salient[t] = 1;
  uint64_t written = section.size();
  quire_store_params p{};
  p.struct_bytes = sizeof(p);
  p.codec = static_cast<int32_t>(codec);
  p.plane = static_cast<int32_t>(plane);
  p.n_tokens = kTokens;
  p.n_heads = n_heads;
  p.head_dim = dims;
  p.src_dtype = QUIRE_DTYPE_F32;
  p.src = values.data();
  p.src_tokens = kTokens;
  p.src_dim_stride = 4;
  p.src_head_stride = int64_t{4} * dims;
  p.src_token_stride = p.src_head_stride * n_heads;
  p.salient = salient.data();
  p.dst = section.data();
  p.dst_bytes = section.size();
  p.dst_written = &written;
  expect(encode_section(p).is_ok(), "a seed is encoded");
  const uint16_t shape[3] = {static_cast<uint16_t>(codec), kTokens - 1,
                             static_cast<uint16_t>(dims - 1)};
  std::vector<std::byte> input(kShapeBytes + written);
  std::memcpy(input.data(), shape, sizeof(shape));
  input[6] = static_cast<std::byte>(plane == Plane::kValue);
  input[7] = static_cast<std::byte>(n_heads - 1);
  std::memcpy(input.data() + kShapeBytes, section.data(), written);
  return input;
}

inline std::string seed_name(const CodecInfo& codec, Plane plane) {
  return "codec_" + std::to_string(static_cast<uint32_t>(codec.id)) +
         (plane == Plane::kKey ? "_key" : "_value");
}

}  // namespace quire::fuzz

#endif  // QUIRE_TESTS_FUZZ_SECTION_SHAPE_H_
