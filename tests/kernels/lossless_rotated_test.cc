// bf16-exp4 and bf16-window3 of keys that a store un-rotates: every implementation writes the bytes
// of the reference, whichever of them rotates and encodes at once.
#include <algorithm>
#include <array>

#include "tests/kernels/section_fixture.h"

namespace quire_kernels_test {
namespace {

constexpr int32_t kCodecs[] = {QUIRE_CODEC_BF16_EXP4, QUIRE_CODEC_BF16_WINDOW3};

struct Case {
  Shape shape;
  int32_t codec = 0;
  int32_t style = QUIRE_ROPE_STYLE_NEOX;
  uint32_t rotary_dims = 0;
  bool table_per_token = true;
  bool heads_apart = false;  // [head][token][dim]
};

struct Outcome {
  int status = 0;
  uint64_t size = 0;
  std::vector<uint8_t> bytes;
};

class LosslessRotatedTest : public testing::Test {
 protected:
  void TearDown() override { quire_kernel_select(QUIRE_ISA_BEST); }

  static Outcome store(int32_t isa, const Case& c, Engine& source, const std::vector<float>& table,
                       const std::vector<int64_t>& rows) {
    EXPECT_EQ(quire_kernel_select(isa), QUIRE_KERNEL_OK);
    Section section(c.codec, QUIRE_PLANE_KEY, c.shape);
    quire_store_params store = store_params(source, section);
    store.rotation = {c.style, c.rotary_dims, table.data(),
                      c.table_per_token ? int64_t{c.rotary_dims} * 4 : 0};
    if (!rows.empty()) store.src_token = rows.data();
    Outcome outcome;
    outcome.status = quire_store(&store);
    if (outcome.status != QUIRE_KERNEL_OK) return outcome;
    outcome.size = section.size;
    outcome.bytes = section.copy();
    return outcome;
  }

  // Equal bytes or equal refusals; the status.
  int expect_equal(const Case& c, Engine& source, const std::vector<int64_t>& rows = {}) {
    auto table =
        exact_table(c.rotary_dims, QUIRE_ROPE_FROM_SRC, first_position_, 0, c.shape.tokens);
    for (float& each : table) each *= scale_;
    const Outcome expected = store(QUIRE_ISA_SCALAR, c, source, table, rows);
    for (const int32_t isa : {QUIRE_ISA_AVX2, QUIRE_ISA_AVX512}) {
      if (quire_kernel_select(isa) != QUIRE_KERNEL_OK) continue;
      const Outcome outcome = store(isa, c, source, table, rows);
      EXPECT_EQ(outcome.status, expected.status);
      EXPECT_EQ(outcome.size, expected.size);
      EXPECT_TRUE(outcome.bytes == expected.bytes)
          << "isa " << isa << " codec " << c.codec << " tokens " << c.shape.tokens << " heads "
          << c.shape.heads << " dims " << c.shape.dims << " rotary " << c.rotary_dims;
    }
    return expected.status;
  }

  Engine engine(const Case& c, int64_t rows) {
    Engine source(QUIRE_DTYPE_BF16, c.shape, rows, false);
    if (c.heads_apart) {
      source.token_stride = int64_t{c.shape.dims} * 2;
      source.head_stride = source.token_stride * rows;
    }
    fill_like_keys(source, random_);
    // Channels of their own for keys, none of them zero before or after.
    for (uint32_t head = 0; head < c.shape.heads; ++head)
      for (int64_t row = 0; row < rows; ++row)
        source.set(row, head, 2, 0.5f + static_cast<float>(random_() % 100));
    return source;
  }

  int64_t first_position_ = 1000;
  float scale_ = 1;
  std::mt19937_64 random_{kSeed};
};

TEST_F(LosslessRotatedTest, BytesAreThoseOfTheReference) {
  for (int round = 0; round < 60; ++round) {
    Case c;
    c.codec = kCodecs[round % 2];
    c.shape.dims = std::array{64u, 128u, 256u}[random_() % 3];
    c.shape.heads = 1 + random_() % 9;
    c.shape.tokens = round % 5 == 0 ? 256 + 4 * (random_() % 3) : 1 + random_() % 300;
    c.rotary_dims = random_() % 6 == 0 ? c.shape.dims / 2 : c.shape.dims;
    c.table_per_token = random_() % 5 != 0;
    c.heads_apart = random_() % 3 == 0;
    if (random_() % 6 == 0) c.style = QUIRE_ROPE_STYLE_INTERLEAVED;
    Engine source = engine(c, c.shape.tokens + 5);
    std::vector<int64_t> rows;
    for (uint32_t i = 0; round % 3 == 0 && i < c.shape.tokens; ++i)
      rows.push_back(static_cast<int64_t>(random_() % static_cast<uint64_t>(source.rows)));
    EXPECT_EQ(expect_equal(c, source, rows), QUIRE_KERNEL_OK) << round;
  }
}

// What the processor's bf16 conversion takes for zero: here and there, and all over.
TEST_F(LosslessRotatedTest, ZerosAndDenormalsAreRotatedByTheReference) {
  for (int round = 0; round < 48; ++round) {
    Case c;
    c.codec = kCodecs[round % 2];
    c.shape = {257, 3, std::array{64u, 128u, 256u}[round % 3]};
    c.rotary_dims = c.shape.dims;
    Engine source = engine(c, c.shape.tokens);
    const uint32_t some = round % 4 == 0 ? 1 : 1 + static_cast<uint32_t>(random_() % 40);
    for (uint32_t i = 0; i < some; ++i) {
      const auto token = static_cast<int64_t>(random_() % c.shape.tokens);
      const uint32_t head = random_() % 3, dim = random_() % (c.shape.dims / 2);
      for (const uint32_t each : {dim, dim + c.shape.dims / 2})
        source.set(token, head, each, random_() % 2 ? 0.0f : 3e-39f);
    }
    if (round % 6 == 1)  // two channels that make a pair
      for (uint32_t token = 0; token < c.shape.tokens; ++token)
        for (const uint32_t dim : {7u, 7u + c.shape.dims / 2}) source.set(token, 1, dim, 0.0f);
    first_position_ = round % 5 == 0 ? 0 : 1000;
    EXPECT_EQ(expect_equal(c, source), QUIRE_KERNEL_OK) << round;
  }
}

// fp32 denormals that round to the least bf16 that is none.
TEST_F(LosslessRotatedTest, DenormalsThatRoundUpCountAsWhatTheyBecome) {
  for (const int32_t codec : kCodecs) {
    Case c;
    c.codec = codec;
    c.shape = {64, 2, 64};
    c.rotary_dims = c.shape.dims;
    first_position_ = -32;
    scale_ = 0.9999f;
    Engine source = engine(c, c.shape.tokens);
    for (uint32_t token = 0; token < 64; ++token)
      for (uint32_t head = 0; head < 2; ++head)
        for (uint32_t dim = 0; dim < 64; ++dim)
          source.set(token, head, dim, dim < 32 ? 0x1p-126f : 0);
    EXPECT_EQ(expect_equal(c, source), QUIRE_KERNEL_OK);
  }
}

// Exponents that do not fit the codes: escapes, more than fit a head's area, and plain sections.
TEST_F(LosslessRotatedTest, EscapesAndPlainSections) {
  for (int round = 0; round < 40; ++round) {
    Case c;
    c.codec = kCodecs[round % 2];
    c.shape = {1 + static_cast<uint32_t>(random_() % 280), 5, round % 4 < 2 ? 64u : 128u};
    c.rotary_dims = c.shape.dims;
    Engine source = engine(c, c.shape.tokens);
    const uint32_t head = random_() % 5;
    for (uint32_t token = 0; token < c.shape.tokens; ++token)
      for (uint32_t h = 0; h < 5; ++h)
        for (uint32_t dim = 0; dim < c.shape.dims; ++dim)
          if (round % 3 == 0 || h == head)
            source.set(token, h, dim,
                       std::ldexp(1.0f + static_cast<float>(random_() % 64) / 64,
                                  static_cast<int>(random_() % 80) - 40));
    EXPECT_EQ(expect_equal(c, source), QUIRE_KERNEL_OK) << round;
  }
}

TEST_F(LosslessRotatedTest, RefusalsAreThoseOfTheReference) {
  for (const int32_t codec : kCodecs)
    for (const uint32_t dims : {64u, 128u, 256u})
      for (const float value : {NAN, INFINITY, -INFINITY, 3.3e38f}) {
        Case c;
        c.codec = codec;
        c.shape = {130, 3, dims};
        c.rotary_dims = dims;
        Engine source = engine(c, c.shape.tokens);
        // Seen by exp4's first look or not.
        const auto token = static_cast<int64_t>(64 + random_() % 8);
        for (const uint32_t dim : {5u, 5u + dims / 2}) source.set(token, 2, dim, value);
        if (random_() % 2) source.set(token, 2, 6, 0.0f);
        EXPECT_EQ(expect_equal(c, source),
                  std::isfinite(value) ? QUIRE_KERNEL_OUT_OF_RANGE : QUIRE_KERNEL_NON_FINITE);
      }
}

}  // namespace
}  // namespace quire_kernels_test
