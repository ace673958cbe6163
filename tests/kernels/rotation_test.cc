// Rotations: against fp64, composition, both pair styles, partial rotary dims; and rope tables.
#include "tests/kernels/section_fixture.h"

namespace quire_kernels_test {
namespace {

class RotationTest : public BothImplementations {};
INSTANTIATE_TEST_SUITE_P(Isa, RotationTest, ::testing::Values(QUIRE_ISA_SCALAR, QUIRE_ISA_AVX512));

// Loads `section` with a rotation into fresh memory of the dtype.
Engine load_rotated(Section& section, int32_t dtype, int32_t style, uint32_t rotary_dims,
                    const std::vector<float>& table, int64_t stride) {
  Engine engine(dtype, section.shape, section.shape.tokens, false);
  quire_load_params p = load_params(section, engine);
  p.rotation = {style, rotary_dims, table.data(), stride};
  EXPECT_EQ(quire_load(&p), QUIRE_KERNEL_OK);
  return engine;
}

Section key_section(Shape shape, std::mt19937_64& random, Engine* source_out = nullptr) {
  Engine source(QUIRE_DTYPE_F32, shape, shape.tokens, false);
  fill_like_keys(source, random);
  Section section(QUIRE_CODEC_RAW_F32, QUIRE_PLANE_KEY, shape);
  const quire_store_params p = store_params(source, section);
  EXPECT_EQ(quire_store(&p), QUIRE_KERNEL_OK);
  if (source_out != nullptr) *source_out = source;
  return section;
}

std::vector<double> row_of(Engine& engine, int64_t token, uint32_t head) {
  std::vector<double> row(engine.dims);
  for (uint32_t dim = 0; dim < engine.dims; ++dim) row[dim] = engine.value(token, head, dim);
  return row;
}

void expect_rows_near(const std::vector<double>& want, const std::vector<double>& got,
                      int32_t dtype, const char* what) {
  for (size_t dim = 0; dim < want.size(); ++dim) {
    // fp32 table and products of values up to about 700, then one rounding to the dtype.
    const double bound = half_step(dtype, want[dim]) * 1.01 + 700 * 0x1p-22;
    ASSERT_NEAR(want[dim], got[dim], bound) << what << " dim " << dim;
  }
}

TEST_P(RotationTest, EqualsFp64RotationOfEveryTokenAtItsPosition) {
  for (const int32_t style : {QUIRE_ROPE_STYLE_NEOX, QUIRE_ROPE_STYLE_INTERLEAVED})
    for (const Shape& shape :
         {Shape{5, 2, 64}, Shape{3, 1, 80}, Shape{37, 1, 128}, Shape{2, 2, 256}})
      for (const uint32_t rotary : {shape.dims, shape.dims / 2, 2u, shape.dims - 6})
        for (const int32_t dtype : {QUIRE_DTYPE_F32, QUIRE_DTYPE_F16, QUIRE_DTYPE_BF16}) {
          Engine source(QUIRE_DTYPE_F32, shape, 1, false);
          Section section = key_section(shape, random_, &source);
          const int64_t start = 100'001;
          const auto table = exact_table(rotary, QUIRE_ROPE_TO_DST, 0, start, shape.tokens);
          Engine engine = load_rotated(section, dtype, style, rotary, table, rotary * 4);
          for (uint32_t token = 0; token < shape.tokens; ++token)
            for (uint32_t head = 0; head < shape.heads; ++head)
              expect_rows_near(rotated(row_of(source, token, head), style, rotary, start + token),
                               row_of(engine, token, head), dtype, "rotated");
        }
}

TEST_P(RotationTest, TwoRotationsEqualTheirSum) {
  const Shape shape{4, 2, 128};
  for (const int32_t style : {QUIRE_ROPE_STYLE_NEOX, QUIRE_ROPE_STYLE_INTERLEAVED}) {
    Section section = key_section(shape, random_);
    const auto a = exact_table(128, QUIRE_ROPE_TO_DST, 0, 1234, 1);
    const auto b = exact_table(128, QUIRE_ROPE_FROM_SRC | QUIRE_ROPE_TO_DST, 1234, 777, 1);
    const auto sum = exact_table(128, QUIRE_ROPE_TO_DST, 0, 777, 1);
    Engine once = load_rotated(section, QUIRE_DTYPE_F32, style, 128, a, 0);
    Section moved(QUIRE_CODEC_RAW_F32, QUIRE_PLANE_KEY, shape);
    const quire_store_params store = store_params(once, moved);
    ASSERT_EQ(quire_store(&store), QUIRE_KERNEL_OK);
    Engine twice = load_rotated(moved, QUIRE_DTYPE_F32, style, 128, b, 0);
    Engine direct = load_rotated(section, QUIRE_DTYPE_F32, style, 128, sum, 0);
    for (uint32_t token = 0; token < shape.tokens; ++token)
      for (uint32_t head = 0; head < shape.heads; ++head)
        expect_rows_near(row_of(direct, token, head), row_of(twice, token, head), QUIRE_DTYPE_F32,
                         "composed");
  }
}

// Storing un-rotated and loading at a position gives back the engine's rotated K.
TEST_P(RotationTest, PreRopeStoreThenLoadRestoresRotatedKeys) {
  const Shape shape{70, 2, 64};
  const uint32_t rotary = 48;
  Engine source(QUIRE_DTYPE_F32, shape, shape.tokens, false);
  fill_like_keys(source, random_);
  const auto undo = exact_table(rotary, QUIRE_ROPE_FROM_SRC, 5000, 0, shape.tokens);
  const auto redo = exact_table(rotary, QUIRE_ROPE_TO_DST, 0, 5000, shape.tokens);
  Section section(QUIRE_CODEC_RAW_F32, QUIRE_PLANE_KEY, shape);
  quire_store_params p = store_params(source, section);
  p.rotation = {QUIRE_ROPE_STYLE_NEOX, rotary, undo.data(), rotary * 4};
  ASSERT_EQ(quire_store(&p), QUIRE_KERNEL_OK);
  Engine back =
      load_rotated(section, QUIRE_DTYPE_F32, QUIRE_ROPE_STYLE_NEOX, rotary, redo, rotary * 4);
  for (uint32_t token = 0; token < shape.tokens; ++token)
    for (uint32_t head = 0; head < shape.heads; ++head)
      expect_rows_near(row_of(source, token, head), row_of(back, token, head), QUIRE_DTYPE_F32,
                       "restored");
}

TEST_P(RotationTest, StylesDifferOnlyInWhichDimsArePaired) {
  const Shape shape{3, 1, 64};
  Engine neox(QUIRE_DTYPE_F32, shape, shape.tokens, false);
  fill_like_keys(neox, random_);
  Engine interleaved(QUIRE_DTYPE_F32, shape, shape.tokens, false);
  const auto paired = [](uint32_t dim) { return dim < 32 ? 2 * dim : 2 * (dim - 32) + 1; };
  for (uint32_t token = 0; token < shape.tokens; ++token)
    for (uint32_t dim = 0; dim < 64; ++dim)
      interleaved.set(token, 0, paired(dim), neox.value(token, 0, dim));
  const auto table = exact_table(64, QUIRE_ROPE_TO_DST, 0, 99, shape.tokens);
  for (Engine* engine : {&neox, &interleaved}) {
    Section section(QUIRE_CODEC_RAW_F32, QUIRE_PLANE_KEY, shape);
    const quire_store_params p = store_params(*engine, section);
    ASSERT_EQ(quire_store(&p), QUIRE_KERNEL_OK);
    *engine = load_rotated(section, QUIRE_DTYPE_F32,
                           engine == &neox ? QUIRE_ROPE_STYLE_NEOX : QUIRE_ROPE_STYLE_INTERLEAVED,
                           64, table, 256);
  }
  for (uint32_t token = 0; token < shape.tokens; ++token)
    for (uint32_t dim = 0; dim < 64; ++dim)
      EXPECT_EQ(neox.value(token, 0, dim), interleaved.value(token, 0, paired(dim)));
}

TEST(RopeTable, ExactAnglesAreRoundedOnce) {
  const auto inverse = frequencies(64);
  const auto table = exact_table(64, QUIRE_ROPE_FROM_SRC | QUIRE_ROPE_TO_DST, 1'000'000, 12, 3);
  for (uint32_t token = 0; token < 3; ++token)
    for (uint32_t pair = 0; pair < 32; ++pair) {
      const long double angle = -999'988.0L * static_cast<long double>(inverse[pair]);
      EXPECT_NEAR(table[token * 64 + 2 * pair], static_cast<double>(std::cos(angle)), 0x1p-24);
      EXPECT_NEAR(table[token * 64 + 2 * pair + 1], static_cast<double>(std::sin(angle)), 0x1p-24);
    }
}

std::vector<float> engine_table(uint32_t flags, int64_t src_pos, int64_t dst_pos, uint32_t n_tokens,
                                const float* factors = nullptr, float scale = 0) {
  std::vector<float> table(n_tokens * 64);
  quire_rope_params p{};
  p.struct_bytes = sizeof(p);
  p.mode = QUIRE_ROPE_MODE_ENGINE;
  p.flags = flags;
  p.src_pos = src_pos;
  p.dst_pos = dst_pos;
  p.n_tokens = n_tokens;
  p.rotary_dims = 64;
  p.base = 1e6f;
  p.freq_scale = scale;
  p.freq_factors = factors;
  p.table = table.data();
  p.table_bytes = table.size() * 4;
  EXPECT_EQ(quire_rope_table(&p), QUIRE_KERNEL_OK);
  return table;
}

TEST(RopeTable, EngineModeRepeatsTheFp32Recurrence) {
  std::vector<float> factors(32);
  for (uint32_t i = 0; i < 32; ++i) factors[i] = 1.0f + static_cast<float>(i) / 8;
  for (const bool with_factors : {false, true}) {
    const auto table =
        engine_table(QUIRE_ROPE_TO_DST, 0, 4000, 2, with_factors ? factors.data() : nullptr,
                     with_factors ? 0.25f : 0.0f);
    const volatile float step = powf(1e6f, -2.0f / 64);
    for (uint32_t token = 0; token < 2; ++token) {
      volatile float theta = 4000.0f + static_cast<float>(token);
      for (uint32_t pair = 0; pair < 32; ++pair) {
        volatile float angle = theta;
        if (with_factors) {
          angle = angle / factors[pair];
          angle = 0.25f * angle;
        }
        EXPECT_EQ(table[token * 64 + 2 * pair], cosf(angle));
        EXPECT_EQ(table[token * 64 + 2 * pair + 1], sinf(angle));
        theta = theta * step;
      }
    }
  }
}

TEST(RopeTable, EngineModeMoveCombinesBothEndsPerToken) {
  const auto from = engine_table(QUIRE_ROPE_TO_DST, 0, 300, 8);
  const auto to = engine_table(QUIRE_ROPE_TO_DST, 0, 20'000, 8);
  const auto move = engine_table(QUIRE_ROPE_FROM_SRC | QUIRE_ROPE_TO_DST, 300, 20'000, 8);
  const auto undo = engine_table(QUIRE_ROPE_FROM_SRC, 300, 0, 8);
  const auto stay = engine_table(QUIRE_ROPE_FROM_SRC | QUIRE_ROPE_TO_DST, 300, 300, 8);
  for (uint32_t i = 0; i < 8 * 64; i += 2) {
    // Rotating the source's (1, 0) by the move must land on the destination's (1, 0).
    EXPECT_NEAR(double{from[i]} * move[i] - double{from[i + 1]} * move[i + 1], to[i], 2e-7);
    EXPECT_NEAR(double{from[i]} * move[i + 1] + double{from[i + 1]} * move[i], to[i + 1], 2e-7);
    EXPECT_NEAR(double{from[i]} * undo[i] - double{from[i + 1]} * undo[i + 1], 1, 2e-7);
    EXPECT_EQ(stay[i], 1.0f);
    EXPECT_EQ(stay[i + 1], 0.0f);
  }
  // The engine's own angle error makes the rotation differ between tokens.
  EXPECT_FALSE(std::equal(move.begin(), move.begin() + 64, move.begin() + 64));
}

TEST(RopeTable, BadArgumentsAreRefused) {
  std::vector<float> table(8);
  std::vector<float> inverse = {1.0f, 0.1f};
  quire_rope_params good{};
  good.struct_bytes = sizeof(good);
  good.flags = QUIRE_ROPE_TO_DST;
  good.n_tokens = 2;
  good.rotary_dims = 4;
  good.inverse_frequencies = inverse.data();
  good.table = table.data();
  good.table_bytes = 32;
  EXPECT_EQ(quire_rope_table(&good), QUIRE_KERNEL_OK);
  const auto refused = [&](int status, auto change) {
    quire_rope_params p = good;
    change(p);
    EXPECT_EQ(quire_rope_table(&p), status);
  };
  const int invalid = QUIRE_KERNEL_INVALID_ARGUMENT;
  refused(QUIRE_KERNEL_BAD_STRUCT, [](auto& p) { p.struct_bytes = 0; });
  refused(QUIRE_KERNEL_UNSUPPORTED, [](auto& p) { p.mode = 2; });
  refused(invalid, [](auto& p) { p.flags = 0; });
  refused(invalid, [](auto& p) { p.flags = 4; });
  refused(invalid, [](auto& p) { p.rotary_dims = 3; });
  refused(invalid, [](auto& p) { p.n_tokens = 0; });
  refused(invalid, [](auto& p) { p.table_bytes = 31; });
  refused(invalid, [](auto& p) { p.table = nullptr; });
  refused(invalid, [](auto& p) { p.inverse_frequencies = nullptr; });
  refused(invalid, [](auto& p) { p.dst_pos = INT64_MAX; });
  refused(invalid, [](auto& p) { p.mode = QUIRE_ROPE_MODE_ENGINE; });  // base is 0
  inverse[1] = NAN;
  EXPECT_EQ(quire_rope_table(&good), invalid);
}

}  // namespace
}  // namespace quire_kernels_test
