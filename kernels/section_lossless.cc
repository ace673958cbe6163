// Sections of elements: raw, and bf16 with coded exponents.
#include <string.h>

#include "kernels/math/bits.h"
#include "kernels/params.h"
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

// How many rows of `bytes` fit a tile; at most a batch.
uint32_t tile_rows(uint64_t bytes) {
  const uint64_t fit = kTileBytes / bytes;
  return fit < kBatchRows ? static_cast<uint32_t>(fit) : kBatchRows;
}

void read_exponent(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                   const RowBatch& batch, ExponentCursor* cursor) {
  const ExponentShape exponent = exponent_shape(shape);
  const bool copies = copies_elements(shape, target);
  const RowFormat format = row_format(shape, target);
  // Rows that change on their way stay in the L1 cache in between.
  alignas(64) Byte tile[kTileBytes];
  const uint32_t most = copies ? kBatchRows : tile_rows(row_bytes(shape));
  for (uint32_t i = 0, n; i < batch.n; i += n) {
    n = 1;
    while (n < most && i + n < batch.n && batch.token[i + n] == batch.token[i] + n) ++n;
    if (copies) {
      exponent_decode(exponent, section, batch.head, batch.token[i], n, cursor, batch.out + i);
      continue;
    }
    ElementRows rows;
    rows.n = n;
    Byte* decoded[kBatchRows];
    for (uint32_t r = 0; r < n; ++r) {
      rows.from[r] = decoded[r] = tile + r * row_bytes(shape);
      rows.table[r] = batch.table[i + r];
      rows.out[r] = batch.out[i + r];
    }
    exponent_decode(exponent, section, batch.head, batch.token[i], n, cursor, decoded);
    target.ops->rotate_elements(format, QUIRE_DTYPE_BF16, rows);
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

// The rows of a store for the encoder: where they lie in engine memory if that will do, else made
// in a tile.
class EncoderRows : public ExponentSource {
 public:
  EncoderRows(const SectionShape& shape, RowSource& source)
      : shape_(shape),
        source_(source),
        format_{.n = shape.head_dim,
                .bits = 0,
                .group_dims = shape.head_dim,
                .order = 1,
                .dtype = stored_dtype(shape),
                .style = source.params().rotation.style,
                .rotary_dims = source.params().rotation.rotary_dims},
        copies_(source.params().src_dtype == format_.dtype && !source.rotates()) {}

  bool keeps_non_finite() const {
    return copies_ && (source_.params().flags & QUIRE_KERNEL_KEEP_NON_FINITE) != 0;
  }

  // A rotation of each token's own is read once for all heads of a group; heads that lie side by
  // side in the engine are read as one piece of memory, which short rows gain nothing from.
  uint32_t heads_together() const override {
    const quire_store_params& p = source_.params();
    const int64_t src_row_bytes = int64_t{p.head_dim} * element_bytes(p.src_dtype);
    constexpr int64_t kLongRowBytes = 256;
    const bool side_by_side = source_.contiguous() && p.src_head_stride == src_row_bytes &&
                              src_row_bytes >= kLongRowBytes;
    const bool share_rotation = source_.rotates() && p.rotation.table_token_stride != 0;
    return side_by_side || share_rotation ? kEncodeHeadsMax : 1;
  }

  void rows(uint32_t head, uint32_t n_heads, uint32_t token, uint32_t n, uint32_t step,
            EncodeBatch* rows) override {
    if (copies_ && source_.contiguous()) {
      point(head, n_heads, token, n, step, rows->elements);
    } else {
      for (; placed_ < n_heads * n; ++placed_)
        rows->elements[placed_] = tile_ + placed_ * row_bytes(shape_);
      if (!source_.contiguous()) return gather(head, n_heads, token, n, step);
      rotate(head, n_heads, token, n, step);
    }
    look_ahead(head, n_heads, n_heads, token + n * step, n, step, rows);
  }

  bool leaves_rotation() const override {
    return source_.rotates() && source_.contiguous() &&
           source_.params().src_dtype == format_.dtype && format_.style == QUIRE_ROPE_STYLE_NEOX &&
           format_.rotary_dims == shape_.head_dim;
  }

  void unrotated_rows(uint32_t head, uint32_t n_heads, uint32_t token, uint32_t n, uint32_t step,
                      EncodeBatch* rows) override {
    point(head, 1, token, n, step, rows->elements);
    placed_ = 0;
    rows->head_stride = source_.params().src_head_stride;
    for (uint32_t i = 0; i < n; ++i) rows->table[i] = table_of(token + i * step);
    look_ahead(head, n_heads, 1, token + n * step, n, step, rows);
  }

 private:
  // Where dims are contiguous.
  const Byte* at(uint32_t head, uint32_t token) const {
    const quire_store_params& p = source_.params();
    const int64_t row = p.src_token != nullptr ? p.src_token[token] : token;
    return static_cast<const Byte*>(p.src) + row * p.src_token_stride + head * p.src_head_stride;
  }

  const float* table_of(uint32_t token) const {
    return source_.rotates() ? rotation_of_token(source_.params().rotation, token) : nullptr;
  }

  void rotate(uint32_t head, uint32_t n_heads, uint32_t token, uint32_t n, uint32_t step) {
    static_assert(kEncodeHeadsMax <= kBatchRows);
    const int64_t head_stride = source_.params().src_head_stride;
    const uint64_t out_stride = n * row_bytes(shape_);
    ElementRows rows;
    for (uint32_t i = 0; i < n; ++i, token += step) {
      const Byte* from = at(head, token);
      const float* table = table_of(token);
      Byte* out = tile_ + i * row_bytes(shape_);
      for (uint32_t h = 0; h < n_heads; ++h, from += head_stride, out += out_stride) {
        rows.from[rows.n] = from;
        rows.table[rows.n] = table;
        rows.out[rows.n++] = out;
      }
      if (i + 1 < n && rows.n + n_heads <= kBatchRows) continue;
      source_.ops().rotate_elements(format_, source_.params().src_dtype, rows);
      rows.n = 0;
    }
  }

  // One by one: the source has a tile of its own, which holds one head's tokens.
  void gather(uint32_t head, uint32_t n_heads, uint32_t token, uint32_t n, uint32_t step) {
    for (uint32_t i = 0; i < n_heads * n; ++i) {
      const uint32_t from_head = head + i / n;
      const uint32_t from_token = token + i % n * step;
      Byte* out = tile_ + i * row_bytes(shape_);
      if (copies_) {
        memcpy(out, source_.elements(from_head, from_token), row_bytes(shape_));
        continue;
      }
      ElementRows row;
      row.n = 1;
      row.from[0] = source_.elements(from_head, from_token);
      row.table[0] = table_of(from_token);
      row.out[0] = out;
      source_.ops().rotate_elements(format_, source_.params().src_dtype, row);
    }
  }

  // Of the first n_named of n_heads.
  void look_ahead(uint32_t head, uint32_t n_heads, uint32_t n_named, uint32_t token, uint32_t n,
                  uint32_t step, EncodeBatch* rows) const {
    if (token >= shape_.n_tokens) {
      head += n_heads;
      token = 0;
    }
    rows->ahead_bytes = 0;
    if (head + n_heads > shape_.n_heads) return;
    rows->ahead_bytes = shape_.head_dim * element_bytes(source_.params().src_dtype);
    point(head, n_named, token, n, step, rows->ahead);
  }

  // to[h * n + i] = where a row lies; tokens beyond the last are the first.
  void point(uint32_t head, uint32_t n_heads, uint32_t token, uint32_t n, uint32_t step,
             const Byte** to) const {
    const int64_t head_stride = source_.params().src_head_stride;
    for (uint32_t i = 0; i < n; ++i, ++to) {
      const uint32_t of_token = token + i * step;
      const Byte* from = at(head, of_token < shape_.n_tokens ? of_token : token);
      for (uint32_t h = 0; h < n_heads; ++h, from += head_stride) to[h * n] = from;
    }
  }

  const SectionShape& shape_;
  RowSource& source_;
  RowFormat format_;
  bool copies_;
  uint32_t placed_ = 0;  // of the caller's pointers: they lead into the tile, always the same way
  alignas(64) Byte tile_[kEncodeBytesMax];
};

// Why the first row that is not finite in the section cannot be stored.
int first_refusal(const SectionShape& shape, RowSource& source) {
  Byte row[QUIRE_KERNEL_DIMS_MAX * 2];
  for (uint32_t head = 0; head < shape.n_heads; ++head)
    for (uint32_t token = 0; token < shape.n_tokens; ++token)
      if (int status = store_elements(shape, source, head, token, row)) return status;
  return QUIRE_KERNEL_NON_FINITE;
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
  if (copies_elements(shape, target)) {
    for (uint32_t i = 0; i < batch.n; ++i)
      memcpy(batch.out[i], section + raw_offset(shape, batch.head, batch.token[i]),
             row_bytes(shape));
    return;
  }
  ElementRows rows;
  rows.n = batch.n;
  for (uint32_t i = 0; i < batch.n; ++i) {
    rows.from[i] = section + raw_offset(shape, batch.head, batch.token[i]);
    rows.table[i] = batch.table[i];
    rows.out[i] = batch.out[i];
  }
  target.ops->rotate_elements(row_format(shape, target), stored_dtype(shape), rows);
}

int write_raw(const SectionShape& shape, RowSource& source, const TokenWalk& walk, Byte* section) {
  for (uint32_t head = 0; head < shape.n_heads; ++head) {
    TokenWalk tokens = walk;
    for (uint32_t i = 0; i < shape.n_tokens; ++i, section += row_bytes(shape))
      if (int status = store_elements(shape, source, head, tokens.next(), section)) return status;
  }
  return QUIRE_KERNEL_OK;
}

// Lossless sections hold all tokens in their order.
int write_exponent(const SectionShape& shape, RowSource& source, const TokenWalk&, Byte* section,
                   uint64_t* written) {
  EncoderRows rows(shape, source);
  const EncodedSection encoded = exponent_encode(exponent_shape(shape), rows, section);
  *written = encoded.bytes;
  if (encoded.finite || rows.keeps_non_finite()) return QUIRE_KERNEL_OK;
  return first_refusal(shape, source);
}

}  // namespace quire_kernels
