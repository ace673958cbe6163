// A second decoder of quantised sections, written from docs/formats/codecs.md alone: it shares no
// code with the kernels. Slow and plain on purpose.
#ifndef QUIRE_TESTS_KERNELS_REFERENCE_DECODER_H_
#define QUIRE_TESTS_KERNELS_REFERENCE_DECODER_H_

#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/kernels/section_fixture.h"

namespace quire_kernels_test {

struct CodecName {
  int32_t codec;
  const char* name;
};
inline constexpr CodecName kQuantised[] = {
    {16, "int8_channel"},    {17, "fp8_token"},       {32, "int4_channel64"},
    {33, "int4_channel128"}, {34, "int4_kivi"},       {35, "int4_hadamard"},
    {36, "int4_centred"},    {48, "int3_channel64"},  {56, "int2_channel32"},
    {57, "int2_kivi"},       {64, "mixed_int8_int4"}, {65, "mixed_int8_int2"}};

// One element: its value, the step of its code (before transforms are undone), what a step is
// multiplied by afterwards, and the order of the Hadamard block it was in.
struct DecodedElement {
  float value = 0;
  double step = 0;
  double weight = 1;
  uint32_t order = 1;
  bool fp8 = false;
};

class ReferenceDecoder {
 public:
  // [head][token][dim].
  static std::vector<DecodedElement> decode(int32_t codec, int32_t plane, Shape shape,
                                            const uint8_t* bytes) {
    ReferenceDecoder decoder{shape, bytes, {}};
    decoder.elements_.resize(uint64_t{shape.heads} * shape.tokens * shape.dims);
    decoder.section(codec, plane);
    return decoder.elements_;
  }

 private:
  ReferenceDecoder(Shape shape, const uint8_t* bytes, std::vector<DecodedElement> elements)
      : shape_(shape), at_(bytes), elements_(std::move(elements)) {}

  static uint64_t pad(uint64_t n) { return (n + 63) / 64 * 64; }
  static float half(const uint8_t* from) { return widen(QUIRE_DTYPE_F16, from); }
  static float single(const uint8_t* from) { return widen(QUIRE_DTYPE_F32, from); }
  static uint64_t row_bytes(uint32_t dims, uint32_t bits) {
    return bits == 8 ? dims : uint64_t{bits} * ((dims + 7) / 8);
  }

  static uint32_t code(const uint8_t* row, uint32_t bits, uint32_t dim) {
    if (bits == 8) return row[dim];
    const uint32_t e = dim % 8;
    const uint32_t first = bits == 4 ? 4 * (e / 2 + 4 * (e % 2)) : bits * e;
    uint32_t value = 0;
    for (uint32_t bit = 0; bit < bits; ++bit) {
      const uint32_t position = first + bit;
      const uint8_t byte = row[uint64_t{dim / 8} * bits + position / 8];
      value |= (byte >> (position % 8) & 1u) << bit;
    }
    return value;
  }

  static uint32_t block_order(uint32_t dims, uint32_t most) {
    uint32_t order = 1;
    while (order * 2 <= most && dims % (order * 2) == 0) order *= 2;
    return order;
  }

  static void hadamard(std::vector<float>& x, uint32_t order) {
    if (order == 1) return;
    for (uint32_t w = 1; w < order; w *= 2)
      for (uint32_t i = 0; i < x.size(); ++i)
        if (i / w % 2 == 0) {
          const float a = x[i];
          const float b = x[i + w];
          x[i] = a + b;
          x[i + w] = a - b;
        }
    const auto factor = static_cast<float>(1 / std::sqrt(static_cast<double>(order)));
    for (float& value : x) value *= factor;
  }

  DecodedElement& element(uint32_t head, uint32_t token, uint32_t dim) {
    return elements_[(uint64_t{head} * shape_.tokens + token) * shape_.dims + dim];
  }

  void section(int32_t codec, int32_t plane) {
    const bool key = plane == QUIRE_PLANE_KEY;
    switch (codec) {
      case 16:
        return key ? channel(8, 256, true) : token(8, shape_.dims, 1);
      case 17:
        return fp8();
      case 32:
        return key ? channel(4, 64, false) : token(4, shape_.dims, 64);
      case 33:
        return key ? channel(4, 128, false) : token(4, shape_.dims, 64);
      case 34:
        return key ? channel(4, 32, false) : token(4, 32, 1);
      case 35:
        return token(4, shape_.dims, 64);
      case 36:
        return key ? centred() : token(4, shape_.dims, 64);
      case 48:
        return key ? channel(3, 64, false) : token(3, shape_.dims, 64);
      case 56:
        return key ? channel(2, 32, false) : token(2, shape_.dims, 64);
      case 57:
        return key ? channel(2, 32, false) : token(2, 32, 1);
      case 64:
        return mixed(plane, 32);
      case 65:
        return mixed(plane, 56);
      default:
        ADD_FAILURE() << "codec " << codec;
    }
  }

  void channel(uint32_t bits, uint32_t run, bool wide) {
    const uint32_t dims = shape_.dims;
    for (uint32_t head = 0; head < shape_.heads; ++head)
      for (uint32_t begin = 0; begin < shape_.tokens; begin += run) {
        const uint32_t n = std::min(run, shape_.tokens - begin);
        const uint8_t* codes = at_ + (wide ? 2 : 1) * pad(4ull * dims);
        for (uint32_t i = 0; i < n; ++i)
          for (uint32_t dim = 0; dim < dims; ++dim) {
            const float zero = wide ? single(at_ + 4ull * dim) : half(at_ + 4ull * dim);
            const float scale =
                wide ? single(at_ + pad(4ull * dims) + 4ull * dim) : half(at_ + 4ull * dim + 2);
            const auto steps =
                static_cast<float>(code(codes + i * row_bytes(dims, bits), bits, dim));
            const float product = steps * scale;
            element(head, begin + i, dim) = {product + zero, scale};
          }
        at_ = codes + pad(n * row_bytes(dims, bits));
      }
  }

  void token(uint32_t bits, uint32_t group, uint32_t most) {
    const uint32_t dims = shape_.dims;
    const uint32_t groups = (dims + group - 1) / group;
    const uint32_t order = block_order(dims, most);
    for (uint32_t head = 0; head < shape_.heads; ++head) {
      const uint8_t* codes = at_ + pad(4ull * shape_.tokens * groups);
      for (uint32_t i = 0; i < shape_.tokens; ++i) {
        std::vector<float> row(dims);
        for (uint32_t dim = 0; dim < dims; ++dim) {
          const uint8_t* side = at_ + 4 * (uint64_t{i} * groups + dim / group);
          const auto steps = static_cast<float>(code(codes + i * row_bytes(dims, bits), bits, dim));
          const float product = steps * half(side + 2);
          row[dim] = product + half(side);
          element(head, i, dim) = {0, half(side + 2), 1, order};
        }
        hadamard(row, order);
        for (uint32_t dim = 0; dim < dims; ++dim) element(head, i, dim).value = row[dim];
      }
      at_ = codes + pad(shape_.tokens * row_bytes(dims, bits));
    }
  }

  void centred() {
    const uint32_t dims = shape_.dims;
    const uint32_t order = block_order(dims, 32);
    for (uint32_t head = 0; head < shape_.heads; ++head)
      for (uint32_t begin = 0; begin < shape_.tokens; begin += 256) {
        const uint32_t n = std::min(256u, shape_.tokens - begin);
        const uint8_t* side = at_ + pad(4ull * dims);
        const uint8_t* codes = side + pad(4ull * n);
        for (uint32_t i = 0; i < n; ++i) {
          std::vector<float> row(dims);
          for (uint32_t dim = 0; dim < dims; ++dim) {
            const auto steps = static_cast<float>(code(codes + i * row_bytes(dims, 4), 4, dim));
            const float product = steps * half(side + 4ull * i + 2);
            row[dim] = product + half(side + 4ull * i);
          }
          hadamard(row, order);
          for (uint32_t dim = 0; dim < dims; ++dim) {
            const float deviation = half(at_ + 4ull * dim + 2);
            const float product = row[dim] * deviation;
            element(head, begin + i, dim) = {product + half(at_ + 4ull * dim),
                                             half(side + 4ull * i + 2), deviation, order};
          }
        }
        at_ = codes + pad(n * row_bytes(dims, 4));
      }
  }

  void fp8() {
    const uint32_t dims = shape_.dims;
    for (uint32_t head = 0; head < shape_.heads; ++head) {
      const uint8_t* codes = at_ + pad(2ull * shape_.tokens);
      for (uint32_t i = 0; i < shape_.tokens; ++i)
        for (uint32_t dim = 0; dim < dims; ++dim) {
          const uint8_t c = codes[uint64_t{i} * dims + dim];
          const int exponent = c >> 3 & 15;
          const double magnitude =
              exponent == 0 ? std::ldexp(c & 7, -9) : std::ldexp(8 + (c & 7), exponent - 10);
          const float scale = half(at_ + 2ull * i);
          const auto value = static_cast<float>(c & 0x80 ? -magnitude : magnitude);
          element(head, i, dim) = {value * scale, scale, 1, 1, true};
        }
      at_ = codes + pad(uint64_t{shape_.tokens} * dims);
    }
  }

  void mixed(int32_t plane, int32_t other) {
    const uint8_t* map = at_ + 64;
    std::vector<uint32_t> tokens[2];
    for (uint32_t i = 0; i < shape_.tokens; ++i) tokens[map[i / 8] >> (i % 8) & 1].push_back(i);
    at_ = map + pad((shape_.tokens + 7) / 8);
    for (const int salient : {1, 0}) {
      if (tokens[salient].empty()) continue;
      const int32_t codec = salient ? 16 : other;
      const Shape part{static_cast<uint32_t>(tokens[salient].size()), shape_.heads, shape_.dims};
      const auto elements = decode(codec, plane, part, at_);
      for (uint32_t head = 0; head < part.heads; ++head)
        for (uint32_t i = 0; i < part.tokens; ++i)
          for (uint32_t dim = 0; dim < part.dims; ++dim)
            element(head, tokens[salient][i], dim) =
                elements[(uint64_t{head} * part.tokens + i) * part.dims + dim];
      at_ += quire_section_bytes(codec, plane, part.tokens, part.heads, part.dims);
    }
  }

  Shape shape_;
  const uint8_t* at_;
  std::vector<DecodedElement> elements_;
};

// Every third token or so is salient; the same for every test that asks.
inline std::vector<uint8_t> salient_tokens(uint32_t tokens) {
  std::vector<uint8_t> marks(tokens);
  for (uint32_t i = 0; i < tokens; ++i) marks[i] = (i * 2654435761u >> 28) < 5 ? 1 + i % 255 : 0;
  return marks;
}

}  // namespace quire_kernels_test

#endif  // QUIRE_TESTS_KERNELS_REFERENCE_DECODER_H_
