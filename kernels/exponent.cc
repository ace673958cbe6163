#include "kernels/exponent.h"

#include <stddef.h>
#include <string.h>

#include "kernels/exponent_ops.h"

namespace quire_kernels {
namespace {

constexpr uint32_t kTableExponents = 15;
constexpr uint32_t kSampledRows = 4;  // exp4's table is made from every fourth row
// Exponents up to this one are below fp16's largest number / sqrt(2), the least of all limits that
// a load compares with: no need to know the largest element better.
constexpr uint32_t kHarmlessExponent = 141;

uint32_t get_u32(const Byte* from) {
  uint32_t value;
  memcpy(&value, from, 4);
  return value;
}

struct Section {
  ExponentBlocks at;
  uint64_t rows;
  uint64_t n_escapes;
  uint64_t index_entries;
  uint32_t runs;        // window3; else 0
  uint64_t code_bytes;  // of a row
};

Section section_of(const ExponentShape& shape, uint64_t n_escapes) {
  const PlaneSpec& spec = shape.spec;
  const uint64_t rows = uint64_t{shape.n_heads} * shape.n_tokens;
  return {exponent_blocks(spec, shape.n_tokens, shape.n_heads, shape.head_dim, n_escapes),
          rows,
          n_escapes,
          (rows + kEscapeIndexRows - 1) / kEscapeIndexRows,
          spec.run_tokens ? (shape.n_tokens + spec.run_tokens - 1) / spec.run_tokens : 0,
          code_row_bytes(shape.head_dim, spec.bits)};
}

uint64_t lesser(uint64_t a, uint64_t b) {
  return a < b ? a : b;
}

bool starts_run(const ExponentShape& shape, uint32_t token) {
  return shape.spec.run_tokens != 0 && token % shape.spec.run_tokens == 0;
}

// Tokens from this one to the end of its run, or of the section where there are no runs.
uint64_t tokens_left_of_run(const ExponentShape& shape, uint32_t token) {
  const uint64_t left = shape.n_tokens - token;
  if (shape.spec.run_tokens == 0) return left;
  return lesser(left, shape.spec.run_tokens - token % shape.spec.run_tokens);
}

// Inside the block of tops; 0 for exp4, which has none.
uint64_t tops_offset(const ExponentShape& shape, const Section& s, uint32_t head, uint32_t token) {
  if (s.runs == 0) return 0;
  return (uint64_t{head} * s.runs + token / shape.spec.run_tokens) * shape.head_dim;
}

const ExponentOps* best_exponent_ops() {
  const ExponentOps* ops = nullptr;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    if (__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2"))
      ops = vbmi2_exponent_ops();
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

// The escape codes of every block of rows are as many as the index says.
bool index_fits(const ExponentShape& shape, const Byte* section, const Section& s) {
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
                                   const Section& s, uint32_t token_begin, uint32_t token_end) {
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
  const uint32_t step = kBufferBytes / (2 * shape.head_dim);
  uint32_t largest = 0;
  for (uint32_t head = 0; head < shape.n_heads; ++head) {
    ExponentCursor cursor;
    for (uint32_t token = token_begin; token < token_end; token += step) {
      const uint32_t n = token_end - token < step ? token_end - token : step;
      exponent_decode(shape, section, head, token, n, &cursor, buffer);
      const uint32_t bits =
          active_rows()->max_abs_bits(QUIRE_DTYPE_BF16, buffer, uint64_t{n} * shape.head_dim);
      largest = bits > largest ? bits : largest;
    }
  }
  return largest;
}

uint64_t write_plain(const ExponentShape& shape, const Byte* elements, Byte* section) {
  ExponentHeader header = {};
  header.mode = kExponentPlain;
  memcpy(section, &header, sizeof(header));
  const uint64_t bytes = uint64_t{shape.n_heads} * shape.n_tokens * shape.head_dim * 2;
  const uint64_t total = exponent_plain_bytes(shape.n_tokens, shape.n_heads, shape.head_dim);
  memcpy(section + sizeof(header), elements, bytes);
  memset(section + sizeof(header) + bytes, 0, total - sizeof(header) - bytes);
  return total;
}

// exp4: exponents by descending frequency, smaller first among equals.
void choose_exponents(const ExponentShape& shape, const Byte* elements, Byte* exponents) {
  uint64_t counters[256] = {};
  const uint64_t rows = uint64_t{shape.n_heads} * shape.n_tokens;
  const uint64_t row_bytes = uint64_t{shape.head_dim} * 2;
  active_exponent_ops()->count_exponents(elements, (rows + kSampledRows - 1) / kSampledRows,
                                         kSampledRows * row_bytes, shape.head_dim, counters);
  Byte present[256];
  uint32_t n_present = 0;
  for (uint32_t e = 0; e < 256; ++e)
    if (counters[e] != 0) present[n_present++] = static_cast<Byte>(e);
  bool taken[256] = {};
  uint32_t n = 0;
  for (; n < kTableExponents && n < n_present; ++n) {
    uint32_t best = 256;
    for (uint32_t i = 0; i < n_present; ++i)
      if (!taken[present[i]] && (best == 256 || counters[present[i]] > counters[best]))
        best = present[i];
    taken[best] = true;
    exponents[n] = static_cast<Byte>(best);
  }
  for (uint32_t e = 0; n < kTableExponents; ++e)
    if (!taken[e]) exponents[n++] = static_cast<Byte>(e);
}

// window3: each channel's largest exponent in the run that starts at token.
void write_tops(const ExponentShape& shape, const Byte* elements, const Section& s, uint32_t head,
                uint32_t token, Byte* section) {
  Byte* tops = section + s.at.tops + tops_offset(shape, s, head, token);
  memset(tops, kWindow - 1, shape.head_dim);
  const uint64_t row = uint64_t{head} * shape.n_tokens + token;
  active_exponent_ops()->raise_tops(elements + row * shape.head_dim * 2,
                                    tokens_left_of_run(shape, token), shape.head_dim, tops);
}

// Returns the section's size.
uint64_t zero_padding(const ExponentShape& shape, const Section& s, Byte* section) {
  const auto zero = [section](uint64_t begin, uint64_t end) {
    memset(section + begin, 0, end - begin);
  };
  const uint64_t total = s.at.escapes + align_block(s.n_escapes);
  zero(s.at.tops + uint64_t{shape.n_heads} * s.runs * shape.head_dim, s.at.sign_mantissa);
  zero(s.at.sign_mantissa + s.rows * shape.head_dim, s.at.codes);
  zero(s.at.codes + s.rows * s.code_bytes, s.at.escape_index);
  zero(s.at.escape_index + s.index_entries * 4, s.at.escapes);
  zero(s.at.escapes + s.n_escapes, total);
  return total;
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
  const Section s = section_of(shape, header.escape_count);
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
  const Section s = section_of(shape, get_u32(section + offsetof(ExponentHeader, escape_count)));
  const uint32_t bound = largest_possible_exponent(shape, section, s, token_begin, token_end);
  if (bound <= kHarmlessExponent) return bound << 7 | 0x7f;
  return exact_max_bits(shape, section, token_begin, token_end);
}

void exponent_decode(const ExponentShape& shape, const Byte* section, uint32_t head, uint32_t token,
                     uint32_t n, ExponentCursor* cursor, Byte* elements) {
  const uint64_t row_bytes = uint64_t{shape.head_dim} * 2;
  uint64_t row = uint64_t{head} * shape.n_tokens + token;
  if (get_u32(section) == kExponentPlain) {
    memcpy(elements, section + sizeof(ExponentHeader) + row * row_bytes, n * row_bytes);
    return;
  }
  const ExponentOps& ops = *active_exponent_ops();
  const Section s = section_of(shape, get_u32(section + offsetof(ExponentHeader, escape_count)));
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
    const uint64_t step = lesser(n, tokens_left_of_run(shape, token));
    const ExponentRows rows{
        shape.spec.bits, shape.head_dim, step,
        exponents,       nullptr,        section + s.at.tops + tops_offset(shape, s, head, token)};
    // A section that changed since it was checked must not lead outside of it.
    const uint64_t escape = lesser(cursor->escape, s.n_escapes);
    cursor->escape =
        escape + ops.decode(rows, section + s.at.sign_mantissa + row * shape.head_dim,
                            section + s.at.codes + row * s.code_bytes,
                            section + s.at.escapes + escape, s.n_escapes - escape, elements);
    elements += step * row_bytes;
    token += static_cast<uint32_t>(step);
    row += step;
    n -= static_cast<uint32_t>(step);
  }
  cursor->row = row;
}

uint64_t exponent_encode(const ExponentShape& shape, const Byte* elements, Byte* section) {
  const uint64_t plain = exponent_plain_bytes(shape.n_tokens, shape.n_heads, shape.head_dim);
  Section s = section_of(shape, 0);
  if (s.at.escapes >= plain) return write_plain(shape, elements, section);
  // With one more the coded section would be as long as the plain one.
  const uint64_t room = plain - s.at.escapes - kBlockAlignment;
  const uint64_t escapes_max = room < UINT32_MAX ? room : UINT32_MAX;
  ExponentHeader header = {};
  Byte code_of[256];
  memset(code_of, kTableExponents, sizeof(code_of));
  if (s.runs == 0) {
    choose_exponents(shape, elements, header.exponents);
    for (uint32_t i = 0; i < kTableExponents; ++i)
      code_of[header.exponents[i]] = static_cast<Byte>(i);
  }
  for (uint64_t row = 0; row < s.rows;) {
    const uint32_t head = static_cast<uint32_t>(row / shape.n_tokens);
    const uint32_t token = static_cast<uint32_t>(row % shape.n_tokens);
    const Byte* tops = section + s.at.tops + tops_offset(shape, s, head, token);
    if (starts_run(shape, token)) write_tops(shape, elements, s, head, token, section);
    if (row % kEscapeIndexRows == 0) {
      const auto before = static_cast<uint32_t>(s.n_escapes);
      memcpy(section + s.at.escape_index + row / kEscapeIndexRows * 4, &before, 4);
    }
    const uint64_t to_index = kEscapeIndexRows - row % kEscapeIndexRows;
    const uint64_t step = lesser(to_index, tokens_left_of_run(shape, token));
    const ExponentRows rows{shape.spec.bits, shape.head_dim, step, header.exponents, code_of, tops};
    s.n_escapes = active_exponent_ops()->encode(rows, elements + row * shape.head_dim * 2,
                                                section + s.at.sign_mantissa + row * shape.head_dim,
                                                section + s.at.codes + row * s.code_bytes,
                                                section + s.at.escapes, s.n_escapes, escapes_max);
    if (s.n_escapes > escapes_max) return write_plain(shape, elements, section);
    row += step;
  }
  header.escape_count = static_cast<uint32_t>(s.n_escapes);
  memcpy(section, &header, sizeof(header));
  return zero_padding(shape, s, section);
}

}  // namespace quire_kernels
