// Stored bytes -> engine memory. The unit of work is a row (one token of one head): decoded into
// fp32 on the stack, rotated, rounded once. Rows whose dims are contiguous in the engine are
// written in place; others go through a tile that is transposed, so that a cache line of the engine
// is written at once.
#include <math.h>
#include <string.h>

#include "kernels/math/bits.h"
#include "kernels/math/layout.h"
#include "kernels/params.h"
#include "kernels/quire_kernels.h"
#include "kernels/rows.h"
#include "kernels/tiles.h"

namespace quire_kernels {
namespace {

// The largest magnitude that still rounds to a finite number of the dtype.
double largest_magnitude(int32_t dtype, bool rotated) {
  double limit = 0x1.fffffep127;
  if (dtype == QUIRE_DTYPE_F16) limit = 0x1.ffdffep15;
  if (dtype == QUIRE_DTYPE_BF16) limit = 0x1.fefffep127;
  return rotated ? limit / 1.4142136 : limit;
}

int check_magnitude(double magnitude, double limit) {
  if (!isfinite(magnitude)) return QUIRE_KERNEL_NON_FINITE;
  return magnitude <= limit ? QUIRE_KERNEL_OK : QUIRE_KERNEL_OUT_OF_RANGE;
}

double bits_to_magnitude(int32_t dtype, uint32_t bits) {
  if (dtype == QUIRE_DTYPE_F16) return half_to_float(static_cast<uint16_t>(bits));
  const uint32_t wide = dtype == QUIRE_DTYPE_BF16 ? bits << 16 : bits;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

// |minimum + code * scale| is largest at an end of the codes.
int check_affine(float minimum, float scale, double limit) {
  if (!isfinite(minimum) || !isfinite(scale)) return QUIRE_KERNEL_NON_FINITE;
  const double top = fabs(static_cast<double>(minimum) + 255.0 * static_cast<double>(scale));
  const double bottom = fabs(static_cast<double>(minimum));
  return check_magnitude(top > bottom ? top : bottom, limit);
}

class Loader {
 public:
  Loader(const quire_load_params& params, const RowOps& rows)
      : p_(params),
        rows_(rows),
        src_(static_cast<const Byte*>(params.src)),
        dst_(static_cast<Byte*>(params.dst)),
        spec_(plane_spec(params.codec, params.plane)),
        element_(element_bytes(params.dst_dtype)),
        rotates_(rotates(params.rotation)),
        copies_(params.codec == params.dst_dtype && !rotates_) {}

  int check_payload() const {
    if (p_.token_begin == p_.token_end) return QUIRE_KERNEL_OK;
    if (is_raw(p_.codec)) return check_raw();
    return p_.plane == QUIRE_PLANE_KEY ? check_channels() : check_tokens();
  }

  void run() const {
    const bool contiguous = p_.head_dim == 1 || p_.dst_dim_stride == element_;
    for (uint32_t head = 0; head < p_.n_heads; ++head) {
      if (contiguous)
        write_rows(head);
      else
        write_transposed(head);
    }
  }

 private:
  double limit() const { return largest_magnitude(p_.dst_dtype, rotates_); }

  const Byte* raw_row(uint32_t head, uint32_t token) const {
    const uint64_t index = uint64_t{head} * p_.n_tokens + token;
    return src_ + index * p_.head_dim * element_bytes(p_.codec);
  }

  int check_raw() const {
    const uint64_t n = uint64_t{p_.token_end - p_.token_begin} * p_.head_dim;
    for (uint32_t head = 0; head < p_.n_heads; ++head) {
      const uint32_t bits = rows_.max_abs_bits(p_.codec, raw_row(head, p_.token_begin), n);
      if (bits >= infinity_bits(p_.codec)) return QUIRE_KERNEL_NON_FINITE;
      if (copies_) continue;
      if (int status = check_magnitude(bits_to_magnitude(p_.codec, bits), limit())) return status;
    }
    return QUIRE_KERNEL_OK;
  }

  int check_channels() const {
    const uint32_t first = p_.token_begin / spec_.run_tokens;
    const uint32_t last = (p_.token_end - 1) / spec_.run_tokens;
    for (uint32_t head = 0; head < p_.n_heads; ++head)
      for (uint32_t run = first; run <= last; ++run) {
        const ChannelRun at = channel_run(spec_, p_.n_tokens, p_.head_dim, head, run);
        const auto* minimums = reinterpret_cast<const float*>(src_ + at.side);
        const auto* scales = reinterpret_cast<const float*>(src_ + at.wide_scales);
        for (uint32_t dim = 0; dim < p_.head_dim; ++dim)
          if (int status = check_affine(minimums[dim], scales[dim], limit())) return status;
      }
    return QUIRE_KERNEL_OK;
  }

  int check_tokens() const {
    for (uint32_t head = 0; head < p_.n_heads; ++head)
      for (uint32_t token = p_.token_begin; token < p_.token_end; ++token) {
        float zero;
        float scale;
        token_scale(head, token, &zero, &scale);
        if (int status = check_affine(zero, scale, limit())) return status;
      }
    return QUIRE_KERNEL_OK;
  }

  void token_scale(uint32_t head, uint32_t token, float* zero, float* scale) const {
    uint16_t pair[2];
    memcpy(pair, src_ + token_head(spec_, p_.n_tokens, p_.head_dim, head).side + 4ull * token, 4);
    *zero = half_to_float(pair[0]);
    *scale = half_to_float(pair[1]);
  }

  void decode_row(uint32_t head, uint32_t token, float* row) const {
    const uint32_t n = p_.head_dim;
    if (is_raw(p_.codec)) {
      rows_.widen(p_.codec, raw_row(head, token), row, n);
    } else if (p_.plane == QUIRE_PLANE_KEY) {
      const uint32_t run = token / spec_.run_tokens;
      const ChannelRun at = channel_run(spec_, p_.n_tokens, n, head, run);
      const uint64_t inside = token % spec_.run_tokens;
      rows_.decode_channel(src_ + at.codes + inside * n,
                           reinterpret_cast<const float*>(src_ + at.side),
                           reinterpret_cast<const float*>(src_ + at.wide_scales), row, n);
    } else {
      float zero;
      float scale;
      token_scale(head, token, &zero, &scale);
      const Byte* codes = src_ + token_head(spec_, p_.n_tokens, n, head).codes;
      rows_.decode_token(codes + uint64_t{token} * n, zero, scale, row, n);
    }
    if (rotates_)
      rows_.rotate(p_.rotation.style, rotation_of_token(p_.rotation, token), row,
                   p_.rotation.rotary_dims);
  }

  // The row in the engine's dtype, contiguous.
  void make_row(uint32_t head, uint32_t token, Byte* out) const {
    if (copies_) {
      memcpy(out, raw_row(head, token), uint64_t{p_.head_dim} * element_);
      return;
    }
    alignas(64) float row[QUIRE_KERNEL_DIMS_MAX];
    decode_row(head, token, row);
    rows_.narrow(p_.dst_dtype, row, out, p_.head_dim);
  }

  bool masked(uint32_t token) const { return p_.row_mask != nullptr && p_.row_mask[token] == 0; }
  int64_t dst_row(uint32_t token) const {
    return p_.dst_token != nullptr ? p_.dst_token[token] : token;
  }

  void write_rows(uint32_t head) const {
    for (uint32_t token = p_.token_begin; token < p_.token_end; ++token) {
      if (masked(token)) continue;
      make_row(head, token,
               dst_ + dst_row(token) * p_.dst_token_stride + head * p_.dst_head_stride);
    }
  }

  void write_transposed(uint32_t head) const {
    const uint32_t step = tile_tokens(p_.head_dim, element_);
    for (uint32_t token = p_.token_begin; token < p_.token_end; token += step) {
      const uint32_t n = p_.token_end - token < step ? p_.token_end - token : step;
      write_tile(head, token, n);
    }
  }

  void write_tile(uint32_t head, uint32_t token, uint32_t n) const {
    alignas(64) Byte tile[kTileBytes];
    alignas(64) Byte turned[kTileBytes];
    const uint64_t row_bytes = uint64_t{p_.head_dim} * element_;
    const Byte* source = tile;
    if (copies_)
      source = raw_row(head, token);
    else
      for (uint32_t i = 0; i < n; ++i) make_row(head, token + i, tile + i * row_bytes);
    rows_.transpose(element_, source, static_cast<int64_t>(row_bytes), n, p_.head_dim, turned,
                    int64_t{n} * element_);
    Byte* base = dst_ + head * p_.dst_head_stride;
    if (runs_on(token, n))
      write_spans(base + dst_row(token) * p_.dst_token_stride, turned, uint64_t{n} * element_);
    else
      write_elements(base, token, n, turned);
  }

  // True where the tile's tokens are all written, side by side in engine memory.
  bool runs_on(uint32_t token, uint32_t n) const {
    if (p_.dst_token_stride != element_) return false;
    for (uint32_t i = 0; i < n; ++i)
      if (masked(token + i) || dst_row(token + i) != dst_row(token) + i) return false;
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
  const RowOps& rows_;
  const Byte* src_;
  Byte* dst_;
  PlaneSpec spec_;
  uint32_t element_;
  bool rotates_;
  bool copies_;
};

int load(const quire_load_params& params) {
  const Loader loader(params, *active_rows());
  if (int status = loader.check_payload()) return status;
  loader.run();
  return QUIRE_KERNEL_OK;
}

}  // namespace
}  // namespace quire_kernels

extern "C" int quire_load(const struct quire_load_params* params) {
  if (int status = quire_kernels::check_load(params)) return status;
  return quire_kernels::load(*params);
}

extern "C" int quire_load_batch(const struct quire_load_params* params, size_t n,
                                size_t* failed_index) {
  if (params == nullptr && n != 0) return QUIRE_KERNEL_INVALID_ARGUMENT;
  for (size_t pass = 0; pass < 2; ++pass)
    for (size_t i = 0; i < n; ++i) {
      const int status =
          pass == 0 ? quire_kernels::check_load(&params[i]) : quire_kernels::load(params[i]);
      if (status != QUIRE_KERNEL_OK) {
        if (failed_index != nullptr) *failed_index = i;
        return status;
      }
    }
  return QUIRE_KERNEL_OK;
}
