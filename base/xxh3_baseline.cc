#define QUIRE_XXH3_KERNELS kXxh3Baseline
#include "base/xxh3_kernels.inc"
