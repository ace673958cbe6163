#include "kernels/row_source.h"

#include <string.h>

#include "kernels/math/layout.h"
#include "kernels/params.h"

namespace quire_kernels {
namespace {

constexpr int kIntoL2 = 2;
// Half of a small L2 cache.
constexpr uint64_t kAheadBytes = 128 * 1024;

}  // namespace

RowSource::RowSource(const quire_store_params& params, const RowOps& ops)
    : p_(params),
      ops_(ops),
      src_(static_cast<const Byte*>(params.src)),
      element_(element_bytes(params.src_dtype)),
      row_bytes_(uint64_t{params.head_dim} * element_),
      format_{.n = params.head_dim,
              .bits = 0,
              .group_dims = params.head_dim,
              .order = 1,
              .dtype = params.src_dtype,
              .style = params.rotation.style,
              .rotary_dims = params.rotation.rotary_dims},
      rotates_(quire_kernels::rotates(params.rotation)),
      contiguous_(params.head_dim == 1 || params.src_dim_stride == element_),
      ahead_head_(params.n_heads),
      tile_tokens_(tile_tokens(params.head_dim, element_)) {}

[[gnu::always_inline]] inline int64_t RowSource::row_of(uint32_t token) const {
  return p_.src_token != nullptr ? p_.src_token[token] : token;
}

[[gnu::always_inline]] inline const Byte* RowSource::at(uint32_t head, uint32_t token) const {
  return src_ + row_of(token) * p_.src_token_stride + head * p_.src_head_stride;
}

// Inline, because gcc drops calls of functions that do nothing but prefetch.
[[gnu::always_inline]] inline void RowSource::prefetch(uint32_t head, uint32_t token) const {
  if (!contiguous_ || p_.n_tokens - token <= kAheadRows) return;
  const Byte* ahead = at(head, token + kAheadRows);
  for (uint64_t line = 0; line < row_bytes_; line += 64) __builtin_prefetch(ahead + line);
}

int RowSource::status_of(const Byte* elements, uint32_t bits) const {
  if (bits < infinity_bits(QUIRE_DTYPE_F32)) return QUIRE_KERNEL_OK;
  // The rotation of finite elements may have grown beyond fp32.
  const uint32_t before = ops_.max_abs_bits(p_.src_dtype, elements, p_.head_dim);
  return before < infinity_bits(p_.src_dtype) ? QUIRE_KERNEL_OUT_OF_RANGE : QUIRE_KERNEL_NON_FINITE;
}

int RowSource::fetch(uint32_t head, uint32_t token, float* row, uint32_t* largest) {
  const Byte* from = elements(head, token);
  prefetch(head, token);
  const float* table = rotates_ ? rotation_of_token(p_.rotation, token) : nullptr;
  const uint32_t bits = ops_.fetch(p_.src_dtype, from, p_.rotation.style, table,
                                   p_.rotation.rotary_dims, row, p_.head_dim);
  if (largest != nullptr) *largest = bits;
  return status_of(from, bits);
}

SourceRows RowSource::gather(uint32_t head, uint32_t most, uint32_t left, TokenWalk* walk) {
  SourceRows source;
  uint32_t wanted = most < left ? most : left;
  if (wanted > kBatchRows) wanted = kBatchRows;
  if (contiguous_) {
    for (; source.n < wanted; ++source.n) {
      const uint32_t token = walk->next();
      source.src[source.n] = at(head, token);
      source.table[source.n] = rotates_ ? rotation_of_token(p_.rotation, token) : nullptr;
    }
    const uint32_t after = left - wanted;
    TokenWalk ahead = *walk;
    for (; source.n_ahead < kAheadRows && source.n_ahead < after; ++source.n_ahead)
      source.src[source.n + source.n_ahead] = at(head, ahead.next());
    return source;
  }
  while (source.n < wanted) {
    TokenWalk peek = *walk;
    const uint32_t token = peek.next();
    if (source.n != 0 && token >= tile_end_) break;
    source.src[source.n] = elements(head, token);
    source.table[source.n] = rotates_ ? rotation_of_token(p_.rotation, token) : nullptr;
    ++source.n;
    *walk = peek;
  }
  return source;
}

void RowSource::start_ahead(const TokenWalk& walk, uint32_t n_tokens, uint32_t distance) {
  if (!contiguous_) return;
  const uint64_t most = kAheadBytes / row_bytes_;
  if (distance > most) distance = static_cast<uint32_t>(most);
  ahead_begin_ = ahead_walk_ = walk;
  ahead_tokens_ = n_tokens;
  ahead_head_ = 0;
  for (ahead_token_ = 0; ahead_token_ < distance && ahead_token_ < n_tokens; ++ahead_token_)
    ahead_walk_.next();
}

void RowSource::ask_ahead(uint32_t rows) {
  for (; rows != 0 && ahead_head_ < p_.n_heads; --rows) {
    if (ahead_token_ == ahead_tokens_) {
      ahead_token_ = 0;
      ahead_walk_ = ahead_begin_;
      if (++ahead_head_ == p_.n_heads) return;
    }
    const Byte* row = at(ahead_head_, ahead_walk_.next());
    ++ahead_token_;
    for (uint64_t line = 0; line < row_bytes_; line += 64)
      __builtin_prefetch(row + line, 0, kIntoL2);
  }
}

int RowSource::fetch_range(const SourceRows& source, float* rows, float* minimums,
                           float* maximums) {
  if (ops_.fetch_range(format_, source, rows, minimums, maximums)) return QUIRE_KERNEL_OK;
  return first_failure(source, infinity_bits(QUIRE_DTYPE_F32), rows);
}

int RowSource::fetch_turned(const SourceRows& source, uint32_t order, uint32_t limit, float* rows,
                            float* minimums, float* maximums) {
  RowFormat format = format_;
  format.order = order;
  const uint32_t largest = ops_.fetch_turned(format, source, rows, minimums, maximums);
  return largest <= limit ? QUIRE_KERNEL_OK : first_failure(source, limit, rows);
}

int RowSource::first_failure(const SourceRows& source, uint32_t limit, float* row) const {
  for (uint32_t r = 0; r < source.n; ++r) {
    uint32_t largest;
    if (int status = fetch_row(source, r, row, &largest)) return status;
    if (largest > limit) return QUIRE_KERNEL_OUT_OF_RANGE;
  }
  return QUIRE_KERNEL_OK;
}

int RowSource::fetch_row(const SourceRows& source, uint32_t r, float* row,
                         uint32_t* largest) const {
  *largest = ops_.fetch(format_.dtype, source.src[r], format_.style, source.table[r],
                        format_.rotary_dims, row, format_.n);
  return status_of(source.src[r], *largest);
}

const Byte* RowSource::elements(uint32_t head, uint32_t token) {
  if (contiguous_) return at(head, token);
  if (head != tile_head_ || token < tile_begin_ || token >= tile_end_) fill_tile(head, token);
  return tile_ + (token - tile_begin_) * row_bytes_;
}

void RowSource::fill_tile(uint32_t head, uint32_t token) {
  const uint32_t left = p_.n_tokens - token;
  const uint32_t n = left < tile_tokens_ ? left : tile_tokens_;
  tile_head_ = head;
  tile_begin_ = token;
  tile_end_ = token + n;
  if (runs_on(token, n)) {
    ops_.transpose(element_, at(head, token), p_.src_dim_stride, p_.head_dim, n, tile_,
                   static_cast<int64_t>(row_bytes_));
    return;
  }
  for (uint32_t i = 0; i < n; ++i) {
    const Byte* from = at(head, token + i);
    for (uint32_t dim = 0; dim < p_.head_dim; ++dim)
      memcpy(tile_ + i * row_bytes_ + uint64_t{dim} * element_, from + dim * p_.src_dim_stride,
             element_);
  }
}

// True where the tokens lie side by side in every dim.
bool RowSource::runs_on(uint32_t token, uint32_t n) const {
  if (p_.src_token_stride != element_) return false;
  for (uint32_t i = 1; i < n; ++i)
    if (row_of(token + i) != row_of(token) + i) return false;
  return true;
}

}  // namespace quire_kernels
