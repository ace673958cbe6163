// What the tests of the lossless bf16 codecs share: elements, sections, a source of rows.
#ifndef QUIRE_TESTS_KERNELS_EXPONENT_FIXTURE_H_
#define QUIRE_TESTS_KERNELS_EXPONENT_FIXTURE_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/exponent.h"
#include "kernels/math/bits.h"
#include "kernels/quire_kernels.h"

namespace quire_kernels {

using Elements = std::vector<uint16_t>;
using Section = std::vector<Byte>;

struct Isa {
  const char* name;
  int32_t id;
};

// Once per implementation.
class ExponentIsaTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (quire_kernel_select(GetParam().id) != QUIRE_KERNEL_OK)
      GTEST_SKIP() << "this CPU lacks the instruction set";
  }
  void TearDown() override { quire_kernel_select(QUIRE_ISA_BEST); }
};

inline constexpr int32_t kBothCodecs[] = {QUIRE_CODEC_BF16_EXP4, QUIRE_CODEC_BF16_WINDOW3};

inline ExponentShape shape_of(int32_t codec, uint32_t n_tokens, uint32_t n_heads,
                              uint32_t head_dim) {
  return {plane_spec(codec, QUIRE_PLANE_KEY), n_tokens, n_heads, head_dim};
}
inline uint64_t elements_of(const ExponentShape& shape) {
  return uint64_t{shape.n_tokens} * shape.n_heads * shape.head_dim;
}
inline uint64_t plain_bytes(const ExponentShape& shape) {
  return exponent_plain_bytes(shape.n_tokens, shape.n_heads, shape.head_dim);
}
inline const Byte* bytes_of(const Elements& elements) {
  return reinterpret_cast<const Byte*>(elements.data());
}

// Rows as they lie in [head][token][dim], or each in a place of its own that the next call takes
// away, with as many heads at a time as a test likes.
class TestSource : public ExponentSource {
 public:
  TestSource(const ExponentShape& shape, const Elements& elements, uint32_t together)
      : shape_(shape), elements_(elements), together_(together) {}
  uint32_t heads_together() const override { return together_; }
  void rows(uint32_t head, uint32_t n_heads, uint32_t token, uint32_t n, uint32_t step,
            EncodeBatch* rows) override {
    EXPECT_LE(n_heads * n, kEncodeRowsMax);
    EXPECT_LE(uint64_t{n_heads} * n * shape_.head_dim * 2, kEncodeBytesMax);
    if (together_ > 1) copies_.clear();
    const Byte** next = rows->elements;
    for (uint32_t h = head; h < head + n_heads; ++h)
      for (uint32_t i = 0; i < n; ++i) {
        const uint64_t row = uint64_t{h} * shape_.n_tokens + token + i * step;
        EXPECT_LT(token + i * step, shape_.n_tokens);
        *next++ = together_ > 1 ? copy(row) : bytes_of(elements_) + row * shape_.head_dim * 2;
      }
  }

 private:
  const Byte* copy(uint64_t row) {
    const Byte* from = bytes_of(elements_) + row * shape_.head_dim * 2;
    copies_.emplace_back(from, from + uint64_t{shape_.head_dim} * 2);
    return copies_.back().data();
  }
  const ExponentShape& shape_;
  const Elements& elements_;
  uint32_t together_;
  std::vector<Section> copies_;
};

// Dirty memory of exactly the size that is asked for: what is not written, or written behind the
// end, shows.
inline Section encode(const ExponentShape& shape, const Elements& elements, uint32_t together = 1) {
  EXPECT_EQ(elements.size(), elements_of(shape));
  Section section(plain_bytes(shape), 0xa5);
  TestSource source(shape, elements, together);
  const EncodedSection encoded = exponent_encode(shape, source, section.data());
  EXPECT_LE(encoded.bytes, section.size());
  const auto finite = [](uint16_t element) { return (element & 0x7f80) != 0x7f80; };
  EXPECT_EQ(encoded.finite, std::all_of(elements.begin(), elements.end(), finite));
  section.resize(encoded.bytes);
  section.shrink_to_fit();
  return section;
}

inline std::vector<Byte*> rows_of(Elements* elements, uint32_t head_dim, uint64_t first,
                                  uint32_t n) {
  std::vector<Byte*> rows(n);
  for (uint32_t i = 0; i < n; ++i)
    rows[i] = reinterpret_cast<Byte*>(elements->data() + (first + i) * head_dim);
  return rows;
}

inline Elements decode(const ExponentShape& shape, const Section& section) {
  Elements elements(elements_of(shape), 0x5a5a);
  for (uint32_t head = 0; head < shape.n_heads; ++head) {
    ExponentCursor cursor;
    const auto rows =
        rows_of(&elements, shape.head_dim, uint64_t{head} * shape.n_tokens, shape.n_tokens);
    exponent_decode(shape, section.data(), head, 0, shape.n_tokens, &cursor, rows.data());
  }
  return elements;
}

inline void expect_round_trip(const ExponentShape& shape, const Elements& elements) {
  const Section section = encode(shape, elements);
  ASSERT_EQ(exponent_check(shape, section.data(), section.size()), QUIRE_KERNEL_OK);
  ASSERT_EQ(decode(shape, section), elements);
}

inline uint32_t mode_of(const Section& section) {
  uint32_t mode;
  std::memcpy(&mode, section.data(), 4);
  return mode;
}

// As keys and values of models: a level and a spread of each channel, some channels large and
// constant, a first token that sticks out.
inline Elements kv_like(const ExponentShape& shape, uint32_t seed) {
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

inline Elements random_bits(const ExponentShape& shape, uint32_t seed) {
  std::mt19937 random(seed);
  Elements elements(elements_of(shape));
  for (uint16_t& element : elements) element = static_cast<uint16_t>(random());
  return elements;
}

#define QUIRE_EXPONENT_ISAS(suite)                                                       \
  INSTANTIATE_TEST_SUITE_P(                                                              \
      Isas, suite,                                                                       \
      testing::Values(Isa{"scalar", QUIRE_ISA_SCALAR}, Isa{"avx512", QUIRE_ISA_AVX512}), \
      [](const auto& info) { return info.param.name; })

}  // namespace quire_kernels

#endif  // QUIRE_TESTS_KERNELS_EXPONENT_FIXTURE_H_
