#include "kernels/exponent.h"

#include <stddef.h>
#include <string.h>

#include "kernels/exponent_ops.h"
#include "kernels/exponent_section.h"

namespace quire_kernels {
namespace {

// Exponents up to this one are below fp16's largest number / sqrt(2), the least of all limits that
// a load compares with: no need to know the largest element better.
constexpr uint32_t kHarmlessExponent = 141;

uint32_t get_u32(const Byte* from) {
  uint32_t value;
  memcpy(&value, from, 4);
  return value;
}

const ExponentOps* best_exponent_ops() {
  const ExponentOps* ops = nullptr;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    if (__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2")) {
      if (__builtin_cpu_supports("avx512bf16")) ops = rotating_exponent_ops();
      if (ops == nullptr) ops = vbmi2_exponent_ops();
    }
    if (ops == nullptr) ops = avx512_exponent_ops();
  }
#endif
  return ops != nullptr ? ops : scalar_exponent_ops();
}

bool is_zero(const Byte* bytes, uint64_t n) {
  Byte any = 0;
  for (uint64_t i = 0; i < n; ++i) any |= bytes[i];
  return any == 0;
}

uint32_t largest_byte(const Byte* bytes, uint64_t n) {
  Byte largest = 0;
  for (uint64_t i = 0; i < n; ++i) largest = bytes[i] > largest ? bytes[i] : largest;
  return largest;
}

uint32_t smallest_byte(const Byte* bytes, uint64_t n) {
  Byte smallest = 255;
  for (uint64_t i = 0; i < n; ++i) smallest = bytes[i] < smallest ? bytes[i] : smallest;
  return smallest;
}

uint64_t lesser(uint64_t a, uint64_t b) {
  return a < b ? a : b;
}

// The escape codes of every block of rows are as many as the index says.
bool index_fits(const ExponentShape& shape, const Byte* section, const ExponentSection& s) {
  const ExponentOps& ops = *active_exponent_ops();
  const Byte* index = section + s.at.escape_index;
  if (get_u32(index) != 0) return false;
  for (uint64_t k = 0; k < s.index_entries; ++k) {
    const uint64_t first = k * kEscapeIndexRows;
    const uint64_t rows = lesser(s.rows - first, kEscapeIndexRows);
    const uint64_t end =
        k + 1 < s.index_entries ? get_u32(index + 4 * (k + 1)) : uint64_t{s.n_escapes};
    const uint64_t count = ops.count_escapes(section + s.at.codes + first * s.code_bytes, rows,
                                             shape.head_dim, shape.spec.bits);
    if (end != get_u32(index + 4 * k) + count) return false;
  }
  return true;
}

// A bound from what is shared by many elements; exact only about what it is made of.
uint32_t largest_possible_exponent(const ExponentShape& shape, const Byte* section,
                                   const ExponentSection& s, uint32_t token_begin,
                                   uint32_t token_end) {
  uint32_t largest = largest_byte(section + s.at.escapes, s.n_escapes);
  uint32_t shared = 0;
  if (s.runs == 0) {
    shared = largest_byte(section + offsetof(ExponentHeader, exponents), kTableExponents);
  } else {
    const uint32_t first = token_begin / shape.spec.run_tokens;
    const uint32_t end = (token_end - 1) / shape.spec.run_tokens + 1;
    for (uint32_t head = 0; head < shape.n_heads; ++head) {
      const uint64_t begin = (uint64_t{head} * s.runs + first) * shape.head_dim;
      const uint32_t top =
          largest_byte(section + s.at.tops + begin, uint64_t{end - first} * shape.head_dim);
      shared = top > shared ? top : shared;
    }
  }
  return largest > shared ? largest : shared;
}

uint32_t exact_max_bits(const ExponentShape& shape, const Byte* section, uint32_t token_begin,
                        uint32_t token_end) {
  constexpr uint32_t kBufferBytes = 8 << 10;
  static_assert(kBufferBytes >= 2 * QUIRE_KERNEL_DIMS_MAX);
  Byte buffer[kBufferBytes];
  const uint32_t row_bytes = 2 * shape.head_dim;
  const uint32_t step =
      kBufferBytes / row_bytes < kBatchRows ? kBufferBytes / row_bytes : kBatchRows;
  Byte* rows[kBatchRows];
  for (uint32_t i = 0; i < step; ++i) rows[i] = buffer + i * row_bytes;
  uint32_t largest = 0;
  for (uint32_t head = 0; head < shape.n_heads; ++head) {
    ExponentCursor cursor;
    for (uint32_t token = token_begin; token < token_end; token += step) {
      const uint32_t n = token_end - token < step ? token_end - token : step;
      exponent_decode(shape, section, head, token, n, &cursor, rows);
      const uint32_t bits =
          active_rows()->max_abs_bits(QUIRE_DTYPE_BF16, buffer, uint64_t{n} * shape.head_dim);
      largest = bits > largest ? bits : largest;
    }
  }
  return largest;
}

}  // namespace

const ExponentOps* active_exponent_ops() {
  static const ExponentOps* const best = best_exponent_ops();
  return active_rows() == scalar_rows() ? scalar_exponent_ops() : best;
}

int exponent_check(const ExponentShape& shape, const Byte* section, uint64_t bytes) {
  if (bytes < sizeof(ExponentHeader)) return QUIRE_KERNEL_CORRUPT;
  ExponentHeader header;
  memcpy(&header, section, sizeof(header));
  if (!is_zero(header.reserved, sizeof(header.reserved))) return QUIRE_KERNEL_CORRUPT;
  const bool has_table = header.mode == kExponentCoded && shape.spec.bits == 4;
  if (!has_table && !is_zero(header.exponents, sizeof(header.exponents)))
    return QUIRE_KERNEL_CORRUPT;
  if (header.mode == kExponentPlain) {
    const uint64_t plain = exponent_plain_bytes(shape.n_tokens, shape.n_heads, shape.head_dim);
    return header.escape_count == 0 && bytes == plain ? QUIRE_KERNEL_OK : QUIRE_KERNEL_CORRUPT;
  }
  if (header.mode != kExponentCoded) return QUIRE_KERNEL_CORRUPT;
  const ExponentSection s = exponent_section(shape, header.escape_count);
  if (s.at.total != bytes) return QUIRE_KERNEL_CORRUPT;
  const uint64_t n_tops = uint64_t{shape.n_heads} * s.runs * shape.head_dim;
  if (n_tops != 0 && smallest_byte(section + s.at.tops, n_tops) < kWindow - 1)
    return QUIRE_KERNEL_CORRUPT;
  return index_fits(shape, section, s) ? QUIRE_KERNEL_OK : QUIRE_KERNEL_CORRUPT;
}

uint32_t exponent_max_bits(const ExponentShape& shape, const Byte* section, uint32_t token_begin,
                           uint32_t token_end) {
  if (token_begin >= token_end) return 0;
  if (get_u32(section) == kExponentPlain) {
    const uint64_t row_bytes = uint64_t{shape.head_dim} * 2;
    uint32_t largest = 0;
    for (uint32_t head = 0; head < shape.n_heads; ++head) {
      const uint64_t row = uint64_t{head} * shape.n_tokens + token_begin;
      const uint32_t bits = active_rows()->max_abs_bits(
          QUIRE_DTYPE_BF16, section + sizeof(ExponentHeader) + row * row_bytes,
          uint64_t{token_end - token_begin} * shape.head_dim);
      largest = bits > largest ? bits : largest;
    }
    return largest;
  }
  const ExponentSection s =
      exponent_section(shape, get_u32(section + offsetof(ExponentHeader, escape_count)));
  const uint32_t bound = largest_possible_exponent(shape, section, s, token_begin, token_end);
  if (bound <= kHarmlessExponent) return bound << 7 | 0x7f;
  return exact_max_bits(shape, section, token_begin, token_end);
}

void exponent_decode(const ExponentShape& shape, const Byte* section, uint32_t head, uint32_t token,
                     uint32_t n, ExponentCursor* cursor, Byte* const* elements) {
  const uint64_t row_bytes = uint64_t{shape.head_dim} * 2;
  uint64_t row = uint64_t{head} * shape.n_tokens + token;
  if (get_u32(section) == kExponentPlain) {
    const Byte* from = section + sizeof(ExponentHeader) + row * row_bytes;
    for (uint32_t i = 0; i < n; ++i) memcpy(elements[i], from + i * row_bytes, row_bytes);
    return;
  }
  const ExponentOps& ops = *active_exponent_ops();
  const ExponentSection s =
      exponent_section(shape, get_u32(section + offsetof(ExponentHeader, escape_count)));
  if (cursor->row != row) {
    const uint64_t block = row / kEscapeIndexRows;
    const uint64_t first = block * kEscapeIndexRows;
    cursor->escape = get_u32(section + s.at.escape_index + 4 * block) +
                     ops.count_escapes(section + s.at.codes + first * s.code_bytes, row - first,
                                       shape.head_dim, shape.spec.bits);
  }
  Byte exponents[kTableExponents + 1] = {};
  memcpy(exponents, section + offsetof(ExponentHeader, exponents), kTableExponents);
  while (n > 0) {
    const uint32_t left = tokens_left_of_run(shape, token);
    const uint32_t step = n < left ? n : left;
    const ExponentRows rows{
        shape.spec.bits, shape.head_dim, step,
        exponents,       nullptr,        section + s.at.tops + tops_offset(shape, s, head, token)};
    // A section that changed since it was checked must not lead outside of it.
    const uint64_t escape = lesser(cursor->escape, s.n_escapes);
    cursor->escape =
        escape + ops.decode(rows, section + s.at.sign_mantissa + row * shape.head_dim,
                            section + s.at.codes + row * s.code_bytes,
                            section + s.at.escapes + escape, s.n_escapes - escape, elements);
    elements += step;
    token += step;
    row += step;
    n -= step;
  }
  cursor->row = row;
}

}  // namespace quire_kernels
