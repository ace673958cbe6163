#include "client/llama/value_norms.h"

#include <cmath>
#include <cstring>

#include "ggml.h"

namespace quire {

namespace {

// Elements (row 0.., dim) of one head as floats.
void read_dim(const reuse::EnginePlane& plane, const std::byte* first, std::span<float> target) {
  const auto n = static_cast<int64_t>(target.size());
  if (plane.element == ElementType::kF16) {
    if (plane.token_stride == sizeof(ggml_fp16_t)) {
      ggml_fp16_to_fp32_row(reinterpret_cast<const ggml_fp16_t*>(first), target.data(), n);
      return;
    }
    for (int64_t i = 0; i < n; ++i) {
      ggml_fp16_t half;
      std::memcpy(&half, first + i * plane.token_stride, sizeof(half));
      target[static_cast<size_t>(i)] = ggml_fp16_to_fp32(half);
    }
    return;
  }
  for (int64_t i = 0; i < n; ++i)
    std::memcpy(&target[static_cast<size_t>(i)], first + i * plane.token_stride, sizeof(float));
}

}  // namespace

ValueNorms value_norms(const reuse::EnginePlane& plane, uint32_t heads, uint32_t dims,
                       uint32_t cells) {
  const bool known = plane.element == ElementType::kF16 || plane.element == ElementType::kF32;
  if (plane.data == nullptr || !known || cells > plane.n_rows) return {};
  ValueNorms norms;
  norms.heads = heads;
  norms.cells = cells;
  norms.values.assign(size_t{heads} * cells, 0.0f);
  std::vector<float> column(cells);
  for (uint32_t head = 0; head < heads; ++head) {
    // Values are kept transposed: by dim, then by cell, is the order they lie in.
    float* const sums = norms.values.data() + size_t{head} * cells;
    for (uint32_t dim = 0; dim < dims; ++dim) {
      read_dim(plane, plane.data + head * plane.head_stride + dim * plane.dim_stride, column);
      for (uint32_t cell = 0; cell < cells; ++cell) sums[cell] += column[cell] * column[cell];
    }
    for (uint32_t cell = 0; cell < cells; ++cell) sums[cell] = std::sqrt(sums[cell]);
  }
  return norms;
}

}  // namespace quire
