// Rotation tables. The exact mode makes angles in fp64; the engine mode repeats the fp32 steps of
// ggml's CPU rope (ggml/src/ggml-cpu/ops.cpp, ggml_rope_cache_init), so that K moved by it carries
// the angles that the engine itself would have used.
#include <math.h>
#include <stdint.h>

#include "kernels/quire_kernels.h"

namespace {

struct Rotation {
  double cosine;
  double sine;
};

// to * from^-1. The inverse is the transpose over the squared norm: fp32 tables are not exact unit
// vectors.
Rotation combine(const Rotation& to, const Rotation& from) {
  const double norm = from.cosine * from.cosine + from.sine * from.sine;
  return {(to.cosine * from.cosine + to.sine * from.sine) / norm,
          (to.sine * from.cosine - to.cosine * from.sine) / norm};
}

bool position_ok(int64_t position) {
  return position > -(INT64_C(1) << 31) && position < INT64_C(1) << 31;
}

bool all_finite(const float* values, uint32_t n, bool nonzero) {
  for (uint32_t i = 0; i < n; ++i)
    if (!isfinite(values[i]) || (nonzero && values[i] == 0)) return false;
  return true;
}

int check(const quire_rope_params* params) {
  if (params == nullptr) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (params->struct_bytes != sizeof(*params)) return QUIRE_KERNEL_BAD_STRUCT;
  const quire_rope_params& p = *params;
  if (p.mode != QUIRE_ROPE_MODE_EXACT && p.mode != QUIRE_ROPE_MODE_ENGINE)
    return QUIRE_KERNEL_UNSUPPORTED;
  const uint32_t known = QUIRE_ROPE_FROM_SRC | QUIRE_ROPE_TO_DST;
  if (p.flags == 0 || (p.flags & ~known) != 0) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (p.n_tokens == 0 || p.n_tokens > QUIRE_KERNEL_TOKENS_MAX || p.rotary_dims == 0 ||
      p.rotary_dims % 2 != 0 || p.rotary_dims > QUIRE_KERNEL_DIMS_MAX)
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (!position_ok(p.src_pos) || !position_ok(p.dst_pos) || !position_ok(p.src_pos + p.n_tokens) ||
      !position_ok(p.dst_pos + p.n_tokens))
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (p.table == nullptr || reinterpret_cast<uintptr_t>(p.table) % 4 != 0 ||
      p.table_bytes < uint64_t{p.n_tokens} * p.rotary_dims * 4)
    return QUIRE_KERNEL_INVALID_ARGUMENT;
  const uint32_t pairs = p.rotary_dims / 2;
  if (p.mode == QUIRE_ROPE_MODE_EXACT)
    return p.inverse_frequencies != nullptr && all_finite(p.inverse_frequencies, pairs, false)
               ? QUIRE_KERNEL_OK
               : QUIRE_KERNEL_INVALID_ARGUMENT;
  const bool ok = isfinite(p.base) && p.base > 0 && isfinite(p.freq_scale) && p.freq_scale >= 0 &&
                  (p.freq_factors == nullptr || all_finite(p.freq_factors, pairs, true));
  return ok ? QUIRE_KERNEL_OK : QUIRE_KERNEL_INVALID_ARGUMENT;
}

void fill_exact(const quire_rope_params& p) {
  const uint32_t pairs = p.rotary_dims / 2;
  const bool from = p.flags & QUIRE_ROPE_FROM_SRC;
  const bool to = p.flags & QUIRE_ROPE_TO_DST;
  float* out = p.table;
  for (uint32_t token = 0; token < p.n_tokens; ++token) {
    const int64_t delta = (to ? p.dst_pos + token : 0) - (from ? p.src_pos + token : 0);
    for (uint32_t pair = 0; pair < pairs; ++pair, out += 2) {
      const double angle =
          static_cast<double>(delta) * static_cast<double>(p.inverse_frequencies[pair]);
      out[0] = static_cast<float>(cos(angle));
      out[1] = static_cast<float>(sin(angle));
    }
  }
}

// One pair's rotation by the engine's fp32 theta.
Rotation engine_rotation(const quire_rope_params& p, float theta, uint32_t pair) {
  const float scale = p.freq_scale == 0 ? 1.0f : p.freq_scale;
  const float factor = p.freq_factors != nullptr ? p.freq_factors[pair] : 1.0f;
  const float angle = scale * (theta / factor);
  return {cosf(angle), sinf(angle)};
}

void fill_engine(const quire_rope_params& p) {
  const uint32_t pairs = p.rotary_dims / 2;
  const bool from = p.flags & QUIRE_ROPE_FROM_SRC;
  const bool to = p.flags & QUIRE_ROPE_TO_DST;
  const float theta_scale = powf(p.base, -2.0f / static_cast<float>(p.rotary_dims));
  float* out = p.table;
  for (uint32_t token = 0; token < p.n_tokens; ++token) {
    float src_theta = static_cast<float>(p.src_pos + token);
    float dst_theta = static_cast<float>(p.dst_pos + token);
    for (uint32_t pair = 0; pair < pairs; ++pair, out += 2) {
      Rotation result{1, 0};
      if (to) result = engine_rotation(p, dst_theta, pair);
      if (from) result = combine(result, engine_rotation(p, src_theta, pair));
      out[0] = static_cast<float>(result.cosine);
      out[1] = static_cast<float>(result.sine);
      src_theta *= theta_scale;
      dst_theta *= theta_scale;
    }
  }
}

}  // namespace

extern "C" int quire_rope_table(const struct quire_rope_params* params) {
  if (int status = check(params)) return status;
  if (params->mode == QUIRE_ROPE_MODE_EXACT)
    fill_exact(*params);
  else
    fill_engine(*params);
  return QUIRE_KERNEL_OK;
}
