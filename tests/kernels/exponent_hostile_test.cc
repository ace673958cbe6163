// No section of the lossless bf16 codecs - cut, flipped, contradicting itself - leads a decoder
// astray.
#include "tests/kernels/exponent_fixture.h"

namespace quire_kernels {
namespace {

class ExponentHostileTest : public ExponentIsaTest {};
QUIRE_EXPONENT_ISAS(ExponentHostileTest);

// A section that passes the check is decoded in bounds (the sanitizers watch); most damage is seen.
void expect_status_not_misread(const ExponentShape& shape, const Section& damaged) {
  const int status = exponent_check(shape, damaged.data(), damaged.size());
  ASSERT_TRUE(status == QUIRE_KERNEL_OK || status == QUIRE_KERNEL_CORRUPT);
  if (status != QUIRE_KERNEL_OK) return;
  (void)decode(shape, damaged);
  (void)exponent_max_bits(shape, damaged.data(), 0, shape.n_tokens);
}

TEST_P(ExponentHostileTest, DamageIsSeenOrHarmless) {
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

TEST_P(ExponentHostileTest, ContradictionsAreSeen) {
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

}  // namespace
}  // namespace quire_kernels
