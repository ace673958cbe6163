// quire_store: error bounds of int8, what is never lost, gathering, refusals.
#include "tests/kernels/section_fixture.h"

namespace quire_kernels_test {
namespace {

class StoreTest : public BothImplementations {};
INSTANTIATE_TEST_SUITE_P(Isa, StoreTest,
                         ::testing::Values(QUIRE_ISA_SCALAR, QUIRE_ISA_AVX2, QUIRE_ISA_AVX512));

const std::vector<Shape> kShapes = {{1, 1, 4},     {2, 3, 5},     {255, 1, 64}, {256, 2, 80},
                                    {257, 1, 128}, {600, 1, 256}, {31, 2, 130}};

// The step that a value's code has, from the stored scales.
double step_at(Section& section, uint32_t head, uint32_t token, uint32_t dim) {
  const Shape& s = section.shape;
  const auto pad = [](uint64_t bytes) { return (bytes + 63) / 64 * 64; };
  if (section.plane == QUIRE_PLANE_VALUE) {
    const uint64_t start = head * (pad(4ull * s.tokens) + pad(uint64_t{s.tokens} * s.dims));
    return widen(QUIRE_DTYPE_F16, section.data() + start + 4ull * token + 2);
  }
  const uint64_t full = 2 * pad(4ull * s.dims) + pad(256ull * s.dims);
  const uint32_t tail = s.tokens % 256;
  const uint64_t last = tail ? 2 * pad(4ull * s.dims) + pad(uint64_t{tail} * s.dims) : 0;
  const uint64_t start = head * (s.tokens / 256 * full + last) + token / 256 * full;
  return widen(QUIRE_DTYPE_F32, section.data() + start + pad(4ull * s.dims) + 4ull * dim);
}

TEST_P(StoreTest, Int8ErrorStaysWithinHalfAStep) {
  for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
    for (const int32_t dtype : {QUIRE_DTYPE_F32, QUIRE_DTYPE_F16, QUIRE_DTYPE_BF16})
      for (const Shape& shape : kShapes) {
        Engine source(dtype, shape, shape.tokens, false);
        fill_like_keys(source, random_);
        Section section(QUIRE_CODEC_INT8_CHANNEL, plane, shape);
        const quire_store_params store = store_params(source, section);
        ASSERT_EQ(quire_store(&store), QUIRE_KERNEL_OK);
        Engine back(QUIRE_DTYPE_F32, shape, shape.tokens, false);
        const quire_load_params load = load_params(section, back);
        ASSERT_EQ(quire_load(&load), QUIRE_KERNEL_OK);
        for (uint32_t head = 0; head < shape.heads; ++head)
          for (uint32_t token = 0; token < shape.tokens; ++token)
            for (uint32_t dim = 0; dim < shape.dims; ++dim) {
              const double want = source.value(token, head, dim);
              const double bound = 0.5001 * step_at(section, head, token, dim) +
                                   half_step(QUIRE_DTYPE_F32, want) * 2;
              ASSERT_NEAR(want, back.value(token, head, dim), bound)
                  << "plane " << plane << " tokens " << shape.tokens << " dims " << shape.dims
                  << " token " << token << " dim " << dim;
            }
      }
}

// Real keys have channels that are one large constant: they must come back to the bit.
TEST_P(StoreTest, ConstantKeyChannelsAreExact) {
  const Shape shape{300, 2, 64};
  for (const int32_t dtype : {QUIRE_DTYPE_F32, QUIRE_DTYPE_F16, QUIRE_DTYPE_BF16}) {
    Engine source(dtype, shape, shape.tokens, false);
    fill_like_keys(source, random_);
    Section section(QUIRE_CODEC_INT8_CHANNEL, QUIRE_PLANE_KEY, shape);
    const quire_store_params store = store_params(source, section);
    ASSERT_EQ(quire_store(&store), QUIRE_KERNEL_OK);
    Engine back(dtype, shape, shape.tokens, false);
    const quire_load_params load = load_params(section, back);
    ASSERT_EQ(quire_load(&load), QUIRE_KERNEL_OK);
    for (uint32_t token = 0; token < shape.tokens; ++token)
      for (uint32_t head = 0; head < shape.heads; ++head) {
        ASSERT_EQ(back.value(token, head, 1), 217.0f);
        ASSERT_EQ(back.value(token, head, 2), 0.0f);
      }
  }
}

// The extremes of each range survive: an outlier costs precision of its channel, never its own
// size.
TEST_P(StoreTest, OutliersAreNeverClipped) {
  for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
    for (const float outlier : {3.0f, 1000.0f, -40'000.0f, 65'504.0f, 1e-4f, 1e-3f}) {
      const Shape shape{40, 1, 32};
      Engine source(QUIRE_DTYPE_F32, shape, shape.tokens, false);
      std::normal_distribution<float> normal(0, 1e-6f);
      for (uint32_t token = 0; token < shape.tokens; ++token)
        for (uint32_t dim = 0; dim < shape.dims; ++dim) source.set(token, 0, dim, normal(random_));
      source.set(17, 0, 9, outlier);
      Section section(QUIRE_CODEC_INT8_CHANNEL, plane, shape);
      const quire_store_params store = store_params(source, section);
      ASSERT_EQ(quire_store(&store), QUIRE_KERNEL_OK);
      Engine back(QUIRE_DTYPE_F32, shape, shape.tokens, false);
      const quire_load_params load = load_params(section, back);
      ASSERT_EQ(quire_load(&load), QUIRE_KERNEL_OK);
      const double step = step_at(section, 0, 17, 9);
      // A K scale is exact to fp32, so that the top code is the outlier itself; a V scale is fp16.
      const double bound =
          plane == QUIRE_PLANE_KEY ? std::fabs(double{outlier}) * 1e-6 : step * 0.5001;
      EXPECT_NEAR(back.value(17, 0, 9), outlier, bound + 1e-12) << plane;
    }
}

// The stored affine map reaches both ends of the range that it codes: nothing can be clipped.
TEST_P(StoreTest, StoredRangeContainsEveryValue) {
  for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
    for (const int32_t dtype : {QUIRE_DTYPE_F32, QUIRE_DTYPE_BF16}) {
      const Shape shape{64, 1, 64};
      Engine source(dtype, shape, shape.tokens, false);
      fill_like_keys(source, random_);
      Section section(QUIRE_CODEC_INT8_CHANNEL, plane, shape);
      const quire_store_params store = store_params(source, section);
      ASSERT_EQ(quire_store(&store), QUIRE_KERNEL_OK);
      for (uint32_t token = 0; token < shape.tokens; ++token)
        for (uint32_t dim = 0; dim < shape.dims; ++dim) {
          const double low = plane == QUIRE_PLANE_KEY
                                 ? widen(QUIRE_DTYPE_F32, section.data() + uint64_t{dim} * 4)
                                 : widen(QUIRE_DTYPE_F16, section.data() + uint64_t{token} * 4);
          const double high = low + 255 * step_at(section, 0, token, dim);
          ASSERT_LE(low, source.value(token, 0, dim)) << plane << " dim " << dim;
          ASSERT_GE(high, source.value(token, 0, dim)) << plane << " dim " << dim;
        }
    }
}

// Whichever zero the search for the range met last, one form is stored.
TEST_P(StoreTest, ZerosOfBothSignsHaveOneForm) {
  const Shape shape{3, 1, 16};
  for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
    for (uint32_t pattern = 0; pattern < 8; ++pattern) {
      Engine source(QUIRE_DTYPE_F32, shape, shape.tokens, false);
      for (uint32_t token = 0; token < shape.tokens; ++token)
        for (uint32_t dim = 0; dim < shape.dims; ++dim)
          source.set(token, 0, dim, pattern >> token & 1 ? -0.0f : 0.0f);
      Section section(QUIRE_CODEC_INT8_CHANNEL, plane, shape);
      const quire_store_params store = store_params(source, section);
      ASSERT_EQ(quire_store(&store), QUIRE_KERNEL_OK);
      for (uint64_t i = 0; i < section.size; ++i) ASSERT_EQ(section.data()[i], 0) << i;
    }
}

TEST_P(StoreTest, RawStoreConvertsWithOneRounding) {
  const Shape shape{20, 2, 72};
  for (const int32_t dtype : {QUIRE_DTYPE_F32, QUIRE_DTYPE_F16, QUIRE_DTYPE_BF16})
    for (const int32_t codec : {QUIRE_CODEC_RAW_F32, QUIRE_CODEC_RAW_F16, QUIRE_CODEC_RAW_BF16}) {
      Engine source(dtype, shape, shape.tokens, false);
      fill_like_keys(source, random_);
      Section section(codec, QUIRE_PLANE_VALUE, shape);
      const quire_store_params store = store_params(source, section);
      ASSERT_EQ(quire_store(&store), QUIRE_KERNEL_OK);
      const uint8_t* stored = section.data();
      for (uint32_t head = 0; head < shape.heads; ++head)
        for (uint32_t token = 0; token < shape.tokens; ++token)
          for (uint32_t dim = 0; dim < shape.dims; ++dim, stored += element_size(codec)) {
            uint8_t want[4];
            narrow(codec, source.value(token, head, dim), want);
            ASSERT_EQ(std::memcmp(want, stored, element_size(codec)), 0);
          }
    }
}

// A transposed cache and scattered rows give the same section as plain memory.
TEST_P(StoreTest, LayoutAndRowOrderOfTheEngineDoNotMatter) {
  for (const int32_t codec : {QUIRE_CODEC_RAW_F16, QUIRE_CODEC_RAW_F32, QUIRE_CODEC_INT8_CHANNEL})
    for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
      for (const int32_t dtype : {QUIRE_DTYPE_F16, QUIRE_DTYPE_F32})
        for (const Shape& shape : kShapes) {
          Engine plain(dtype, shape, shape.tokens, false);
          fill_like_keys(plain, random_);
          Section want(codec, plane, shape);
          quire_store_params p = store_params(plain, want);
          ASSERT_EQ(quire_store(&p), QUIRE_KERNEL_OK);
          for (const int64_t shift : {int64_t{3}, int64_t{-1}}) {  // -1: reversed rows
            Engine other(dtype, shape, shape.tokens + 3, true);
            std::vector<int64_t> rows(shape.tokens);
            for (uint32_t token = 0; token < shape.tokens; ++token) {
              rows[token] = shift > 0 ? token + shift : shape.tokens - 1 - token;
              for (uint32_t head = 0; head < shape.heads; ++head)
                for (uint32_t dim = 0; dim < shape.dims; ++dim)
                  other.set(rows[token], head, dim, plain.value(token, head, dim));
            }
            Section got(codec, plane, shape);
            p = store_params(other, got);
            p.src_token = rows.data();
            ASSERT_EQ(quire_store(&p), QUIRE_KERNEL_OK);
            ASSERT_EQ(want.copy(), got.copy()) << codec << plane << dtype << shape.tokens;
          }
        }
}

TEST_P(StoreTest, WritesExactlyTheSection) {
  for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
    const Shape shape{259, 2, 5};
    Engine source(QUIRE_DTYPE_F16, shape, shape.tokens, false);
    fill_like_keys(source, random_);
    Section once(QUIRE_CODEC_INT8_CHANNEL, plane, shape);
    const uint32_t guard = once.words.back();
    quire_store_params p = store_params(source, once);
    ASSERT_EQ(quire_store(&p), QUIRE_KERNEL_OK);
    EXPECT_EQ(once.words.back(), guard);
    Section again(QUIRE_CODEC_INT8_CHANNEL, plane, shape);
    std::fill(again.words.begin(), again.words.end(), 0x11111111);
    p = store_params(source, again);
    ASSERT_EQ(quire_store(&p), QUIRE_KERNEL_OK);
    EXPECT_EQ(once.copy(), again.copy()) << "padding depends on what was there";
  }
}

TEST_P(StoreTest, NonFiniteAndTooLargeValuesAreRefused) {
  const Shape shape{5, 2, 20};
  for (const int32_t codec : {QUIRE_CODEC_RAW_F16, QUIRE_CODEC_RAW_F32, QUIRE_CODEC_INT8_CHANNEL})
    for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
      for (const float bad : {NAN, INFINITY, -INFINITY}) {
        Engine source(QUIRE_DTYPE_F32, shape, shape.tokens, false);
        fill_like_keys(source, random_);
        source.set(4, 1, 19, bad);
        Section section(codec, plane, shape);
        const quire_store_params p = store_params(source, section);
        EXPECT_EQ(quire_store(&p), QUIRE_KERNEL_NON_FINITE) << codec << plane;
      }
  const auto store_with = [&](int32_t codec, int32_t plane, float low, float high) {
    Engine source(QUIRE_DTYPE_F32, shape, shape.tokens, false);
    fill_like_keys(source, random_);
    source.set(0, 0, 7, low);
    source.set(1, 0, 7, high);
    Section section(codec, plane, shape);
    const quire_store_params p = store_params(source, section);
    return quire_store(&p);
  };
  EXPECT_EQ(store_with(QUIRE_CODEC_RAW_F16, QUIRE_PLANE_KEY, 0, 65'520), QUIRE_KERNEL_OUT_OF_RANGE);
  EXPECT_EQ(store_with(QUIRE_CODEC_RAW_BF16, QUIRE_PLANE_KEY, 0, 3.4e38f),
            QUIRE_KERNEL_OUT_OF_RANGE);
  EXPECT_EQ(store_with(QUIRE_CODEC_INT8_CHANNEL, QUIRE_PLANE_VALUE, 0, 7e4f),
            QUIRE_KERNEL_OUT_OF_RANGE);
  EXPECT_EQ(store_with(QUIRE_CODEC_INT8_CHANNEL, QUIRE_PLANE_KEY, -3e38f, 3e38f),
            QUIRE_KERNEL_OUT_OF_RANGE);
  EXPECT_EQ(store_with(QUIRE_CODEC_INT8_CHANNEL, QUIRE_PLANE_KEY, -1e38f, 1e38f), QUIRE_KERNEL_OK);
}

TEST_P(StoreTest, BadArgumentsAreRefused) {
  const Shape shape{4, 2, 8};
  Engine source(QUIRE_DTYPE_F16, shape, shape.tokens, false);
  fill_like_keys(source, random_);
  Section section(QUIRE_CODEC_RAW_F16, QUIRE_PLANE_KEY, shape);
  const quire_store_params good = store_params(source, section);
  const auto refused = [&](int status, auto change) {
    quire_store_params p = good;
    change(p);
    EXPECT_EQ(quire_store(&p), status);
  };
  const std::vector<int64_t> rows = {0, 1, 2, 4};
  const int invalid = QUIRE_KERNEL_INVALID_ARGUMENT;
  refused(QUIRE_KERNEL_BAD_STRUCT, [](auto& p) { p.struct_bytes += 1; });
  refused(QUIRE_KERNEL_UNSUPPORTED, [](auto& p) { p.codec = 0; });
  refused(QUIRE_KERNEL_UNSUPPORTED, [](auto& p) { p.src_dtype = 0; });
  refused(invalid, [](auto& p) { p.dst_bytes -= 1; });
  refused(invalid, [](auto& p) { p.src = nullptr; });
  refused(invalid, [](auto& p) { p.dst = nullptr; });
  refused(invalid, [](auto& p) { p.src_tokens = 3; });
  refused(invalid, [&](auto& p) { p.src_token = rows.data(); });
  refused(invalid, [](auto& p) { p.src_token_stride = 0; });
  EXPECT_EQ(quire_store(nullptr), invalid);
}

}  // namespace
}  // namespace quire_kernels_test
