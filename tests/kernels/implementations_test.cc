// The vector implementations against the scalar reference, bit for bit, and the pieces under them.
#include <array>

#include "kernels/math/bits.h"
#include "kernels/math/layout.h"
#include "kernels/rows.h"
#include "tests/kernels/reference_decoder.h"

namespace quire_kernels_test {
namespace {

// Keys, or what is hard on codes: any bits, huge constants with a spread of one step, denormals,
// halves up to the largest.
void fill(Engine& engine, int kind, std::mt19937_64& random) {
  if (kind == 0) return fill_like_keys(engine, random);
  const bool half = engine.dtype == QUIRE_DTYPE_F16;
  for (int64_t row = 0; row < engine.rows; ++row)
    for (uint32_t head = 0; head < engine.heads; ++head)
      for (uint32_t dim = 0; dim < engine.dims; ++dim) {
        const auto bits = static_cast<uint32_t>(random());
        float value = 0;
        if (kind == 1) std::memcpy(&value, &bits, 4);
        if (kind == 1 && !(std::fabs(value) < (half ? 65504.0f : 1e5f))) value = -0.0f;
        if (kind == 2) value = (half ? 1024.0f : 131'072.0f) + static_cast<float>(bits % 3);
        if (kind == 3) value = std::ldexp(static_cast<float>(bits % 7) - 3, half ? -24 : -149);
        // Denormal as bf16 too.
        if (kind == 5)
          value = std::ldexp(static_cast<float>(bits % 4096) - 2048, half ? -24 : -140);
        if (kind == 4) value = bits % 5 ? (bits % 2 ? 0.0f : -0.0f) : 65504.0f;
        engine.set(row, head, dim, value);
      }
}

class Implementations : public ::testing::TestWithParam<int32_t> {
 protected:
  void SetUp() override {
    if (quire_kernel_select(GetParam()) != QUIRE_KERNEL_OK)
      GTEST_SKIP() << "this CPU lacks the instruction set";
  }
  void TearDown() override { quire_kernel_select(QUIRE_ISA_BEST); }
};
INSTANTIATE_TEST_SUITE_P(Isa, Implementations, ::testing::Values(QUIRE_ISA_AVX2, QUIRE_ISA_AVX512));

TEST_P(Implementations, StoreAndLoadGiveEqualBytes) {
  std::mt19937_64 random(kSeed);
  const auto pick = [&](auto... values) {
    const std::vector<int64_t> list = {static_cast<int64_t>(values)...};
    return list[random() % list.size()];
  };
  int stored = 0;
  for (int round = 0; round < 900; ++round) {
    const Shape shape{
        static_cast<uint32_t>(1 + random() % 300), static_cast<uint32_t>(1 + random() % 3),
        static_cast<uint32_t>(pick(64, 128, 256, 80, 96, 192, 1, 2, 30, 33, 100, 260))};
    const auto codec =
        static_cast<int32_t>(pick(1, 2, 3, 16, 17, 32, 33, 34, 35, 36, 48, 56, 57, 64, 65));
    const auto plane = static_cast<int32_t>(pick(0, 1));
    const auto src_dtype = static_cast<int32_t>(pick(1, 2, 3));
    const auto dst_dtype = static_cast<int32_t>(pick(1, 2, 3));
    const bool rotate = plane == QUIRE_PLANE_KEY && shape.dims > 1 && random() % 2;
    const uint32_t rotary = rotate ? 2 * static_cast<uint32_t>(1 + random() % (shape.dims / 2)) : 0;
    const auto style = static_cast<int32_t>(pick(1, 2));
    Engine source(src_dtype, shape, shape.tokens, random() % 2);
    fill(source, static_cast<int>(pick(0, 0, 0, 1, 2, 3, 4, 5)), random);
    const std::vector<uint8_t> marks = salient_tokens(shape.tokens);
    Engine empty(dst_dtype, shape, shape.tokens, random() % 2);
    std::vector<uint8_t> sections[2];
    std::vector<uint8_t> engines[2];
    int statuses[2][2] = {};
    for (const int32_t which : {0, 1}) {
      ASSERT_EQ(quire_kernel_select(which == 0 ? QUIRE_ISA_SCALAR : GetParam()), QUIRE_KERNEL_OK);
      Section section(codec, plane, shape);
      quire_store_params store = store_params(source, section);
      store.salient = marks.data();
      Engine engine = empty;
      std::vector<float> table;
      if (rotate) {
        const bool each = round % 2;
        table = exact_table(rotary, QUIRE_ROPE_TO_DST, 0, round, each ? shape.tokens : 1);
        store.rotation = {style, rotary, table.data(), each ? rotary * 4 : 0};
      }
      statuses[which][0] = quire_store(&store);
      quire_load_params load = load_params(section, engine);
      load.rotation = store.rotation;
      if (statuses[which][0] == QUIRE_KERNEL_OK) statuses[which][1] = quire_load(&load);
      sections[which] = section.copy();
      engines[which] = engine.bytes;
    }
    quire_kernel_select(QUIRE_ISA_BEST);
    const auto what = [&] {
      return testing::Message() << "round " << round << " seed " << kSeed << " codec " << codec
                                << " plane " << plane << " tokens " << shape.tokens << " dims "
                                << shape.dims << " rotary " << rotary << " style " << style;
    };
    ASSERT_EQ(statuses[0][0], statuses[1][0]) << what();
    ASSERT_EQ(statuses[0][1], statuses[1][1]) << what();
    if (statuses[0][0] != QUIRE_KERNEL_OK) continue;
    ++stored;
    ASSERT_TRUE(sections[0] == sections[1]) << what();
    ASSERT_TRUE(engines[0] == engines[1]) << what();
  }
  EXPECT_GT(stored, 700);  // the rest was refused by both
}

// Zeros and scales of any halves: the sums of a transform that round, and those that do not.
TEST_P(Implementations, TransformsOfAnyZeroAndScaleGiveEqualBytes) {
  std::mt19937_64 random(kSeed);
  for (int round = 0; round < 120; ++round) {
    const Shape shape{65, 2, 64u << round % 3};
    const int32_t codec = round % 4 == 0 ? QUIRE_CODEC_INT3_CHANNEL64 : QUIRE_CODEC_INT4_CHANNEL64;
    Section section(codec, QUIRE_PLANE_VALUE, shape);
    for (uint32_t& word : section.words) word = static_cast<uint32_t>(random());
    const quire_kernels::PlaneSpec spec = quire_kernels::plane_spec(codec, QUIRE_PLANE_VALUE);
    for (uint32_t head = 0; head < shape.heads; ++head) {
      const auto at = quire_kernels::token_head(spec, shape.tokens, shape.dims, head);
      for (uint32_t token = 0; token < shape.tokens; ++token) {
        const uint64_t zero = random() % 20;
        const uint64_t scale = std::min<uint64_t>(
            20, std::max<int64_t>(0, static_cast<int64_t>(zero + random() % 24) - 12));
        const auto half = [&](uint64_t exponent, bool negative) {
          return static_cast<uint32_t>(negative << 15 | exponent << 10 | random() % 1024);
        };
        uint32_t pair = half(zero, random() % 2) | half(scale, random() % 16 == 0) << 16;
        if (random() % 16 == 0) pair &= 0xffff8000;  // a zero of either sign
        std::memcpy(section.data() + at.side + token * 4, &pair, 4);
      }
    }
    std::vector<uint8_t> engines[2];
    for (const int32_t which : {0, 1}) {
      ASSERT_EQ(quire_kernel_select(which == 0 ? QUIRE_ISA_SCALAR : GetParam()), QUIRE_KERNEL_OK);
      Engine engine(QUIRE_DTYPE_BF16, shape, shape.tokens, false);
      const quire_load_params load = load_params(section, engine);
      ASSERT_EQ(quire_load(&load), QUIRE_KERNEL_OK);
      engines[which] = engine.bytes;
    }
    ASSERT_TRUE(engines[0] == engines[1]) << "round " << round << " seed " << kSeed;
  }
}

// Heads side by side are read together, others one after the other.
TEST_P(Implementations, LosslessStoresAreTheSameWhereverHeadsLie) {
  std::mt19937_64 random(kSeed);
  for (const int32_t codec : {QUIRE_CODEC_BF16_EXP4, QUIRE_CODEC_BF16_WINDOW3})
    for (const uint32_t tokens : {3u, 64u, 277u}) {
      const Shape shape{tokens, 11, 130};
      Engine apart(QUIRE_DTYPE_BF16, shape, shape.tokens, false);
      fill_like_keys(apart, random);
      std::vector<uint8_t> side_by_side(uint64_t{shape.tokens} * shape.heads * shape.dims * 2);
      uint8_t* to = side_by_side.data();
      for (uint32_t token = 0; token < shape.tokens; ++token)
        for (uint32_t head = 0; head < shape.heads; ++head, to += shape.dims * 2)
          std::memcpy(to, apart.at(token, head, 0), shape.dims * 2);
      Section first(codec, QUIRE_PLANE_VALUE, shape);
      Section second = first;
      quire_store_params p = store_params(apart, first);
      ASSERT_EQ(quire_store(&p), QUIRE_KERNEL_OK);
      p = store_params(apart, second);
      p.src = side_by_side.data();
      p.src_head_stride = shape.dims * 2;
      p.src_token_stride = p.src_head_stride * shape.heads;
      ASSERT_EQ(quire_store(&p), QUIRE_KERNEL_OK);
      EXPECT_TRUE(first.copy() == second.copy()) << codec << " " << tokens << " seed " << kSeed;
    }
}

TEST_P(Implementations, TransposeAgreesOnEveryRemainder) {
  const quire_kernels::RowOps* ops = quire_kernels::active_rows();
  std::mt19937_64 random(kSeed);
  for (const uint32_t element : {2u, 4u})
    for (uint32_t rows = 1; rows < 70; rows += 3)
      for (uint32_t columns = 1; columns < 50; columns += 2) {
        std::vector<uint8_t> src(rows * columns * element);
        for (uint8_t& byte : src) byte = static_cast<uint8_t>(random());
        std::vector<uint8_t> got(src.size());
        ops->transpose(element, src.data(), columns * element, rows, columns, got.data(),
                       rows * element);
        for (uint32_t row = 0; row < rows; ++row)
          for (uint32_t column = 0; column < columns; ++column)
            ASSERT_EQ(std::memcmp(&src[(row * columns + column) * element],
                                  &got[(column * rows + row) * element], element),
                      0);
      }
}

// Values next to the middle between two codes, where a quotient that is off by one unit in the last
// place gives another code: scales of fp32 and fp16, tiny and huge ones, zero.
TEST_P(Implementations, QuotientsAreThoseOfADivision) {
  const quire_kernels::RowOps* ops = quire_kernels::active_rows();
  std::mt19937_64 random(kSeed);
  constexpr uint32_t kDims = 208;  // strips and a tail
  constexpr uint32_t kRows = 32;
  std::vector<float> zeros(kDims);
  std::vector<float> scales(kDims);
  std::vector<float> rows(kRows * kDims);
  for (int round = 0; round < 600; ++round) {
    const uint32_t bits = std::array{2u, 3u, 4u, 8u}[round % 4];
    const bool halves = round / 4 % 2 == 0;
    const int exponent = halves ? 0 : std::array{0, -100, -30, 100}[random() % 4];
    for (uint32_t dim = 0; dim < kDims; ++dim) {
      // All 24 bits set is where a reciprocal is rounded worst.
      const uint32_t mantissa = random() % 8 == 0 ? 0xffffff : 0x800000 | random() % 0x800000;
      const float scale =
          std::ldexp(static_cast<float>(mantissa), exponent - 25 - static_cast<int>(random() % 12));
      scales[dim] =
          halves ? quire_kernels::half_to_float(quire_kernels::float_to_half(scale)) : scale;
      if (random() % 50 == 0) scales[dim] = 0;
      zeros[dim] = random() % 2 ? 0 : scales[dim] * static_cast<float>(random() % 1000);
    }
    for (uint32_t i = 0; i < rows.size(); ++i) {
      const uint32_t dim = i % kDims;
      const double code = static_cast<double>(random() % (1u << bits)) + (random() % 8 ? 0.5 : 0);
      rows[i] = static_cast<float>(static_cast<double>(zeros[dim]) +
                                   code * static_cast<double>(scales[dim]));
      for (uint32_t step = random() % 3; step != 0; --step)
        rows[i] = std::nextafterf(rows[i], random() % 2 ? INFINITY : -INFINITY);
    }
    quire_kernels::RowFormat format{};
    format.n = format.group_dims = kDims;
    format.bits = bits;
    std::vector<uint8_t> codes[2] = {std::vector<uint8_t>(kRows * kDims, 0xcc),
                                     std::vector<uint8_t>(kRows * kDims, 0xcc)};
    quire_kernels::scalar_rows()->encode_channel(format, rows.data(), kRows, zeros.data(),
                                                 scales.data(), codes[0].data());
    ops->encode_channel(format, rows.data(), kRows, zeros.data(), scales.data(), codes[1].data());
    ASSERT_TRUE(codes[0] == codes[1]) << "round " << round << " seed " << kSeed;
  }
}

TEST(HalfConversion, EveryHalfRoundTripsAndRoundingIsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    _Float16 want;
    std::memcpy(&want, &half, 2);
    const float value = quire_kernels::half_to_float(half);
    if (std::isnan(value)) {
      EXPECT_TRUE((bits & 0x7c00) == 0x7c00 && (bits & 0x3ff) != 0);
      continue;
    }
    ASSERT_EQ(value, static_cast<float>(want));
    ASSERT_EQ(quire_kernels::float_to_half(value), half);
    for (const float near : {std::nextafterf(value, INFINITY), std::nextafterf(value, -INFINITY),
                             value * 1.00024414f, value * 1.00048828f}) {
      const auto rounded = static_cast<_Float16>(near);
      uint16_t rounded_bits;
      std::memcpy(&rounded_bits, &rounded, 2);
      ASSERT_EQ(quire_kernels::float_to_half(near), rounded_bits) << near;
    }
  }
}

TEST(SectionBytes, AreExactAndRefuseWhatIsBeyondTheLimits) {
  EXPECT_EQ(quire_section_bytes(QUIRE_CODEC_RAW_F16, 0, 256, 8, 128), 256u * 8 * 128 * 2);
  EXPECT_EQ(quire_section_bytes(QUIRE_CODEC_RAW_F32, 1, 3, 1, 5), 60u);
  EXPECT_EQ(quire_section_bytes(QUIRE_CODEC_INT8_CHANNEL, 0, 256, 1, 128), 512u + 512 + 256 * 128);
  EXPECT_EQ(quire_section_bytes(QUIRE_CODEC_INT8_CHANNEL, 0, 257, 2, 80),
            2u * (320 + 320 + 256 * 80 + 320 + 320 + 128));
  EXPECT_EQ(quire_section_bytes(QUIRE_CODEC_INT8_CHANNEL, 1, 3, 2, 80), 2u * (64 + 256));
  EXPECT_EQ(quire_section_bytes(7, 0, 1, 1, 1), 0u);
  EXPECT_EQ(quire_section_bytes(1, 2, 1, 1, 1), 0u);
  EXPECT_EQ(quire_section_bytes(1, 0, 0, 1, 1), 0u);
  EXPECT_EQ(quire_section_bytes(1, 0, (1u << 20) + 1, 1, 1), 0u);
  EXPECT_EQ(quire_section_bytes(1, 0, 1, 1025, 1), 0u);
  EXPECT_EQ(quire_section_bytes(1, 0, 1, 1, 1025), 0u);
}

TEST(ScanFinite, FindsOneBadElementAnywhere) {
  for (const int32_t isa : {QUIRE_ISA_SCALAR, QUIRE_ISA_AVX2, QUIRE_ISA_AVX512}) {
    if (quire_kernel_select(isa) != QUIRE_KERNEL_OK) continue;
    for (const int32_t dtype : {QUIRE_DTYPE_F16, QUIRE_DTYPE_BF16, QUIRE_DTYPE_F32})
      for (const uint32_t n : {1u, 15u, 31u, 32u, 33u, 100u})
        for (uint32_t bad = 0; bad < n; ++bad) {
          std::vector<uint8_t> elements(n * element_size(dtype));
          EXPECT_EQ(quire_scan_finite(dtype, elements.data(), n), QUIRE_KERNEL_OK);
          for (const float value : {NAN, -INFINITY}) {
            narrow(dtype, value, &elements[bad * element_size(dtype)]);
            EXPECT_EQ(quire_scan_finite(dtype, elements.data(), n), QUIRE_KERNEL_NON_FINITE);
          }
        }
  }
  quire_kernel_select(QUIRE_ISA_BEST);
  EXPECT_EQ(quire_scan_finite(0, nullptr, 1), QUIRE_KERNEL_UNSUPPORTED);
  EXPECT_EQ(quire_scan_finite(1, nullptr, 1), QUIRE_KERNEL_INVALID_ARGUMENT);
  EXPECT_EQ(quire_scan_finite(1, nullptr, 0), QUIRE_KERNEL_OK);
}

TEST(Status, EveryCodeHasAName) {
  for (int status = 0; status <= 5; ++status)
    EXPECT_STRNE(quire_kernel_status_name(status), "UNKNOWN");
  EXPECT_STREQ(quire_kernel_status_name(7), "UNKNOWN");
  EXPECT_STREQ(quire_kernel_status_name(-1), "UNKNOWN");
  EXPECT_EQ(quire_kernel_select(77), QUIRE_KERNEL_UNSUPPORTED);
}

}  // namespace
}  // namespace quire_kernels_test
