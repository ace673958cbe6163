// Engine memory -> stored bytes. Rows are gathered (through a transposed tile where dims are not
// contiguous), widened, rotated and encoded one at a time. Int8 K reads its run twice, once for the
// range of each channel and once for the codes: the second read comes from cache and no scratch is
// needed.
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels/math/bits.h"
#include "kernels/math/layout.h"
#include "kernels/math/quantise.h"
#include "kernels/params.h"
#include "kernels/quire_kernels.h"
#include "kernels/rows.h"
#include "kernels/tiles.h"

namespace quire_kernels {
namespace {

class Storer {
 public:
  Storer(const quire_store_params& params, const RowOps& rows)
      : p_(params),
        rows_(rows),
        src_(static_cast<const Byte*>(params.src)),
        dst_(static_cast<Byte*>(params.dst)),
        spec_(plane_spec(params.codec, params.plane)),
        element_(element_bytes(params.src_dtype)),
        rotates_(rotates(params.rotation)),
        contiguous_(params.head_dim == 1 || params.src_dim_stride == element_),
        tile_tokens_(tile_tokens(params.head_dim, element_)) {}

  int run() {
    for (uint32_t head = 0; head < p_.n_heads; ++head)
      if (int status = store_head(head)) return status;
    return QUIRE_KERNEL_OK;
  }

 private:
  int store_head(uint32_t head) {
    tile_end_ = 0;
    if (is_raw(p_.codec)) return store_raw(head);
    if (p_.plane == QUIRE_PLANE_VALUE) return store_tokens(head);
    for (uint32_t begin = 0; begin < p_.n_tokens; begin += spec_.run_tokens) {
      const uint32_t left = p_.n_tokens - begin;
      const uint32_t n = left < spec_.run_tokens ? left : spec_.run_tokens;
      if (int status = store_run(head, begin, n)) return status;
    }
    return QUIRE_KERNEL_OK;
  }

  int store_raw(uint32_t head) {
    const uint64_t row_bytes = uint64_t{p_.head_dim} * element_bytes(p_.codec);
    Byte* out = dst_ + uint64_t{head} * p_.n_tokens * row_bytes;
    const bool copies = p_.codec == p_.src_dtype && !rotates_;
    for (uint32_t token = 0; token < p_.n_tokens; ++token, out += row_bytes) {
      if (copies) {
        memcpy(out, engine_row(head, token), row_bytes);
      } else {
        if (int status = fetch(head, token)) return status;
        rows_.narrow(p_.codec, row_, out, p_.head_dim);
      }
      if (rows_.max_abs_bits(p_.codec, out, p_.head_dim) >= infinity_bits(p_.codec))
        return copies ? QUIRE_KERNEL_NON_FINITE : QUIRE_KERNEL_OUT_OF_RANGE;
    }
    return QUIRE_KERNEL_OK;
  }

  int store_tokens(uint32_t head) {
    const uint32_t n = p_.head_dim;
    const TokenHead at = token_head(spec_, p_.n_tokens, n, head);
    for (uint32_t token = 0; token < p_.n_tokens; ++token) {
      if (int status = fetch(head, token)) return status;
      float minimum;
      float maximum;
      rows_.row_range(row_, n, &minimum, &maximum);
      uint16_t pair[2];
      if (!half_affine(minimum, maximum, 255, &pair[0], &pair[1])) return QUIRE_KERNEL_OUT_OF_RANGE;
      memcpy(dst_ + at.side + 4ull * token, pair, 4);
      rows_.encode_token(row_, half_to_float(pair[0]), half_to_float(pair[1]),
                         dst_ + at.codes + uint64_t{token} * n, n);
    }
    clear(at.side + 4ull * p_.n_tokens, at.codes);
    const uint64_t codes_bytes = uint64_t{p_.n_tokens} * n;
    clear(at.codes + codes_bytes, at.codes + align_block(codes_bytes));
    return QUIRE_KERNEL_OK;
  }

  int store_run(uint32_t head, uint32_t begin, uint32_t n_tokens) {
    const uint32_t n = p_.head_dim;
    const ChannelRun at = channel_run(spec_, p_.n_tokens, n, head, begin / spec_.run_tokens);
    auto* minimums = reinterpret_cast<float*>(dst_ + at.side);
    auto* scales = reinterpret_cast<float*>(dst_ + at.wide_scales);
    float* maximums = scales;  // until the range is known
    for (uint32_t i = 0; i < n_tokens; ++i) {
      if (int status = fetch(head, begin + i)) return status;
      if (i == 0) {
        memcpy(minimums, row_, uint64_t{n} * 4);
        memcpy(maximums, row_, uint64_t{n} * 4);
      } else {
        rows_.extend_range(row_, minimums, maximums, n);
      }
    }
    for (uint32_t dim = 0; dim < n; ++dim) {
      minimums[dim] += 0.0f;  // one form of zero, whatever order the range was found in
      if (!float_scale(minimums[dim], maximums[dim], 255, &scales[dim]))
        return QUIRE_KERNEL_OUT_OF_RANGE;
    }
    for (uint32_t i = 0; i < n_tokens; ++i) {
      if (int status = fetch(head, begin + i)) return status;
      rows_.encode_channel(row_, minimums, scales, dst_ + at.codes + uint64_t{i} * n, n);
    }
    clear(at.side + 4ull * n, at.wide_scales);
    clear(at.wide_scales + 4ull * n, at.codes);
    const uint64_t codes_bytes = uint64_t{n_tokens} * n;
    clear(at.codes + codes_bytes, at.codes + align_block(codes_bytes));
    return QUIRE_KERNEL_OK;
  }

  void clear(uint64_t begin, uint64_t end) { memset(dst_ + begin, 0, end - begin); }

  // row_ = the row in fp32, rotated and finite.
  int fetch(uint32_t head, uint32_t token) {
    rows_.widen(p_.src_dtype, engine_row(head, token), row_, p_.head_dim);
    if (!row_is_finite()) return QUIRE_KERNEL_NON_FINITE;
    if (!rotates_) return QUIRE_KERNEL_OK;
    rows_.rotate(p_.rotation.style, rotation_of_token(p_.rotation, token), row_,
                 p_.rotation.rotary_dims);
    return row_is_finite() ? QUIRE_KERNEL_OK : QUIRE_KERNEL_OUT_OF_RANGE;
  }

  bool row_is_finite() const {
    return rows_.max_abs_bits(QUIRE_DTYPE_F32, reinterpret_cast<const Byte*>(row_), p_.head_dim) <
           infinity_bits(QUIRE_DTYPE_F32);
  }

  int64_t src_row(uint32_t token) const {
    return p_.src_token != nullptr ? p_.src_token[token] : token;
  }
  const Byte* engine_at(uint32_t head, uint32_t token) const {
    return src_ + src_row(token) * p_.src_token_stride + head * p_.src_head_stride;
  }

  // The row's elements side by side: in place, or in the tile.
  const Byte* engine_row(uint32_t head, uint32_t token) {
    if (contiguous_) return engine_at(head, token);
    if (token < tile_begin_ || token >= tile_end_) fill_tile(head, token);
    return tile_ + uint64_t{token - tile_begin_} * p_.head_dim * element_;
  }

  void fill_tile(uint32_t head, uint32_t token) {
    const uint32_t left = p_.n_tokens - token;
    const uint32_t n = left < tile_tokens_ ? left : tile_tokens_;
    tile_begin_ = token;
    tile_end_ = token + n;
    const uint64_t row_bytes = uint64_t{p_.head_dim} * element_;
    if (runs_on(token, n)) {
      rows_.transpose(element_, engine_at(head, token), p_.src_dim_stride, p_.head_dim, n, tile_,
                      static_cast<int64_t>(row_bytes));
      return;
    }
    for (uint32_t i = 0; i < n; ++i) {
      const Byte* from = engine_at(head, token + i);
      for (uint32_t dim = 0; dim < p_.head_dim; ++dim)
        memcpy(tile_ + i * row_bytes + uint64_t{dim} * element_, from + dim * p_.src_dim_stride,
               element_);
    }
  }

  bool runs_on(uint32_t token, uint32_t n) const {
    if (p_.src_token_stride != element_) return false;
    for (uint32_t i = 1; i < n; ++i)
      if (src_row(token + i) != src_row(token) + i) return false;
    return true;
  }

  const quire_store_params& p_;
  const RowOps& rows_;
  const Byte* src_;
  Byte* dst_;
  PlaneSpec spec_;
  uint32_t element_;
  bool rotates_;
  bool contiguous_;
  uint32_t tile_tokens_;
  uint32_t tile_begin_ = 0;
  uint32_t tile_end_ = 0;  // empty: nothing of this head is in the tile yet
  alignas(64) float row_[QUIRE_KERNEL_DIMS_MAX];
  alignas(64) Byte tile_[kTileBytes];
};

}  // namespace
}  // namespace quire_kernels

extern "C" int quire_store(const struct quire_store_params* params) {
  if (int status = quire_kernels::check_store(params)) return status;
  quire_kernels::Storer storer(*params, *quire_kernels::active_rows());
  return storer.run();
}
