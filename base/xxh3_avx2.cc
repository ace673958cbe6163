#define QUIRE_XXH3_KERNELS kXxh3Avx2
#include "base/xxh3_kernels.inc"
