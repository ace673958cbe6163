// The bytes of every quantised codec: one committed section per codec and plane. Each must come out
// of a store of the same values, and decode to what a second decoder, written from the format page,
// makes of it. QUIRE_UPDATE_GOLDEN=1 writes the files.
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "tests/kernels/reference_decoder.h"

namespace quire_kernels_test {
namespace {

class CodecGoldenTest : public BothImplementations {};
INSTANTIATE_TEST_SUITE_P(Isa, CodecGoldenTest,
                         ::testing::Values(QUIRE_ISA_SCALAR, QUIRE_ISA_AVX2, QUIRE_ISA_AVX512));

constexpr Shape kShape{35, 1, 40};  // a tail in every run, row and group; blocks of order 8

// Made of integers, so that every machine makes the same: one constant channel of 217, one of
// zeros, and channels of different spread.
Engine golden_engine() {
  Engine engine(QUIRE_DTYPE_F32, kShape, kShape.tokens, false);
  uint32_t state = 1;
  for (uint32_t token = 0; token < kShape.tokens; ++token)
    for (uint32_t dim = 0; dim < kShape.dims; ++dim) {
      state = state * 1664525 + 1013904223;
      const auto noise = static_cast<int32_t>(state >> 16) - 32768;
      const float spread = std::ldexp(1.0f, static_cast<int>(dim % 5) - 17);
      float value = static_cast<float>(noise) * spread + static_cast<float>(dim % 7) - 3.0f;
      if (dim == 1) value = 217.0f;
      if (dim == 2) value = 0.0f;
      engine.set(token, 0, dim, value);
    }
  return engine;
}

std::string golden_path(const char* name, int32_t plane) {
  return std::string(QUIRE_SOURCE_DIR) + "/tests/data/sections/" + name +
         (plane == QUIRE_PLANE_KEY ? "_key_v1.bin" : "_value_v1.bin");
}

std::vector<uint8_t> read_golden(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST_P(CodecGoldenTest, StoreMakesTheCommittedBytes) {
  const bool update = std::getenv("QUIRE_UPDATE_GOLDEN") != nullptr;
  for (const CodecName& codec : kQuantised)
    for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
      Engine source = golden_engine();
      Section section(codec.codec, plane, kShape);
      quire_store_params p = store_params(source, section);
      const std::vector<uint8_t> marks = salient_tokens(kShape.tokens);
      p.salient = marks.data();
      ASSERT_EQ(quire_store(&p), QUIRE_KERNEL_OK) << codec.name;
      const std::string path = golden_path(codec.name, plane);
      if (update && GetParam() == QUIRE_ISA_SCALAR) {
        std::ofstream out(path, std::ios::binary);
        out.write(reinterpret_cast<const char*>(section.data()),
                  static_cast<std::streamsize>(section.size));
      }
      EXPECT_TRUE(section.copy() == read_golden(path)) << path;
    }
}

TEST_P(CodecGoldenTest, CommittedBytesDecodeAsTheFormatPageSays) {
  for (const CodecName& codec : kQuantised)
    for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
      const std::vector<uint8_t> golden = read_golden(golden_path(codec.name, plane));
      Section section(codec.codec, plane, kShape);
      ASSERT_GE(section.capacity, golden.size());
      ASSERT_FALSE(golden.empty()) << codec.name;
      section.size = golden.size();
      std::memcpy(section.data(), golden.data(), golden.size());
      ASSERT_EQ(quire_section_check(codec.codec, plane, kShape.tokens, kShape.heads, kShape.dims,
                                    section.data(), section.size),
                QUIRE_KERNEL_OK)
          << codec.name;
      Engine engine(QUIRE_DTYPE_F32, kShape, kShape.tokens, false);
      const quire_load_params p = load_params(section, engine);
      ASSERT_EQ(quire_load(&p), QUIRE_KERNEL_OK) << codec.name;
      const auto want = ReferenceDecoder::decode(codec.codec, plane, kShape, section.data());
      for (uint32_t token = 0; token < kShape.tokens; ++token)
        for (uint32_t dim = 0; dim < kShape.dims; ++dim)
          ASSERT_EQ(engine.value(token, 0, dim), want[token * kShape.dims + dim].value)
              << codec.name << " plane " << plane << " token " << token << " dim " << dim;
    }
}

// The hexdumps of the format page.
TEST_P(CodecGoldenTest, WorkedExamplesOfTheFormatPage) {
  const Shape shape{3, 1, 4};
  Engine source(QUIRE_DTYPE_F32, shape, shape.tokens, false);
  for (uint32_t token = 0; token < 3; ++token)
    for (uint32_t dim = 0; dim < 4; ++dim)
      source.set(token, 0, dim, static_cast<float>(token) / 8 + static_cast<float>(4 * dim));
  const uint8_t marks[] = {0, 1, 0};
  const std::vector<uint8_t> pairs = {0, 0,    0x45, 0x24, 0, 0x44, 0x45, 0x24,
                                      0, 0x48, 0x45, 0x24, 0, 0x4a, 0x45, 0x24};
  const auto at = [](Section& section, uint64_t offset, uint64_t n) {
    return std::vector<uint8_t>(section.data() + offset, section.data() + offset + n);
  };
  Section channel(QUIRE_CODEC_INT4_CHANNEL64, QUIRE_PLANE_KEY, shape);
  quire_store_params p = store_params(source, channel);
  ASSERT_EQ(quire_store(&p), QUIRE_KERNEL_OK);
  EXPECT_EQ(channel.size, 128u);
  EXPECT_EQ(at(channel, 0, 16), pairs);
  EXPECT_EQ(at(channel, 0x40, 12),
            (std::vector<uint8_t>{0, 0, 0, 0, 0x77, 0, 0x77, 0, 0xff, 0, 0xff, 0}));
  Section mixed(QUIRE_CODEC_MIXED_INT8_INT4, QUIRE_PLANE_KEY, shape);
  p = store_params(source, mixed);
  p.salient = marks;
  ASSERT_EQ(quire_store(&p), QUIRE_KERNEL_OK);
  EXPECT_EQ(mixed.size, 448u);
  EXPECT_EQ(at(mixed, 0, 4), (std::vector<uint8_t>{1, 0, 0, 0}));
  EXPECT_EQ(at(mixed, 0x40, 2), (std::vector<uint8_t>{2, 0}));
  EXPECT_EQ(at(mixed, 0x80, 8), (std::vector<uint8_t>{0, 0, 0, 0x3e, 0, 0, 0x84, 0x40}));
  EXPECT_EQ(at(mixed, 0x140, 16), pairs);
  EXPECT_EQ(at(mixed, 0x180, 8), (std::vector<uint8_t>{0, 0, 0, 0, 0xff, 0, 0xff, 0}));
}

}  // namespace
}  // namespace quire_kernels_test
