#include "client/llama/state_blob.h"

#include <algorithm>
#include <cstring>

#include "ggml.h"

namespace quire {

namespace {

constexpr uint32_t kStateMagic = 0xaf143cd8;
constexpr uint64_t kCapacityStep = 4ull << 20;

// Writes fields where a target is given; else only counts.
class Cursor {
 public:
  Cursor(std::byte* target, uint64_t offset) : target_(target), offset_(offset) {}
  template <typename T>
  void field(T value) {
    if (target_ != nullptr) std::memcpy(target_ + offset_, &value, sizeof(value));
    offset_ += sizeof(value);
  }
  uint64_t skip(uint64_t bytes) {
    const uint64_t at = offset_;
    offset_ += bytes;
    return at;
  }
  uint64_t offset() const { return offset_; }

 private:
  std::byte* target_;
  uint64_t offset_;
};

}  // namespace

StateBlob::StateBlob(std::vector<StateLayer> layers, ElementType element)
    : layers_(std::move(layers)),
      element_(element),
      element_bytes_(element == ElementType::kF32 ? 4 : 2),
      sections_(layers_.size()) {
  has_sliding_ = std::any_of(layers_.begin(), layers_.end(),
                             [](const StateLayer& layer) { return layer.sliding; });
}

uint64_t StateBlob::layout_part(uint64_t offset, bool sliding, uint32_t n_cells,
                                std::byte* target) {
  Cursor out(target, offset);
  out.field<uint32_t>(1);  // streams
  out.field<uint32_t>(n_cells);
  for (uint32_t cell = 0; cell < n_cells; ++cell) {
    out.field<int32_t>(static_cast<int32_t>(cell));  // position
    out.field<uint32_t>(1);                          // sequences of this cell
    out.field<int32_t>(0);
  }
  const auto n_layers = static_cast<uint32_t>(std::count_if(
      layers_.begin(), layers_.end(), [&](const StateLayer& l) { return l.sliding == sliding; }));
  const int32_t type = element_ == ElementType::kF32 ? GGML_TYPE_F32 : GGML_TYPE_F16;
  out.field<uint32_t>(1);  // V is transposed
  out.field<uint32_t>(n_layers);
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (layers_[i].sliding != sliding) continue;
    const uint64_t row_bytes = element_bytes_ * layers_[i].key_heads * layers_[i].key_dims;
    out.field<int32_t>(type);
    out.field<uint64_t>(row_bytes);
    sections_[i].key = out.skip(row_bytes * n_cells);
  }
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (layers_[i].sliding != sliding) continue;
    const uint32_t width = layers_[i].key_heads * layers_[i].value_dims;
    out.field<int32_t>(type);
    out.field<uint32_t>(static_cast<uint32_t>(element_bytes_));
    out.field<uint32_t>(width);
    sections_[i].value = out.skip(element_bytes_ * width * n_cells);
  }
  return out.offset();
}

uint64_t StateBlob::layout(uint32_t n_cells, std::byte* target) {
  Cursor out(target, 0);
  out.field<uint32_t>(kStateMagic);
  out.field<int32_t>(0);  // source sequence
  uint64_t end = layout_part(out.offset(), false, n_cells, target);
  if (has_sliding_) end = layout_part(end, true, n_cells, target);
  return end;
}

void StateBlob::prepare(uint32_t n_cells) {
  size_ = layout(n_cells, nullptr);
  if (size_ > capacity_) {
    capacity_ = align_up(size_ + size_ / 8, kCapacityStep);
    buffer_.reset(new std::byte[capacity_]());
  }
  n_cells_ = n_cells;
  layout(n_cells, buffer_.get());
}

reuse::EnginePlane StateBlob::plane(uint32_t layer, Plane plane) {
  const StateLayer& shape = layers_[layer];
  const auto element_bytes = static_cast<int64_t>(element_bytes_);
  reuse::EnginePlane result;
  result.n_rows = n_cells_;
  result.element = element_;
  if (plane == Plane::kKey) {
    result.data = buffer_.get() + sections_[layer].key;
    result.dim_stride = element_bytes;
    result.head_stride = element_bytes * shape.key_dims;
    result.token_stride = result.head_stride * shape.key_heads;
  } else {
    result.data = buffer_.get() + sections_[layer].value;
    result.token_stride = element_bytes;
    result.dim_stride = element_bytes * n_cells_;
    result.head_stride = result.dim_stride * shape.value_dims;
  }
  return result;
}

void StateBlob::zero_cell(uint32_t cell) {
  for (uint32_t layer = 0; layer < layers_.size(); ++layer) {
    const StateLayer& shape = layers_[layer];
    const uint64_t row_bytes = element_bytes_ * shape.key_heads * shape.key_dims;
    std::memset(buffer_.get() + sections_[layer].key + cell * row_bytes, 0, row_bytes);
    std::byte* value = buffer_.get() + sections_[layer].value + cell * element_bytes_;
    for (uint32_t i = 0; i < shape.key_heads * shape.value_dims; ++i) {
      std::memset(value, 0, element_bytes_);
      value += element_bytes_ * n_cells_;
    }
  }
}

}  // namespace quire
