// Dispatch by kind, and what the kinds share.
#include "kernels/section.h"

#include <math.h>
#include <string.h>

#include "kernels/math/bits.h"
#include "kernels/math/hadamard.h"
#include "kernels/math/quantise.h"

namespace quire_kernels {
namespace {

// Rounding of fp32 transforms may add a little to their exact bounds.
constexpr double kRoundingSlack = 1.0 + 0x1p-18;
constexpr double kRotationGrowth = 1.4142136;  // sqrt 2, rounded up

}  // namespace

SectionShape section_shape(int32_t codec, int32_t plane, uint32_t n_tokens, uint32_t n_heads,
                           uint32_t head_dim) {
  return {codec, plane, n_tokens, n_heads, head_dim, plane_spec(codec, plane)};
}

int check_header(const SectionShape& shape, const Byte* section, uint64_t bytes) {
  if (shape.spec.kind == SectionKind::kMixed) return check_mixed_header(shape, section, bytes);
  if (shape.spec.kind != SectionKind::kExponent) return QUIRE_KERNEL_OK;
  return exponent_check({shape.spec, shape.n_tokens, shape.n_heads, shape.head_dim}, section,
                        bytes);
}

int check_values(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                 uint32_t token_begin, uint32_t token_end) {
  if (token_begin >= token_end) return QUIRE_KERNEL_OK;
  switch (shape.spec.kind) {
    case SectionKind::kRaw:
    case SectionKind::kExponent:
      return check_lossless(shape, target, section, token_begin, token_end);
    case SectionKind::kChannel:
      return check_channel(shape, target, section, token_begin, token_end);
    case SectionKind::kToken:
      return check_token(shape, target, section, token_begin, token_end);
    case SectionKind::kFp8:
      return check_fp8(shape, target, section, token_begin, token_end);
    case SectionKind::kNormalised:
      return check_normalised(shape, target, section, token_begin, token_end);
    case SectionKind::kMixed:
      return check_mixed(shape, target, section, token_begin, token_end);
    default:
      return QUIRE_KERNEL_UNSUPPORTED;
  }
}

void read_rows(const SectionShape& shape, const LoadTarget& target, const Byte* section,
               const RowBatch& batch, ReadCursor* cursor) {
  switch (shape.spec.kind) {
    case SectionKind::kRaw:
    case SectionKind::kExponent:
      return read_lossless(shape, target, section, batch, &cursor->exponent);
    case SectionKind::kChannel:
      return read_channel(shape, target, section, batch);
    case SectionKind::kToken:
      return read_token(shape, target, section, batch);
    case SectionKind::kFp8:
      return read_fp8(shape, target, section, batch);
    case SectionKind::kNormalised:
      return read_normalised(shape, target, section, batch);
    case SectionKind::kMixed:
      return read_mixed(shape, target, section, batch, cursor);
    default:
      return;
  }
}

int write_section(const SectionShape& shape, RowSource& source, const TokenWalk& walk,
                  Byte* section, uint64_t* written) {
  *written =
      plain_section_bytes(shape.codec, shape.plane, shape.n_tokens, shape.n_heads, shape.head_dim);
  switch (shape.spec.kind) {
    case SectionKind::kRaw:
      return write_raw(shape, source, walk, section);
    case SectionKind::kExponent:
      return write_exponent(shape, source, walk, section, written);
    case SectionKind::kChannel:
      return write_channel(shape, source, walk, section);
    case SectionKind::kToken:
      return write_token(shape, source, walk, section);
    case SectionKind::kFp8:
      return write_fp8(shape, source, walk, section);
    case SectionKind::kNormalised:
      return write_normalised(shape, source, walk, section);
    case SectionKind::kMixed:
      return write_mixed(shape, source, walk, section, written);
    default:
      return QUIRE_KERNEL_UNSUPPORTED;
  }
}

// The largest magnitude that still rounds to a finite number of the dtype.
double largest_magnitude(int32_t dtype, bool rotated) {
  double limit = 0x1.fffffep127;
  if (dtype == QUIRE_DTYPE_F16) limit = 0x1.ffdffep15;
  if (dtype == QUIRE_DTYPE_BF16) limit = 0x1.fefffep127;
  return rotated ? limit / kRotationGrowth : limit;
}

int check_magnitude(double magnitude, double growth, const LoadTarget& target) {
  if (!isfinite(magnitude)) return QUIRE_KERNEL_NON_FINITE;
  if (growth != 1) magnitude *= growth * kRoundingSlack;
  return magnitude <= largest_magnitude(target.dtype, target.rotates) ? QUIRE_KERNEL_OK
                                                                      : QUIRE_KERNEL_OUT_OF_RANGE;
}

int check_affine_bits(uint32_t bits, uint32_t order, const LoadTarget& target) {
  return check_magnitude(bits_float(bits), sqrt(static_cast<double>(order)), target);
}

uint32_t hadamard_order_of(const SectionShape& shape) {
  return shape.spec.hadamard_max == 0 ? 1 : hadamard_order(shape.head_dim, shape.spec.hadamard_max);
}

RowFormat row_format(const SectionShape& shape, const LoadTarget& target) {
  return {.n = shape.head_dim,
          .bits = shape.spec.bits,
          .group_dims = group_dims(shape.spec, shape.head_dim),
          .order = hadamard_order_of(shape),
          .dtype = target.dtype,
          .style = target.style,
          .rotary_dims = target.rotary_dims,
          .streams = target.streams};
}

bool streams_rows(const SectionShape& shape, const LoadTarget& target) {
  // Halves of a rotation, and what follows it, are written apart.
  const bool by_lines =
      !target.rotates || (target.style == QUIRE_ROPE_STYLE_NEOX && target.rotary_dims % 64 == 0);
  switch (shape.spec.kind) {
    case SectionKind::kRaw:
    case SectionKind::kExponent:
      return by_lines && !copies_elements(shape, target);
    case SectionKind::kChannel:
      return by_lines;
    case SectionKind::kToken:
      return shape.spec.bits != 8 && !target.rotates && hadamard_order_of(shape) == 64 &&
             target.dtype != QUIRE_DTYPE_F32;
    default:
      return false;
  }
}

void clear_bytes(Byte* section, uint64_t begin, uint64_t end) {
  memset(section + begin, 0, end - begin);
}

float load_half(const Byte* from) {
  uint16_t bits;
  memcpy(&bits, from, 2);
  return half_to_float(bits);
}

void store_pair(Byte* to, uint16_t first, uint16_t second) {
  memcpy(to, &first, 2);
  memcpy(to + 2, &second, 2);
}

}  // namespace quire_kernels
