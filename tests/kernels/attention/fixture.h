// Engine pages, query rows and the comparison against the fp64 reference, for every implementation
// of the attention kernels.
#ifndef QUIRE_TESTS_KERNELS_ATTENTION_FIXTURE_H_
#define QUIRE_TESTS_KERNELS_ATTENTION_FIXTURE_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/kernels/attention/reference.h"

namespace quire_kernels_test {

// An implementation under test, and the bounds that quire_attention.h states for it.
enum class Engines { kScalar, kAvx512, kCuda };

inline double out_bound(Engines engine, const Attention& exact, double tokens, int32_t kv_dtype) {
  switch (engine) {
    case Engines::kScalar:
      return 0x1p-23 * exact.largest;
    case Engines::kAvx512:
      return (0x1p-21 * (8 + exact.reach) + tokens * 0x1p-24) * exact.largest;
    default:
      return kv_dtype == QUIRE_DTYPE_BF16 ? (0x1p-8 + 0x1p-16 * (8 + exact.reach)) * exact.largest
                                          : (0x1p-11 + 0x1p-20 * (8 + exact.reach)) * exact.largest;
  }
}
inline double lse_bound(Engines engine, const Attention& exact, int32_t kv_dtype) {
  const double rounding = 0x1p-23 * (1 + std::fabs(exact.lse));
  switch (engine) {
    case Engines::kScalar:
      return rounding;
    case Engines::kAvx512:
      return 0x1p-21 * (8 + exact.reach) + rounding;
    default:
      return (kv_dtype == QUIRE_DTYPE_BF16 ? 0x1p-16 : 0x1p-20) * (8 + exact.reach) + rounding;
  }
}

// Keeps the largest errors that a test saw, to print them.
struct Errors {
  double out = 0;  // relative to the largest |value|
  double lse = 0;
  double of_bound = 0;  // the largest share of a bound
  ~Errors() {
    if (out > 0)
      printf("errors: out %.2e of the largest value, lse %.2e, %.2f of the bound\n", out, lse,
             of_bound);
  }
};

// Rows of heads with canaries around them.
class HeadRows {
 public:
  HeadRows(int32_t dtype, uint32_t rows, uint32_t heads, uint32_t dims)
      : dtype_(dtype), rows_(rows), heads_(heads), dims_(dims) {
    size_ = element_size(dtype);
    head_stride_ = int64_t{dims} * size_ + 16;
    row_stride_ = head_stride_ * heads + 32;
    bytes_.assign(static_cast<size_t>(row_stride_) * rows + 256, kCanary);
    offset_ = 64 + (64 - reinterpret_cast<uintptr_t>(bytes_.data()) % 64) % 64;
  }
  uint8_t* at(uint32_t row, uint32_t head, uint32_t d) {
    return bytes_.data() + offset_ + row * row_stride_ + head * head_stride_ + d * size_;
  }
  void fill(std::mt19937_64& random, double spread) {
    std::normal_distribution<double> normal(0, spread);
    for (uint32_t row = 0; row < rows_; ++row)
      for (uint32_t head = 0; head < heads_; ++head)
        for (uint32_t d = 0; d < dims_; ++d)
          narrow(dtype_, static_cast<float>(normal(random)), at(row, head, d));
  }
  Row values(uint32_t row, uint32_t head) {
    Row result(dims_);
    for (uint32_t d = 0; d < dims_; ++d)
      result[d] = static_cast<double>(widen(dtype_, at(row, head, d)));
    return result;
  }
  quire_head_rows view() { return {at(0, 0, 0), dtype_, row_stride_, head_stride_}; }
  std::vector<uint8_t> row_bytes(uint32_t row) {
    return {at(row, 0, 0), at(row, 0, 0) + row_stride_};
  }
  // Every byte that is no element is as it was.
  bool canaries_stand() {
    std::vector<uint8_t> copy = bytes_;
    for (uint32_t row = 0; row < rows_; ++row)
      for (uint32_t head = 0; head < heads_; ++head)
        std::fill_n(copy.begin() + (at(row, head, 0) - bytes_.data()), dims_ * size_, kCanary);
    return std::all_of(copy.begin(), copy.end(), [](uint8_t byte) { return byte == kCanary; });
  }
  bool untouched() const {
    return std::all_of(bytes_.begin(), bytes_.end(), [](uint8_t byte) { return byte == kCanary; });
  }
  int32_t dtype() const { return dtype_; }

 private:
  static constexpr uint8_t kCanary = 0xA5;
  int32_t dtype_;
  uint32_t rows_, heads_, dims_;
  int64_t size_ = 0, head_stride_ = 0, row_stride_ = 0;
  size_t offset_ = 0;
  std::vector<uint8_t> bytes_;
};

struct PageShape {
  int32_t dtype = QUIRE_DTYPE_BF16;
  uint32_t page_tokens = 16;
  bool heads_first = false;  // [page][head][token][dim] instead of [page][token][head][dim]
};

// Sequences in pages that lie in a random order; slots of no token hold NaN.
class Pages {
 public:
  Pages(PageShape shape, std::vector<uint32_t> sequence_tokens, uint32_t heads, uint32_t key_dims,
        uint32_t value_dims, std::mt19937_64& random, double key_spread = 1)
      : shape_(shape), heads_(heads), key_dims_(key_dims), value_dims_(value_dims) {
    size_ = element_size(shape.dtype);
    for (uint32_t tokens : sequence_tokens) {
      first_entry_.push_back(table_.size());
      const uint32_t pages = (tokens + shape.page_tokens - 1) / shape.page_tokens;
      for (uint32_t i = 0; i < pages; ++i) table_.push_back(static_cast<int32_t>(table_.size()));
    }
    n_pages_ = static_cast<int64_t>(table_.size()) + 2;
    std::vector<int32_t> order(static_cast<size_t>(n_pages_));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    for (int32_t& entry : table_) entry = order[static_cast<size_t>(entry)];
    for (int plane = 0; plane < 2; ++plane) fill(plane, sequence_tokens, random, key_spread);
  }
  Pages(const Pages&) = delete;

  quire_paged_kv view() {
    quire_paged_kv kv{};
    kv.dtype = shape_.dtype;
    kv.page_tokens = shape_.page_tokens;
    kv.key = data(0);
    kv.value = data(1);
    kv.key_page_stride = page_stride(0);
    kv.key_token_stride = token_stride(0);
    kv.key_head_stride = head_stride(0);
    kv.value_page_stride = page_stride(1);
    kv.value_token_stride = token_stride(1);
    kv.value_head_stride = head_stride(1);
    kv.n_pages = n_pages_;
    kv.block_table = table_.data();
    kv.block_table_entries = table_.size();
    return kv;
  }
  uint64_t first_entry(uint32_t sequence) const { return first_entry_[sequence]; }
  std::vector<int32_t>& table() { return table_; }
  const Row& key(uint32_t sequence, uint32_t head, uint32_t token) const {
    return rows_[0][sequence][token * heads_ + head];
  }
  const Row& value(uint32_t sequence, uint32_t head, uint32_t token) const {
    return rows_[1][sequence][token * heads_ + head];
  }
  void set_key_nan(uint32_t sequence, uint32_t token) {
    for (uint32_t head = 0; head < heads_; ++head)
      for (int plane = 0; plane < 2; ++plane)
        std::memset(at(plane, sequence, head, token), 0xff, dims(plane) * size_);
  }

 private:
  uint32_t dims(int plane) const { return plane == 0 ? key_dims_ : value_dims_; }
  int64_t head_stride(int plane) const {
    const int64_t row = int64_t{dims(plane)} * size_;
    return shape_.heads_first ? row * shape_.page_tokens : row;
  }
  int64_t token_stride(int plane) const {
    const int64_t row = int64_t{dims(plane)} * size_;
    return shape_.heads_first ? row : row * heads_;
  }
  int64_t page_stride(int plane) const {
    return int64_t{dims(plane)} * size_ * heads_ * shape_.page_tokens + 64;
  }
  uint8_t* data(int plane) {
    uint8_t* base = bytes_[plane].data();
    return base + (64 - reinterpret_cast<uintptr_t>(base) % 64) % 64;
  }
  uint8_t* at(int plane, uint32_t sequence, uint32_t head, uint32_t token) {
    const int64_t page = table_[first_entry_[sequence] + token / shape_.page_tokens];
    return data(plane) + page * page_stride(plane) +
           token % shape_.page_tokens * token_stride(plane) + head * head_stride(plane);
  }
  void fill(int plane, const std::vector<uint32_t>& sequence_tokens, std::mt19937_64& random,
            double key_spread) {
    std::normal_distribution<double> normal(0, plane == 0 ? key_spread : 1.0);
    bytes_[plane].assign(static_cast<size_t>(page_stride(plane) * n_pages_) + 64, 0xff);
    rows_[plane].resize(sequence_tokens.size());
    for (uint32_t sequence = 0; sequence < sequence_tokens.size(); ++sequence)
      for (uint32_t token = 0; token < sequence_tokens[sequence]; ++token)
        for (uint32_t head = 0; head < heads_; ++head) {
          Row row(dims(plane));
          uint8_t* element = at(plane, sequence, head, token);
          for (double& value : row) {
            narrow(shape_.dtype, static_cast<float>(normal(random)), element);
            value = static_cast<double>(widen(shape_.dtype, element));
            element += size_;
          }
          rows_[plane][sequence].push_back(row);
        }
  }

  PageShape shape_;
  uint32_t heads_, key_dims_, value_dims_;
  int64_t size_ = 0;
  int64_t n_pages_ = 0;
  std::vector<int32_t> table_;
  std::vector<uint64_t> first_entry_;
  std::vector<uint8_t> bytes_[2];
  std::vector<std::vector<Row>> rows_[2];
};

// Compares one row of one head; false beyond the bound.
inline bool within(Engines engine, const Attention& exact, const Row& out, double lse,
                   double tokens, int32_t kv_dtype, int32_t out_dtype, Errors* errors) {
  const double bound = out_bound(engine, exact, tokens, kv_dtype);
  bool good = true;
  for (size_t d = 0; d < out.size(); ++d) {
    const double error = std::fabs(out[d] - exact.out[d]);
    const double limit = bound + 1.01 * half_step(out_dtype, exact.out[d]);
    if (!(error <= limit)) good = false;
    errors->out = std::max(errors->out, error / exact.largest);
    errors->of_bound = std::max(errors->of_bound, error / limit);
  }
  const double error = std::fabs(lse - exact.lse);
  const double limit = lse_bound(engine, exact, kv_dtype);
  errors->lse = std::max(errors->lse, error);
  errors->of_bound = std::max(errors->of_bound, error / limit);
  return good && error <= limit;
}

}  // namespace quire_kernels_test

#endif  // QUIRE_TESTS_KERNELS_ATTENTION_FIXTURE_H_
