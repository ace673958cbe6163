// Calls that fill more than the caches hold write rows past them: the same bytes, and nothing else.
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>

#include "tests/kernels/section_fixture.h"

namespace quire_kernels_test {
namespace {

constexpr uint32_t kTokens = 160;
constexpr uint32_t kRows = 200;
constexpr uint32_t kSections = 4;             // 480 KiB each: more than 1 MiB together
constexpr uint32_t kRowDims = 1536;           // of all heads
constexpr uint64_t kRowBytes = kRowDims * 4;  // of the largest elements
constexpr uint64_t kEngineBytes = kRows * kRowBytes;
constexpr uint8_t kPoison = 0x5b;

struct Free {
  void operator()(uint8_t* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<uint8_t, Free>;

// 64-byte aligned engine memory of all sections, [row][head][dim] each.
Memory poisoned() {
  Memory memory(static_cast<uint8_t*>(std::aligned_alloc(64, kSections * kEngineBytes)));
  std::fill_n(memory.get(), kSections * kEngineBytes, kPoison);
  return memory;
}

struct StreamCase {
  int32_t isa;
  int32_t codec;
  int32_t plane;
  int32_t dtype = QUIRE_DTYPE_BF16;
  uint32_t dims = 128;
  uint32_t rotary = 0;
  int32_t style = QUIRE_ROPE_STYLE_NEOX;
};

std::string name_of(const ::testing::TestParamInfo<StreamCase>& test) {
  const StreamCase& c = test.param;
  std::string name = c.isa == QUIRE_ISA_SCALAR ? "scalar_"
                     : c.isa == QUIRE_ISA_AVX2 ? "avx2_"
                                               : "avx512_";
  name += std::to_string(c.codec) + (c.plane == QUIRE_PLANE_KEY ? "_key_" : "_value_") +
          std::to_string(c.dims);
  if (c.dtype != QUIRE_DTYPE_BF16) name += "_dtype" + std::to_string(c.dtype);
  if (c.rotary == 0) return name;
  return name + "_rotary" + std::to_string(c.rotary) + "_style" + std::to_string(c.style);
}

class LoadStream : public ::testing::TestWithParam<StreamCase> {
 protected:
  void SetUp() override {
    if (quire_kernel_select(GetParam().isa) != QUIRE_KERNEL_OK)
      GTEST_SKIP() << "this CPU lacks the instruction set";
  }
  void TearDown() override { quire_kernel_select(QUIRE_ISA_BEST); }
};

TEST_P(LoadStream, EqualsOneSectionAtATime) {
  std::mt19937_64 random(kSeed);
  const StreamCase& test = GetParam();
  const Shape shape{kTokens, kRowDims / test.dims, test.dims};
  std::vector<Section> sections;
  for (uint32_t i = 0; i < kSections; ++i) {
    Engine source(QUIRE_DTYPE_BF16, shape, shape.tokens, false);
    fill_like_keys(source, random);
    // Denormals, which some conversions of the processor do not keep.
    if (i == 0)
      for (uint32_t dim = 0; dim < shape.dims; ++dim) source.set(7, 0, dim, std::ldexp(1.0f, -130));
    sections.emplace_back(test.codec, test.plane, shape);
    quire_store_params p = store_params(source, sections.back());
    ASSERT_EQ(quire_store(&p), QUIRE_KERNEL_OK);
  }
  std::vector<int64_t> rows(kRows);
  std::iota(rows.begin(), rows.end(), 0);
  std::shuffle(rows.begin(), rows.end(), random);
  std::vector<uint8_t> mask(kTokens);
  for (uint8_t& write : mask) write = random() % 5 != 0;
  std::vector<float> table;
  if (test.rotary != 0)
    table = exact_table(test.rotary, QUIRE_ROPE_FROM_SRC | QUIRE_ROPE_TO_DST, 0, 1000, 1);
  const Memory together = poisoned();
  const Memory apart = poisoned();
  std::vector<quire_load_params> batch;
  for (uint32_t i = 0; i < kSections; ++i) {
    Engine unused(test.dtype, Shape{}, 1, false);
    quire_load_params p = load_params(sections[i], unused);
    p.dst_tokens = kRows;
    p.dst_token_stride = kRowBytes;
    p.dst_dim_stride = test.dtype == QUIRE_DTYPE_F32 ? 4 : 2;
    p.dst_head_stride = shape.dims * p.dst_dim_stride;
    if (test.rotary != 0) p.rotation = {test.style, test.rotary, table.data(), 0};
    p.dst_token = rows.data();
    p.row_mask = mask.data();
    p.dst = apart.get() + i * kEngineBytes;
    ASSERT_EQ(quire_load(&p), QUIRE_KERNEL_OK);
    p.dst = together.get() + i * kEngineBytes;
    batch.push_back(p);
  }
  ASSERT_EQ(quire_load_batch(batch.data(), batch.size(), nullptr), QUIRE_KERNEL_OK);
  EXPECT_TRUE(std::equal(apart.get(), apart.get() + kSections * kEngineBytes, together.get()));
  // Rows that nothing maps to, and masked ones, are as they were.
  for (uint32_t i = 0; i < kRows; ++i) {
    if (i < kTokens && mask[i] != 0) continue;
    EXPECT_EQ(together.get()[static_cast<uint64_t>(rows[i]) * kRowBytes + 5], kPoison);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Codecs, LoadStream,
    ::testing::Values(StreamCase{QUIRE_ISA_SCALAR, QUIRE_CODEC_INT4_CHANNEL64, QUIRE_PLANE_KEY},
                      StreamCase{QUIRE_ISA_AVX2, QUIRE_CODEC_INT4_CHANNEL64, QUIRE_PLANE_VALUE},
                      StreamCase{QUIRE_ISA_AVX512, QUIRE_CODEC_RAW_BF16, QUIRE_PLANE_KEY},
                      StreamCase{QUIRE_ISA_AVX512, QUIRE_CODEC_BF16_EXP4, QUIRE_PLANE_KEY},
                      StreamCase{QUIRE_ISA_AVX512, QUIRE_CODEC_INT8_CHANNEL, QUIRE_PLANE_VALUE},
                      StreamCase{QUIRE_ISA_AVX512, QUIRE_CODEC_INT4_CHANNEL64, QUIRE_PLANE_KEY},
                      StreamCase{QUIRE_ISA_AVX512, QUIRE_CODEC_INT4_CHANNEL64, QUIRE_PLANE_VALUE},
                      StreamCase{QUIRE_ISA_AVX512, QUIRE_CODEC_INT4_CHANNEL64, QUIRE_PLANE_VALUE,
                                 QUIRE_DTYPE_F16, 64},
                      StreamCase{QUIRE_ISA_AVX512, QUIRE_CODEC_INT3_CHANNEL64, QUIRE_PLANE_VALUE,
                                 QUIRE_DTYPE_BF16, 64},
                      StreamCase{QUIRE_ISA_AVX512, QUIRE_CODEC_INT2_CHANNEL32, QUIRE_PLANE_VALUE,
                                 QUIRE_DTYPE_BF16, 192},
                      StreamCase{QUIRE_ISA_AVX512, QUIRE_CODEC_MIXED_INT8_INT4, QUIRE_PLANE_KEY}),
    name_of);

std::vector<StreamCase> rotated_cases() {
  std::vector<StreamCase> cases = {
      {QUIRE_ISA_SCALAR, QUIRE_CODEC_INT4_CHANNEL64, QUIRE_PLANE_KEY, QUIRE_DTYPE_BF16, 128, 128},
      {QUIRE_ISA_AVX2, QUIRE_CODEC_BF16_EXP4, QUIRE_PLANE_KEY, QUIRE_DTYPE_BF16, 64, 64}};
  struct Rotation {
    uint32_t dims;
    uint32_t rotary;
    int32_t style;
  };
  // Halves of a rotation that are whole lines, and those that are not.
  const Rotation rotations[] = {
      {128, 128, QUIRE_ROPE_STYLE_NEOX},     {64, 64, QUIRE_ROPE_STYLE_NEOX},
      {96, 64, QUIRE_ROPE_STYLE_NEOX},       {192, 96, QUIRE_ROPE_STYLE_NEOX},
      {64, 32, QUIRE_ROPE_STYLE_NEOX},       {64, 64, QUIRE_ROPE_STYLE_INTERLEAVED},
      {64, 34, QUIRE_ROPE_STYLE_INTERLEAVED}};
  for (const int32_t codec : {QUIRE_CODEC_RAW_BF16, QUIRE_CODEC_BF16_EXP4, QUIRE_CODEC_BF16_WINDOW3,
                              QUIRE_CODEC_INT8_CHANNEL, QUIRE_CODEC_INT4_CHANNEL64,
                              QUIRE_CODEC_INT3_CHANNEL64, QUIRE_CODEC_INT4_HADAMARD})
    for (const int32_t dtype : {QUIRE_DTYPE_BF16, QUIRE_DTYPE_F16, QUIRE_DTYPE_F32})
      for (const Rotation& r : rotations)
        cases.push_back(
            {QUIRE_ISA_AVX512, codec, QUIRE_PLANE_KEY, dtype, r.dims, r.rotary, r.style});
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Rotated, LoadStream, ::testing::ValuesIn(rotated_cases()), name_of);

}  // namespace
}  // namespace quire_kernels_test
