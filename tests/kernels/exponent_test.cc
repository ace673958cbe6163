// The lossless bf16 codecs: every bit pattern comes back, sizes stay within their bounds, bytes are
// those of docs/formats/codecs.md, and no section - sound, cut or flipped - leads a decoder astray.
#include "kernels/exponent.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/exponent_ops.h"
#include "kernels/math/bits.h"

namespace quire_kernels {
namespace {

using Elements = std::vector<uint16_t>;
using Section = std::vector<Byte>;

struct Isa {
  const char* name;
  int32_t id;
};

class ExponentTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (quire_kernel_select(GetParam().id) != QUIRE_KERNEL_OK) GTEST_SKIP() << "not on this CPU";
  }
  void TearDown() override { quire_kernel_select(QUIRE_ISA_BEST); }
};

constexpr int32_t kBothCodecs[] = {QUIRE_CODEC_BF16_EXP4, QUIRE_CODEC_BF16_WINDOW3};

ExponentShape shape_of(int32_t codec, uint32_t n_tokens, uint32_t n_heads, uint32_t head_dim) {
  return {plane_spec(codec, QUIRE_PLANE_KEY), n_tokens, n_heads, head_dim};
}
uint64_t elements_of(const ExponentShape& shape) {
  return uint64_t{shape.n_tokens} * shape.n_heads * shape.head_dim;
}
uint64_t plain_bytes(const ExponentShape& shape) {
  return exponent_plain_bytes(shape.n_tokens, shape.n_heads, shape.head_dim);
}
const Byte* bytes_of(const Elements& elements) {
  return reinterpret_cast<const Byte*>(elements.data());
}

// Dirty memory of exactly the size that is asked for: what is not written, or written behind the
// end, shows.
Section encode(const ExponentShape& shape, const Elements& elements) {
  EXPECT_EQ(elements.size(), elements_of(shape));
  Section section(plain_bytes(shape), 0xa5);
  const uint64_t bytes = exponent_encode(shape, bytes_of(elements), section.data());
  EXPECT_LE(bytes, section.size());
  section.resize(bytes);
  section.shrink_to_fit();
  return section;
}

Elements decode(const ExponentShape& shape, const Section& section) {
  Elements elements(elements_of(shape), 0x5a5a);
  const uint64_t head_elements = uint64_t{shape.n_tokens} * shape.head_dim;
  for (uint32_t head = 0; head < shape.n_heads; ++head) {
    ExponentCursor cursor;
    exponent_decode(shape, section.data(), head, 0, shape.n_tokens, &cursor,
                    reinterpret_cast<Byte*>(elements.data() + head * head_elements));
  }
  return elements;
}

void expect_round_trip(const ExponentShape& shape, const Elements& elements) {
  const Section section = encode(shape, elements);
  ASSERT_EQ(exponent_check(shape, section.data(), section.size()), QUIRE_KERNEL_OK);
  ASSERT_EQ(decode(shape, section), elements);
}

uint32_t mode_of(const Section& section) {
  uint32_t mode;
  std::memcpy(&mode, section.data(), 4);
  return mode;
}

// As keys and values of models: a level and a spread of each channel, some channels large and
// constant, a first token that sticks out.
Elements kv_like(const ExponentShape& shape, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Elements elements(elements_of(shape));
  std::vector<float> level(shape.head_dim), spread(shape.head_dim);
  uint64_t i = 0;
  for (uint32_t head = 0; head < shape.n_heads; ++head) {
    for (uint32_t d = 0; d < shape.head_dim; ++d) {
      const bool outlier = random() % 17 == 0;
      level[d] = outlier ? 150 * normal(random) : normal(random);
      spread[d] = outlier ? 2.0f : 0.5f + std::abs(normal(random));
    }
    for (uint32_t token = 0; token < shape.n_tokens; ++token)
      for (uint32_t d = 0; d < shape.head_dim; ++d, ++i)
        elements[i] =
            float_to_bf16((level[d] + spread[d] * normal(random)) * (token == 0 ? 4.0f : 1.0f));
  }
  return elements;
}

Elements random_bits(const ExponentShape& shape, uint32_t seed) {
  std::mt19937 random(seed);
  Elements elements(elements_of(shape));
  for (uint16_t& element : elements) element = static_cast<uint16_t>(random());
  return elements;
}

TEST_P(ExponentTest, EveryBitPatternComesBack) {
  for (const int32_t codec : kBothCodecs) {
    const ExponentShape shape = shape_of(codec, 512, 2, 64);
    Elements elements(65536);
    std::iota(elements.begin(), elements.end(), uint16_t{0});
    expect_round_trip(shape, elements);
    // Among elements that compress, so that the section is coded.
    const ExponentShape larger = shape_of(codec, 8192, 2, 64);
    Elements mixed = kv_like(larger, 3);
    for (uint32_t i = 0; i < 65536; ++i) mixed[i * 16 + i % 16] = static_cast<uint16_t>(i);
    expect_round_trip(larger, mixed);
    EXPECT_EQ(mode_of(encode(larger, mixed)), kExponentCoded);
  }
}

TEST_P(ExponentTest, SizesOfKvLikeData) {
  for (const int32_t codec : kBothCodecs)
    for (const uint32_t head_dim : {64u, 128u, 80u, 256u}) {
      const ExponentShape shape = shape_of(codec, 256, 4, head_dim);
      const Elements elements = kv_like(shape, head_dim);
      const Section section = encode(shape, elements);
      const double share =
          static_cast<double>(section.size()) / static_cast<double>(2 * elements.size());
      EXPECT_LE(share, codec == QUIRE_CODEC_BF16_EXP4 ? 0.76 : 0.72) << head_dim;
      EXPECT_EQ(decode(shape, section), elements);
    }
}

TEST_P(ExponentTest, WhatDoesNotCompressIsPlain) {
  for (const int32_t codec : kBothCodecs) {
    for (const uint32_t n_tokens : {1u, 7u, 300u}) {
      const ExponentShape shape = shape_of(codec, n_tokens, 3, 64);
      const Elements elements = random_bits(shape, 5);
      const Section section = encode(shape, elements);
      EXPECT_EQ(mode_of(section), kExponentPlain);
      EXPECT_EQ(section.size(), plain_bytes(shape));
      EXPECT_EQ(exponent_check(shape, section.data(), section.size()), QUIRE_KERNEL_OK);
      EXPECT_EQ(decode(shape, section), elements);
    }
  }
}

// The share of escapes grows step by step through the point where plain is as short: the section
// is never longer than plain and never plain where coded is shorter.
TEST_P(ExponentTest, TurnsPlainExactlyWhereCodedIsNotShorter) {
  for (const int32_t codec : kBothCodecs) {
    const ExponentShape shape = shape_of(codec, 65, 1, 64);
    const uint64_t blocks = exponent_blocks(shape.spec, 65, 1, 64, 0).total;
    bool coded_before = true;
    for (uint32_t escapes = 0; escapes <= elements_of(shape); escapes += 16) {
      Elements elements(elements_of(shape), 0x3f80);
      // Odd rows only: the table of exp4 is made from rows 0, 4, 8 ...
      uint32_t left = escapes;
      for (uint32_t row = 1; row < 65 && left > 0; row += 2)
        for (uint32_t d = 0; d < 64 && left > 0; ++d, --left) elements[row * 64 + d] = 0x2a00;
      escapes -= left;
      const Section section = encode(shape, elements);
      const bool shorter = blocks + align_block(escapes) < plain_bytes(shape);
      ASSERT_EQ(mode_of(section), shorter ? kExponentCoded : kExponentPlain) << escapes;
      ASSERT_EQ(section.size(), shorter ? blocks + align_block(escapes) : plain_bytes(shape));
      ASSERT_EQ(decode(shape, section), elements);
      ASSERT_LE(shorter, coded_before);
      coded_before = shorter;
      if (left > 0) break;
    }
  }
}

TEST_P(ExponentTest, TailsOfTokensAndDims) {
  for (const int32_t codec : kBothCodecs) {
    for (uint32_t n_tokens = 1; n_tokens <= 257; n_tokens += n_tokens < 70 ? 1 : 17)
      expect_round_trip(shape_of(codec, n_tokens, 2, 24),
                        kv_like(shape_of(codec, n_tokens, 2, 24), n_tokens));
    for (uint32_t n_tokens : {255u, 256u, 257u})
      expect_round_trip(shape_of(codec, n_tokens, 2, 64),
                        kv_like(shape_of(codec, n_tokens, 2, 64), n_tokens));
    for (uint32_t head_dim = 1; head_dim <= 260; ++head_dim)
      expect_round_trip(shape_of(codec, 37, 2, head_dim),
                        kv_like(shape_of(codec, 37, 2, head_dim), head_dim));
  }
}

// Bytes as the format page says them, read without any of the code under test.
TEST_P(ExponentTest, BytesAreThoseOfTheFormat) {
  for (const int32_t codec : kBothCodecs) {
    const uint32_t n_tokens = 300, n_heads = 2, head_dim = 70;
    const ExponentShape shape = shape_of(codec, n_tokens, n_heads, head_dim);
    Elements elements = kv_like(shape, 11);
    elements[1234] = 0x7f80;
    elements[2345] = 0x8000;
    const Section section = encode(shape, elements);
    const auto pad = [](uint64_t n) { return (n + 63) / 64 * 64; };
    const bool exp4 = codec == QUIRE_CODEC_BF16_EXP4;
    const uint32_t bits = exp4 ? 4 : 3;
    const uint64_t rows = n_tokens * n_heads, row_bytes = bits * ((head_dim + 7) / 8);
    const uint64_t sm = 64 + (exp4 ? 0 : pad(n_heads * 2 * head_dim));
    const uint64_t codes = sm + pad(rows * head_dim);
    const uint64_t index = codes + pad(rows * row_bytes);
    const uint64_t escapes = index + pad(4 * ((rows + 63) / 64));
    uint32_t header[2];
    std::memcpy(header, section.data(), 8);
    ASSERT_EQ(header[0], 0u);
    ASSERT_EQ(section.size(), escapes + pad(header[1]));
    uint32_t escape = 0;
    for (uint64_t row = 0; row < rows; ++row) {
      if (row % 64 == 0) {
        uint32_t before;
        std::memcpy(&before, &section[index + row / 64 * 4], 4);
        ASSERT_EQ(before, escape);
      }
      for (uint32_t d = 0; d < head_dim; ++d) {
        uint64_t group = 0;
        std::memcpy(&group, &section[codes + row * row_bytes + d / 8 * bits], bits);
        const uint32_t e = d % 8;
        const uint32_t code = group >> (exp4 ? 4 * (e / 2 + 4 * (e % 2)) : 3 * e) & (exp4 ? 15 : 7);
        const uint64_t top = 64 + (row / n_tokens * 2 + row % n_tokens / 256) * head_dim + d;
        uint32_t exponent;
        if (code == (exp4 ? 15 : 7))
          exponent = section[escapes + escape++];
        else
          exponent = exp4 ? section[8 + code] : section[top] - code;
        const uint32_t rest = section[sm + row * head_dim + d];
        const uint32_t element = (rest & 0x80) << 8 | exponent << 7 | (rest & 0x7f);
        ASSERT_EQ(element, elements[row * head_dim + d]) << row << " " << d;
      }
    }
    ASSERT_EQ(escape, header[1]);
    for (uint64_t i = escapes + escape; i < section.size(); ++i) ASSERT_EQ(section[i], 0);
    for (uint64_t i = codes + rows * row_bytes; i < index; ++i) ASSERT_EQ(section[i], 0);
    for (uint64_t i = index + 4 * ((rows + 63) / 64); i < escapes; ++i) ASSERT_EQ(section[i], 0);
  }
}

TEST_P(ExponentTest, TableIsMadeFromEveryFourthRow) {
  const ExponentShape shape = shape_of(QUIRE_CODEC_BF16_EXP4, 64, 1, 64);
  Elements elements(elements_of(shape));
  for (uint32_t row = 0; row < 64; ++row)
    for (uint32_t d = 0; d < 64; ++d) {
      uint16_t exponent = d < 30 ? 100 : 99;
      if (row % 4 != 0 && d < 8) exponent = 20;          // not looked at
      if (row == 4 && d < 2) exponent = d == 0 ? 7 : 5;  // equally seldom: the smaller first
      elements[row * 64 + d] = static_cast<uint16_t>(exponent << 7);
    }
  const Section section = encode(shape, elements);
  const Byte expected[15] = {99, 100, 5, 7, 0, 1, 2, 3, 4, 6, 8, 9, 10, 11, 12};
  EXPECT_EQ(std::memcmp(section.data() + 8, expected, 15), 0);
  EXPECT_EQ(decode(shape, section), elements);
}

TEST_P(ExponentTest, AnyRangeInAnyOrder) {
  std::mt19937 random(17);
  for (const int32_t codec : kBothCodecs) {
    const ExponentShape shape = shape_of(codec, 600, 3, 72);
    const Elements elements = kv_like(shape, 19);
    const Section section = encode(shape, elements);
    ASSERT_EQ(mode_of(section), kExponentCoded);
    ExponentCursor cursor;
    for (int i = 0; i < 400; ++i) {
      const uint32_t head = random() % 3;
      const uint32_t token = random() % 600;
      uint32_t n = 1 + random() % (600 - token);
      if (i % 4 != 0) cursor = {};
      Elements part(uint64_t{n} * 72);
      exponent_decode(shape, section.data(), head, token, n, &cursor,
                      reinterpret_cast<Byte*>(part.data()));
      const auto* expected = elements.data() + (uint64_t{head} * 600 + token) * 72;
      ASSERT_EQ(std::memcmp(part.data(), expected, part.size() * 2), 0);
    }
    for (uint32_t head = 0; head < 3; ++head) {
      ExponentCursor ascending;
      for (uint32_t token = 0; token < 600;) {
        const uint32_t n = std::min<uint32_t>(1 + random() % 40, 600 - token);
        Elements part(uint64_t{n} * 72);
        exponent_decode(shape, section.data(), head, token, n, &ascending,
                        reinterpret_cast<Byte*>(part.data()));
        const auto* expected = elements.data() + (uint64_t{head} * 600 + token) * 72;
        ASSERT_EQ(std::memcmp(part.data(), expected, part.size() * 2), 0);
        token += n;
      }
    }
  }
}

TEST_P(ExponentTest, LargestElementIsNeverUnderstated) {
  std::mt19937 random(23);
  for (const int32_t codec : kBothCodecs)
    for (int round = 0; round < 60; ++round) {
      const ExponentShape shape = shape_of(codec, 1 + random() % 520, 2, 64);
      Elements elements = kv_like(shape, random());
      const uint16_t special[] = {0x7f80, 0xff80, 0x7fc1, 0x7f7f, 0xff7f, 0x4780, 0x46ff};
      if (round % 3 != 0) elements[random() % elements.size()] = special[random() % 7];
      if (round % 10 == 9) elements = random_bits(shape, random());
      const Section section = encode(shape, elements);
      for (int range = 0; range < 20; ++range) {
        const uint32_t begin = random() % shape.n_tokens;
        const uint32_t end = begin + 1 + random() % (shape.n_tokens - begin);
        uint32_t largest = 0;
        for (uint32_t head = 0; head < 2; ++head)
          for (uint64_t i = uint64_t{begin} * 64; i < uint64_t{end} * 64; ++i)
            largest = std::max<uint32_t>(
                largest, elements[uint64_t{head} * shape.n_tokens * 64 + i] & 0x7fff);
        const uint32_t bound = exponent_max_bits(shape, section.data(), begin, end);
        ASSERT_GE(bound, largest);
        ASSERT_EQ(bound >= 0x7f80, largest >= 0x7f80);
        // Nothing that fits fp16 after a rotation is made to look as if it did not.
        ASSERT_EQ(bound >= 0x4700, largest >= 0x4700);
      }
      EXPECT_EQ(exponent_max_bits(shape, section.data(), 0, 0), 0u);
    }
}

// A section that passes the check is decoded in bounds (the sanitizers watch); most damage is seen.
void expect_status_not_misread(const ExponentShape& shape, const Section& damaged) {
  const int status = exponent_check(shape, damaged.data(), damaged.size());
  ASSERT_TRUE(status == QUIRE_KERNEL_OK || status == QUIRE_KERNEL_CORRUPT);
  if (status != QUIRE_KERNEL_OK) return;
  (void)decode(shape, damaged);
  (void)exponent_max_bits(shape, damaged.data(), 0, shape.n_tokens);
}

TEST_P(ExponentTest, DamageIsSeenOrHarmless) {
  for (const int32_t codec : kBothCodecs)
    for (const uint32_t head_dim : {13u, 64u}) {
      const ExponentShape shape = shape_of(codec, 260, 1, head_dim);
      Elements elements = kv_like(shape, 29);
      for (uint32_t i = 3; i < elements.size(); i += 97) elements[i] = 0x0123;
      for (const bool plain : {false, true}) {
        const Section section = encode(shape, plain ? random_bits(shape, 31) : elements);
        ASSERT_EQ(mode_of(section), plain ? kExponentPlain : kExponentCoded);
        for (uint64_t bytes = 0; bytes < section.size(); bytes += bytes < 200 ? 1 : 61) {
          const Section cut(section.begin(), section.begin() + static_cast<ptrdiff_t>(bytes));
          ASSERT_EQ(exponent_check(shape, cut.data(), cut.size()), QUIRE_KERNEL_CORRUPT);
        }
        Section longer = section;
        longer.resize(section.size() + 64);
        ASSERT_EQ(exponent_check(shape, longer.data(), longer.size()), QUIRE_KERNEL_CORRUPT);
        for (uint64_t i = 0; i < section.size(); i += i < 300 ? 1 : 61)
          for (const int flip : {0x01, 0x10, 0xff}) {
            Section damaged = section;
            damaged[i] ^= static_cast<Byte>(flip);
            expect_status_not_misread(shape, damaged);
          }
      }
    }
}

TEST_P(ExponentTest, ContradictionsAreSeen) {
  for (const int32_t codec : kBothCodecs) {
    const ExponentShape shape = shape_of(codec, 260, 1, 64);
    Elements elements = kv_like(shape, 37);
    for (uint32_t i = 3; i < elements.size(); i += 97) elements[i] = 0x0123;
    const Section section = encode(shape, elements);
    uint32_t n_escapes;
    std::memcpy(&n_escapes, section.data() + 4, 4);
    ASSERT_GT(n_escapes, 0u);
    const ExponentBlocks at = exponent_blocks(shape.spec, 260, 1, 64, n_escapes);
    const auto corrupt = [&](uint64_t offset, Byte flip) {
      Section damaged = section;
      damaged[offset] ^= flip;
      return exponent_check(shape, damaged.data(), damaged.size()) == QUIRE_KERNEL_CORRUPT;
    };
    for (const uint64_t header : {0u, 3u, 4u, 23u, 63u}) EXPECT_TRUE(corrupt(header, 2)) << header;
    for (uint64_t entry = 0; entry < 5; ++entry)
      EXPECT_TRUE(corrupt(at.escape_index + entry * 4, 1));
    // A code that turns into an escape, or an escape into a code.
    const uint32_t escape = (1u << shape.spec.bits) - 1;
    for (uint32_t element = 0; element < 64; element += 5) {
      Section damaged = section;
      Byte* group = damaged.data() + at.codes + element / 8 * shape.spec.bits;
      const bool was_escape =
          get_code(damaged.data() + at.codes, shape.spec.bits, element) == escape;
      for (uint32_t bit = 0; bit < shape.spec.bits; ++bit) {
        const uint32_t at_bit = code_shift(shape.spec.bits, element % 8) + bit;
        if (was_escape)
          group[at_bit / 8] &= static_cast<Byte>(~(1u << at_bit % 8));
        else
          group[at_bit / 8] |= static_cast<Byte>(1u << at_bit % 8);
      }
      EXPECT_EQ(exponent_check(shape, damaged.data(), damaged.size()), QUIRE_KERNEL_CORRUPT);
    }
    // Every entry and the count shifted alike: escapes that belong to no row.
    Section shifted = section;
    shifted[4] = static_cast<Byte>(shifted[4] + 1);
    for (uint64_t entry = 0; entry < 5; ++entry) ++shifted[at.escape_index + entry * 4];
    ASSERT_NE(n_escapes % 64, 0u);
    EXPECT_EQ(exponent_check(shape, shifted.data(), shifted.size()), QUIRE_KERNEL_CORRUPT);
    if (codec == QUIRE_CODEC_BF16_WINDOW3) {
      Section damaged = section;
      damaged[at.tops + 100] = 5;
      EXPECT_EQ(exponent_check(shape, damaged.data(), damaged.size()), QUIRE_KERNEL_CORRUPT);
    }
  }
}

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
  Section sign_mantissa, codes, escapes, tops, elements;
  std::vector<uint64_t> counts;
  bool operator==(const OpsResult&) const = default;
};

OpsResult run_ops(const ExponentOps& ops, uint32_t bits, uint32_t n_rows, uint32_t head_dim,
                  uint64_t escapes_max, const Elements& elements) {
  OpsResult result;
  const uint64_t n = elements.size();
  result.counts.resize(256);
  ops.count_exponents(bytes_of(elements), n_rows, uint64_t{head_dim} * 2, head_dim,
                      result.counts.data());
  result.tops.assign(head_dim, 6);
  ops.raise_tops(bytes_of(elements), n_rows, head_dim, result.tops.data());
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
  const uint64_t n_escapes = ops.encode(rows, bytes_of(elements), result.sign_mantissa.data(),
                                        result.codes.data(), escapes.data(), 0, escapes_max);
  result.counts.push_back(n_escapes > escapes_max);
  if (n_escapes > escapes_max) {  // how far it came is its own affair
    result.sign_mantissa.clear();
    result.codes.clear();
    return result;
  }
  escapes.resize(n_escapes);
  result.escapes = escapes;
  result.counts.push_back(ops.count_escapes(result.codes.data(), n_rows, head_dim, bits));
  result.elements.resize(n * 2);
  // Fewer escapes than codes ask for: zeros, nothing read beyond.
  const Section fewer(escapes.begin(), escapes.begin() + static_cast<ptrdiff_t>(n_escapes / 2));
  result.counts.push_back(ops.decode(rows, result.sign_mantissa.data(), result.codes.data(),
                                     fewer.data(), fewer.size(), result.elements.data()));
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
    for (const uint32_t head_dim : {64u, 100u}) {
      const ExponentShape shape = shape_of(codec, 700, 3, head_dim);
      const Elements elements = kv_like(shape, 43);
      ASSERT_EQ(quire_kernel_select(QUIRE_ISA_SCALAR), QUIRE_KERNEL_OK);
      EXPECT_STREQ(active_exponent_ops()->name, "scalar");
      const Section reference = encode(shape, elements);
      ASSERT_EQ(quire_kernel_select(QUIRE_ISA_BEST), QUIRE_KERNEL_OK);
      EXPECT_EQ(encode(shape, elements), reference);
    }
}

INSTANTIATE_TEST_SUITE_P(Isas, ExponentTest,
                         testing::Values(Isa{"scalar", QUIRE_ISA_SCALAR},
                                         Isa{"avx512", QUIRE_ISA_AVX512}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace quire_kernels
