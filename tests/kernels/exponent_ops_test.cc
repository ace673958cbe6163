// The loops of the lossless bf16 codecs: every instruction set gives the bytes of the reference.
#include "kernels/exponent_ops.h"

#include <cstdio>

#include "tests/kernels/exponent_fixture.h"

namespace quire_kernels {
namespace {

std::vector<const ExponentOps*> ops_of_this_machine() {
  std::vector<const ExponentOps*> all;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq")) {
    all.push_back(avx512_exponent_ops());
    if (__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2"))
      all.push_back(vbmi2_exponent_ops());
    if (__builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512bf16"))
      all.push_back(rotating_exponent_ops());
  }
#endif
  std::erase(all, nullptr);
  return all;
}

// One call of every loop on rows of any shape; what comes out of each implementation.
struct OpsResult {
  Section sign_mantissa, codes, escapes, tops;
  Elements elements;
  std::vector<uint64_t> counts;
  bool operator==(const OpsResult&) const = default;
};

OpsResult run_ops(const ExponentOps& ops, uint32_t bits, uint32_t n_rows, uint32_t head_dim,
                  uint64_t escapes_max, const Elements& elements) {
  OpsResult result;
  const uint64_t n = elements.size();
  result.counts.resize(256);
  std::vector<const Byte*> from(n_rows);
  for (uint32_t row = 0; row < n_rows; ++row)
    from[row] = bytes_of(elements) + uint64_t{row} * head_dim * 2;
  const EncodeRows encode_rows{from.data(), from.data(), head_dim * 2};
  ops.count_exponents(encode_rows, n_rows, head_dim, result.counts.data());
  std::vector<uint64_t> counts(256);
  result.tops.assign(head_dim, 6);
  Section split_off(n), exponent_bytes(n);
  ops.split(encode_rows, n_rows, head_dim, split_off.data(), exponent_bytes.data(),
            result.tops.data());
  ops.count(exponent_bytes.data(), n, counts.data());
  EXPECT_EQ(counts, result.counts);
  Byte exponents[16] = {}, code_of[256];
  std::memset(code_of, 15, 256);
  for (uint32_t i = 0; i < 15; ++i) {
    exponents[i] = static_cast<Byte>(116 + (i * 7) % 15);
    code_of[exponents[i]] = static_cast<Byte>(i);
  }
  const ExponentRows rows{bits, head_dim, n_rows, exponents, code_of, result.tops.data()};
  result.sign_mantissa.resize(n);
  result.codes.resize(n_rows * code_row_bytes(head_dim, bits));
  Section escapes(n + 64);
  EscapeWriter writer{escapes.data(), 0, escapes_max};
  if (bits == 4) {
    result.counts.push_back(
        ops.encode(rows, encode_rows, result.sign_mantissa.data(), result.codes.data(), &writer));
  } else {
    ops.encode_below_tops(rows, exponent_bytes.data(), result.codes.data(), &writer);
    result.sign_mantissa = split_off;
  }
  const uint64_t n_escapes = writer.n;
  result.counts.push_back(n_escapes > escapes_max);
  if (n_escapes > escapes_max) {  // how far it came is its own affair
    result.sign_mantissa.clear();
    result.codes.clear();
    result.counts = {1};
    return result;
  }
  escapes.resize(n_escapes);
  result.escapes = escapes;
  result.counts.push_back(ops.count_escapes(result.codes.data(), n_rows, head_dim, bits));
  result.elements.resize(n);
  // Fewer escapes than codes ask for: zeros, nothing read beyond.
  const Section fewer(escapes.begin(), escapes.begin() + static_cast<ptrdiff_t>(n_escapes / 2));
  result.counts.push_back(ops.decode(rows, result.sign_mantissa.data(), result.codes.data(),
                                     fewer.data(), fewer.size(),
                                     rows_of(&result.elements, head_dim, 0, n_rows).data()));
  return result;
}

TEST(ExponentOpsTest, AllImplementationsGiveEqualBytes) {
  std::mt19937 random(41);
  const auto all = ops_of_this_machine();
  for (const ExponentOps* ops : all) std::printf("compared: %s\n", ops->name);
  for (uint32_t round = 0; round < 500; ++round) {
    const uint32_t head_dim = 1 + round % 260, n_rows = 1 + random() % 70;
    const ExponentShape shape = shape_of(QUIRE_CODEC_BF16_EXP4, n_rows, 1, head_dim);
    Elements elements = kv_like(shape, round);
    const uint32_t odd_share = random() % 3 == 0 ? 2 : 60;
    for (uint16_t& element : elements)
      if (random() % odd_share == 0) element = static_cast<uint16_t>(random());
    if (round % 50 == 0) std::fill(elements.begin(), elements.end(), uint16_t{0});
    const uint64_t escapes_max = random() % 4 == 0 ? random() % elements.size() : elements.size();
    for (const uint32_t bits : {3u, 4u}) {
      const OpsResult expected =
          run_ops(*scalar_exponent_ops(), bits, n_rows, head_dim, escapes_max, elements);
      for (const ExponentOps* ops : all) {
        const OpsResult result = run_ops(*ops, bits, n_rows, head_dim, escapes_max, elements);
        ASSERT_TRUE(result == expected) << ops->name << " bits " << bits << " dims " << head_dim
                                        << " rows " << n_rows << " round " << round;
      }
    }
  }
}

// As many of one exponent as no counter between holds.
TEST(ExponentOpsTest, CountsOfFewExponents) {
  for (const ExponentOps* ops : ops_of_this_machine())
    for (const uint32_t exponent : {0u, 1u, 15u, 16u, 130u, 255u})
      for (const uint64_t n : {15 * 64u, 16 * 64u, 255 * 64u, 256 * 64u, 1000 * 64u + 7}) {
        Section exponents(n, static_cast<Byte>(exponent));
        for (uint64_t i = 0; i < n; i += 3) exponents[i] = static_cast<Byte>(exponent / 2);
        std::vector<uint64_t> expected(256, 5);
        std::vector<uint64_t> counts = expected;
        scalar_exponent_ops()->count(exponents.data(), n, expected.data());
        ops->count(exponents.data(), n, counts.data());
        ASSERT_EQ(counts, expected) << ops->name << " " << exponent << " " << n;
      }
}

// Rows rotated by the reference, then encoded by it.
struct RotatedReference {
  RotatedReference(const Elements& elements, const std::vector<float>& table, uint32_t n_rows,
                   uint32_t head_dim)
      : elements_(elements.size()) {
    RowFormat format{};
    format.n = format.group_dims = format.rotary_dims = head_dim;
    format.order = 1;
    format.dtype = QUIRE_DTYPE_BF16;
    format.style = QUIRE_ROPE_STYLE_NEOX;
    for (uint32_t row = 0; row < n_rows; ++row) {
      const uint64_t at = uint64_t{row} * head_dim;
      ElementRows one;
      one.n = 1;
      one.from[0] = bytes_of(elements) + at * 2;
      one.table[0] = table.data() + at;
      one.out[0] = reinterpret_cast<Byte*>(&elements_[at]);
      scalar_rows()->rotate_elements(format, QUIRE_DTYPE_BF16, one);
      rows.push_back(one.out[0]);
    }
  }
  bool has_exponent(uint32_t exponent) const {
    return std::any_of(elements_.begin(), elements_.end(),
                       [=](uint16_t element) { return (element >> 7 & 0xff) == exponent; });
  }
  std::vector<const Byte*> rows;

 private:
  Elements elements_;
};

// Finite elements; often some that are zero, denormal, or so large that a sum is infinite.
Elements rotatable(const ExponentShape& shape, uint32_t round, std::mt19937* random) {
  Elements elements = kv_like(shape, round);
  constexpr uint16_t kSpecial[] = {0, 0x8000, 0x0001, 0x007f, 0x0081, 0x7f7f, 0xff7e, 0x7f80};
  for (uint32_t i = 0; round % 4 != 0 && i < 1 + round % 7; ++i)
    elements[(*random)() % elements.size()] = kSpecial[(*random)() % 8];
  if (round % 11 == 5) std::fill_n(elements.begin(), shape.head_dim, uint16_t{0});
  return elements;
}

TEST(ExponentOpsTest, RotatingLoopsGiveTheBytesOfTheReference) {
  const ExponentOps* ops = nullptr;
  for (const ExponentOps* each : ops_of_this_machine())
    if (each->rotating != nullptr) ops = each;
  if (ops == nullptr) GTEST_SKIP() << "this CPU lacks AVX512-VBMI2 or AVX512-BF16";
  const ExponentOps& reference = *scalar_exponent_ops();
  std::mt19937 random(53);
  uint32_t refused = 0;
  for (uint32_t round = 0; round < 400; ++round) {
    const uint32_t head_dim = 64u << random() % 3, n_rows = 1 + random() % 20;
    const ExponentShape shape = shape_of(QUIRE_CODEC_BF16_EXP4, n_rows, 1, head_dim);
    const Elements elements = rotatable(shape, round, &random);
    const uint64_t n = elements.size();
    std::vector<float> table(n);
    std::uniform_real_distribution<float> angle(-7, 7);
    for (uint64_t i = 0; i < n; i += 2) {
      const float turn = round % 13 == 3 ? 0 : angle(random);
      table[i] = std::cos(turn);
      table[i + 1] = std::sin(turn);
    }
    const RotatedReference rotated(elements, table, n_rows, head_dim);
    const EncodeRows expected_rows{rotated.rows.data(), rotated.rows.data(), 0};

    struct alignas(64) Line {
      float floats[16];
    };
    std::vector<Line> ordered(n / 16);
    std::vector<const Byte*> from(n_rows);
    std::vector<const float*> angles(n_rows);
    for (uint32_t row = 0; row < n_rows; ++row) {
      from[row] = bytes_of(elements) + uint64_t{row} * head_dim * 2;
      float* to = ordered[uint64_t{row} * head_dim / 16].floats;
      ops->rotating->order_angles(&table[uint64_t{row} * head_dim], head_dim, to);
      angles[row] = to;
    }
    const EncodeRows rows{from.data(), from.data(), head_dim * 2, angles.data()};

    Section rest[2], exponents[3], tops[2], codes[2], escapes[2], encoded_rest[2];
    for (int i = 0; i < 2; ++i) {
      rest[i].resize(n);
      encoded_rest[i].resize(n);
      tops[i].assign(head_dim, 6);
      codes[i].resize(n / 2);
      escapes[i].resize(n + 64);
    }
    for (Section& each : exponents) each.resize(n);
    Byte of_code[16] = {}, code_of[256];
    std::memset(code_of, 15, 256);
    for (uint32_t i = 0; i < 15; ++i) {
      of_code[i] = static_cast<Byte>(round % 5 == 0 ? 17 * i + 3 : 118 + i);
      code_of[of_code[i]] = static_cast<Byte>(i);
    }
    ExponentRows format{4, head_dim, n_rows, of_code, code_of, nullptr};
    if (round % 5 != 0) format.window_begin = 118 - round % 40;
    reference.split(expected_rows, n_rows, head_dim, rest[0].data(), exponents[0].data(),
                    tops[0].data());
    EscapeWriter writers[2] = {{escapes[0].data(), 0, n}, {escapes[1].data(), 0, n}};
    reference.encode(format, expected_rows, encoded_rest[0].data(), codes[0].data(), &writers[0]);
    const ExponentsFound found[] = {
        ops->rotating->exponents(rows, n_rows, head_dim, exponents[1].data()),
        ops->rotating->split(rows, n_rows, head_dim, rest[1].data(), exponents[2].data(),
                             tops[1].data()),
        ops->rotating->encode(format, rows, encoded_rest[1].data(), codes[1].data(), &writers[1])};
    for (const ExponentsFound& each : found) {
      ASSERT_EQ(each.zero, found[0].zero) << round;
      ASSERT_EQ(each.most, rotated.has_exponent(255)) << round;
      ASSERT_TRUE(each.zero || !rotated.has_exponent(0)) << round;
    }
    if (found[0].zero) {
      ++refused;
      continue;
    }
    if (rotated.has_exponent(255)) continue;  // NaN is some NaN
    ASSERT_EQ(exponents[1], exponents[0]) << round;
    ASSERT_EQ(exponents[2], exponents[0]) << round;
    ASSERT_EQ(rest[1], rest[0]) << round;
    ASSERT_EQ(tops[1], tops[0]) << round;
    ASSERT_EQ(encoded_rest[1], encoded_rest[0]) << round;
    ASSERT_EQ(codes[1], codes[0]) << round;
    ASSERT_EQ(writers[1].n, writers[0].n) << round;
    ASSERT_EQ(std::memcmp(escapes[1].data(), escapes[0].data(), writers[0].n), 0) << round;
    // Too many: they stop, and stay inside what they may write.
    if (writers[0].n == 0) continue;
    EscapeWriter few{escapes[1].data(), 0, writers[0].n - 1};
    std::fill(escapes[1].begin(), escapes[1].end(), Byte{0xa5});
    ops->rotating->encode(format, rows, encoded_rest[1].data(), codes[1].data(), &few);
    ASSERT_GT(few.n, few.max);
    for (uint64_t i = few.max + 64; i < escapes[1].size(); ++i) ASSERT_EQ(escapes[1][i], 0xa5);
  }
  EXPECT_GT(refused, 20u);
  EXPECT_LT(refused, 300u);
}

TEST(ExponentOpsTest, SectionsAreEqualWhateverIsSelected) {
  for (const int32_t codec : kBothCodecs)
    for (const uint32_t head_dim : {64u, 100u, 300u}) {
      const ExponentShape shape = shape_of(codec, 700, 3, head_dim);
      const Elements elements = kv_like(shape, 43);
      ASSERT_EQ(quire_kernel_select(QUIRE_ISA_SCALAR), QUIRE_KERNEL_OK);
      EXPECT_STREQ(active_exponent_ops()->name, "scalar");
      const Section reference = encode(shape, elements);
      ASSERT_EQ(quire_kernel_select(QUIRE_ISA_BEST), QUIRE_KERNEL_OK);
      EXPECT_EQ(encode(shape, elements), reference);
    }
}

}  // namespace
}  // namespace quire_kernels
