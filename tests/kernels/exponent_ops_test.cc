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
  result.tops.assign(head_dim, 6);
  Section split_off(n), exponent_bytes(n);
  ops.split(encode_rows, n_rows, head_dim, split_off.data(), exponent_bytes.data(),
            result.tops.data());
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
