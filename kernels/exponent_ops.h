// Inner loops of the lossless bf16 codecs (exponent.h), as a table of functions with one
// implementation per instruction set; all give equal bytes. No inline functions with external
// linkage here (see rows.h).
#ifndef QUIRE_KERNELS_EXPONENT_OPS_H_
#define QUIRE_KERNELS_EXPONENT_OPS_H_

#include <stdint.h>

#include "kernels/rows.h"

namespace quire_kernels {

inline constexpr uint32_t kCodeWindow = 63;
inline constexpr uint32_t kNoCodeWindow = 256;

// Consecutive rows of one head and, for window3, of one run. Their elements lie anywhere, their
// sign-and-mantissa bytes side by side; code rows are padded (math/pack.h).
struct ExponentRows {
  uint32_t bits;  // 4 = exp4, 3 = window3
  uint32_t head_dim;
  uint32_t n_rows;
  const Byte* exponents;  // exp4: 16 bytes, what the codes stand for; the last is unused
  const Byte* code_of;    // exp4, encoding: the code of each of 256 exponents
  const Byte* tops;       // window3: head_dim bytes, each at least 6
  // exp4, encoding: all exponents that have a code are begin .. begin + kCodeWindow - 1, where
  // there is such a window; code_of has kCodeWindow + 1 entries from there on.
  uint32_t window_begin = kNoCodeWindow;
};

// Rows to encode, and for each of them one that is wanted soon.
struct EncodeRows {
  const Byte* const* elements;
  const Byte* const* ahead;
  uint32_t ahead_bytes;  // of each; 0: none
  // For RotatingOps: angles of each; what is added to both pointers of each.
  const float* const* angles = nullptr;
  int64_t offset = 0;
};

// The escapes of a section as they grow.
struct EscapeWriter {
  Byte* escapes;  // max + 64 bytes
  uint64_t n;
  uint64_t max;
};

struct ExponentsFound {
  bool zero;
  bool most;  // 255: not finite
};

// The loops that encode, for bf16 rows that are rotated on their way: by the neox style, all dims,
// head_dim 64, 128 or 256. Where they find an exponent of 0 they may have taken a denormal for
// zero: what they wrote does not count then.
struct RotatingOps {
  // head_dim floats each: (cos, sin) per pair -> 64-byte aligned, as the others want them.
  void (*order_angles)(const float* table, uint32_t head_dim, float* angles);
  // Exponents side by side.
  ExponentsFound (*exponents)(const EncodeRows& rows, uint32_t n_rows, uint32_t head_dim,
                              Byte* exponents);
  ExponentsFound (*split)(const EncodeRows& rows, uint32_t n_rows, uint32_t head_dim,
                          Byte* sign_mantissa, Byte* exponents, Byte* tops);
  ExponentsFound (*encode)(const ExponentRows& format, const EncodeRows& rows, Byte* sign_mantissa,
                           Byte* codes, EscapeWriter* escapes);
};

[[maybe_unused]] static constexpr bool rotating_ops_take(uint32_t head_dim) {
  return head_dim == 64 || head_dim == 128 || head_dim == 256;
}

struct ExponentOps {
  const char* name;
  // window3's first look: sign-and-mantissa and exponent bytes side by side, and raises tops[dim]
  // to the largest exponent of each channel.
  void (*split)(const EncodeRows& rows, uint32_t n_rows, uint32_t head_dim, Byte* sign_mantissa,
                Byte* exponents, Byte* tops);
  // Adds the exponents of rows to 256 counters; those of n elements.
  void (*count_exponents)(const EncodeRows& rows, uint32_t n_rows, uint32_t head_dim,
                          uint64_t* counters);
  void (*count)(const Byte* exponents, uint64_t n, uint64_t* counters);
  // Escape codes in the rows; padding codes do not count.
  uint64_t (*count_escapes)(const Byte* codes, uint64_t n_rows, uint32_t head_dim, uint32_t bits);
  // exp4 and window3. Both append escapes and stop (more rows may be missing) as soon as there are
  // more than the most.
  // True where an exponent is 255.
  bool (*encode)(const ExponentRows& format, const EncodeRows& rows, Byte* sign_mantissa,
                 Byte* codes, EscapeWriter* escapes);
  void (*encode_below_tops)(const ExponentRows& format, const Byte* exponents, Byte* codes,
                            EscapeWriter* escapes);
  // Returns how many escapes were taken. Those beyond n_escapes are 0 and never read.
  uint64_t (*decode)(const ExponentRows& rows, const Byte* sign_mantissa, const Byte* codes,
                     const Byte* escapes, uint64_t n_escapes, Byte* const* elements);
  const RotatingOps* rotating = nullptr;
};

const ExponentOps* scalar_exponent_ops();
// Null where this build has no AVX-512; vbmi2 also wants VBMI and VBMI2.
const ExponentOps* avx512_exponent_ops();
const ExponentOps* vbmi2_exponent_ops();
// The same with RotatingOps; wants AVX-512 BF16 too.
const ExponentOps* rotating_exponent_ops();
// The best this machine has, or scalar where quire_kernel_select() says so.
const ExponentOps* active_exponent_ops();

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_EXPONENT_OPS_H_
