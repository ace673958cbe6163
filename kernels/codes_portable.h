// Rows of codes in plain C++; see rows_portable.h, which includes it.
#ifndef QUIRE_KERNELS_CODES_PORTABLE_H_
#define QUIRE_KERNELS_CODES_PORTABLE_H_

#include <string.h>

#include "kernels/math/bits.h"
#include "kernels/math/hadamard.h"
#include "kernels/math/pack.h"
#include "kernels/math/quantise.h"
#include "kernels/rows.h"

namespace quire_kernels {
namespace {

void narrow(int32_t dtype, const float* row, Byte* dst, uint32_t n);
void rotate(int32_t style, const float* table, float* row, uint32_t rotary_dims);

float half_at(const Byte* src, uint64_t index) {
  uint16_t bits;
  memcpy(&bits, src + index * 2, 2);
  return half_to_float(bits);
}

uint32_t group_end(const RowFormat& format, uint32_t begin) {
  const uint32_t left = format.n - begin;
  return begin + (left < format.group_dims ? left : format.group_dims);
}

void finish(const RowFormat& format, const float* table, float* row, Byte* out) {
  if (table != nullptr) rotate(format.style, table, row, format.rotary_dims);
  narrow(format.dtype, row, out, format.n);
}

void unpack(const Byte* codes, uint32_t bits, uint32_t n, Byte* out) {
  if (bits == 8) {
    memcpy(out, codes, n);
    return;
  }
  const uint32_t top = (1u << bits) - 1;
  for (uint32_t begin = 0; begin < n; begin += kGroupCodes, codes += bits) {
    const uint64_t group = group_integer(codes, bits);
    for (uint32_t e = 0; e < kGroupCodes && begin + e < n; ++e)
      out[begin + e] = static_cast<Byte>((group >> code_shift(bits, e)) & top);
  }
}

void decode_groups(const RowFormat& format, const Byte* codes, const Byte* side, float* row) {
  Byte unpacked[QUIRE_KERNEL_DIMS_MAX];
  unpack(codes, format.bits, format.n, unpacked);
  for (uint32_t begin = 0; begin < format.n; begin += format.group_dims, side += 4) {
    const float zero = half_at(side, 0);
    const float scale = half_at(side, 1);
    const uint32_t end = group_end(format, begin);
    for (uint32_t i = begin; i < end; ++i) row[i] = decode_code(unpacked[i], zero, scale);
  }
  hadamard_row(row, format.n, format.order);
}

void widen_pairs(const Byte* pairs, float* first, float* second, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) {
    first[i] = half_at(pairs, 2 * i);
    second[i] = half_at(pairs, 2 * i + 1);
  }
}

uint32_t max_affine_bits(const Byte* pairs, uint64_t n, uint32_t top) {
  uint32_t result = 0;
  for (uint64_t i = 0; i < n; ++i) {
    const float zero = half_at(pairs, 2 * i);
    const float end = decode_code(top, zero, half_at(pairs, 2 * i + 1));
    const uint32_t zero_bits = float_bits(zero) & 0x7fffffff;
    const uint32_t end_bits = float_bits(end) & 0x7fffffff;
    const uint32_t bits = zero_bits > end_bits ? zero_bits : end_bits;
    result = bits > result ? bits : result;
  }
  return result;
}

bool has_fp8_nan(const Byte* codes, uint64_t n) {
  bool found = false;
  for (uint64_t i = 0; i < n; ++i) found |= fp8_is_nan(codes[i]);
  return found;
}

void decode_channel(const RowFormat& format, const float* zeros, const float* scales,
                    const CodeRows& rows) {
  float row[QUIRE_KERNEL_DIMS_MAX];
  Byte unpacked[QUIRE_KERNEL_DIMS_MAX];
  for (uint32_t r = 0; r < rows.n; ++r) {
    unpack(rows.codes[r], format.bits, format.n, unpacked);
    for (uint32_t i = 0; i < format.n; ++i) row[i] = decode_code(unpacked[i], zeros[i], scales[i]);
    finish(format, rows.table[r], row, rows.out[r]);
  }
}

void decode_token(const RowFormat& format, const CodeRows& rows) {
  float row[QUIRE_KERNEL_DIMS_MAX];
  for (uint32_t r = 0; r < rows.n; ++r) {
    decode_groups(format, rows.codes[r], rows.side[r], row);
    finish(format, rows.table[r], row, rows.out[r]);
  }
}

void decode_normalised(const RowFormat& format, const float* means, const float* deviations,
                       const CodeRows& rows) {
  float row[QUIRE_KERNEL_DIMS_MAX];
  for (uint32_t r = 0; r < rows.n; ++r) {
    decode_groups(format, rows.codes[r], rows.side[r], row);
    for (uint32_t i = 0; i < format.n; ++i) {
      const float product = row[i] * deviations[i];
      row[i] = product + means[i];
    }
    finish(format, rows.table[r], row, rows.out[r]);
  }
}

void decode_fp8(const RowFormat& format, const CodeRows& rows) {
  float row[QUIRE_KERNEL_DIMS_MAX];
  for (uint32_t r = 0; r < rows.n; ++r) {
    const float scale = half_at(rows.side[r], 0);
    for (uint32_t i = 0; i < format.n; ++i) row[i] = fp8_to_float(rows.codes[r][i]) * scale;
    finish(format, rows.table[r], row, rows.out[r]);
  }
}

void turn_range(float* row, uint32_t n, uint32_t order, float* minimum, float* maximum) {
  constexpr uint32_t kLanes = 8;  // apart, so that they can be found side by side
  hadamard_row(row, n, order);
  float low[kLanes];
  float high[kLanes];
  for (uint32_t lane = 0; lane < kLanes; ++lane) low[lane] = high[lane] = row[0];
  uint32_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      const float value = row[i + lane];
      low[lane] = value < low[lane] ? value : low[lane];
      high[lane] = value > high[lane] ? value : high[lane];
    }
  for (; i < n; ++i) {
    low[0] = row[i] < low[0] ? row[i] : low[0];
    high[0] = row[i] > high[0] ? row[i] : high[0];
  }
  for (uint32_t lane = 1; lane < kLanes; ++lane) {
    low[0] = low[lane] < low[0] ? low[lane] : low[0];
    high[0] = high[lane] > high[0] ? high[lane] : high[0];
  }
  *minimum = low[0];
  *maximum = high[0];
}

bool affine_halves(const float* minimums, const float* maximums, uint32_t n, uint32_t top,
                   Byte* pairs) {
  for (uint32_t i = 0; i < n; ++i) {
    uint16_t pair[2];
    if (!half_affine(minimums[i], maximums[i], top, &pair[0], &pair[1])) return false;
    memcpy(pairs + 4ull * i, pair, 4);
  }
  return true;
}

void normalise(float* row, const float* means, const float* deviations, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) {
    const float difference = row[i] - means[i];
    row[i] = difference / deviations[i];
  }
}

void encode_channel(const RowFormat& format, const float* rows, uint32_t n_rows, const float* zeros,
                    const float* scales, Byte* codes) {
  Byte unpacked[QUIRE_KERNEL_DIMS_MAX];
  const uint32_t top = (1u << format.bits) - 1;
  for (uint32_t r = 0; r < n_rows; ++r, rows += format.n) {
    for (uint32_t i = 0; i < format.n; ++i)
      unpacked[i] = static_cast<Byte>(encode_code(rows[i], zeros[i], scales[i], top));
    pack_row(unpacked, format.n, format.bits, codes);
    codes += code_row_bytes(format.n, format.bits);
  }
}

void encode_token(const RowFormat& format, const float* rows, uint32_t n_rows, const Byte* pairs,
                  Byte* codes) {
  Byte unpacked[QUIRE_KERNEL_DIMS_MAX];
  const uint32_t top = (1u << format.bits) - 1;
  for (uint32_t r = 0; r < n_rows; ++r, rows += format.n) {
    for (uint32_t begin = 0; begin < format.n; begin += format.group_dims, pairs += 4) {
      const float zero = half_at(pairs, 0);
      const float scale = half_at(pairs, 1);
      const uint32_t end = group_end(format, begin);
      for (uint32_t i = begin; i < end; ++i)
        unpacked[i] = static_cast<Byte>(encode_code(rows[i], zero, scale, top));
    }
    pack_row(unpacked, format.n, format.bits, codes);
    codes += code_row_bytes(format.n, format.bits);
  }
}

void encode_fp8(const float* row, float scale, Byte* codes, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) codes[i] = scale == 0 ? 0 : float_to_fp8(row[i] / scale);
}

}  // namespace
}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_CODES_PORTABLE_H_
