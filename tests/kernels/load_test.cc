// quire_load: where bytes go, what is refused, and that nothing else is touched.
#include <algorithm>
#include <numeric>
#include <string>

#include "tests/kernels/section_fixture.h"

namespace quire_kernels_test {
namespace {

class LoadTest : public BothImplementations {};
INSTANTIATE_TEST_SUITE_P(Isa, LoadTest,
                         ::testing::Values(QUIRE_ISA_SCALAR, QUIRE_ISA_AVX2, QUIRE_ISA_AVX512));

const std::vector<Shape> kShapes = {{1, 1, 1},   {3, 2, 6},     {33, 2, 64},
                                    {70, 1, 80}, {257, 2, 128}, {40, 1, 256}};

// Every bit pattern that is finite may occur.
void fill_random_bits(Section& section, std::mt19937_64& random) {
  const uint32_t size = element_size(section.codec);
  for (uint64_t offset = 0; offset < section.size; offset += size) {
    float value;
    do {
      const uint64_t bits = random();
      std::memcpy(section.data() + offset, &bits, size);
      value = widen(section.codec, section.data() + offset);
    } while (!std::isfinite(value));
  }
}

void store_keys(Section& section, std::mt19937_64& random) {
  Engine source(QUIRE_DTYPE_F32, section.shape, section.shape.tokens, false);
  fill_like_keys(source, random);
  const quire_store_params p = store_params(source, section);
  ASSERT_EQ(quire_store(&p), QUIRE_KERNEL_OK);
}

TEST_P(LoadTest, RawWithoutMoveIsABitExactCopy) {
  for (const int32_t codec : {QUIRE_CODEC_RAW_F16, QUIRE_CODEC_RAW_BF16, QUIRE_CODEC_RAW_F32})
    for (const Shape& shape : kShapes)
      for (const bool transposed : {false, true}) {
        Section section(codec, QUIRE_PLANE_VALUE, shape);
        fill_random_bits(section, random_);
        Engine engine(codec, shape, shape.tokens, transposed);
        const quire_load_params p = load_params(section, engine);
        ASSERT_EQ(quire_load(&p), QUIRE_KERNEL_OK);
        const uint32_t size = element_size(codec);
        const uint8_t* stored = section.data();
        for (uint32_t head = 0; head < shape.heads; ++head)
          for (uint32_t token = 0; token < shape.tokens; ++token)
            for (uint32_t dim = 0; dim < shape.dims; ++dim, stored += size)
              ASSERT_EQ(std::memcmp(stored, engine.at(token, head, dim), size), 0)
                  << codec << " dims " << shape.dims << " token " << token << " dim " << dim;
      }
}

// Scatter, mask and token range at once; the whole destination is compared, so a byte written
// outside the wanted rows fails as well.
TEST_P(LoadTest, WritesTheUnmaskedRowsOfTheRangeAndNothingElse) {
  for (const int32_t codec : {QUIRE_CODEC_RAW_F16, QUIRE_CODEC_INT8_CHANNEL})
    for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
      for (const int32_t dtype : {QUIRE_DTYPE_F16, QUIRE_DTYPE_BF16, QUIRE_DTYPE_F32})
        for (const bool transposed : {false, true})
          for (const char* rows : {"shuffled", "shifted", "identity"}) {
            const Shape shape{97, 2, 80};
            Section section(codec, plane, shape);
            store_keys(section, random_);
            Engine plain(dtype, shape, shape.tokens, false);
            quire_load_params p = load_params(section, plain);
            ASSERT_EQ(quire_load(&p), QUIRE_KERNEL_OK);

            Engine engine(dtype, shape, 2 * shape.tokens, transposed);
            std::vector<int64_t> row(engine.rows);
            const bool identity = rows == std::string("identity");
            std::iota(row.begin(), row.end(), identity ? 0 : 7);
            row.resize(shape.tokens);
            if (rows == std::string("shuffled")) std::shuffle(row.begin(), row.end(), random_);
            std::vector<uint8_t> mask(shape.tokens);
            for (uint8_t& keep : mask) keep = random_() % 8 != 0;
            std::fill(mask.begin() + 40, mask.begin() + 80, 1);
            for (uint32_t i = 0; i < shape.tokens; ++i)
              if (!mask[i] && !identity) row[i] = -1;  // never looked at
            p = load_params(section, engine);
            p.token_begin = 5;
            p.token_end = 90;
            p.dst_token = identity ? nullptr : row.data();
            p.row_mask = mask.data();
            Engine expected = engine;
            for (uint32_t token = p.token_begin; token < p.token_end; ++token)
              for (uint32_t head = 0; mask[token] && head < shape.heads; ++head)
                for (uint32_t dim = 0; dim < shape.dims; ++dim)
                  std::memcpy(expected.at(row[token], head, dim), plain.at(token, head, dim),
                              element_size(dtype));
            ASSERT_EQ(quire_load(&p), QUIRE_KERNEL_OK);
            ASSERT_TRUE(engine.bytes == expected.bytes)
                << codec << plane << dtype << transposed << rows;
          }
}

TEST_P(LoadTest, NonFiniteElementIsRefusedAndNothingIsWritten) {
  const Shape shape{9, 2, 24};
  for (const int32_t codec : {QUIRE_CODEC_RAW_F16, QUIRE_CODEC_RAW_BF16, QUIRE_CODEC_RAW_F32})
    for (const float bad : {NAN, INFINITY, -INFINITY})
      for (uint32_t index = 0; index < 9 * 2 * 24; index += 7) {
        Section section(codec, QUIRE_PLANE_KEY, shape);
        fill_random_bits(section, random_);
        narrow(codec, bad, section.data() + index * element_size(codec));
        Engine engine(codec, shape, shape.tokens, false);
        const std::vector<uint8_t> before = engine.bytes;
        quire_load_params p = load_params(section, engine);
        EXPECT_EQ(quire_load(&p), QUIRE_KERNEL_NON_FINITE);
        EXPECT_EQ(engine.bytes, before);
        // A range that does not hold the element is loaded.
        const uint32_t token = index / shape.dims % shape.tokens;
        p.token_begin = token + 1;
        EXPECT_EQ(quire_load(&p), QUIRE_KERNEL_OK);
      }
}

TEST_P(LoadTest, NonFiniteScaleIsRefused) {
  const Shape shape{300, 1, 8};
  for (const float bad : {NAN, INFINITY}) {
    // K: minimums and scales of the second run (docs/formats/codecs.md gives the offsets).
    const uint32_t second_run = 64 + 64 + 256 * 8;
    for (const uint32_t offset : {second_run, second_run + 28, second_run + 64, 0u, 64u}) {
      Section section(QUIRE_CODEC_INT8_CHANNEL, QUIRE_PLANE_KEY, shape);
      store_keys(section, random_);
      std::memcpy(section.data() + offset, &bad, 4);
      Engine engine(QUIRE_DTYPE_F16, shape, shape.tokens, false);
      const std::vector<uint8_t> before = engine.bytes;
      const quire_load_params p = load_params(section, engine);
      EXPECT_EQ(quire_load(&p), QUIRE_KERNEL_NON_FINITE) << offset;
      EXPECT_EQ(engine.bytes, before);
    }
    for (const uint32_t offset : {0u, 2u, 4u * 299, 4u * 299 + 2}) {
      Section section(QUIRE_CODEC_INT8_CHANNEL, QUIRE_PLANE_VALUE, shape);
      store_keys(section, random_);
      narrow(QUIRE_DTYPE_F16, bad, section.data() + offset);
      Engine engine(QUIRE_DTYPE_F16, shape, shape.tokens, true);
      const std::vector<uint8_t> before = engine.bytes;
      const quire_load_params p = load_params(section, engine);
      EXPECT_EQ(quire_load(&p), QUIRE_KERNEL_NON_FINITE) << offset;
      EXPECT_EQ(engine.bytes, before);
    }
  }
}

TEST_P(LoadTest, ValueTooLargeForTheEngineIsRefused) {
  const Shape shape{2, 1, 16};
  Section section(QUIRE_CODEC_RAW_F32, QUIRE_PLANE_KEY, shape);
  std::memset(section.data(), 0, section.size);
  Engine engine(QUIRE_DTYPE_F16, shape, shape.tokens, false);
  quire_load_params p = load_params(section, engine);
  for (const float fits : {65504.0f, -65519.0f}) {
    narrow(QUIRE_DTYPE_F32, fits, section.data() + 20);
    EXPECT_EQ(quire_load(&p), QUIRE_KERNEL_OK);
    EXPECT_TRUE(std::isfinite(engine.value(0, 0, 5)));
  }
  const std::vector<float> table = exact_table(16, QUIRE_ROPE_TO_DST, 0, 1, 1);
  p.rotation = {QUIRE_ROPE_STYLE_NEOX, 16, table.data(), 0};
  EXPECT_EQ(quire_load(&p), QUIRE_KERNEL_OUT_OF_RANGE);  // a rotation could carry it over the edge
  p.rotation = {};
  narrow(QUIRE_DTYPE_F32, 65520.0f, section.data() + 20);
  const std::vector<uint8_t> before = engine.bytes;
  EXPECT_EQ(quire_load(&p), QUIRE_KERNEL_OUT_OF_RANGE);
  EXPECT_EQ(engine.bytes, before);
}

TEST_P(LoadTest, BadArgumentsAreRefusedBeforeAnythingIsWritten) {
  const Shape shape{4, 2, 8};
  Section section(QUIRE_CODEC_RAW_F16, QUIRE_PLANE_KEY, shape);
  std::memset(section.data(), 0, section.size);
  Engine engine(QUIRE_DTYPE_F16, shape, shape.tokens, false);
  const std::vector<float> table = exact_table(8, QUIRE_ROPE_TO_DST, 0, 3, 4);
  quire_load_params good = load_params(section, engine);
  good.rotation = {QUIRE_ROPE_STYLE_NEOX, 8, table.data(), 32};
  std::vector<int64_t> rows = {0, 1, 2, 4};
  std::vector<int64_t> negative = {0, -1, 2, 3};
  const std::vector<uint8_t> before = engine.bytes;
  const auto refused = [&](int status, auto change) {
    quire_load_params p = good;
    change(p);
    EXPECT_EQ(quire_load(&p), status);
    EXPECT_EQ(engine.bytes, before);
  };
  const int invalid = QUIRE_KERNEL_INVALID_ARGUMENT;
  refused(QUIRE_KERNEL_BAD_STRUCT, [](auto& p) { p.struct_bytes -= 8; });
  refused(QUIRE_KERNEL_UNSUPPORTED, [](auto& p) { p.codec = 9; });
  refused(QUIRE_KERNEL_UNSUPPORTED, [](auto& p) { p.plane = 2; });
  refused(QUIRE_KERNEL_UNSUPPORTED, [](auto& p) { p.dst_dtype = 4; });
  refused(QUIRE_KERNEL_UNSUPPORTED, [](auto& p) { p.rotation.style = 3; });
  refused(invalid, [](auto& p) { p.n_tokens = 0; });
  refused(invalid, [](auto& p) { p.n_heads = 1025; });
  refused(invalid, [](auto& p) { p.src_bytes -= 1; });
  refused(invalid, [](auto& p) { p.src = nullptr; });
  refused(invalid, [](auto& p) { p.src = static_cast<const char*>(p.src) + 2; });
  refused(invalid, [](auto& p) { p.dst = nullptr; });
  refused(invalid, [](auto& p) { p.token_end = 5; });
  refused(invalid, [](auto& p) { p.token_begin = 5; });
  refused(invalid, [](auto& p) { p.dst_tokens = 3; });
  refused(invalid, [](auto& p) { p.dst_tokens = 0; });
  refused(invalid, [](auto& p) { p.dst_dim_stride = 1; });
  refused(invalid, [](auto& p) { p.dst_dim_stride = 0; });
  refused(invalid, [](auto& p) { p.dst_head_stride = 0; });
  refused(invalid, [](auto& p) { p.dst_token_stride = INT64_MAX / 2; });
  refused(invalid, [](auto& p) { p.dst_token_stride = INT64_MIN; });
  refused(invalid, [&](auto& p) { p.dst_token = rows.data(); });
  refused(invalid, [&](auto& p) { p.dst_token = negative.data(); });
  refused(invalid, [](auto& p) { p.rotation.rotary_dims = 7; });
  refused(invalid, [](auto& p) { p.rotation.rotary_dims = 10; });
  refused(invalid, [](auto& p) { p.rotation.rotary_dims = 0; });
  refused(invalid, [](auto& p) { p.rotation.table_token_stride = 28; });
  refused(invalid, [](auto& p) { p.rotation.table_token_stride = -32; });
  refused(invalid, [](auto& p) { p.plane = QUIRE_PLANE_VALUE; });
  EXPECT_EQ(quire_load(nullptr), invalid);
  EXPECT_EQ(quire_load(&good), QUIRE_KERNEL_OK);
  EXPECT_NE(engine.bytes, before);
}

TEST_P(LoadTest, BatchChecksAllArgumentsFirstAndNamesTheSection) {
  const Shape shape{4, 2, 8};
  Section section(QUIRE_CODEC_RAW_F16, QUIRE_PLANE_VALUE, shape);
  Section damaged(QUIRE_CODEC_RAW_F16, QUIRE_PLANE_VALUE, shape);
  std::memset(section.data(), 0, section.size);
  std::memset(damaged.data(), 0, damaged.size);
  narrow(QUIRE_DTYPE_F16, INFINITY, damaged.data());
  Engine first(QUIRE_DTYPE_F16, shape, shape.tokens, false);
  Engine second = first;
  const std::vector<uint8_t> before = first.bytes;
  std::vector<quire_load_params> batch = {load_params(section, first),
                                          load_params(damaged, second)};
  size_t failed = 99;
  batch[1].src_bytes += 1;
  EXPECT_EQ(quire_load_batch(batch.data(), 2, &failed), QUIRE_KERNEL_INVALID_ARGUMENT);
  EXPECT_EQ(failed, 1u);
  EXPECT_EQ(first.bytes, before);
  batch[1].src_bytes -= 1;
  EXPECT_EQ(quire_load_batch(batch.data(), 2, &failed), QUIRE_KERNEL_NON_FINITE);
  EXPECT_EQ(failed, 1u);
  EXPECT_NE(first.bytes, before);
  EXPECT_EQ(second.bytes, before);
  EXPECT_EQ(quire_load_batch(batch.data(), 1, nullptr), QUIRE_KERNEL_OK);
  EXPECT_EQ(quire_load_batch(nullptr, 0, nullptr), QUIRE_KERNEL_OK);
}

}  // namespace
}  // namespace quire_kernels_test
