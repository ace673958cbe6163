// The reference: fp64 throughout.
#include <math.h>

#include "kernels/attention/attend_rows.h"
#include "kernels/attention/decode_chunks.h"
#include "kernels/attention/deviation.h"
#include "kernels/attention/ops.h"
#include "kernels/attention/plane_view.h"

namespace quire_kernels {
namespace {

struct ScalarMath {
  using Real = double;

  static void widen_row(int32_t dtype, const unsigned char* src, float* row, uint32_t n) {
    const uint32_t size = element_bytes(dtype);
    for (uint32_t i = 0; i < n; ++i) row[i] = widen_element(dtype, src + uint64_t{i} * size);
  }
  static void narrow_row(int32_t dtype, const float* row, unsigned char* dst, uint32_t n) {
    for (uint32_t i = 0; i < n; ++i) {
      if (dtype == QUIRE_DTYPE_F32) {
        memcpy(dst + uint64_t{i} * 4, row + i, 4);
        continue;
      }
      uint16_t bits = dtype == QUIRE_DTYPE_F16 ? float_to_half(row[i]) : float_to_bf16(row[i]);
      if (row[i] != row[i]) bits = dtype == QUIRE_DTYPE_F16 ? 0x7e00 : 0x7fc0;
      memcpy(dst + uint64_t{i} * 2, &bits, 2);
    }
  }
  static void code_row(int32_t codec, const PlaneSpec& spec, const unsigned char* src, float* row,
                       uint32_t n) {
    if (spec.kind == SectionKind::kRaw) return widen_row(codec, src, row, n);
    for (uint32_t i = 0; i < n; ++i) {
      if (spec.kind == SectionKind::kFp8)
        row[i] = fp8_to_float(src[i]);
      else
        row[i] = static_cast<float>(spec.bits == 8 ? src[i] : get_code(src, spec.bits, i));
    }
  }
  static double dot(const double* w, const float* row, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < n; ++i) sum += w[i] * static_cast<double>(row[i]);
    return sum;
  }
  template <class Row>
  static void axpy(double p, const Row* row, double* sum, uint32_t n) {
    for (uint32_t i = 0; i < n; ++i) sum[i] += p * static_cast<double>(row[i]);
  }
  static void dots(const double (*w)[QUIRE_ATTENTION_DIMS_MAX], uint32_t queries, const float* row,
                   uint32_t n, double* out, uint32_t stride) {
    for (uint32_t q = 0; q < queries; ++q) out[q * stride] = dot(w[q], row, n);
  }
  static void dots2(const double (*w)[QUIRE_ATTENTION_DIMS_MAX], uint32_t queries,
                    const float (*rows)[QUIRE_ATTENTION_DIMS_MAX], uint32_t n, double* out,
                    uint32_t stride) {
    for (uint32_t i = 0; i < 2; ++i) dots(w, queries, rows[i], n, out + i, stride);
  }
  static void axpy4(const double* p, const float (*rows)[QUIRE_ATTENTION_DIMS_MAX], uint32_t first,
                    double* sum, uint32_t n) {
    for (uint32_t i = 0; i < 4; ++i) axpy(p[i], rows[i] + first, sum, n);
  }
  static void scale_row(double scale, double* row, uint32_t n) {
    for (uint32_t i = 0; i < n; ++i) row[i] *= scale;
  }
  static void cap_row(double* row, uint32_t n, double cap) {
    for (uint32_t i = 0; i < n; ++i) row[i] = cap * tanh(row[i] / cap);
  }
  static double max_row(const double* row, uint32_t n) {
    double most = row[0];
    for (uint32_t i = 1; i < n; ++i) most = row[i] > most ? row[i] : most;
    return most;
  }
  static double exp_row(double* row, double shift, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < n; ++i) sum += row[i] = exp(row[i] - shift);
    return sum;
  }
  static double exp_of(double x) { return exp(x); }
  static void hadamard(double* row, uint32_t n, uint32_t order) {
    for (uint32_t width = 1; width < order; width *= 2)
      for (uint32_t begin = 0; begin < n; begin += 2 * width)
        for (uint32_t i = begin; i < begin + width; ++i) {
          const double a = row[i];
          const double b = row[i + width];
          row[i] = a + b;
          row[i + width] = a - b;
        }
    scale_row(1 / sqrt(static_cast<double>(order)), row, n);
  }
  static void angles(int64_t position, const float* inverse, uint32_t n, double* cosine,
                     double* sine) {
    for (uint32_t i = 0; i < n; ++i) {
      const double angle = static_cast<double>(position) * static_cast<double>(inverse[i]);
      cosine[i] = cos(angle);
      sine[i] = sin(angle);
    }
  }
  static double distance(const float* a, const float* b, uint32_t n, bool squared) {
    double sum = 0;
    for (uint32_t i = 0; i < n; ++i) {
      const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
      sum += squared ? difference * difference : fabs(difference);
    }
    return sum;
  }
};

constexpr AttentionOps kScalar = {run_attend_rows<ScalarMath>, run_decode_chunks<ScalarMath>,
                                  run_deviation<ScalarMath>};

}  // namespace

const AttentionOps* scalar_attention() {
  return &kScalar;
}

}  // namespace quire_kernels
