// Where things lie inside a section (docs/formats/codecs.md), and element sizes.
#ifndef QUIRE_KERNELS_MATH_LAYOUT_H_
#define QUIRE_KERNELS_MATH_LAYOUT_H_

#include <stdint.h>

#include "kernels/math/codec_spec.h"
#include "kernels/math/hd.h"
#include "kernels/math/pack.h"
#include "kernels/quire_kernels.h"

namespace quire_kernels {

inline constexpr uint64_t kBlockAlignment = 64;

QUIRE_HD constexpr uint64_t align_block(uint64_t bytes) {
  return (bytes + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
}

// 0 for an unknown dtype. Raw codecs carry the number of their dtype.
QUIRE_HD constexpr uint32_t element_bytes(int32_t dtype) {
  if (dtype == QUIRE_DTYPE_F16 || dtype == QUIRE_DTYPE_BF16) return 2;
  return dtype == QUIRE_DTYPE_F32 ? 4 : 0;
}
QUIRE_HD constexpr bool is_raw(int32_t codec) {
  return element_bytes(codec) != 0;
}

// The bits of +infinity; of a positive number's, only those of a NaN are larger.
QUIRE_HD constexpr uint32_t infinity_bits(int32_t dtype) {
  if (dtype == QUIRE_DTYPE_F16) return 0x7c00;
  return dtype == QUIRE_DTYPE_BF16 ? 0x7f80 : 0x7f800000;
}

// kChannel and kNormalised, per head and run: per-channel side data, (kNormalised: per-token side
// data,) codes; each block aligned. Byte offsets inside the section.
struct ChannelRun {
  uint64_t side;         // fp16 pairs per dim: {zero, scale} or {mean, deviation};
                         // wide: D fp32 minimums, aligned, then D fp32 scales
  uint64_t wide_scales;  // wide only
  uint64_t token_side;   // kNormalised: fp16 {zero, scale} per token
  uint64_t codes;        // [tokens of the run] rows of code_row_bytes()
};

QUIRE_HD uint64_t channel_side_bytes(const PlaneSpec& spec, uint32_t head_dim) {
  return (spec.wide_side ? 2 : 1) * align_block(4ull * head_dim);
}

QUIRE_HD uint64_t channel_run_bytes(const PlaneSpec& spec, uint32_t run_tokens, uint32_t head_dim) {
  const uint64_t token_side =
      spec.kind == SectionKind::kNormalised ? align_block(4ull * run_tokens) : 0;
  return channel_side_bytes(spec, head_dim) + token_side +
         align_block(run_tokens * code_row_bytes(head_dim, spec.bits));
}

QUIRE_HD uint64_t channel_head_bytes(const PlaneSpec& spec, uint32_t n_tokens, uint32_t head_dim) {
  const uint32_t tail = n_tokens % spec.run_tokens;
  return n_tokens / spec.run_tokens * channel_run_bytes(spec, spec.run_tokens, head_dim) +
         (tail ? channel_run_bytes(spec, tail, head_dim) : 0);
}

QUIRE_HD ChannelRun channel_run(const PlaneSpec& spec, uint32_t n_tokens, uint32_t head_dim,
                                uint32_t head, uint32_t run) {
  const uint64_t start = head * channel_head_bytes(spec, n_tokens, head_dim) +
                         run * channel_run_bytes(spec, spec.run_tokens, head_dim);
  const uint32_t left = n_tokens - run * spec.run_tokens;
  const uint32_t run_tokens = left < spec.run_tokens ? left : spec.run_tokens;
  const uint64_t token_side = start + channel_side_bytes(spec, head_dim);
  const uint64_t codes =
      token_side + (spec.kind == SectionKind::kNormalised ? align_block(4ull * run_tokens) : 0);
  return {start, start + align_block(4ull * head_dim), token_side, codes};
}

// kToken, per head: fp16 {zero, scale} per token and group of dims, then codes. kFp8: fp16 scales
// per token, then codes. Each block aligned.
struct TokenHead {
  uint64_t side;
  uint64_t codes;
};

QUIRE_HD uint32_t group_dims(const PlaneSpec& spec, uint32_t head_dim) {
  return spec.group_dims == 0 ? head_dim : spec.group_dims;
}
QUIRE_HD uint32_t token_groups(const PlaneSpec& spec, uint32_t head_dim) {
  const uint32_t group = group_dims(spec, head_dim);
  return (head_dim + group - 1) / group;
}

QUIRE_HD uint64_t token_side_bytes(const PlaneSpec& spec, uint32_t n_tokens, uint32_t head_dim) {
  const uint64_t row = spec.kind == SectionKind::kFp8 ? 2 : 4ull * token_groups(spec, head_dim);
  return align_block(row * n_tokens);
}

QUIRE_HD uint64_t token_head_bytes(const PlaneSpec& spec, uint32_t n_tokens, uint32_t head_dim) {
  return token_side_bytes(spec, n_tokens, head_dim) +
         align_block(n_tokens * code_row_bytes(head_dim, spec.bits));
}

QUIRE_HD TokenHead token_head(const PlaneSpec& spec, uint32_t n_tokens, uint32_t head_dim,
                              uint32_t head) {
  const uint64_t start = head * token_head_bytes(spec, n_tokens, head_dim);
  return {start, start + token_side_bytes(spec, n_tokens, head_dim)};
}

// kExponent. Every section starts with ExponentHeader. Blocks of coded sections, each aligned: the
// header (+ exp4's table inside it), window3's channel tops, sign and mantissa bytes, code rows,
// the escape index, the escapes. Rows are numbered head * n_tokens + token.
struct ExponentHeader {
  uint32_t mode;  // 0 coded; 1 plain: the bf16 elements follow the header
  uint32_t escape_count;
  uint8_t exponents[15];  // exp4: what codes 0..14 stand for; window3: zero
  uint8_t reserved[41];
};
static_assert(sizeof(ExponentHeader) == 64);

inline constexpr uint32_t kExponentCoded = 0;
inline constexpr uint32_t kExponentPlain = 1;
// Rows between two entries of the escape index.
inline constexpr uint32_t kEscapeIndexRows = 64;
// window3: codes 0..6 count down from the channel's top exponent, so a top is at least 6.
inline constexpr uint32_t kWindow = 7;

struct ExponentBlocks {
  uint64_t tops;           // window3: u8 [head][run][dim]
  uint64_t sign_mantissa;  // u8 [row][dim]: sign << 7 | mantissa
  uint64_t codes;          // [row] code_row_bytes(); the largest code is an escape
  uint64_t escape_index;   // u32 [ceil(rows / 64)]: escapes in all rows before
  uint64_t escapes;        // u8 exponents in the order of rows and dims
  uint64_t total;          // of the section
};

QUIRE_HD ExponentBlocks exponent_blocks(const PlaneSpec& spec, uint32_t n_tokens, uint32_t n_heads,
                                        uint32_t head_dim, uint64_t escape_count) {
  const uint64_t rows = uint64_t{n_heads} * n_tokens;
  const uint32_t runs = spec.run_tokens ? (n_tokens + spec.run_tokens - 1) / spec.run_tokens : 0;
  ExponentBlocks at;
  at.tops = sizeof(ExponentHeader);
  at.sign_mantissa = at.tops + align_block(uint64_t{n_heads} * runs * head_dim);
  at.codes = at.sign_mantissa + align_block(rows * head_dim);
  at.escape_index = at.codes + align_block(rows * code_row_bytes(head_dim, spec.bits));
  at.escapes = at.escape_index + align_block((rows + kEscapeIndexRows - 1) / kEscapeIndexRows * 4);
  at.total = at.escapes + align_block(escape_count);
  return at;
}

QUIRE_HD uint64_t exponent_plain_bytes(uint32_t n_tokens, uint32_t n_heads, uint32_t head_dim) {
  return sizeof(ExponentHeader) + align_block(uint64_t{n_heads} * n_tokens * head_dim * 2);
}

// kMixed: header, the map of salient tokens, the sub-section of those tokens, the one of the
// others; a sub-section without tokens is absent.
struct MixedHeader {
  uint32_t salient_tokens;
  uint8_t reserved[60];
};
static_assert(sizeof(MixedHeader) == 64);

struct MixedBlocks {
  uint64_t map;  // bit t % 8 of byte t / 8
  uint64_t salient;
  uint64_t other;
  uint64_t total;
};

QUIRE_HD bool variable_size(int32_t codec) {
  const SectionKind kind = plane_spec(codec, QUIRE_PLANE_KEY).kind;
  return kind == SectionKind::kExponent || kind == SectionKind::kMixed;
}

// Of kinds of fixed size, and what one of kExponent never exceeds; shapes within limits.
QUIRE_HD uint64_t plain_section_bytes(int32_t codec, int32_t plane, uint32_t n_tokens,
                                      uint32_t n_heads, uint32_t head_dim) {
  const PlaneSpec spec = plane_spec(codec, plane);
  switch (spec.kind) {
    case SectionKind::kRaw:
      return uint64_t{n_heads} * n_tokens * head_dim * element_bytes(codec);
    case SectionKind::kChannel:
    case SectionKind::kNormalised:
      return n_heads * channel_head_bytes(spec, n_tokens, head_dim);
    case SectionKind::kToken:
    case SectionKind::kFp8:
      return n_heads * token_head_bytes(spec, n_tokens, head_dim);
    case SectionKind::kExponent:
      return exponent_plain_bytes(n_tokens, n_heads, head_dim);
    default:
      return 0;
  }
}

QUIRE_HD MixedBlocks mixed_blocks(int32_t codec, int32_t plane, uint32_t n_tokens, uint32_t n_heads,
                                  uint32_t head_dim, uint32_t salient_tokens) {
  const MixedSpec mixed = mixed_spec(codec);
  const uint32_t others = n_tokens - salient_tokens;
  MixedBlocks at;
  at.map = sizeof(MixedHeader);
  at.salient = at.map + align_block((n_tokens + 7) / 8);
  at.other = at.salient + (salient_tokens == 0
                               ? 0
                               : align_block(plain_section_bytes(
                                     mixed.salient, plane, salient_tokens, n_heads, head_dim)));
  at.total = at.other + (others == 0 ? 0
                                     : align_block(plain_section_bytes(mixed.other, plane, others,
                                                                       n_heads, head_dim)));
  return at;
}

// Of every kind. A mixed section is largest where every token is salient, but for the side data
// that both of its parts round up to whole runs and blocks: both are counted in full.
QUIRE_HD uint64_t section_bytes_max(int32_t codec, int32_t plane, uint32_t n_tokens,
                                    uint32_t n_heads, uint32_t head_dim) {
  if (plane_spec(codec, plane).kind != SectionKind::kMixed)
    return plain_section_bytes(codec, plane, n_tokens, n_heads, head_dim);
  const MixedSpec mixed = mixed_spec(codec);
  return sizeof(MixedHeader) + align_block((n_tokens + 7) / 8) +
         align_block(plain_section_bytes(mixed.salient, plane, n_tokens, n_heads, head_dim)) +
         align_block(plain_section_bytes(mixed.other, plane, n_tokens, n_heads, head_dim));
}

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_MATH_LAYOUT_H_
