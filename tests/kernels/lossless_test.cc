// bf16-exp4 and bf16-window3 through quire_store and quire_load: bits, rotations, ranges, masks,
// refusals. The coding itself: exponent tests.
#include <algorithm>

#include "tests/kernels/section_fixture.h"

namespace quire_kernels_test {
namespace {

class LosslessTest : public BothImplementations {};
INSTANTIATE_TEST_SUITE_P(Isa, LosslessTest, ::testing::Values(QUIRE_ISA_SCALAR, QUIRE_ISA_AVX512));

constexpr int32_t kCodecs[] = {QUIRE_CODEC_BF16_EXP4, QUIRE_CODEC_BF16_WINDOW3};
const std::vector<Shape> kShapes = {{1, 1, 1}, {70, 2, 80}, {257, 2, 64}, {300, 1, 128}};

TEST_P(LosslessTest, EveryBitPatternComesBackWhereItIsAskedFor) {
  for (const int32_t codec : kCodecs)
    for (const Shape& shape : kShapes)
      for (const bool transposed : {false, true})
        for (const bool keys : {false, true}) {
          Engine source(QUIRE_DTYPE_BF16, shape, shape.tokens, transposed);
          fill_like_keys(source, random_);
          for (uint32_t token = 0; !keys && token < shape.tokens; ++token)
            for (uint32_t dim = 0; dim < shape.dims; ++dim)
              for (uint32_t head = 0; head < shape.heads; ++head) {
                const auto bits = static_cast<uint16_t>(random_());
                std::memcpy(source.at(token, head, dim), &bits, 2);
              }
          source.set(0, 0, 0, NAN);
          Section section(codec, QUIRE_PLANE_KEY, shape);
          quire_store_params store = store_params(source, section);
          EXPECT_EQ(quire_store(&store), QUIRE_KERNEL_NON_FINITE);
          store.flags = QUIRE_KERNEL_KEEP_NON_FINITE;
          ASSERT_EQ(quire_store(&store), QUIRE_KERNEL_OK);
          Engine back(QUIRE_DTYPE_BF16, shape, shape.tokens, transposed);
          quire_load_params load = load_params(section, back);
          EXPECT_EQ(quire_load(&load), QUIRE_KERNEL_NON_FINITE);
          load.flags = QUIRE_KERNEL_KEEP_NON_FINITE;
          ASSERT_EQ(quire_load(&load), QUIRE_KERNEL_OK);
          ASSERT_TRUE(back.bytes == source.bytes) << codec << " tokens " << shape.tokens;
          load.dst_dtype = QUIRE_DTYPE_F16;  // no copy of bits: refused all the same
          EXPECT_EQ(quire_load(&load), QUIRE_KERNEL_NON_FINITE);
        }
}

// Whatever a load does with raw-bf16, it does with the coded form of it.
TEST_P(LosslessTest, LoadsEqualThoseOfRawBf16) {
  for (const int32_t codec : kCodecs)
    for (const Shape& shape : kShapes)
      for (const int32_t dtype : {QUIRE_DTYPE_F16, QUIRE_DTYPE_BF16, QUIRE_DTYPE_F32})
        for (int kind = 0; kind < 4; ++kind) {
          if (kind % 2 && shape.dims == 1) continue;
          Engine source(QUIRE_DTYPE_BF16, shape, shape.tokens, false);
          fill_like_keys(source, random_);
          const auto table =
              exact_table(std::max(shape.dims / 2 * 2, 2u), QUIRE_ROPE_TO_DST, 0, 99, shape.tokens);
          std::vector<uint8_t> mask(shape.tokens);
          for (uint8_t& keep : mask) keep = random_() % 4 != 0;
          std::vector<uint8_t> got[2];
          for (const int32_t id : {codec, static_cast<int32_t>(QUIRE_CODEC_RAW_BF16)}) {
            Section section(id, QUIRE_PLANE_KEY, shape);
            const quire_store_params store = store_params(source, section);
            ASSERT_EQ(quire_store(&store), QUIRE_KERNEL_OK);
            Engine engine(dtype, shape, shape.tokens, kind >= 2);
            quire_load_params load = load_params(section, engine);
            load.row_mask = mask.data();
            load.token_begin = shape.tokens / 3;
            if (kind % 2) {
              const uint32_t rotary = shape.dims / 2 * 2;
              load.rotation = {QUIRE_ROPE_STYLE_NEOX, rotary, table.data(), rotary * 4};
            }
            ASSERT_EQ(quire_load(&load), QUIRE_KERNEL_OK);
            got[id == codec] = engine.bytes;
          }
          ASSERT_TRUE(got[0] == got[1]) << codec << " dtype " << dtype << " kind " << kind;
        }
}

// Whatever a store puts into raw-bf16, it puts into the coded form of it.
TEST_P(LosslessTest, StoresEqualThoseOfRawBf16) {
  for (const int32_t codec : kCodecs)
    for (const Shape& shape : {Shape{70, 2, 80}, Shape{257, 5, 64}, Shape{300, 9, 128}})
      for (const int32_t dtype : {QUIRE_DTYPE_F16, QUIRE_DTYPE_BF16, QUIRE_DTYPE_F32})
        for (int kind = 0; kind < 6; ++kind) {
          Engine source(dtype, shape, shape.tokens, kind % 2);
          fill_like_keys(source, random_);
          const bool each = kind / 2 == 1;
          const auto table = exact_table(shape.dims, QUIRE_ROPE_FROM_SRC, 1000, 0, shape.tokens);
          std::vector<uint8_t> got[2];
          for (const int32_t id : {codec, static_cast<int32_t>(QUIRE_CODEC_RAW_BF16)}) {
            Section section(id, QUIRE_PLANE_KEY, shape);
            quire_store_params store = store_params(source, section);
            const auto style = kind % 2 ? QUIRE_ROPE_STYLE_NEOX : QUIRE_ROPE_STYLE_INTERLEAVED;
            if (kind >= 2)
              store.rotation = {style, shape.dims, table.data(), each ? shape.dims * 4 : 0};
            ASSERT_EQ(quire_store(&store), QUIRE_KERNEL_OK);
            Engine back(QUIRE_DTYPE_BF16, shape, shape.tokens, false);
            const quire_load_params load = load_params(section, back);
            ASSERT_EQ(quire_load(&load), QUIRE_KERNEL_OK);
            got[id == codec] = back.bytes;
          }
          ASSERT_TRUE(got[0] == got[1]) << codec << " dtype " << dtype << " kind " << kind;
        }
}

TEST_P(LosslessTest, WhatIsNotFiniteOrGrowsBeyondIsRefused) {
  const Shape shape{80, 3, 64};
  const auto table = exact_table(shape.dims, QUIRE_ROPE_FROM_SRC, 1000, 0, shape.tokens);
  const auto store_with = [&](int32_t codec, int32_t dtype, float value, bool rotates) {
    Engine source(dtype, shape, shape.tokens, false);
    fill_like_keys(source, random_);
    for (const uint32_t dim : {5u, 37u}) source.set(77, 2, dim, value);
    Section section(codec, QUIRE_PLANE_KEY, shape);
    quire_store_params store = store_params(source, section);
    if (rotates) store.rotation = {QUIRE_ROPE_STYLE_NEOX, shape.dims, table.data(), shape.dims * 4};
    return quire_store(&store);
  };
  for (const int32_t codec : kCodecs)
    for (const int32_t dtype : {QUIRE_DTYPE_BF16, QUIRE_DTYPE_F32})
      for (const bool rotates : {false, true}) {
        EXPECT_EQ(store_with(codec, dtype, NAN, rotates), QUIRE_KERNEL_NON_FINITE);
        EXPECT_EQ(store_with(codec, dtype, -INFINITY, rotates), QUIRE_KERNEL_NON_FINITE);
        EXPECT_EQ(store_with(codec, dtype, 3.3e38f, rotates),
                  rotates ? QUIRE_KERNEL_OUT_OF_RANGE : QUIRE_KERNEL_OK);
      }
  for (const int32_t codec : kCodecs)  // the largest fp32 has no neighbour among finite bf16
    EXPECT_EQ(store_with(codec, QUIRE_DTYPE_F32, 3.4028235e38f, false), QUIRE_KERNEL_OUT_OF_RANGE);
}

TEST_P(LosslessTest, DamagedSectionsGiveAStatusOrStayInside) {
  const Shape shape{130, 2, 40};
  for (const int32_t codec : kCodecs) {
    Engine source(QUIRE_DTYPE_BF16, shape, shape.tokens, false);
    fill_like_keys(source, random_);
    Section section(codec, QUIRE_PLANE_VALUE, shape);
    const quire_store_params store = store_params(source, section);
    ASSERT_EQ(quire_store(&store), QUIRE_KERNEL_OK);
    Engine engine(QUIRE_DTYPE_BF16, shape, shape.tokens, false);
    const std::vector<uint8_t> clean = engine.bytes;
    for (int round = 0; round < 400; ++round) {
      Section damaged = section;
      if (round % 4 == 0) damaged.size = random_() % (section.size + 1);
      damaged.data()[random_() % (round % 2 ? 128 : section.size)] =
          static_cast<uint8_t>(random_());
      engine.bytes.assign(clean.begin(), clean.end());
      const quire_load_params load = load_params(damaged, engine);
      if (quire_load(&load) != QUIRE_KERNEL_OK) {
        ASSERT_TRUE(engine.bytes == clean);
      }
    }
  }
}

}  // namespace
}  // namespace quire_kernels_test
