// What each codec does with K and with V, as data: one table for the scalar, the AVX-512 and the
// CUDA kernels. Bytes: docs/formats/codecs.md. A new member of a family is a line here, one in
// codecs/registry.cc, and one in the format page.
#ifndef QUIRE_KERNELS_MATH_CODEC_SPEC_H_
#define QUIRE_KERNELS_MATH_CODEC_SPEC_H_

#include <stdint.h>

#include "kernels/math/hd.h"
#include "kernels/quire_kernels.h"

namespace quire_kernels {

enum class SectionKind : uint8_t {
  kUnknown = 0,
  kRaw,         // elements
  kFp8,         // e4m3 with a scale per token and head
  kChannel,     // affine codes, zero and scale per channel over a run of tokens
  kToken,       // affine codes, zero and scale per token, head and group of dims; Hadamard
  kNormalised,  // channel mean and deviation over a run taken off, then as kToken with Hadamard
  kExponent,    // bf16 without loss: exponent codes with escapes (math/exponent.h)
  kMixed,       // two sub-sections: salient tokens in one codec, the others in another
};

struct PlaneSpec {
  SectionKind kind;
  uint8_t bits;           // of a code
  uint16_t run_tokens;    // kChannel, kNormalised
  uint16_t group_dims;    // kToken: dims that share zero and scale; 0 = the head
  uint16_t hadamard_max;  // kToken, kNormalised: see hadamard_order(); 0 = none
  bool wide_side;         // kChannel: fp32 minimums and scales, else fp16 pairs
};

struct MixedSpec {
  int32_t salient;  // codec of the tokens that were marked
  int32_t other;
};

QUIRE_HD constexpr PlaneSpec raw_spec() {
  return {SectionKind::kRaw, 0, 0, 0, 0, false};
}
QUIRE_HD constexpr PlaneSpec channel_spec(uint8_t bits, uint16_t run_tokens, bool wide_side) {
  return {SectionKind::kChannel, bits, run_tokens, 0, 0, wide_side};
}
QUIRE_HD constexpr PlaneSpec token_spec(uint8_t bits, uint16_t group_dims, uint16_t hadamard_max) {
  return {SectionKind::kToken, bits, 0, group_dims, hadamard_max, false};
}

QUIRE_HD constexpr PlaneSpec plane_spec(int32_t codec, int32_t plane) {
  const bool key = plane == QUIRE_PLANE_KEY;
  switch (codec) {
    case QUIRE_CODEC_RAW_F16:
    case QUIRE_CODEC_RAW_BF16:
    case QUIRE_CODEC_RAW_F32:
      return raw_spec();
    case QUIRE_CODEC_BF16_EXP4:
      return {SectionKind::kExponent, 4, 0, 0, 0, false};
    case QUIRE_CODEC_BF16_WINDOW3:
      return {SectionKind::kExponent, 3, 256, 0, 0, false};
    case QUIRE_CODEC_INT8_CHANNEL:
      return key ? channel_spec(8, 256, true) : token_spec(8, 0, 0);
    case QUIRE_CODEC_FP8_TOKEN:
      return {SectionKind::kFp8, 8, 0, 0, 0, false};
    case QUIRE_CODEC_INT4_CHANNEL64:
      return key ? channel_spec(4, 64, false) : token_spec(4, 0, 64);
    case QUIRE_CODEC_INT4_CHANNEL128:
      return key ? channel_spec(4, 128, false) : token_spec(4, 0, 64);
    case QUIRE_CODEC_INT4_KIVI:
      return key ? channel_spec(4, 32, false) : token_spec(4, 32, 0);
    case QUIRE_CODEC_INT4_HADAMARD:
      return token_spec(4, 0, 64);
    case QUIRE_CODEC_INT4_CENTRED:
      return key ? PlaneSpec{SectionKind::kNormalised, 4, 256, 0, 32, false} : token_spec(4, 0, 64);
    case QUIRE_CODEC_INT3_CHANNEL64:
      return key ? channel_spec(3, 64, false) : token_spec(3, 0, 64);
    case QUIRE_CODEC_INT2_CHANNEL32:
      return key ? channel_spec(2, 32, false) : token_spec(2, 0, 64);
    case QUIRE_CODEC_INT2_KIVI:
      return key ? channel_spec(2, 32, false) : token_spec(2, 32, 0);
    case QUIRE_CODEC_MIXED_INT8_INT4:
    case QUIRE_CODEC_MIXED_INT8_INT2:
      return {SectionKind::kMixed, 0, 0, 0, 0, false};
    default:
      return {SectionKind::kUnknown, 0, 0, 0, 0, false};
  }
}

QUIRE_HD constexpr MixedSpec mixed_spec(int32_t codec) {
  return {QUIRE_CODEC_INT8_CHANNEL, codec == QUIRE_CODEC_MIXED_INT8_INT4
                                        ? QUIRE_CODEC_INT4_CHANNEL64
                                        : QUIRE_CODEC_INT2_CHANNEL32};
}

// Every codec that the kernels store and load, for programs that go through all of them.
struct NamedCodec {
  int32_t codec;
  const char* name;
};
inline constexpr NamedCodec kKernelCodecs[] = {
    {QUIRE_CODEC_RAW_F16, "raw-f16"},
    {QUIRE_CODEC_RAW_BF16, "raw-bf16"},
    {QUIRE_CODEC_RAW_F32, "raw-f32"},
    {QUIRE_CODEC_BF16_EXP4, "bf16-exp4"},
    {QUIRE_CODEC_BF16_WINDOW3, "bf16-window3"},
    {QUIRE_CODEC_INT8_CHANNEL, "int8-channel"},
    {QUIRE_CODEC_FP8_TOKEN, "fp8-token"},
    {QUIRE_CODEC_INT4_CHANNEL64, "int4-channel64"},
    {QUIRE_CODEC_INT4_CHANNEL128, "int4-channel128"},
    {QUIRE_CODEC_INT4_KIVI, "int4-kivi"},
    {QUIRE_CODEC_INT4_HADAMARD, "int4-hadamard"},
    {QUIRE_CODEC_INT4_CENTRED, "int4-centred"},
    {QUIRE_CODEC_INT3_CHANNEL64, "int3-channel64"},
    {QUIRE_CODEC_INT2_CHANNEL32, "int2-channel32"},
    {QUIRE_CODEC_INT2_KIVI, "int2-kivi"},
    {QUIRE_CODEC_MIXED_INT8_INT4, "mixed-int8-int4"},
    {QUIRE_CODEC_MIXED_INT8_INT2, "mixed-int8-int2"},
};

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_MATH_CODEC_SPEC_H_
