// The lossless bf16 codecs: every bit pattern comes back, sizes stay within their bounds, bytes are
// those of docs/formats/codecs.md.
#include <numeric>

#include "tests/kernels/exponent_fixture.h"

namespace quire_kernels {
namespace {

class ExponentTest : public ExponentIsaTest {};
QUIRE_EXPONENT_ISAS(ExponentTest);

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
    // Runs whose exponents are more than the encoder keeps.
    for (uint32_t head_dim : {257u, 520u, 1024u})
      expect_round_trip(shape_of(codec, 300, 3, head_dim),
                        kv_like(shape_of(codec, 300, 3, head_dim), head_dim));
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

// Heads in groups give the bytes of one head after the other, whatever their escapes.
TEST_P(ExponentTest, HeadsTogetherGiveTheSameBytes) {
  std::mt19937 random(47);
  for (const int32_t codec : kBothCodecs)
    for (uint32_t round = 0; round < 60; ++round) {
      const ExponentShape shape = shape_of(codec, 1 + random() % 300, 1 + random() % 9,
                                           1 + random() % (round % 10 == 0 ? 700 : 140));
      Elements elements = kv_like(shape, round);
      const uint64_t head_elements = uint64_t{shape.n_tokens} * shape.head_dim;
      const uint32_t odd_share = 2u << random() % 8;
      for (uint32_t head = 0; head < shape.n_heads; ++head)
        for (uint64_t i = 0; i < head_elements; ++i)
          if (random() % 3 == 0 && random() % odd_share == 0)
            elements[head * head_elements + i] = static_cast<uint16_t>(random());
      const Section expected = encode(shape, elements);
      for (const uint32_t together : {2u, 3u, 4u, kEncodeHeadsMax})
        ASSERT_EQ(encode(shape, elements, together), expected) << round << " " << together;
    }
}

// All escapes in one head: more than its share of the room, and yet the section is coded.
TEST_P(ExponentTest, OneHeadMayHaveAllEscapes) {
  for (const int32_t codec : kBothCodecs) {
    const ExponentShape shape = shape_of(codec, 130, 4, 64);
    Elements elements(elements_of(shape), 0x3f80);
    for (uint32_t row = 2 * 130; row < 3 * 130; ++row)
      if (row % 4 != 0)
        for (uint32_t d = 0; d < 64; ++d) elements[row * 64 + d] = 0x2a00;
    const Section expected = encode(shape, elements);
    EXPECT_EQ(mode_of(expected), kExponentCoded);
    EXPECT_EQ(encode(shape, elements, 4), expected);
    EXPECT_EQ(decode(shape, expected), elements);
  }
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
                      rows_of(&part, 72, 0, n).data());
      const auto* expected = elements.data() + (uint64_t{head} * 600 + token) * 72;
      ASSERT_EQ(std::memcmp(part.data(), expected, part.size() * 2), 0);
    }
    for (uint32_t head = 0; head < 3; ++head) {
      ExponentCursor ascending;
      for (uint32_t token = 0; token < 600;) {
        const uint32_t n = std::min<uint32_t>(1 + random() % 40, 600 - token);
        Elements part(uint64_t{n} * 72);
        exponent_decode(shape, section.data(), head, token, n, &ascending,
                        rows_of(&part, 72, 0, n).data());
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

}  // namespace
}  // namespace quire_kernels
