// Stored bytes -> engine memory. Rows (one token of one head) are decoded in batches. Rows whose
// dims are contiguous in the engine are written in place, or, where a call fills more than the
// caches hold, from a tile past the caches: lines that are not read before they are written save a
// third of the memory traffic. Other rows go through a tile that is transposed, so that a cache
// line of the engine is written at once.
#include <string.h>

#include "kernels/denormals.h"
#include "kernels/params.h"
#include "kernels/quire_kernels.h"
#include "kernels/section.h"
#include "kernels/tiles.h"

namespace quire_kernels {
namespace {

class Loader {
 public:
  Loader(const quire_load_params& params, const RowOps& ops)
      : p_(params),
        src_(static_cast<const Byte*>(params.src)),
        dst_(static_cast<Byte*>(params.dst)),
        shape_(section_shape(params.codec, params.plane, params.n_tokens, params.n_heads,
                             params.head_dim)),
        target_{&ops,
                params.dst_dtype,
                params.rotation.style,
                params.rotation.rotary_dims,
                rotates(params.rotation),
                (params.flags & QUIRE_KERNEL_KEEP_NON_FINITE) != 0},
        element_(element_bytes(params.dst_dtype)),
        row_bytes_(uint64_t{params.head_dim} * element_) {}

  int check_payload() const {
    return check_values(shape_, target_, src_, p_.token_begin, p_.token_end);
  }

  // streams: engine memory of this call exceeds the caches, so whole lines are written past them.
  void run(bool streams) {
    streams_ = streams && streamable();
    const bool contiguous = p_.head_dim == 1 || p_.dst_dim_stride == element_;
    target_.streams = contiguous && streams_ && streams_rows(shape_, target_);
    const uint32_t step =
        contiguous ? kBatchRows : static_cast<uint32_t>(tile_tokens(p_.head_dim, element_));
    for (uint32_t head = 0; head < p_.n_heads; ++head)
      for (uint32_t token = p_.token_begin; token < p_.token_end; token += step) {
        const uint32_t n = p_.token_end - token < step ? p_.token_end - token : step;
        if (contiguous && streams_)
          stream_rows(head, token, n);
        else if (contiguous)
          write_rows(head, token, n);
        else
          write_tile(head, token, n);
      }
    read(batches_[current_]);
    if (streams_) target_.ops->stream_fence();
  }

 private:
  bool streamable() const {
    const auto whole_lines = [](int64_t bytes) { return bytes % 64 == 0; };
    return reinterpret_cast<uintptr_t>(dst_) % 64 == 0 && row_bytes_ % 64 == 0 &&
           row_bytes_ * kBatchRows <= kTileBytes && whole_lines(p_.dst_token_stride) &&
           whole_lines(p_.dst_head_stride);
  }
  bool masked(uint32_t token) const { return p_.row_mask != nullptr && p_.row_mask[token] == 0; }
  int64_t dst_row(uint32_t token) const {
    return p_.dst_token != nullptr ? p_.dst_token[token] : token;
  }

  void add(RowBatch* batch, uint32_t token, Byte* out) const {
    batch->token[batch->n] = token;
    batch->table[batch->n] = target_.rotates ? rotation_of_token(p_.rotation, token) : nullptr;
    batch->out[batch->n++] = out;
  }

  void read(const RowBatch& batch) {
    if (batch.n != 0) read_rows(shape_, target_, src_, batch, &cursor_);
  }

  // Rows leave as whole lines, which are not read first: from registers, or made in the L1 cache.
  void stream_rows(uint32_t head, uint32_t token, uint32_t n) {
    alignas(64) Byte tile[kTileBytes];
    Byte* out[kBatchRows];
    RowBatch batch;
    batch.head = head;
    for (uint32_t i = token; i < token + n; ++i) {
      if (masked(i)) continue;
      out[batch.n] = dst_ + head * p_.dst_head_stride + dst_row(i) * p_.dst_token_stride;
      add(&batch, i, target_.streams ? out[batch.n] : tile + batch.n * row_bytes_);
    }
    read(batch);
    if (target_.streams) return;
    target_.ops->stream_rows(tile, row_bytes_, out, batch.n);
  }

  // Rows lie far apart where an engine has many heads, which no hardware prefetcher follows: the
  // lines of a batch are asked for while the batch before it is decoded.
  void write_rows(uint32_t head, uint32_t token, uint32_t n) {
    RowBatch& batch = batches_[current_ ^ 1];
    batch.head = head;
    batch.n = 0;
    Byte* base = dst_ + head * p_.dst_head_stride;
    for (uint32_t i = token; i < token + n; ++i) {
      if (masked(i)) continue;
      Byte* out = base + dst_row(i) * p_.dst_token_stride;
      for (uint64_t line = 0; line < row_bytes_; line += 64) __builtin_prefetch(out + line, 1);
      add(&batch, i, out);
    }
    read(batches_[current_]);
    current_ ^= 1;
  }

  void write_tile(uint32_t head, uint32_t token, uint32_t n) {
    alignas(64) Byte tile[kTileBytes];
    alignas(64) Byte turned[kTileBytes];
    RowBatch batch;
    batch.head = head;
    for (uint32_t i = 0; i < n; ++i)
      if (!masked(token + i)) add(&batch, token + i, tile + i * row_bytes_);
    if (batch.n == 0) return;
    read(batch);
    target_.ops->transpose(element_, tile, static_cast<int64_t>(row_bytes_), n, p_.head_dim, turned,
                           int64_t{n} * element_);
    Byte* base = dst_ + head * p_.dst_head_stride;
    if (batch.n == n && runs_on(token, n))
      write_spans(base + dst_row(token) * p_.dst_token_stride, turned, uint64_t{n} * element_);
    else
      write_elements(base, token, n, turned);
  }

  // True where the tile's tokens lie side by side in engine memory.
  bool runs_on(uint32_t token, uint32_t n) const {
    if (p_.dst_token_stride != element_) return false;
    for (uint32_t i = 1; i < n; ++i)
      if (dst_row(token + i) != dst_row(token) + i) return false;
    return true;
  }

  void write_spans(Byte* to, const Byte* turned, uint64_t span_bytes) const {
    if (span_bytes == 64) {
      for (uint32_t dim = 0; dim < p_.head_dim; ++dim)
        memcpy(to + dim * p_.dst_dim_stride, turned + dim * 64ull, 64);
      return;
    }
    for (uint32_t dim = 0; dim < p_.head_dim; ++dim)
      memcpy(to + dim * p_.dst_dim_stride, turned + dim * span_bytes, span_bytes);
  }

  void write_elements(Byte* base, uint32_t token, uint32_t n, const Byte* turned) const {
    for (uint32_t i = 0; i < n; ++i) {
      if (masked(token + i)) continue;
      Byte* to = base + dst_row(token + i) * p_.dst_token_stride;
      for (uint32_t dim = 0; dim < p_.head_dim; ++dim)
        memcpy(to + dim * p_.dst_dim_stride, turned + (uint64_t{dim} * n + i) * element_, element_);
    }
  }

  const quire_load_params& p_;
  const Byte* src_;
  Byte* dst_;
  SectionShape shape_;
  LoadTarget target_;
  uint32_t element_;
  uint64_t row_bytes_;
  ReadCursor cursor_;
  RowBatch batches_[2];
  uint32_t current_ = 0;  // the one that is decoded next
  bool streams_ = false;
};

// Engine memory that a call fills: more than this does not stay in the caches of a core.
constexpr uint64_t kStreamBytes = 1 << 20;

uint64_t engine_bytes(const quire_load_params& p) {
  return uint64_t{p.token_end - p.token_begin} * p.n_heads * p.head_dim *
         element_bytes(p.dst_dtype);
}

int load(const quire_load_params& params, bool streams) {
  Loader loader(params, *active_rows());
  if (int status = loader.check_payload()) return status;
  loader.run(streams);
  return QUIRE_KERNEL_OK;
}

}  // namespace
}  // namespace quire_kernels

extern "C" int quire_load(const struct quire_load_params* params) {
  const quire_kernels::KeepDenormals keep_denormals;
  if (int status = quire_kernels::check_load(params)) return status;
  return quire_kernels::load(*params,
                             quire_kernels::engine_bytes(*params) >= quire_kernels::kStreamBytes);
}

extern "C" int quire_load_batch(const struct quire_load_params* params, size_t n,
                                size_t* failed_index) {
  const quire_kernels::KeepDenormals keep_denormals;
  if (params == nullptr && n != 0) return QUIRE_KERNEL_INVALID_ARGUMENT;
  uint64_t total_bytes = 0;
  for (size_t pass = 0; pass < 2; ++pass)
    for (size_t i = 0; i < n; ++i) {
      const int status =
          pass == 0 ? quire_kernels::check_load(&params[i])
                    : quire_kernels::load(params[i], total_bytes >= quire_kernels::kStreamBytes);
      if (pass == 0 && status == QUIRE_KERNEL_OK)
        total_bytes += quire_kernels::engine_bytes(params[i]);
      if (status != QUIRE_KERNEL_OK) {
        if (failed_index != nullptr) *failed_index = i;
        return status;
      }
    }
  return QUIRE_KERNEL_OK;
}
