// Deviation, choice of tokens, and rotation alone.
#include "tests/kernels/attention/reference.h"

namespace quire_kernels_test {
namespace {

quire_token_rows rows_of(Engine& engine, const int64_t* row = nullptr) {
  return {engine.data(), engine.dtype, engine.token_stride, engine.head_stride, row, engine.rows};
}

// Engine puts its elements at odd addresses; these kernels want them aligned.
struct AlignedEngine : Engine {
  AlignedEngine(int32_t dtype, Shape shape, int64_t rows) : Engine(dtype, shape, rows, false) {
    bytes.assign(bytes.size() + 64, kCanary);
    shift = (64 - (reinterpret_cast<uintptr_t>(bytes.data()) + kMargin) % 64) % 64;
  }
  uint8_t* data() { return Engine::data() + shift; }
  uint8_t* at(int64_t row, uint32_t head, uint32_t dim) {
    return Engine::at(row, head, dim) + shift;
  }
  double value(int64_t row, uint32_t head, uint32_t dim) {
    return static_cast<double>(widen(dtype, at(row, head, dim)));
  }
  quire_token_rows view(const int64_t* row = nullptr) {
    quire_token_rows result = rows_of(*this, row);
    result.data = data();
    return result;
  }
  void fill(std::mt19937_64& random) {
    std::normal_distribution<float> normal;
    for (int64_t row = 0; row < rows; ++row)
      for (uint32_t head = 0; head < heads; ++head)
        for (uint32_t dim = 0; dim < dims; ++dim) narrow(dtype, normal(random), at(row, head, dim));
  }
  size_t shift = 0;
};

class DeviationTest : public BothImplementations {};
INSTANTIATE_TEST_SUITE_P(Implementations, DeviationTest,
                         ::testing::Values(QUIRE_ISA_SCALAR, QUIRE_ISA_AVX512));

TEST_P(DeviationTest, EqualsReference) {
  const int32_t dtypes[] = {QUIRE_DTYPE_F16, QUIRE_DTYPE_BF16, QUIRE_DTYPE_F32};
  for (uint32_t round = 0; round < 18; ++round) {
    const uint32_t dims = std::vector<uint32_t>{64, 80, 128, 5, 256, 1000}[round % 6];
    const Shape shape{40, 1 + round % 4, dims};
    AlignedEngine a(dtypes[round % 3], shape, 50);
    AlignedEngine b(dtypes[round / 3 % 3], shape, 40);
    a.fill(random_);
    b.fill(random_);
    std::vector<int64_t> row(40);
    for (uint32_t i = 0; i < 40; ++i) row[i] = 49 - i;
    std::vector<float> deviation(41, 1e30f);
    quire_deviation_params p{};
    p.struct_bytes = sizeof(p);
    p.n_tokens = 40;
    p.n_heads = shape.heads;
    p.head_dim = dims;
    p.norm = round % 2 == 0 ? QUIRE_DEVIATION_SQUARED : QUIRE_DEVIATION_ABSOLUTE;
    p.a = a.view(row.data());
    p.b = b.view();
    p.deviation = deviation.data();
    ASSERT_EQ(quire_deviation(&p), QUIRE_KERNEL_OK);
    for (uint32_t token = 0; token < 40; ++token) {
      double sum = 0;
      for (uint32_t head = 0; head < shape.heads; ++head)
        for (uint32_t d = 0; d < dims; ++d) {
          const double difference = a.value(row[token], head, d) - b.value(token, head, d);
          sum +=
              p.norm == QUIRE_DEVIATION_SQUARED ? difference * difference : std::fabs(difference);
        }
      EXPECT_NEAR(static_cast<double>(deviation[token]), sum, sum * (dims + 8) * 0x1p-23);
    }
    EXPECT_EQ(deviation[40], 1e30f);
  }
}

std::vector<uint32_t> choose(const std::vector<float>& score, const double* weight, uint32_t k) {
  std::vector<uint32_t> chosen(k + 1, 77);
  quire_top_tokens_params p{};
  p.struct_bytes = sizeof(p);
  p.n_tokens = static_cast<uint32_t>(score.size());
  p.k = k;
  p.score = score.data();
  p.weight = weight;
  p.chosen = chosen.data();
  EXPECT_EQ(quire_top_tokens(&p), QUIRE_KERNEL_OK);
  EXPECT_EQ(chosen.back(), 77u);
  chosen.pop_back();
  return chosen;
}

TEST(TopTokens, TiesGoToTheLowerToken) {
  EXPECT_EQ(choose({1, 3, 3, 3, 0}, nullptr, 2), (std::vector<uint32_t>{1, 2}));
  EXPECT_EQ(choose({0, 0, 0}, nullptr, 2), (std::vector<uint32_t>{0, 1}));
  EXPECT_EQ(choose({0, -1, -0.0f}, nullptr, 2), (std::vector<uint32_t>{0, 2}));
  EXPECT_EQ(choose({5}, nullptr, 1), (std::vector<uint32_t>{0}));
  const double weight[] = {1, 0.1, 10};
  EXPECT_EQ(choose({5, 6, 1}, weight, 1), (std::vector<uint32_t>{2}));
}

TEST(TopTokens, EqualsSorting) {
  std::mt19937_64 random(kSeed);
  for (uint32_t round = 0; round < 200; ++round) {
    const uint32_t n = 1 + random() % 300;
    std::vector<float> score(n);
    std::vector<double> weight(n);
    for (uint32_t i = 0; i < n; ++i) {
      score[i] = static_cast<float>(random() % 23) - 11;
      weight[i] = static_cast<double>(random() % 7);
    }
    const bool weighted = round % 2 == 0;
    std::vector<uint32_t> order(n);
    for (uint32_t i = 0; i < n; ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
      return static_cast<double>(score[a]) * (weighted ? weight[a] : 1) >
             static_cast<double>(score[b]) * (weighted ? weight[b] : 1);
    });
    order.resize(random() % (n + 1));
    std::sort(order.begin(), order.end());
    EXPECT_EQ(
        choose(score, weighted ? weight.data() : nullptr, static_cast<uint32_t>(order.size())),
        order);
  }
}

TEST(TopTokens, RefusesWhatHasNoOrder) {
  std::vector<float> score = {1, NAN, 2};
  std::vector<uint32_t> chosen(3, 77);
  quire_top_tokens_params p{};
  p.struct_bytes = sizeof(p);
  p.n_tokens = 3;
  p.k = 2;
  p.score = score.data();
  p.chosen = chosen.data();
  EXPECT_EQ(quire_top_tokens(&p), QUIRE_KERNEL_NON_FINITE);
  EXPECT_EQ(chosen[0], 77u);
  p.k = 4;
  EXPECT_EQ(quire_top_tokens(&p), QUIRE_KERNEL_INVALID_ARGUMENT);
  p.k = 2;
  p.struct_bytes = 0;
  EXPECT_EQ(quire_top_tokens(&p), QUIRE_KERNEL_BAD_STRUCT);
}

class RotateTest : public BothImplementations {};
INSTANTIATE_TEST_SUITE_P(Implementations, RotateTest,
                         ::testing::Values(QUIRE_ISA_SCALAR, QUIRE_ISA_AVX512));

quire_rotate_params rotate_params(AlignedEngine& src, AlignedEngine& dst, int32_t style,
                                  const std::vector<float>& table, uint32_t rotary_dims) {
  quire_rotate_params p{};
  p.struct_bytes = sizeof(p);
  p.n_tokens = static_cast<uint32_t>(src.rows);
  p.n_heads = src.heads;
  p.head_dim = src.dims;
  p.src = src.view();
  p.dst = dst.view();
  p.rotation = {style, rotary_dims, table.data(), 0};
  return p;
}

TEST_P(RotateTest, EqualsReferenceInPlaceAndNot) {
  for (int32_t style : {QUIRE_ROPE_STYLE_NEOX, QUIRE_ROPE_STYLE_INTERLEAVED})
    for (int32_t dtype : {QUIRE_DTYPE_BF16, QUIRE_DTYPE_F16, QUIRE_DTYPE_F32}) {
      const Shape shape{9, 3, 96};
      AlignedEngine src(dtype, shape, 9);
      AlignedEngine dst(QUIRE_DTYPE_F32, shape, 9);
      src.fill(random_);
      const std::vector<float> table =
          exact_table(64, QUIRE_ROPE_FROM_SRC | QUIRE_ROPE_TO_DST, 1000, 1 << 20, 1);
      quire_rotate_params p = rotate_params(src, dst, style, table, 64);
      ASSERT_EQ(quire_rotate(&p), QUIRE_KERNEL_OK);
      AlignedEngine in_place(dtype, shape, 9);
      for (int64_t row = 0; row < 9; ++row)
        for (uint32_t head = 0; head < 3; ++head)
          std::memcpy(in_place.at(row, head, 0), src.at(row, head, 0), 96 * element_size(dtype));
      p = rotate_params(in_place, in_place, style, table, 64);
      ASSERT_EQ(quire_rotate(&p), QUIRE_KERNEL_OK);
      for (int64_t row = 0; row < 9; ++row)
        for (uint32_t head = 0; head < 3; ++head) {
          std::vector<double> x(96);
          for (uint32_t d = 0; d < 96; ++d) x[d] = src.value(row, head, d);
          const std::vector<double> y = rotated(x, style, 64, (1 << 20) - 1000);
          for (uint32_t d = 0; d < 96; ++d) {
            EXPECT_NEAR(dst.value(row, head, d), y[d], 1e-6);
            EXPECT_NEAR(in_place.value(row, head, d), y[d], 1e-6 + half_step(dtype, y[d]));
          }
        }
    }
}

TEST_P(RotateTest, BatchChecksAllBeforeItWrites) {
  const Shape shape{4, 1, 64};
  AlignedEngine src(QUIRE_DTYPE_F32, shape, 4);
  AlignedEngine dst(QUIRE_DTYPE_F16, shape, 4);
  src.fill(random_);
  const std::vector<float> table = exact_table(64, QUIRE_ROPE_TO_DST, 0, 5, 1);
  std::vector<quire_rotate_params> batch(2, rotate_params(src, dst, 1, table, 64));
  const std::vector<uint8_t> before = dst.bytes;
  size_t failed = 9;
  batch[1].rotation.rotary_dims = 65;
  EXPECT_EQ(quire_rotate_batch(batch.data(), 2, &failed), QUIRE_KERNEL_INVALID_ARGUMENT);
  EXPECT_EQ(failed, 1u);
  batch[1].rotation.rotary_dims = 64;
  batch[1].dst = batch[1].src;  // in place, but shifted by one row
  batch[1].dst.data = static_cast<uint8_t*>(batch[1].dst.data) + src.token_stride;
  EXPECT_EQ(quire_rotate_batch(batch.data(), 2, &failed), QUIRE_KERNEL_INVALID_ARGUMENT);
  const int64_t bad_row[] = {0, 1, 4, 2};
  batch[1].dst = dst.view(bad_row);
  EXPECT_EQ(quire_rotate_batch(batch.data(), 2, &failed), QUIRE_KERNEL_INVALID_ARGUMENT);
  batch[1].dst = dst.view();
  EXPECT_EQ(dst.bytes, before);
  narrow(QUIRE_DTYPE_F32, 60000.0f, src.at(2, 0, 3));
  EXPECT_EQ(quire_rotate(&batch[0]), QUIRE_KERNEL_OUT_OF_RANGE);
  narrow(QUIRE_DTYPE_F32, NAN, src.at(2, 0, 3));
  EXPECT_EQ(quire_rotate(&batch[0]), QUIRE_KERNEL_NON_FINITE);
  EXPECT_EQ(dst.bytes, before);
  EXPECT_EQ(quire_rotate_batch(nullptr, 0, nullptr), QUIRE_KERNEL_OK);
}

}  // namespace
}  // namespace quire_kernels_test
