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
constexpr uint32_t kSections = 4;    // 480 KiB each: more than 1 MiB together
constexpr uint32_t kRowDims = 1536;  // of all heads
constexpr uint64_t kRowBytes = kRowDims * 2;
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
};

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
    sections.emplace_back(test.codec, test.plane, shape);
    quire_store_params p = store_params(source, sections.back());
    ASSERT_EQ(quire_store(&p), QUIRE_KERNEL_OK);
  }
  std::vector<int64_t> rows(kRows);
  std::iota(rows.begin(), rows.end(), 0);
  std::shuffle(rows.begin(), rows.end(), random);
  std::vector<uint8_t> mask(kTokens);
  for (uint8_t& write : mask) write = random() % 5 != 0;
  const Memory together = poisoned();
  const Memory apart = poisoned();
  std::vector<quire_load_params> batch;
  for (uint32_t i = 0; i < kSections; ++i) {
    Engine unused(test.dtype, Shape{}, 1, false);
    quire_load_params p = load_params(sections[i], unused);
    p.dst_tokens = kRows;
    p.dst_token_stride = kRowBytes;
    p.dst_head_stride = int64_t{shape.dims} * 2;
    p.dst_dim_stride = 2;
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
    [](const auto& test) {
      return (test.param.isa == QUIRE_ISA_SCALAR ? "scalar_"
              : test.param.isa == QUIRE_ISA_AVX2 ? "avx2_"
                                                 : "avx512_") +
             std::to_string(test.param.codec) + (test.param.plane == 0 ? "_key_" : "_value_") +
             std::to_string(test.param.dims);
    });

}  // namespace
}  // namespace quire_kernels_test
