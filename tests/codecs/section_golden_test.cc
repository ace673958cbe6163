// Sections of the lossless and of the entropy-coded codecs as files: what was written once can be
// read for as long as the codec has its id. The first two are the worked examples of
// docs/formats/codecs.md.
#include <gtest/gtest.h>

#include "codecs/registry.h"
#include "codecs/wrapped.h"
#include "kernels/math/bits.h"
#include "tests/codecs/representation_fixture.h"

namespace quire {
namespace {

using Bytes = std::vector<std::byte>;

constexpr uint32_t kTokens = 64;
constexpr uint32_t kDims = 8;

// K(t, d) = (d + 1) / (1 + t mod 2), but K(1, 0) = 2^-100.
Bytes example() {
  Bytes bytes;
  for (uint32_t t = 0; t < kTokens; ++t)
    for (uint32_t d = 0; d < kDims; ++d) {
      const float value =
          t == 1 && d == 0 ? 0x1p-100f : static_cast<float>(d + 1) / static_cast<float>(1 + t % 2);
      const uint16_t element = quire_kernels::float_to_bf16(value);
      bytes.push_back(static_cast<std::byte>(element));
      bytes.push_back(static_cast<std::byte>(element >> 8));
    }
  return bytes;
}

Bytes store(CodecId codec, const Bytes& engine) {
  Bytes section(*section_bytes(codec, Plane::kKey, kTokens, 1, kDims));
  uint64_t written = 0;
  quire_store_params p{};
  p.struct_bytes = sizeof(p);
  p.codec = static_cast<int32_t>(codec);
  p.plane = QUIRE_PLANE_KEY;
  p.n_tokens = kTokens;
  p.n_heads = 1;
  p.head_dim = kDims;
  p.src_dtype = QUIRE_DTYPE_BF16;
  p.src = engine.data();
  p.src_tokens = kTokens;
  p.src_token_stride = p.src_head_stride = 2 * kDims;
  p.src_dim_stride = 2;
  p.dst = section.data();
  p.dst_bytes = section.size();
  p.dst_written = &written;
  EXPECT_TRUE(encode_section(p).is_ok());
  section.resize(written);
  return section;
}

Bytes load(CodecId codec, const Bytes& section) {
  Bytes engine(2 * kTokens * kDims);
  quire_load_params p{};
  p.struct_bytes = sizeof(p);
  p.codec = static_cast<int32_t>(codec);
  p.plane = QUIRE_PLANE_KEY;
  p.n_tokens = p.token_end = kTokens;
  p.n_heads = 1;
  p.head_dim = kDims;
  p.dst_dtype = QUIRE_DTYPE_BF16;
  p.src = section.data();
  p.src_bytes = section.size();
  p.dst = engine.data();
  p.dst_tokens = kTokens;
  p.dst_token_stride = p.dst_head_stride = 2 * kDims;
  p.dst_dim_stride = 2;
  EXPECT_TRUE(decode_section(p).is_ok());
  return engine;
}

TEST(SectionGolden, Exp4AndWindow3) {
  const auto& [exp4, window3] = std::pair(CodecId::kBf16Exp4, CodecId::kBf16Window3);
  const Bytes made4 = store(exp4, example());
  EXPECT_TRUE(testing::golden("sections/bf16_exp4_v1.bin", made4) == made4);
  EXPECT_TRUE(load(exp4, testing::golden("sections/bf16_exp4_v1.bin", made4)) == example());
  const Bytes made3 = store(window3, example());
  EXPECT_TRUE(testing::golden("sections/bf16_window3_v1.bin", made3) == made3);
  EXPECT_TRUE(load(window3, testing::golden("sections/bf16_window3_v1.bin", made3)) == example());
}

// The libraries may choose other bytes tomorrow; those of today must be understood.
TEST(SectionGolden, LibrariesReadWhatTheyWrote) {
  for (const auto& [codec, name] :
       {std::pair(CodecId::kBf16ShuffleLz4, "sections/bf16_shuffle_lz4_v1.bin"),
        std::pair(CodecId::kBf16SplitZstd, "sections/bf16_split_zstd_v1.bin")}) {
    const Bytes section = testing::golden(name, store(codec, example()));
    ASSERT_GE(section.size(), 64u) << name;
    EXPECT_EQ(section[0], std::byte{1}) << "not a coded section";
    EXPECT_TRUE(load(codec, section) == example()) << name;
  }
}

TEST(SectionGolden, Int4Rans) {
  const SectionShape shape{Plane::kValue, kTokens, 2, 64};
  // Two heads of pairs of 256 bytes and codes of 2048: bits of a linear congruence, counted.
  Bytes base(2 * (256 + 2048));
  uint32_t x = 1;
  for (size_t i = 0; i < base.size(); ++i) {
    const auto code = [&x] {
      x = x * 1664525 + 1013904223;
      return static_cast<uint32_t>(4 + __builtin_popcount(x >> 24));
    };
    base[i] = static_cast<std::byte>(code() | code() << 4);
  }
  Bytes made(wrapped_bytes_max(base.size()));
  const auto bytes = wrap_section(CodecId::kInt4Rans, shape, base, made);
  ASSERT_TRUE(bytes.is_ok());
  made.resize(*bytes);
  const Bytes section = testing::golden("sections/int4_rans_v1.bin", made);
  EXPECT_TRUE(section == made);
  EXPECT_EQ(section[0], std::byte{1}) << "not a coded section";
  Bytes expanded(base.size());
  EXPECT_TRUE(expand_section(CodecId::kInt4Rans, shape, section, expanded).is_ok());
  EXPECT_TRUE(expanded == base);
}

}  // namespace
}  // namespace quire
