// What moving K costs: against fp64 the rounding of the target type and nothing more, and against
// an engine's own rope in fp32 nothing at all when K is stored before rope and its table is used.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/math/bits.h"
#include "kernels/quire_kernels.h"

namespace {

constexpr uint32_t kDims = 128;
constexpr uint32_t kKeys = 4000;
constexpr float kBase = 10000.0f;
constexpr uint64_t kSeed = 9241;

using Bits = std::vector<uint16_t>;

float widen(int32_t dtype, uint16_t bits) {
  return dtype == QUIRE_DTYPE_F16 ? quire_kernels::half_to_float(bits)
                                  : quire_kernels::bf16_to_float(bits);
}
uint16_t narrow(int32_t dtype, float value) {
  return dtype == QUIRE_DTYPE_F16 ? quire_kernels::float_to_half(value)
                                  : quire_kernels::float_to_bf16(value);
}

// Keys with four channels of 25 times the others' spread, as real models have.
Bits random_keys(int32_t dtype) {
  std::mt19937_64 random(kSeed);
  std::normal_distribution<float> normal;
  Bits keys(kKeys * kDims);
  for (uint32_t i = 0; i < keys.size(); ++i)
    keys[i] = narrow(dtype, normal(random) * (i % kDims % 32 == 7 ? 25.0f : 1.0f));
  return keys;
}

std::vector<float> inverse_frequencies() {
  std::vector<float> frequencies(kDims / 2);
  for (uint32_t j = 0; j < kDims / 2; ++j)
    frequencies[j] = static_cast<float>(std::pow(double{kBase}, -2.0 * j / kDims));
  return frequencies;
}

// Key i goes from position src(i) to dst(i): a table row each.
struct Move {
  uint32_t mode;
  uint32_t flags;
  std::vector<int64_t> src = std::vector<int64_t>(kKeys);
  std::vector<int64_t> dst = std::vector<int64_t>(kKeys);
};

Move random_move(uint32_t mode, uint32_t flags) {
  Move move{mode, flags};
  std::mt19937_64 random(kSeed + 1);
  for (uint32_t i = 0; i < kKeys; ++i) {
    move.src[i] = static_cast<int64_t>(random() % 32768);
    move.dst[i] = static_cast<int64_t>(random() % 131072);
  }
  return move;
}

Bits moved(int32_t dtype, const Bits& keys, const Move& move) {
  const auto frequencies = inverse_frequencies();
  std::vector<float> table(kKeys * kDims);
  for (uint32_t i = 0; i < kKeys; ++i) {
    quire_rope_params rope{};
    rope.struct_bytes = sizeof(rope);
    rope.mode = static_cast<int32_t>(move.mode);
    rope.flags = move.flags;
    rope.src_pos = move.src[i];
    rope.dst_pos = move.dst[i];
    rope.n_tokens = 1;
    rope.rotary_dims = kDims;
    rope.inverse_frequencies = frequencies.data();
    rope.base = kBase;
    rope.table = table.data() + i * kDims;
    rope.table_bytes = kDims * 4;
    EXPECT_EQ(quire_rope_table(&rope), QUIRE_KERNEL_OK);
  }
  Bits out(keys.size());
  quire_load_params p{};
  p.struct_bytes = sizeof(p);
  p.codec = dtype;
  p.plane = QUIRE_PLANE_KEY;
  p.n_tokens = kKeys;
  p.n_heads = 1;
  p.head_dim = kDims;
  p.token_end = kKeys;
  p.dst_dtype = dtype;
  p.src = keys.data();
  p.src_bytes = keys.size() * 2;
  p.dst = out.data();
  p.dst_tokens = kKeys;
  p.dst_token_stride = kDims * 2;
  p.dst_dim_stride = 2;
  p.rotation = {QUIRE_ROPE_STYLE_NEOX, kDims, table.data(), kDims * 4};
  EXPECT_EQ(quire_load(&p), QUIRE_KERNEL_OK);
  return out;
}

// ||out - R(dst - src) keys|| / ||keys||, angles and sums in fp64.
double relative_error(int32_t dtype, const Bits& keys, const Bits& out, const Move& move) {
  const auto frequencies = inverse_frequencies();
  double error = 0;
  double norm = 0;
  for (uint32_t i = 0; i < kKeys; ++i) {
    const bool from = (move.flags & QUIRE_ROPE_FROM_SRC) != 0;
    const auto delta = static_cast<double>(move.dst[i] - (from ? move.src[i] : 0));
    for (uint32_t j = 0; j < kDims / 2; ++j) {
      const double angle = delta * double{frequencies[j]};
      const double x0 = widen(dtype, keys[i * kDims + j]);
      const double x1 = widen(dtype, keys[i * kDims + j + kDims / 2]);
      const double e0 =
          x0 * std::cos(angle) - x1 * std::sin(angle) - widen(dtype, out[i * kDims + j]);
      const double e1 = x1 * std::cos(angle) + x0 * std::sin(angle) -
                        widen(dtype, out[i * kDims + j + kDims / 2]);
      error += e0 * e0 + e1 * e1;
      norm += x0 * x0 + x1 * x1;
    }
  }
  return std::sqrt(error / norm);
}

TEST(RotationError, StaysAtTheRoundingOfTheTargetType) {
  for (const uint32_t flags :
       {uint32_t{QUIRE_ROPE_TO_DST}, uint32_t{QUIRE_ROPE_FROM_SRC} | uint32_t{QUIRE_ROPE_TO_DST}}) {
    const Move move = random_move(QUIRE_ROPE_MODE_EXACT, flags);
    const Bits bf16 = random_keys(QUIRE_DTYPE_BF16);
    EXPECT_LE(relative_error(QUIRE_DTYPE_BF16, bf16, moved(QUIRE_DTYPE_BF16, bf16, move), move),
              1.7e-3);
    const Bits f16 = random_keys(QUIRE_DTYPE_F16);
    EXPECT_LE(relative_error(QUIRE_DTYPE_F16, f16, moved(QUIRE_DTYPE_F16, f16, move), move),
              2.2e-4);
  }
}

// A second rounding in between, as when rotated K is rotated on: the bound above must notice.
TEST(RotationError, TwoHopsExceedTheBound) {
  Move move = random_move(QUIRE_ROPE_MODE_EXACT, QUIRE_ROPE_TO_DST);
  const Bits keys = random_keys(QUIRE_DTYPE_BF16);
  Move first = move;
  for (int64_t& position : first.dst) position /= 2;
  Move second = move;
  for (uint32_t i = 0; i < kKeys; ++i) second.dst[i] = move.dst[i] - first.dst[i];
  const Bits twice = moved(QUIRE_DTYPE_BF16, moved(QUIRE_DTYPE_BF16, keys, first), second);
  EXPECT_GT(relative_error(QUIRE_DTYPE_BF16, keys, twice, move), 1.9e-3);
}

// The engine: fp32 angles by its recurrence, fp32 products, one rounding (ggml's CPU rope).
Bits engine_rope(int32_t dtype, const Bits& keys, const std::vector<int64_t>& positions) {
  Bits out(keys.size());
  const volatile float step = powf(kBase, -2.0f / static_cast<float>(kDims));
  for (uint32_t i = 0; i < kKeys; ++i) {
    volatile float theta = static_cast<float>(positions[i]);
    for (uint32_t j = 0; j < kDims / 2; ++j) {
      const float cosine = cosf(theta);
      const float sine = sinf(theta);
      const float x0 = widen(dtype, keys[i * kDims + j]);
      const float x1 = widen(dtype, keys[i * kDims + j + kDims / 2]);
      const volatile float a = x0 * cosine;
      const volatile float b = x1 * sine;
      const volatile float c = x0 * sine;
      const volatile float d = x1 * cosine;
      out[i * kDims + j] = narrow(dtype, a - b);
      out[i * kDims + j + kDims / 2] = narrow(dtype, c + d);
      theta = theta * step;
    }
  }
  return out;
}

TEST(RotationError, EngineTableOnKeysBeforeRopeEqualsTheEngineBitForBit) {
  for (const int32_t dtype : {QUIRE_DTYPE_BF16, QUIRE_DTYPE_F16}) {
    const Bits keys = random_keys(dtype);
    Move move = random_move(QUIRE_ROPE_MODE_ENGINE, QUIRE_ROPE_TO_DST);
    const Bits expected = engine_rope(dtype, keys, move.dst);
    EXPECT_EQ(moved(dtype, keys, move), expected);
    move.mode = QUIRE_ROPE_MODE_EXACT;
    EXPECT_NE(moved(dtype, keys, move), expected) << "exact angles cannot equal fp32 ones";
  }
}

}  // namespace
