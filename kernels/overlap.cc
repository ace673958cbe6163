#include "kernels/overlap.h"

namespace quire_kernels {
namespace {

struct Span {
  uint64_t begin;
  uint64_t end;
};

// The bytes between the ends of `count` steps from the span, in either direction.
Span extended(Span span, int64_t stride, int64_t count) {
  const uint64_t extent = static_cast<uint64_t>(stride) * static_cast<uint64_t>(count - 1);
  if (stride < 0)
    span.begin += extent;
  else
    span.end += extent;
  return span;
}

bool meets(Span a, Span b) {
  return a.begin < b.end && b.begin < a.end;
}

Span moved(Span span, int64_t bytes) {
  return {span.begin + static_cast<uint64_t>(bytes), span.end + static_cast<uint64_t>(bytes)};
}

bool row_meets(const EngineRows& rows, Span element, Span section) {
  if (!meets(extended(element, rows.dim_stride, rows.head_dim), section)) return false;
  for (uint32_t dim = 0; dim < rows.head_dim; ++dim)
    if (meets(moved(element, dim * rows.dim_stride), section)) return true;
  return false;
}

}  // namespace

bool overlaps(const EngineRows& rows, const void* section_begin, uint64_t section_bytes) {
  const uint64_t begin = reinterpret_cast<uint64_t>(section_begin);
  const Span section{begin, begin + section_bytes};
  const uint64_t base = reinterpret_cast<uint64_t>(rows.base);
  const Span element{base, base + rows.element};
  const Span head =
      extended(extended(element, rows.dim_stride, rows.head_dim), rows.head_stride, rows.n_heads);
  if (!meets(extended(head, rows.token_stride, rows.tokens), section)) return false;
  for (uint32_t token = rows.token_begin; token < rows.token_end; ++token) {
    if (rows.mask != nullptr && rows.mask[token] == 0) continue;
    const int64_t row = rows.token_rows != nullptr ? rows.token_rows[token] : token;
    if (!meets(moved(head, row * rows.token_stride), section)) continue;
    for (uint32_t i = 0; i < rows.n_heads; ++i)
      if (row_meets(rows, moved(element, row * rows.token_stride + i * rows.head_stride), section))
        return true;
  }
  return false;
}

}  // namespace quire_kernels
