// Sections of elements: raw, and bf16 with coded exponents.
#include <string.h>

#include <new>

#include "kernels/math/bits.h"
#include "kernels/section.h"

namespace quire_kernels {
namespace {

int32_t stored_dtype(const SectionShape& shape) {
  return shape.spec.kind == SectionKind::kRaw ? shape.codec
                                              : static_cast<int32_t>(QUIRE_DTYPE_BF16);
}

uint64_t row_bytes(const SectionShape& shape) {
  return uint64_t{shape.head_dim} * element_bytes(stored_dtype(shape));
}

uint64_t raw_offset(const SectionShape& shape, uint32_t head, uint32_t token) {
  return (uint64_t{head} * shape.n_tokens + token) * row_bytes(shape);
}

ExponentShape exponent_shape(const SectionShape& shape) {
  return {shape.spec, shape.n_tokens, shape.n_heads, shape.head_dim};
}

float bits_to_float(int32_t dtype, uint32_t bits) {
  if (dtype == QUIRE_DTYPE_F16) return half_to_float(static_cast<uint16_t>(bits));
  return dtype == QUIRE_DTYPE_BF16 ? bf16_to_float(static_cast<uint16_t>(bits)) : bits_float(bits);
}

int check_bits(const SectionShape& shape, const LoadTarget& target, uint32_t bits) {
  const int32_t dtype = stored_dtype(shape);
  if (bits >= infinity_bits(dtype)) return QUIRE_KERNEL_NON_FINITE;
  if (copies_elements(shape, target)) return QUIRE_KERNEL_OK;
  return check_magnitude(bits_to_float(dtype, bits), 1, target);
}

void write_row(const SectionShape& shape, const LoadTarget& target, const Byte* elements,
               const float* table, Byte* out) {
  alignas(64) float row[QUIRE_KERNEL_DIMS_MAX];
  target.ops->widen(stored_dtype(shape), elements, row, shape.head_dim);
  if (table != nullptr) target.ops->rotate(target.style, table, row, target.rotary_dims);
  target.ops->narrow(target.dtype, row, out, shape.head_dim);
}

// Rows from `first` on that follow each other in the section and in engine memory.
uint32_t joined_rows(const RowBatch& batch, uint32_t first, uint64_t bytes) {
  uint32_t n = 1;
  while (first + n < batch.n && batch.token[first + n] == batch.token[first] + n &&
         batch.out[first + n] == batch.out[first] + n * bytes)
    ++n;
  return n;
}

void read_exponent(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                   const RowBatch& batch, ExponentCursor* cursor) {
  const ExponentShape exponent = exponent_shape(shape);
  if (copies_elements(shape, target)) {
    for (uint32_t i = 0; i < batch.n;) {
      const uint32_t n = joined_rows(batch, i, row_bytes(shape));
      exponent_decode(exponent, section, batch.head, batch.token[i], n, cursor, batch.out[i]);
      i += n;
    }
    return;
  }
  alignas(64) Byte elements[QUIRE_KERNEL_DIMS_MAX * 2];
  for (uint32_t i = 0; i < batch.n; ++i) {
    exponent_decode(exponent, section, batch.head, batch.token[i], 1, cursor, elements);
    write_row(shape, target, elements, batch.table[i], batch.out[i]);
  }
}

// Elements of the stored dtype, finite unless bits are copied.
int store_elements(const SectionShape& shape, RowSource& source, uint32_t head, uint32_t token,
                   Byte* out) {
  const RowOps& ops = source.ops();
  const int32_t dtype = stored_dtype(shape);
  const bool copies = source.params().src_dtype == dtype && !source.rotates();
  if (copies) {
    memcpy(out, source.elements(head, token), row_bytes(shape));
    if ((source.params().flags & QUIRE_KERNEL_KEEP_NON_FINITE) != 0) return QUIRE_KERNEL_OK;
  } else {
    alignas(64) float row[QUIRE_KERNEL_DIMS_MAX];
    if (int status = source.fetch(head, token, row, nullptr)) return status;
    ops.narrow(dtype, row, out, shape.head_dim);
  }
  if (ops.max_abs_bits(dtype, out, shape.head_dim) < infinity_bits(dtype)) return QUIRE_KERNEL_OK;
  return copies ? QUIRE_KERNEL_NON_FINITE : QUIRE_KERNEL_OUT_OF_RANGE;
}

int store_all(const SectionShape& shape, RowSource& source, const TokenWalk& walk, Byte* out) {
  for (uint32_t head = 0; head < shape.n_heads; ++head) {
    TokenWalk tokens = walk;
    for (uint32_t i = 0; i < shape.n_tokens; ++i, out += row_bytes(shape))
      if (int status = store_elements(shape, source, head, tokens.next(), out)) return status;
  }
  return QUIRE_KERNEL_OK;
}

}  // namespace

bool copies_elements(const SectionShape& shape, const LoadTarget& target) {
  const bool lossless =
      shape.spec.kind == SectionKind::kRaw || shape.spec.kind == SectionKind::kExponent;
  return lossless && stored_dtype(shape) == target.dtype && !target.rotates;
}

int check_lossless(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                   uint32_t token_begin, uint32_t token_end) {
  if (target.keep_non_finite && copies_elements(shape, target)) return QUIRE_KERNEL_OK;
  if (shape.spec.kind == SectionKind::kExponent)
    return check_bits(shape, target,
                      exponent_max_bits(exponent_shape(shape), section, token_begin, token_end));
  const uint64_t n = uint64_t{token_end - token_begin} * shape.head_dim;
  for (uint32_t head = 0; head < shape.n_heads; ++head) {
    const Byte* elements = section + raw_offset(shape, head, token_begin);
    const uint32_t bits = target.ops->max_abs_bits(shape.codec, elements, n);
    if (int status = check_bits(shape, target, bits)) return status;
  }
  return QUIRE_KERNEL_OK;
}

void read_lossless(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                   const RowBatch& batch, ExponentCursor* cursor) {
  if (shape.spec.kind == SectionKind::kExponent)
    return read_exponent(shape, target, section, batch, cursor);
  const bool copies = copies_elements(shape, target);
  for (uint32_t i = 0; i < batch.n; ++i) {
    const Byte* elements = section + raw_offset(shape, batch.head, batch.token[i]);
    if (copies)
      memcpy(batch.out[i], elements, row_bytes(shape));
    else
      write_row(shape, target, elements, batch.table[i], batch.out[i]);
  }
}

int write_raw(const SectionShape& shape, RowSource& source, const TokenWalk& walk, Byte* section) {
  return store_all(shape, source, walk, section);
}

int write_exponent(const SectionShape& shape, RowSource& source, const TokenWalk& walk,
                   Byte* section, uint64_t* written) {
  // The encoder looks at rows more than once and wants them side by side.
  const uint64_t bytes = uint64_t{shape.n_heads} * shape.n_tokens * row_bytes(shape);
  Byte* elements = new (std::nothrow) Byte[bytes];
  if (elements == nullptr) return QUIRE_KERNEL_INVALID_ARGUMENT;
  const int status = store_all(shape, source, walk, elements);
  if (status == QUIRE_KERNEL_OK)
    *written = exponent_encode(exponent_shape(shape), elements, section);
  delete[] elements;
  return status;
}

}  // namespace quire_kernels
