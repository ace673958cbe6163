// The entry points on the CPU: checks, then the implementation that quire_kernel_select() chose.
#include <math.h>

#include "kernels/attention/checks.h"
#include "kernels/attention/ops.h"
#include "kernels/attention/plane_view.h"
#include "kernels/rows.h"

namespace quire_kernels {
namespace {

const AttentionOps& active_attention() {
  const AttentionOps* avx512 = active_rows() == avx512_rows() ? avx512_attention() : nullptr;
  return avx512 != nullptr ? *avx512 : *scalar_attention();
}

// The decoded key, in the arithmetic of the reference.
void decode_key(const PlaneView& view, uint32_t token, double* key) {
  const unsigned char* row = code_row(view, token);
  const PlaneSpec& spec = view.spec;
  const Affine of_token = token_affine(view, token, 0);
  const uint32_t order = plane_hadamard(view);
  for (uint32_t d = 0; d < view.dims; ++d) {
    double code = 0;
    if (spec.kind == SectionKind::kRaw)
      code = static_cast<double>(
          widen_element(view.codec, row + uint64_t{d} * element_bytes(view.codec)));
    else if (spec.kind == SectionKind::kFp8)
      code = static_cast<double>(fp8_to_float(row[d]));
    else
      code = spec.bits == 8 ? row[d] : get_code(row, spec.bits, d);
    key[d] = code * static_cast<double>(of_token.scale) + static_cast<double>(of_token.zero);
  }
  for (uint32_t width = 1; width < order; width *= 2)
    for (uint32_t i = 0; i < view.dims; ++i) {
      if ((i & width) != 0) continue;
      const double a = key[i];
      const double b = key[i + width];
      key[i] = a + b;
      key[i + width] = a - b;
    }
  for (uint32_t d = 0; d < view.dims; ++d) {
    if (order > 1) key[d] /= sqrt(static_cast<double>(order));
    if (!has_runs(spec)) continue;
    const Affine channel = channel_affine(view, token, d);
    key[d] = key[d] * static_cast<double>(channel.scale) + static_cast<double>(channel.zero);
  }
}

void bounds_of_head(const quire_key_bounds_params& p, uint32_t head, float* bounds) {
  const PlaneView view = plane_view(p.codec, QUIRE_PLANE_KEY, p.key, p.n_tokens, p.head_dim, head);
  double key[QUIRE_ATTENTION_DIMS_MAX];
  for (uint32_t token = 0; token < p.n_tokens; ++token) {
    float* least = bounds + uint64_t{token / p.page_tokens} * 2 * p.head_dim;
    float* greatest = least + p.head_dim;
    decode_key(view, token, key);
    for (uint32_t d = 0; d < p.head_dim; ++d) {
      const float low = nextafterf(static_cast<float>(key[d]), -INFINITY);
      const float high = nextafterf(static_cast<float>(key[d]), INFINITY);
      const bool first = token % p.page_tokens == 0;
      least[d] = first || low < least[d] ? low : least[d];
      greatest[d] = first || high > greatest[d] ? high : greatest[d];
    }
  }
}

}  // namespace
}  // namespace quire_kernels

extern "C" {

int quire_attend_rows(const struct quire_attend_rows_params* params) {
  using namespace quire_kernels;
  const int status = check_attend_rows(params, true);
  if (status == QUIRE_KERNEL_OK) active_attention().attend_rows(*params);
  return status;
}

int quire_decode_chunks(const struct quire_decode_chunks_params* params) {
  using namespace quire_kernels;
  const int status = check_decode_chunks(params, true);
  if (status == QUIRE_KERNEL_OK) active_attention().decode_chunks(*params);
  return status;
}

int quire_deviation(const struct quire_deviation_params* params) {
  using namespace quire_kernels;
  const int status = check_deviation(params, true);
  if (status == QUIRE_KERNEL_OK) active_attention().deviation(*params);
  return status;
}

int quire_key_bounds(const struct quire_key_bounds_params* params) {
  using namespace quire_kernels;
  const int status = check_key_bounds(params);
  if (status != QUIRE_KERNEL_OK) return status;
  const uint64_t pages =
      (uint64_t{params->n_tokens} + params->page_tokens - 1) / params->page_tokens;
  for (uint32_t head = 0; head < params->n_heads; ++head)
    bounds_of_head(*params, head, params->bounds + head * pages * 2 * params->head_dim);
  return QUIRE_KERNEL_OK;
}

}  // extern "C"
