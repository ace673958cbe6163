// Engine memory and sections for the kernels' tests: seeded contents, strides of the layouts that
// engines use, and an fp64 oracle of what a load must give.
#ifndef QUIRE_TESTS_KERNELS_SECTION_FIXTURE_H_
#define QUIRE_TESTS_KERNELS_SECTION_FIXTURE_H_

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/quire_kernels.h"

namespace quire_kernels_test {

inline constexpr uint64_t kSeed = 20240607;

inline uint32_t element_size(int32_t dtype) {
  return dtype == QUIRE_DTYPE_F32 ? 4 : 2;
}

// Conversions of the tests' own: exact widening, and narrowing by the compiler's half type where it
// has one, so that the kernels are not checked against themselves.
inline float widen(int32_t dtype, const uint8_t* element) {
  if (dtype == QUIRE_DTYPE_F16) {
    _Float16 value;
    std::memcpy(&value, element, 2);
    return static_cast<float>(value);
  }
  uint32_t bits = 0;
  if (dtype == QUIRE_DTYPE_BF16)
    std::memcpy(reinterpret_cast<uint8_t*>(&bits) + 2, element, 2);
  else
    std::memcpy(&bits, element, 4);
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline void narrow(int32_t dtype, float value, uint8_t* element) {
  if (dtype == QUIRE_DTYPE_F16) {
    const auto half = static_cast<_Float16>(value);
    std::memcpy(element, &half, 2);
    return;
  }
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (dtype == QUIRE_DTYPE_F32) {
    std::memcpy(element, &bits, 4);
    return;
  }
  const uint32_t low = bits & 0xffff;
  bits >>= 16;
  if (low > 0x8000 || (low == 0x8000 && (bits & 1))) ++bits;
  std::memcpy(element, &bits, 2);
}

// What rounding to the dtype may cost a value.
inline double half_step(int32_t dtype, double value) {
  const double magnitude = std::fabs(value);
  if (dtype == QUIRE_DTYPE_F16) return std::max(magnitude * 0x1p-11, 0x1p-25);
  if (dtype == QUIRE_DTYPE_BF16) return magnitude * 0x1p-8;
  return magnitude * 0x1p-24;
}

struct Shape {
  uint32_t tokens = 1;
  uint32_t heads = 1;
  uint32_t dims = 1;
};

// Engine memory of `rows` token rows, every byte of it filled with a canary.
struct Engine {
  static constexpr uint8_t kCanary = 0xA5;

  Engine(int32_t element_type, Shape shape, int64_t row_count, bool transposed_layout)
      : dtype(element_type), heads(shape.heads), dims(shape.dims), rows(row_count) {
    const int64_t size = element_size(dtype);
    if (transposed_layout) {
      token_stride = size;
      dim_stride = rows * size;
      head_stride = dim_stride * dims;
    } else {
      dim_stride = size;
      head_stride = size * dims + size;  // one element of gap, which must stay untouched
      token_stride = head_stride * heads;
    }
    const int64_t extent = (rows - 1) * token_stride + (heads - 1) * head_stride +
                           (static_cast<int64_t>(dims) - 1) * dim_stride + size;
    bytes.assign(static_cast<size_t>(extent + 2 * kMargin), kCanary);
  }

  uint8_t* data() { return bytes.data() + kMargin; }
  uint8_t* at(int64_t row, uint32_t head, uint32_t dim) {
    return data() + row * token_stride + head * head_stride + dim * dim_stride;
  }
  float value(int64_t row, uint32_t head, uint32_t dim) { return widen(dtype, at(row, head, dim)); }
  void set(int64_t row, uint32_t head, uint32_t dim, float value) {
    narrow(dtype, value, at(row, head, dim));
  }

  static constexpr int64_t kMargin = 129;  // odd: engines promise no alignment
  int32_t dtype;
  uint32_t heads;
  uint32_t dims;
  int64_t rows;
  int64_t token_stride = 0;
  int64_t head_stride = 0;
  int64_t dim_stride = 0;
  std::vector<uint8_t> bytes;
};

// Values like those of real keys: a constant channel of 217, an outlier token, a channel of zeros,
// small and large spreads.
inline void fill_like_keys(Engine& engine, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  for (uint32_t head = 0; head < engine.heads; ++head)
    for (uint32_t dim = 0; dim < engine.dims; ++dim) {
      const float mean = 4 * normal(random);
      const float spread = std::exp(normal(random));
      for (int64_t row = 0; row < engine.rows; ++row) {
        float value = mean + spread * normal(random);
        if (dim == 1) value = 217.0f;
        if (dim == 2) value = 0.0f;
        if (dim == 3) value = 1e-4f * normal(random);
        if (row == 0 && dim % 8 == 5) value *= 30;
        engine.set(row, head, dim, value);
      }
    }
}

// Sections are uint32_t vectors: 4-byte aligned as the contract asks, no more.
struct Section {
  Section(int32_t codec_id, int32_t plane_id, Shape section_shape)
      : codec(codec_id), plane(plane_id), shape(section_shape) {
    capacity = quire_section_bytes_max(codec, plane, shape.tokens, shape.heads, shape.dims);
    size = capacity;
    words.assign(capacity / 4 + 1, 0xcdcdcdcd);
  }
  uint8_t* data() { return reinterpret_cast<uint8_t*>(words.data()); }
  std::vector<uint8_t> copy() { return {data(), data() + size}; }

  int32_t codec;
  int32_t plane;
  Shape shape;
  uint64_t capacity = 0;
  uint64_t size = 0;  // a store writes it where sizes vary
  std::vector<uint32_t> words;
};

inline quire_load_params load_params(Section& section, Engine& engine) {
  quire_load_params p{};
  p.struct_bytes = sizeof(p);
  p.codec = section.codec;
  p.plane = section.plane;
  p.n_tokens = section.shape.tokens;
  p.n_heads = section.shape.heads;
  p.head_dim = section.shape.dims;
  p.token_end = section.shape.tokens;
  p.dst_dtype = engine.dtype;
  p.src = section.data();
  p.src_bytes = section.size;
  p.dst = engine.data();
  p.dst_tokens = engine.rows;
  p.dst_token_stride = engine.token_stride;
  p.dst_head_stride = engine.head_stride;
  p.dst_dim_stride = engine.dim_stride;
  return p;
}

inline quire_store_params store_params(Engine& engine, Section& section) {
  quire_store_params p{};
  p.struct_bytes = sizeof(p);
  p.codec = section.codec;
  p.plane = section.plane;
  p.n_tokens = section.shape.tokens;
  p.n_heads = section.shape.heads;
  p.head_dim = section.shape.dims;
  p.src_dtype = engine.dtype;
  p.src = engine.data();
  p.src_tokens = engine.rows;
  p.src_token_stride = engine.token_stride;
  p.src_head_stride = engine.head_stride;
  p.src_dim_stride = engine.dim_stride;
  p.dst = section.data();
  p.dst_bytes = section.capacity;
  p.dst_written = &section.size;
  return p;
}

inline std::vector<float> frequencies(uint32_t rotary_dims, double base = 1e4) {
  std::vector<float> result(rotary_dims / 2);
  for (uint32_t i = 0; i < result.size(); ++i)
    result[i] = static_cast<float>(std::pow(base, -2.0 * i / rotary_dims));
  return result;
}

// An exact-mode table; flags and positions as in quire_rope_params.
inline std::vector<float> exact_table(uint32_t rotary_dims, uint32_t flags, int64_t src_pos,
                                      int64_t dst_pos, uint32_t n_tokens) {
  const std::vector<float> inverse = frequencies(rotary_dims);
  std::vector<float> table(uint64_t{n_tokens} * rotary_dims);
  quire_rope_params p{};
  p.struct_bytes = sizeof(p);
  p.mode = QUIRE_ROPE_MODE_EXACT;
  p.flags = flags;
  p.src_pos = src_pos;
  p.dst_pos = dst_pos;
  p.n_tokens = n_tokens;
  p.rotary_dims = rotary_dims;
  p.inverse_frequencies = inverse.data();
  p.table = table.data();
  p.table_bytes = table.size() * 4;
  EXPECT_EQ(quire_rope_table(&p), QUIRE_KERNEL_OK);
  return table;
}

// x rotated by angle position * frequency, in fp64.
inline std::vector<double> rotated(const std::vector<double>& x, int32_t style,
                                   uint32_t rotary_dims, int64_t position) {
  const std::vector<float> inverse = frequencies(rotary_dims);
  std::vector<double> y = x;
  for (uint32_t j = 0; j < rotary_dims / 2; ++j) {
    const uint32_t a = style == QUIRE_ROPE_STYLE_NEOX ? j : 2 * j;
    const uint32_t b = style == QUIRE_ROPE_STYLE_NEOX ? j + rotary_dims / 2 : 2 * j + 1;
    const double angle = static_cast<double>(position) * static_cast<double>(inverse[j]);
    y[a] = x[a] * std::cos(angle) - x[b] * std::sin(angle);
    y[b] = x[a] * std::sin(angle) + x[b] * std::cos(angle);
  }
  return y;
}

inline bool have_avx512() {
  const bool have = quire_kernel_select(QUIRE_ISA_AVX512) == QUIRE_KERNEL_OK;
  quire_kernel_select(QUIRE_ISA_BEST);
  return have;
}

// Runs each test under each implementation the machine has.
class BothImplementations : public ::testing::TestWithParam<int32_t> {
 protected:
  void SetUp() override {
    if (quire_kernel_select(GetParam()) != QUIRE_KERNEL_OK)
      GTEST_SKIP() << "this CPU lacks AVX-512";
    RecordProperty("seed", static_cast<int>(kSeed));
  }
  void TearDown() override { quire_kernel_select(QUIRE_ISA_BEST); }
  std::mt19937_64 random_{kSeed};
};

}  // namespace quire_kernels_test

#endif  // QUIRE_TESTS_KERNELS_SECTION_FIXTURE_H_
