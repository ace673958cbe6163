// The shared maths of kernels/math: packing, Hadamard transforms, affine codes, fp8.
#include <cmath>

#include "kernels/math/bits.h"
#include "kernels/math/hadamard.h"
#include "kernels/math/pack.h"
#include "kernels/math/quantise.h"
#include "tests/kernels/section_fixture.h"

namespace quire_kernels_test {
namespace {

using namespace quire_kernels;

TEST(Pack, UnpackGivesBackEveryCodeAndPaddingIsZero) {
  std::mt19937_64 random(kSeed);
  for (const uint32_t bits : {2u, 3u, 4u, 8u})
    for (uint32_t n = 1; n <= 70; ++n) {
      std::vector<uint8_t> codes(n);
      for (uint8_t& code : codes) code = static_cast<uint8_t>(random() & ((1u << bits) - 1));
      const uint64_t bytes = code_row_bytes(n, bits);
      std::vector<uint8_t> row(bytes + 1, 0xee);
      pack_row(codes.data(), n, bits, row.data());
      ASSERT_EQ(row[bytes], 0xee);
      uint32_t set = 0;
      uint32_t want = 0;
      for (uint32_t i = 0; i < n; ++i) {
        ASSERT_EQ(get_code(row.data(), bits, i), codes[i]) << bits << " of " << n << " at " << i;
        want += static_cast<uint32_t>(__builtin_popcount(codes[i]));
      }
      for (uint64_t i = 0; i < bytes; ++i) set += static_cast<uint32_t>(__builtin_popcount(row[i]));
      ASSERT_EQ(set, want);
    }
}

TEST(Pack, NibblesLieAsTheFormatPageSays) {
  const uint8_t codes[] = {0, 1, 2, 3, 4, 5, 6, 7};
  uint8_t row[4];
  pack_row(codes, 8, 4, row);
  EXPECT_EQ(row[0], 0x20);
  EXPECT_EQ(row[1], 0x64);
  EXPECT_EQ(row[2], 0x31);
  EXPECT_EQ(row[3], 0x75);
  uint8_t low[3];
  pack_row(codes, 8, 3, low);
  EXPECT_EQ(low[0] | low[1] << 8 | low[2] << 16, 0xfac688);
}

TEST(Hadamard, IsItsOwnInverseAndKeepsTheNorm) {
  std::mt19937_64 random(kSeed);
  std::normal_distribution<float> normal;
  for (const uint32_t most : {1u, 32u, 64u})
    for (uint32_t n = 1; n <= 260; ++n) {
      const uint32_t order = hadamard_order(n, most);
      ASSERT_EQ(n % order, 0u);
      ASSERT_TRUE(order == most || n % (2 * order) != 0);
      std::vector<float> x(n);
      for (float& value : x) value = normal(random);
      std::vector<float> y = x;
      hadamard_row(y.data(), n, order);
      double norm_x = 0;
      double norm_y = 0;
      for (uint32_t i = 0; i < n; ++i) {
        norm_x += static_cast<double>(x[i]) * x[i];
        norm_y += static_cast<double>(y[i]) * y[i];
      }
      ASSERT_NEAR(norm_x, norm_y, 1e-5 * norm_x);
      hadamard_row(y.data(), n, order);
      for (uint32_t i = 0; i < n; ++i) ASSERT_NEAR(x[i], y[i], 2e-6 * std::sqrt(norm_x));
    }
}

TEST(Affine, CodesReachEveryValueOfTheRange) {
  std::mt19937_64 random(kSeed);
  std::uniform_real_distribution<float> exponent(-30, 15);
  for (int round = 0; round < 20'000; ++round) {
    float low = std::ldexp(1.0f, static_cast<int>(exponent(random))) *
                static_cast<float>(static_cast<int64_t>(random() % 4096) - 2048) / 2048;
    float high = low + std::ldexp(static_cast<float>(random() % 1024) / 1024,
                                  static_cast<int>(exponent(random)));
    if (round % 7 == 0) high = low;
    for (const uint32_t bits : {2u, 3u, 4u, 8u}) {
      const uint32_t top = (1u << bits) - 1;
      uint16_t zero_bits;
      uint16_t scale_bits;
      ASSERT_TRUE(half_affine(low, high, top, &zero_bits, &scale_bits));
      const double zero = half_to_float(zero_bits);
      const double scale = half_to_float(scale_bits);
      ASSERT_LE(zero, low);
      ASSERT_GE(zero + top * scale, high);
      ASSERT_NE(zero_bits, 0x8000);
      for (const float x : {low, high, low + (high - low) * 0.3f}) {
        const uint32_t code =
            encode_code(x, half_to_float(zero_bits), half_to_float(scale_bits), top);
        ASSERT_LE(code, top);
        ASSERT_NEAR(decode_code(code, half_to_float(zero_bits), half_to_float(scale_bits)), x,
                    0.5001 * scale + std::fabs(x) * 0x1p-22 + std::fabs(zero) * 0x1p-23)
            << low << " " << high << " " << bits << " seed " << kSeed << " round " << round;
      }
    }
  }
}

TEST(Fp8, EveryCodeComesBackAndRoundingIsToNearestEven) {
  for (uint32_t code = 0; code < 256; ++code) {
    const auto bits = static_cast<uint8_t>(code);
    if (fp8_is_nan(bits)) {
      EXPECT_EQ(code & 0x7f, 0x7fu);
      continue;
    }
    const float value = fp8_to_float(bits);
    EXPECT_EQ(float_to_fp8(value), bits);
    if ((code & 0x7f) == 0x7e) {
      EXPECT_EQ(std::fabs(value), 448.0f);
      continue;
    }
    // Half way to the next code goes to the even one; a little beyond, to that side.
    const float next = fp8_to_float(static_cast<uint8_t>(code + 1));
    const float middle = (value + next) / 2;
    EXPECT_EQ(float_to_fp8(middle), code % 2 ? code + 1 : code) << code;
    EXPECT_EQ(float_to_fp8(std::nextafterf(middle, next)), code + 1);
    EXPECT_EQ(float_to_fp8(std::nextafterf(middle, value)), code);
  }
}

}  // namespace
}  // namespace quire_kernels_test
