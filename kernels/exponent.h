// bf16 without loss: sections of kind kExponent (math/layout.h, docs/formats/codecs.md). The
// drivers in load.cc and store.cc use these for whole ranges of rows; everything else about engine
// memory, rotation and masks is theirs. Implementations per instruction set give equal bytes.
#ifndef QUIRE_KERNELS_EXPONENT_H_
#define QUIRE_KERNELS_EXPONENT_H_

#include <stdint.h>

#include "kernels/math/layout.h"
#include "kernels/rows.h"

namespace quire_kernels {

struct ExponentShape {
  PlaneSpec spec;  // kind kExponent: 4 bits = exp4, 3 bits = window3
  uint32_t n_tokens;
  uint32_t n_heads;
  uint32_t head_dim;
};

// Mode, size, reserved bytes, tops, escape index and the number of escape codes in each of its
// blocks all agree: QUIRE_KERNEL_OK or QUIRE_KERNEL_CORRUPT. Never reads outside [section, section
// + bytes). After OK the functions below are safe on the section.
int exponent_check(const ExponentShape& shape, const Byte* section, uint64_t bytes);

// At least the largest |element| of these tokens of all heads, as bf16 bits without the sign;
// 0x7f80 or more exactly where one of them is not finite.
uint32_t exponent_max_bits(const ExponentShape& shape, const Byte* section, uint32_t token_begin,
                           uint32_t token_end);

// bf16 elements of n tokens of one head from `token` on, each row to where elements[i] points.
// Consecutive calls on ascending tokens of a head cost no second look at earlier rows when they
// share a cursor.
struct ExponentCursor {
  uint64_t row = UINT64_MAX;  // the next row this cursor knows the escapes of; none at first
  uint64_t escape = 0;
};
void exponent_decode(const ExponentShape& shape, const Byte* section, uint32_t head, uint32_t token,
                     uint32_t n, ExponentCursor* cursor, Byte* const* elements);

inline constexpr uint32_t kEncodeHeadsMax = 8;
inline constexpr uint32_t kEncodeRowsMax = 128;
inline constexpr uint32_t kEncodeBytesMax = 32 << 10;

struct EncodeBatch {
  const Byte* elements[kEncodeRowsMax];
  // What will be asked for next, most likely: fetched while these are worked on.
  const Byte* ahead[kEncodeRowsMax];
  uint32_t ahead_bytes = 0;  // of each; 0: none
  // unrotated_rows() gives the rows of the first head alone, those of the others lie head_stride
  // bytes apart; (cos, sin) per pair of its tokens.
  int64_t head_stride;
  const float* table[kEncodeRowsMax];
};

// Where the encoder gets its rows from. It asks for some of them twice, so what they are made of
// must not change.
class ExponentSource {
 public:
  // Heads that are best asked for together: more than one where rows of a token share the work of
  // making them. 1 .. kEncodeHeadsMax.
  virtual uint32_t heads_together() const = 0;
  // elements[h * n + i] = the bf16 elements (any bits) of head + h, token + i * step, until the
  // next call. n_heads * n <= kEncodeRowsMax, their elements fit kEncodeBytesMax. `rows` is the
  // same at every call, and only this function writes there.
  virtual void rows(uint32_t head, uint32_t n_heads, uint32_t token, uint32_t n, uint32_t step,
                    EncodeBatch* rows) = 0;
  // Whether unrotated_rows() gives the same rows before a rotation (neox, all dims).
  virtual bool leaves_rotation() const { return false; }
  virtual void unrotated_rows(uint32_t head, uint32_t n_heads, uint32_t token, uint32_t n,
                              uint32_t step, EncodeBatch* rows) {
    (void)head, (void)n_heads, (void)token, (void)n, (void)step, (void)rows;
  }

 protected:
  ~ExponentSource() = default;
};

struct EncodedSection {
  uint64_t bytes;
  bool finite;  // none of the elements is infinite or NaN
};
// `section` has exponent_plain_bytes() bytes. All bytes of what is used are written.
EncodedSection exponent_encode(const ExponentShape& shape, ExponentSource& source, Byte* section);

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_EXPONENT_H_
