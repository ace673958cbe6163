#include "kernels/executor/warp_on_cpu.h"

namespace quire_executor {
namespace {

void combine_shuffle(void* const operands[kWarpThreads], uint32_t mask) {
  uint32_t results[kWarpThreads];
  for (uint32_t lane = 0; lane < kWarpThreads; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    const auto& own = *static_cast<ShuffleOperand*>(operands[lane]);
    uint32_t from = lane;
    if (own.kind == Shuffle::kIndex) from = own.argument % kWarpThreads;
    if (own.kind == Shuffle::kXor) from = lane ^ own.argument;
    if (own.kind == Shuffle::kUp && lane >= own.argument) from = lane - own.argument;
    if (own.kind == Shuffle::kDown) from = lane + own.argument;
    if (from >= kWarpThreads) from = lane;
    // A lane that is not there gives what hardware would: anything.
    results[lane] = operands[from] != nullptr ? static_cast<ShuffleOperand*>(operands[from])->value
                                              : 0xffffffff;
  }
  for (uint32_t lane = 0; lane < kWarpThreads; ++lane)
    if (mask >> lane & 1) static_cast<ShuffleOperand*>(operands[lane])->value = results[lane];
}

struct BallotOperand {
  bool predicate;
  uint32_t result;
};
void combine_ballot(void* const operands[kWarpThreads], uint32_t mask) {
  uint32_t result = 0;
  for (uint32_t lane = 0; lane < kWarpThreads; ++lane)
    if (mask >> lane & 1 && static_cast<BallotOperand*>(operands[lane])->predicate)
      result |= 1u << lane;
  for (uint32_t lane = 0; lane < kWarpThreads; ++lane)
    if (mask >> lane & 1) static_cast<BallotOperand*>(operands[lane])->result = result;
}

struct MatrixOperand {
  uint32_t* registers;
  const unsigned char* row;
  uint32_t matrices;
  bool transposed;
};
// Lane l of matrix m gets elements (row l / 4, columns 2 (l % 4) and + 1); lanes 8 m .. 8 m + 7
// give the addresses of its rows.
void combine_matrix(void* const operands[kWarpThreads], uint32_t) {
  const auto& first = *static_cast<MatrixOperand*>(operands[0]);
  for (uint32_t matrix = 0; matrix < first.matrices; ++matrix) {
    uint16_t elements[8][8];
    for (uint32_t row = 0; row < 8; ++row)
      memcpy(elements[row], static_cast<MatrixOperand*>(operands[8 * matrix + row])->row, 16);
    for (uint32_t lane = 0; lane < kWarpThreads; ++lane) {
      const uint32_t row = lane / 4;
      const uint32_t column = lane % 4 * 2;
      const uint16_t lo = first.transposed ? elements[column][row] : elements[row][column];
      const uint16_t hi = first.transposed ? elements[column + 1][row] : elements[row][column + 1];
      static_cast<MatrixOperand*>(operands[lane])->registers[matrix] =
          static_cast<uint32_t>(hi) << 16 | lo;
    }
  }
}

struct MmaOperand {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
  bool bf16;
};
float half_of(uint32_t packed, uint32_t half, bool bf16) {
  const auto bits = static_cast<uint16_t>(packed >> (16 * half));
  return bf16 ? quire_cuda::bf16_to_float(bits) : f16_bits_to_float(bits);
}
// Fragments of mma.m16n8k16: a[0] rows g, k 2t; a[1] rows g + 8; a[2], a[3] the same at k + 8;
// b[0] k 2t, column g; b[1] k + 8; d[0], d[1] row g, columns 2t, 2t + 1; d[2], d[3] row g + 8.
void combine_mma(void* const operands[kWarpThreads], uint32_t) {
  float a[16][16];
  float b[16][8];
  const bool bf16 = static_cast<MmaOperand*>(operands[0])->bf16;
  for (uint32_t lane = 0; lane < kWarpThreads; ++lane) {
    const auto& own = *static_cast<MmaOperand*>(operands[lane]);
    const uint32_t g = lane / 4;
    const uint32_t t = lane % 4;
    for (uint32_t half = 0; half < 2; ++half) {
      for (uint32_t i = 0; i < 4; ++i)
        a[g + i % 2 * 8][2 * t + half + i / 2 * 8] = half_of(own.a[i], half, bf16);
      for (uint32_t i = 0; i < 2; ++i) b[2 * t + half + i * 8][g] = half_of(own.b[i], half, bf16);
    }
  }
  for (uint32_t lane = 0; lane < kWarpThreads; ++lane) {
    const auto& own = *static_cast<MmaOperand*>(operands[lane]);
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t row = lane / 4 + i / 2 * 8;
      const uint32_t column = lane % 4 * 2 + i % 2;
      double sum = own.d[i];
      for (uint32_t k = 0; k < 16; ++k) sum += static_cast<double>(a[row][k]) * b[k][column];
      own.d[i] = static_cast<float>(sum);
    }
  }
}

void need_full_warp(const char* what, const Site& site) {
  const Dim3& dim = indices.block_dim;
  if (dim.x * dim.y * dim.z % kWarpThreads != 0) fail(site, "%s in a block of partial warps", what);
}

}  // namespace

uint32_t shuffle(const char* what, Shuffle kind, uint32_t value, uint32_t argument,
                 const Site& site) {
  ShuffleOperand operand{value, argument, kind};
  meet_warp(what, kAllLanes, &operand, combine_shuffle, site);
  return operand.value;
}

uint32_t ballot(const char* what, bool predicate, const Site& site) {
  BallotOperand operand{predicate, 0};
  meet_warp(what, kAllLanes, &operand, combine_ballot, site);
  return operand.result;
}

void ldmatrix(uint32_t* registers, uint32_t matrices, bool transposed, const void* row,
              const Site& site) {
  need_full_warp("ldmatrix", site);
  if (linear_thread() % kWarpThreads < 8 * matrices) {
    check_shared(row, 16, 16, "ldmatrix", site);
    report_read(row, 16);
  }
  MatrixOperand operand{registers, static_cast<const unsigned char*>(row), matrices, transposed};
  meet_warp("ldmatrix", kAllLanes, &operand, combine_matrix, site);
}

void mma(float* d, const uint32_t* a, const uint32_t* b, bool bf16, const Site& site) {
  need_full_warp("mma", site);
  MmaOperand operand{d, a, b, bf16};
  meet_warp("mma", kAllLanes, &operand, combine_mma, site);
}

float f16_bits_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = bits >> 10 & 31;
  const uint32_t mantissa = bits & 0x3ff;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000 | mantissa << 13);
  if (exponent != 0) return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
  const float value = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -value : value;
}

uint16_t float_to_f16_bits(float value) {
  const uint32_t bits = __float_as_uint(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const float magnitude = fabsf(value);
  if (value != value) return 0x7fff;  // what cvt.rn.f16.f32 gives
  if (magnitude >= 0x1.ffep15f) return sign | 0x7c00;
  if (magnitude < 0x1p-14f)  // denormal: an exact scaling, then nearest even of the integer
    return sign | static_cast<uint16_t>(nearbyintf(magnitude * 0x1p24f));
  const uint32_t wide = bits & 0x7fffffff;
  const uint32_t rounded = wide + 0xfff + (wide >> 13 & 1);
  return sign | static_cast<uint16_t>((rounded >> 13) - (112u << 10));
}

uint16_t float_to_bf16_bits(float value) {
  const uint32_t bits = __float_as_uint(value);
  if (value != value) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace quire_executor

namespace quire_cuda {
namespace {

template <typename Operation>
uint32_t each_half(uint32_t a, uint32_t b, uint32_t c, Operation operation) {
  uint32_t result = 0;
  for (uint32_t shift = 0; shift < 32; shift += 16) {
    const double x = f16_to_float(static_cast<uint16_t>(a >> shift));
    const double y = f16_to_float(static_cast<uint16_t>(b >> shift));
    const double z = f16_to_float(static_cast<uint16_t>(c >> shift));
    // Exact in fp64 (two 11-bit significands), but for sums of far exponents, whose tail cannot
    // move the rounding to fp32 and f16 except at ties.
    result |= static_cast<uint32_t>(float_to_f16(static_cast<float>(operation(x, y, z)))) << shift;
  }
  return result;
}

}  // namespace

uint32_t half2_add(uint32_t a, uint32_t b) {
  return each_half(a, b, 0, [](double x, double y, double) { return x + y; });
}
uint32_t half2_sub(uint32_t a, uint32_t b) {
  return each_half(a, b, 0, [](double x, double y, double) { return x - y; });
}
uint32_t half2_mul(uint32_t a, uint32_t b) {
  return each_half(a, b, 0, [](double x, double y, double) { return x * y; });
}
uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c) {
  return each_half(a, b, c, [](double x, double y, double z) { return x * y + z; });
}

uint32_t byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  uint32_t result = 0;
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t choice = selector >> (4 * i) & 15;
    uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (choice & 7))) & 0xff;
    if (choice & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}

}  // namespace quire_cuda
