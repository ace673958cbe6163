// Deviation, choice of tokens and rotation in CUDA, run by the executor: equal to the CPU's.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/executor/executor.h"
#include "kernels/quire_cuda_attention.h"
#include "tests/kernels/attention/cuda_launch.h"
#include "tests/kernels/section_fixture.h"

namespace quire_kernels_test {
namespace {

constexpr uint32_t kTokens = 21;
constexpr uint32_t kHeads = 2;
constexpr uint32_t kDims = 80;

struct Rows {
  explicit Rows(std::mt19937_64& random, bool fill = true) : data(30 * kHeads * kDims, 99.0f) {
    std::normal_distribution<float> normal;
    if (fill)
      for (float& x : data) x = normal(random);
    for (uint32_t i = 0; i < kTokens; ++i) row.push_back(29 - i);
  }
  quire_token_rows view() {
    return {data.data(), QUIRE_DTYPE_F32, kHeads * kDims * 4, kDims * 4, row.data(), 30};
  }
  std::vector<float> data;
  std::vector<int64_t> row;
};

template <typename Body>
void under_every_schedule(Body body) {
  for (const quire_executor::Schedule& schedule : quire_executor::schedules()) {
    quire_executor::set_schedule(schedule);
    body();
  }
  quire_executor::set_schedule({});
}

TEST(CudaDeviation, EqualsTheCpu) {
  std::mt19937_64 random(kSeed);
  Rows a(random);
  Rows b(random);
  for (int32_t norm : {QUIRE_DEVIATION_SQUARED, QUIRE_DEVIATION_ABSOLUTE}) {
    std::vector<float> expected(kTokens);
    quire_deviation_params p{sizeof(p), kTokens,  kHeads,   kDims,
                             norm,      a.view(), b.view(), expected.data()};
    ASSERT_EQ(quire_deviation(&p), QUIRE_KERNEL_OK);
    under_every_schedule([&] {
      std::vector<float> got(kTokens + 1, 99.0f);
      CudaLaunch launch(0);
      p.deviation = got.data();
      ASSERT_EQ(quire_cuda_deviation(&p, launch.get()), QUIRE_KERNEL_OK);
      EXPECT_EQ(launch.device_status(), 0);
      for (uint32_t i = 0; i < kTokens; ++i) EXPECT_NEAR(got[i], expected[i], 1e-4f * expected[i]);
      EXPECT_EQ(got[kTokens], 99.0f);
    });
  }
  b.row[20] = 30;
  std::vector<float> got(kTokens, 99.0f);
  quire_deviation_params p{sizeof(p), kTokens, kHeads, kDims, 0, a.view(), b.view(), got.data()};
  CudaLaunch launch(0);
  ASSERT_EQ(quire_cuda_deviation(&p, launch.get()), QUIRE_KERNEL_OK);
  EXPECT_EQ(launch.device_status(), QUIRE_KERNEL_INVALID_ARGUMENT);
  EXPECT_EQ(got[0], 99.0f);
}

TEST(CudaTopTokens, EqualsTheCpu) {
  std::mt19937_64 random(kSeed);
  for (uint32_t round = 0; round < 12; ++round) {
    const uint32_t n = 1 + random() % 700;
    std::vector<float> score(n);
    std::vector<double> weight(n);
    for (uint32_t i = 0; i < n; ++i) {
      score[i] = round % 3 == 0 ? static_cast<float>(random() % 9) - 4
                                : std::ldexp(static_cast<float>(random() % 1000) - 500,
                                             static_cast<int>(random() % 60) - 30);
      weight[i] = static_cast<double>(random() % 5) / 3;
    }
    const uint32_t k = static_cast<uint32_t>(random() % (n + 1));
    std::vector<uint32_t> expected(n, 77);
    quire_top_tokens_params p{
        sizeof(p), n, k, score.data(), round % 2 == 0 ? weight.data() : nullptr, expected.data()};
    ASSERT_EQ(quire_top_tokens(&p), QUIRE_KERNEL_OK);
    std::vector<uint32_t> got(n, 77);
    p.chosen = got.data();
    CudaLaunch launch(0);
    ASSERT_EQ(quire_cuda_top_tokens(&p, launch.get()), QUIRE_KERNEL_OK);
    EXPECT_EQ(launch.device_status(), 0);
    EXPECT_EQ(got, expected) << "n " << n << " k " << k;
    score[n / 2] = NAN;
    got.assign(n, 77);
    ASSERT_EQ(quire_cuda_top_tokens(&p, launch.get()), QUIRE_KERNEL_OK);
    EXPECT_EQ(launch.device_status(), k == 0 ? 0 : QUIRE_KERNEL_NON_FINITE);
    EXPECT_EQ(got, std::vector<uint32_t>(n, 77));
  }
}

TEST(CudaRotate, EqualsTheCpu) {
  std::mt19937_64 random(kSeed);
  const std::vector<float> table =
      exact_table(64, QUIRE_ROPE_FROM_SRC | QUIRE_ROPE_TO_DST, 100, 7777, 1);
  for (int32_t style : {QUIRE_ROPE_STYLE_NEOX, QUIRE_ROPE_STYLE_INTERLEAVED})
    for (bool in_place : {false, true}) {
      Rows src(random);
      Rows dst(random, false);
      quire_rotate_params p{sizeof(p), kTokens, kHeads, kDims, src.view(), dst.view(), {}};
      p.rotation = {style, 64, table.data(), 0};
      ASSERT_EQ(quire_rotate(&p), QUIRE_KERNEL_OK);
      Rows got(random, false);
      Rows moved = src;
      p.src = in_place ? moved.view() : src.view();
      p.dst = in_place ? p.src : got.view();
      CudaLaunch launch(0);
      ASSERT_EQ(quire_cuda_rotate(&p, launch.get()), QUIRE_KERNEL_OK);
      EXPECT_EQ(launch.device_status(), 0);
      const std::vector<float>& result = in_place ? moved.data : got.data;
      for (uint32_t i = 0; i < kTokens; ++i)
        for (uint32_t e = 0; e < kHeads * kDims; ++e) {
          const size_t at = static_cast<size_t>(src.row[i]) * kHeads * kDims + e;
          EXPECT_EQ(result[at], dst.data[at]);
        }
      EXPECT_EQ(result[0], in_place ? src.data[0] : 99.0f);
    }
  Rows src(random);
  Rows dst(random, false);
  src.data[29 * kHeads * kDims + 3] = INFINITY;
  quire_rotate_params p{sizeof(p), kTokens, kHeads, kDims, src.view(), dst.view(), {}};
  p.rotation = {QUIRE_ROPE_STYLE_NEOX, 64, table.data(), 0};
  CudaLaunch launch(0);
  ASSERT_EQ(quire_cuda_rotate(&p, launch.get()), QUIRE_KERNEL_OK);
  EXPECT_EQ(launch.device_status(), QUIRE_KERNEL_NON_FINITE);
  for (float x : dst.data) EXPECT_EQ(x, 99.0f);
}

}  // namespace
}  // namespace quire_kernels_test
