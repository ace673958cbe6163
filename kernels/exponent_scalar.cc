// The reference of the lossless bf16 codecs.
#include <string.h>

#include "kernels/exponent_ops.h"
#include "kernels/math/pack.h"

namespace quire_kernels {
namespace {

inline uint32_t element_at(const Byte* elements, uint64_t i) {
  return elements[2 * i] | static_cast<uint32_t>(elements[2 * i + 1]) << 8;
}
inline Byte exponent_of(uint32_t element) {
  return static_cast<Byte>(element >> 7);
}

inline Byte sign_mantissa_of(uint32_t element) {
  return static_cast<Byte>((element >> 8 & 0x80) | (element & 0x7f));
}

void split(const EncodeRows& rows, uint32_t n_rows, uint32_t head_dim, Byte* sign_mantissa,
           Byte* exponents, Byte* tops) {
  for (uint32_t row = 0; row < n_rows; ++row)
    for (uint32_t d = 0; d < head_dim; ++d) {
      const uint32_t element = element_at(rows.elements[row], d);
      const Byte exponent = exponent_of(element);
      *sign_mantissa++ = sign_mantissa_of(element);
      *exponents++ = exponent;
      if (exponent > tops[d]) tops[d] = exponent;
    }
}

void count_exponents(const EncodeRows& rows, uint32_t n_rows, uint32_t head_dim,
                     uint64_t* counters) {
  for (uint32_t row = 0; row < n_rows; ++row)
    for (uint32_t d = 0; d < head_dim; ++d)
      ++counters[exponent_of(element_at(rows.elements[row], d))];
}

void count(const Byte* exponents, uint64_t n, uint64_t* counters) {
  for (uint64_t i = 0; i < n; ++i) ++counters[exponents[i]];
}

uint64_t count_escapes(const Byte* codes, uint64_t n_rows, uint32_t head_dim, uint32_t bits) {
  const uint64_t row_bytes = code_row_bytes(head_dim, bits);
  const uint32_t escape = (1u << bits) - 1;
  uint64_t count = 0;
  for (uint64_t row = 0; row < n_rows; ++row, codes += row_bytes)
    for (uint32_t begin = 0; begin < head_dim; begin += kGroupCodes) {
      const uint64_t group = group_integer(codes + uint64_t{begin / kGroupCodes} * bits, bits);
      for (uint32_t e = 0; e < kGroupCodes && begin + e < head_dim; ++e)
        count += ((group >> code_shift(bits, e)) & escape) == escape;
    }
  return count;
}

// code(exponent, dim); false when there are too many escapes.
template <typename Code>
bool encode_row(const ExponentRows& format, const Byte* exponents, Byte* codes,
                EscapeWriter* escapes, Code code) {
  for (uint32_t begin = 0; begin < format.head_dim; begin += kGroupCodes) {
    Byte group[kGroupCodes];
    uint32_t n = format.head_dim - begin;
    if (n > kGroupCodes) n = kGroupCodes;
    for (uint32_t e = 0; e < n; ++e) {
      const Byte exponent = exponents[begin + e];
      group[e] = code(exponent, begin + e);
      if (group[e] != (1u << format.bits) - 1) continue;
      escapes->escapes[escapes->n++] = exponent;
      if (escapes->n > escapes->max) return false;
    }
    pack_row(group, n, format.bits, codes + uint64_t{begin / kGroupCodes} * format.bits);
  }
  return true;
}

bool encode(const ExponentRows& format, const EncodeRows& rows, Byte* sign_mantissa, Byte* codes,
            EscapeWriter* escapes) {
  Byte largest = 0;
  for (uint32_t row = 0; row < format.n_rows; ++row) {
    Byte exponents[QUIRE_KERNEL_DIMS_MAX];
    for (uint32_t d = 0; d < format.head_dim; ++d) {
      const uint32_t element = element_at(rows.elements[row], d);
      *sign_mantissa++ = sign_mantissa_of(element);
      exponents[d] = exponent_of(element);
      if (exponents[d] > largest) largest = exponents[d];
    }
    const auto code = [&](Byte exponent, uint32_t) { return format.code_of[exponent]; };
    if (!encode_row(format, exponents, codes, escapes, code)) return largest == 255;
    codes += code_row_bytes(format.head_dim, format.bits);
  }
  return largest == 255;
}

void encode_below_tops(const ExponentRows& format, const Byte* exponents, Byte* codes,
                       EscapeWriter* escapes) {
  const uint32_t escape = (1u << format.bits) - 1;
  const auto code = [&](Byte exponent, uint32_t d) {
    const uint32_t below = format.tops[d] - uint32_t{exponent};
    return static_cast<Byte>(below < escape ? below : escape);
  };
  for (uint32_t row = 0; row < format.n_rows; ++row, exponents += format.head_dim) {
    if (!encode_row(format, exponents, codes, escapes, code)) return;
    codes += code_row_bytes(format.head_dim, format.bits);
  }
}

uint64_t decode(const ExponentRows& rows, const Byte* sign_mantissa, const Byte* codes,
                const Byte* escapes, uint64_t n_escapes, Byte* const* elements) {
  const uint64_t row_bytes = code_row_bytes(rows.head_dim, rows.bits);
  const uint32_t escape = (1u << rows.bits) - 1;
  uint64_t taken = 0;
  for (uint32_t row = 0; row < rows.n_rows; ++row) {
    Byte* out = elements[row];
    for (uint32_t begin = 0; begin < rows.head_dim; begin += kGroupCodes) {
      const uint64_t group =
          group_integer(codes + uint64_t{begin / kGroupCodes} * rows.bits, rows.bits);
      for (uint32_t e = 0; e < kGroupCodes && begin + e < rows.head_dim; ++e) {
        const uint32_t d = begin + e;
        const uint32_t code = static_cast<uint32_t>(group >> code_shift(rows.bits, e)) & escape;
        uint32_t exponent;
        if (code == escape) {
          exponent = taken < n_escapes ? escapes[taken] : 0;
          ++taken;
        } else {
          exponent = rows.bits == 4 ? rows.exponents[code] : rows.tops[d] - code;
        }
        const uint32_t rest = sign_mantissa[d];
        out[2 * d] = static_cast<Byte>(exponent << 7 | (rest & 0x7f));
        out[2 * d + 1] = static_cast<Byte>((rest & 0x80) | exponent >> 1);
      }
    }
    sign_mantissa += rows.head_dim;
    codes += row_bytes;
  }
  return taken;
}

constexpr ExponentOps kOps = {
    "scalar", split, count_exponents, count, count_escapes, encode, encode_below_tops, decode,
};

}  // namespace

const ExponentOps* scalar_exponent_ops() {
  return &kOps;
}

}  // namespace quire_kernels
