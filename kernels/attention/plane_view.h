// One head's plane of a stored chunk, as the attention kernels read it: rows of codes that enter
// the products as they are, and the numbers that are folded around them.
//   key   (query row q):  q.k = token_scale * (w.code) + token_zero * sum(w) + constant
//     kChannel      w = q * scale[d], constant = q.zero
//     kToken        w = H q
//     kNormalised   w = H (q * deviation[d]), constant = q.mean
//     kFp8, kRaw    w = q
//   value (weight p): sum of p * scale_g * code[d] + p * zero_g, by groups g of dims; in H's space
//     where the codec has one.
#ifndef QUIRE_KERNELS_ATTENTION_PLANE_VIEW_H_
#define QUIRE_KERNELS_ATTENTION_PLANE_VIEW_H_

#include <stdint.h>
#include <string.h>

#include "kernels/math/bits.h"
#include "kernels/math/codec_spec.h"
#include "kernels/math/hadamard.h"
#include "kernels/math/layout.h"
#include "kernels/math/pack.h"

namespace quire_kernels {

struct PlaneView {
  PlaneSpec spec;
  int32_t codec;
  const unsigned char* section;
  uint32_t n_tokens;
  uint32_t dims;
  uint32_t head;
};

QUIRE_HD PlaneView plane_view(int32_t codec, int32_t plane, const void* section, uint32_t n_tokens,
                              uint32_t dims, uint32_t head) {
  return {plane_spec(codec, plane),
          codec,
          static_cast<const unsigned char*>(section),
          n_tokens,
          dims,
          head};
}

QUIRE_HD uint16_t read_half_bits(const unsigned char* at) {
  uint16_t bits;
  memcpy(&bits, at, 2);
  return bits;
}
QUIRE_HD float read_half(const unsigned char* at) {
  return half_to_float(read_half_bits(at));
}
QUIRE_HD float read_float(const unsigned char* at) {
  float value;
  memcpy(&value, at, 4);
  return value;
}

QUIRE_HD bool has_runs(const PlaneSpec& spec) {
  return spec.kind == SectionKind::kChannel || spec.kind == SectionKind::kNormalised;
}
// Tokens from `token` to the end of its run; all that are left where there are no runs.
QUIRE_HD uint32_t run_left(const PlaneView& view, uint32_t token) {
  const uint32_t left = view.n_tokens - token;
  if (!has_runs(view.spec)) return left;
  const uint32_t in_run = view.spec.run_tokens - token % view.spec.run_tokens;
  return in_run < left ? in_run : left;
}

// Bytes from one token's codes (or elements) to the next one's.
QUIRE_HD uint64_t row_stride(const PlaneView& view) {
  return view.spec.kind == SectionKind::kRaw ? uint64_t{view.dims} * element_bytes(view.codec)
                                             : code_row_bytes(view.dims, view.spec.bits);
}

// Codes of a token; those of the following run_left() - 1 tokens are row_stride() apart.
QUIRE_HD const unsigned char* code_row(const PlaneView& view, uint32_t token) {
  const PlaneSpec& spec = view.spec;
  const uint64_t stride = row_stride(view);
  if (spec.kind == SectionKind::kRaw)
    return view.section + (uint64_t{view.head} * view.n_tokens + token) * stride;
  if (!has_runs(spec))
    return view.section + token_head(spec, view.n_tokens, view.dims, view.head).codes +
           token * stride;
  const ChannelRun run =
      channel_run(spec, view.n_tokens, view.dims, view.head, token / spec.run_tokens);
  return view.section + run.codes + token % spec.run_tokens * stride;
}

struct Affine {
  float zero;
  float scale;
};

// {zero, scale} of a channel in the run of `token`; {mean, deviation} for kNormalised.
QUIRE_HD Affine channel_affine(const PlaneView& view, uint32_t token, uint32_t dim) {
  const ChannelRun run =
      channel_run(view.spec, view.n_tokens, view.dims, view.head, token / view.spec.run_tokens);
  if (view.spec.wide_side)
    return {read_float(view.section + run.side + 4ull * dim),
            read_float(view.section + run.wide_scales + 4ull * dim)};
  const unsigned char* pair = view.section + run.side + 4ull * dim;
  return {read_half(pair), read_half(pair + 2)};
}

// Of one token; `group` of dims where the codec has groups. {0, 1} where it has no such numbers.
QUIRE_HD Affine token_affine(const PlaneView& view, uint32_t token, uint32_t group) {
  const PlaneSpec& spec = view.spec;
  if (spec.kind == SectionKind::kNormalised) {
    const ChannelRun run =
        channel_run(spec, view.n_tokens, view.dims, view.head, token / spec.run_tokens);
    const unsigned char* pair = view.section + run.token_side + 4ull * (token % spec.run_tokens);
    return {read_half(pair), read_half(pair + 2)};
  }
  if (spec.kind == SectionKind::kFp8) {
    const TokenHead at = token_head(spec, view.n_tokens, view.dims, view.head);
    return {0, read_half(view.section + at.side + 2ull * token)};
  }
  if (spec.kind != SectionKind::kToken) return {0, 1};
  const TokenHead at = token_head(spec, view.n_tokens, view.dims, view.head);
  const uint64_t index = uint64_t{token} * token_groups(spec, view.dims) + group;
  const unsigned char* pair = view.section + at.side + 4 * index;
  return {read_half(pair), read_half(pair + 2)};
}

// Hadamard order of the plane's rows; 1 where it has none.
QUIRE_HD uint32_t plane_hadamard(const PlaneView& view) {
  return view.spec.hadamard_max == 0 ? 1 : hadamard_order(view.dims, view.spec.hadamard_max);
}

// The dim of pair j's first and second element.
QUIRE_HD uint32_t pair_first(int32_t style, uint32_t j) {
  return style == QUIRE_ROPE_STYLE_NEOX ? j : 2 * j;
}
QUIRE_HD uint32_t pair_second(int32_t style, uint32_t rotary_dims, uint32_t j) {
  return style == QUIRE_ROPE_STYLE_NEOX ? j + rotary_dims / 2 : 2 * j + 1;
}

QUIRE_HD float widen_element(int32_t dtype, const unsigned char* at) {
  if (dtype == QUIRE_DTYPE_F32) return read_float(at);
  const uint16_t bits = read_half_bits(at);
  return dtype == QUIRE_DTYPE_F16 ? half_to_float(bits) : bf16_to_float(bits);
}

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_ATTENTION_PLANE_VIEW_H_
