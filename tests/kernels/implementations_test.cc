// The vector implementation against the scalar reference, bit for bit, and the pieces under them.
#include "kernels/math/bits.h"
#include "kernels/rows.h"
#include "tests/kernels/section_fixture.h"

namespace quire_kernels_test {
namespace {

TEST(Implementations, StoreAndLoadGiveEqualBytes) {
  if (!have_avx512()) GTEST_SKIP() << "no AVX-512 here";
  std::mt19937_64 random(kSeed);
  const auto pick = [&](auto... values) {
    const std::vector<int64_t> list = {static_cast<int64_t>(values)...};
    return list[random() % list.size()];
  };
  for (int round = 0; round < 400; ++round) {
    const Shape shape{static_cast<uint32_t>(1 + random() % 300),
                      static_cast<uint32_t>(1 + random() % 3),
                      static_cast<uint32_t>(pick(64, 128, 256, 80, 1, 2, 30, 100))};
    const auto codec = static_cast<int32_t>(pick(1, 2, 3, 16, 16));
    const auto plane = static_cast<int32_t>(pick(0, 1));
    const auto src_dtype = static_cast<int32_t>(pick(1, 2, 3));
    const auto dst_dtype = static_cast<int32_t>(pick(1, 2, 3));
    const bool rotate = plane == QUIRE_PLANE_KEY && shape.dims > 1 && random() % 2;
    const uint32_t rotary = rotate ? 2 * static_cast<uint32_t>(1 + random() % (shape.dims / 2)) : 0;
    const auto style = static_cast<int32_t>(pick(1, 2));
    Engine source(src_dtype, shape, shape.tokens, random() % 2);
    fill_like_keys(source, random);
    Engine empty(dst_dtype, shape, shape.tokens, random() % 2);
    std::vector<uint8_t> sections[2];
    std::vector<uint8_t> engines[2];
    for (const int32_t isa : {QUIRE_ISA_SCALAR, QUIRE_ISA_AVX512}) {
      ASSERT_EQ(quire_kernel_select(isa), QUIRE_KERNEL_OK);
      Section section(codec, plane, shape);
      quire_store_params store = store_params(source, section);
      Engine engine = empty;
      quire_load_params load = load_params(section, engine);
      std::vector<float> table;
      if (rotate) {
        table = exact_table(rotary, QUIRE_ROPE_TO_DST, 0, round, shape.tokens);
        store.rotation = load.rotation = {style, rotary, table.data(), rotary * 4};
      }
      ASSERT_EQ(quire_store(&store), QUIRE_KERNEL_OK);
      ASSERT_EQ(quire_load(&load), QUIRE_KERNEL_OK);
      sections[isa - 1] = section.copy();
      engines[isa - 1] = engine.bytes;
    }
    quire_kernel_select(QUIRE_ISA_BEST);
    const auto what = [&] {
      return testing::Message() << "round " << round << " seed " << kSeed << " codec " << codec
                                << " plane " << plane << " tokens " << shape.tokens << " dims "
                                << shape.dims << " rotary " << rotary << " style " << style;
    };
    ASSERT_TRUE(sections[0] == sections[1]) << what();
    ASSERT_TRUE(engines[0] == engines[1]) << what();
  }
}

TEST(Implementations, TransposeAgreesOnEveryRemainder) {
  const quire_kernels::RowOps* avx512 = quire_kernels::avx512_rows();
  if (!have_avx512() || avx512 == nullptr) GTEST_SKIP() << "no AVX-512 here";
  std::mt19937_64 random(kSeed);
  for (const uint32_t element : {2u, 4u})
    for (uint32_t rows = 1; rows < 70; rows += 3)
      for (uint32_t columns = 1; columns < 50; columns += 2) {
        std::vector<uint8_t> src(rows * columns * element);
        for (uint8_t& byte : src) byte = static_cast<uint8_t>(random());
        std::vector<uint8_t> got(src.size());
        avx512->transpose(element, src.data(), columns * element, rows, columns, got.data(),
                          rows * element);
        for (uint32_t row = 0; row < rows; ++row)
          for (uint32_t column = 0; column < columns; ++column)
            ASSERT_EQ(std::memcmp(&src[(row * columns + column) * element],
                                  &got[(column * rows + row) * element], element),
                      0);
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
  for (const int32_t isa : {QUIRE_ISA_SCALAR, QUIRE_ISA_AVX512}) {
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
