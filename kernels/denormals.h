// Arithmetic that keeps denormals, whatever mode the calling thread is in.
#ifndef QUIRE_KERNELS_DENORMALS_H_
#define QUIRE_KERNELS_DENORMALS_H_

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace quire_kernels {

// Engines run threads that flush denormals to zero (-ffast-math, torch.set_flush_denormal): for as
// long as one of these lives, its thread does not. x86-64; nothing elsewhere.
class KeepDenormals {
 public:
  KeepDenormals(const KeepDenormals&) = delete;
  KeepDenormals& operator=(const KeepDenormals&) = delete;
#if defined(__x86_64__)
  KeepDenormals() : caller_(_mm_getcsr()) {
    if ((caller_ & kFlushes) != 0) _mm_setcsr(caller_ & ~kFlushes);
  }
  ~KeepDenormals() {
    if ((caller_ & kFlushes) != 0) _mm_setcsr(caller_);
  }

 private:
  static constexpr unsigned int kFlushes = 0x8000 | 0x40;  // MXCSR: results, operands
  const unsigned int caller_;
#else
  KeepDenormals() {}
  ~KeepDenormals() {}
#endif
};

}  // namespace quire_kernels

#endif  // QUIRE_KERNELS_DENORMALS_H_
