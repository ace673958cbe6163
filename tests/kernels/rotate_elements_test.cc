// Rows that change dtype and position in one step: the vector implementation gives the bits of the
// reference, denormals included, and neither loses a NaN.
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/math/bits.h"
#include "kernels/math/layout.h"
#include "kernels/rows.h"
#include "tests/kernels/section_fixture.h"

namespace quire_kernels_test {
namespace {

using quire_kernels::Byte;
using quire_kernels::ElementRows;
using quire_kernels::RowFormat;

struct Rows {
  uint32_t dims;
  uint32_t n;
  int32_t from_dtype;
  std::vector<Byte> elements;
  std::vector<float> angles;  // a table per row, more or less
  std::vector<int> table_of;  // -1: none
};

float element_of(std::mt19937& random, int kind) {
  std::normal_distribution<float> normal;
  const float value = normal(random);
  if (kind == 1) return value * 0x1p-126f;  // denormal as fp32 and bf16
  if (kind == 2) return random() % 3 == 0 ? 0.0f : std::copysign(0.0f, value);
  if (kind == 3) return random() % 20 == 0 ? value * 0x1p-127f : value;
  return kind == 4 ? value * 0x1p-14f : value;  // denormal as fp16
}

Rows make_rows(std::mt19937& random) {
  constexpr uint32_t kDims[] = {1, 2, 16, 24, 32, 33, 64, 66, 80, 96, 128, 192, 256, 258, 1024};
  Rows rows;
  rows.dims = kDims[random() % std::size(kDims)];
  rows.n = 1 + random() % quire_kernels::kBatchRows;
  rows.from_dtype = static_cast<int32_t>(1 + random() % 3);
  const uint32_t element = quire_kernels::element_bytes(rows.from_dtype);
  rows.elements.resize(uint64_t{rows.n} * rows.dims * element);
  const int kind = static_cast<int>(random() % 6);
  std::vector<float> values(uint64_t{rows.n} * rows.dims);
  for (float& value : values) value = element_of(random, kind);
  quire_kernels::scalar_rows()->narrow(rows.from_dtype, values.data(), rows.elements.data(),
                                       static_cast<uint32_t>(values.size()));
  rows.angles.resize(uint64_t{rows.n} * rows.dims);
  for (float& angle : rows.angles) angle = std::cos(static_cast<float>(random() % 1000));
  const uint32_t sharing = 1 + random() % 5;
  for (uint32_t r = 0; r < rows.n; ++r)
    rows.table_of.push_back(random() % 9 == 0 ? -1 : static_cast<int>(r / sharing));
  return rows;
}

std::vector<Byte> rotated(const quire_kernels::RowOps& ops, const Rows& rows, int32_t dtype,
                          int32_t style, uint32_t rotary_dims) {
  const uint64_t from_bytes = uint64_t{rows.dims} * quire_kernels::element_bytes(rows.from_dtype);
  const uint64_t out_bytes = uint64_t{rows.dims} * quire_kernels::element_bytes(dtype);
  std::vector<Byte> out(rows.n * out_bytes, 0xa5);
  ElementRows batch;
  for (uint32_t r = 0; r < rows.n; ++r) {
    batch.from[r] = rows.elements.data() + r * from_bytes;
    batch.table[r] = rows.table_of[r] < 0 || rotary_dims == 0
                         ? nullptr
                         : &rows.angles[static_cast<uint64_t>(rows.table_of[r]) * rows.dims];
    batch.out[r] = out.data() + r * out_bytes;
  }
  batch.n = rows.n;
  const RowFormat format{.n = rows.dims,
                         .bits = 0,
                         .group_dims = rows.dims,
                         .order = 1,
                         .dtype = dtype,
                         .style = style,
                         .rotary_dims = rotary_dims};
  ops.rotate_elements(format, rows.from_dtype, batch);
  return out;
}

TEST(RotateElements, VectorsGiveTheBitsOfTheReference) {
  if (!have_avx512()) GTEST_SKIP() << "this CPU lacks AVX-512";
  std::mt19937 random(53);
  for (int round = 0; round < 1500; ++round) {
    const Rows rows = make_rows(random);
    const auto dtype = static_cast<int32_t>(1 + random() % 3);
    const auto style = static_cast<int32_t>(1 + random() % 2);
    const uint32_t rotary = random() % 4 == 0
                                ? 2 * static_cast<uint32_t>(random() % (rows.dims / 2 + 1))
                                : rows.dims / 2 * 2;
    ASSERT_EQ(rotated(*quire_kernels::avx512_rows(), rows, dtype, style, rotary),
              rotated(*quire_kernels::scalar_rows(), rows, dtype, style, rotary))
        << "round " << round << " dims " << rows.dims << " from " << rows.from_dtype << " to "
        << dtype << " style " << style << " rotary " << rotary;
  }
}

TEST(RotateElements, NanStaysNan) {
  std::vector<const quire_kernels::RowOps*> all = {quire_kernels::scalar_rows()};
  if (have_avx512()) all.push_back(quire_kernels::avx512_rows());
  for (const auto* ops : all)
    for (const uint32_t dims : {6u, 64u, 128u})
      for (const uint32_t nan : {0x7fc00000u, 0x7fffffffu, 0xffffffffu, 0x7f800001u})
        for (uint32_t at = 0; at < dims; at += 5) {
          Rows rows{dims, 1, QUIRE_DTYPE_F32, std::vector<Byte>(dims * 4), {}, {0}};
          std::memcpy(&rows.elements[at * 4], &nan, 4);
          rows.angles.assign(dims, 0.5f);
          for (const uint32_t rotary : {0u, dims}) {
            const auto out = rotated(*ops, rows, QUIRE_DTYPE_BF16, QUIRE_ROPE_STYLE_NEOX, rotary);
            uint16_t bits;
            std::memcpy(&bits, &out[at * 2], 2);
            ASSERT_GT(bits & 0x7fff, 0x7f80) << ops->name << " dim " << at;
          }
        }
}

}  // namespace
}  // namespace quire_kernels_test
