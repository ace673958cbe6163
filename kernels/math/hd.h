// Marks maths that runs on the host and inside CUDA kernels alike. Internal linkage on purpose: a
// copy compiled with AVX-512 flags must never be the one the linker keeps (see rows.h).
#ifndef QUIRE_KERNELS_MATH_HD_H_
#define QUIRE_KERNELS_MATH_HD_H_

#if defined(__CUDACC__)
#define QUIRE_HD __host__ __device__ static inline
#else
#define QUIRE_HD [[maybe_unused]] static inline
#endif

#endif  // QUIRE_KERNELS_MATH_HD_H_
