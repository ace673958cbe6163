// Stores and loads one section element by element from docs/formats/codecs.md and kernels/math:
// what the CUDA kernels are compared with, beside the CPU's own kernels.
#ifndef QUIRE_TESTS_KERNELS_CUDA_SECTION_REFERENCE_H_
#define QUIRE_TESTS_KERNELS_CUDA_SECTION_REFERENCE_H_

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/math/hadamard.h"
#include "kernels/math/layout.h"
#include "kernels/math/quantise.h"
#include "kernels/quire_kernels.h"

namespace quire_kernels::reference {

using Bytes = std::vector<unsigned char>;

inline float widen(int32_t dtype, const unsigned char* at) {
  uint32_t bits = 0;
  memcpy(&bits, at, element_bytes(dtype));
  if (dtype == QUIRE_DTYPE_F32) return bits_float(bits);
  return dtype == QUIRE_DTYPE_F16 ? half_to_float(static_cast<uint16_t>(bits))
                                  : bf16_to_float(static_cast<uint16_t>(bits));
}
inline void narrow(int32_t dtype, float value, unsigned char* at) {
  uint32_t bits = float_bits(value);
  if (dtype == QUIRE_DTYPE_F16) bits = float_to_half(value);
  if (dtype == QUIRE_DTYPE_BF16) bits = float_to_bf16(value);
  memcpy(at, &bits, element_bytes(dtype));
}

inline void rotate(const quire_rotation& rotation, uint32_t token, std::vector<float>* row) {
  if (rotation.style == QUIRE_ROPE_STYLE_NONE || rotation.table == nullptr) return;
  const float* table = rotation.table + token * rotation.table_token_stride / 4;
  const uint32_t pairs = rotation.rotary_dims / 2;
  for (uint32_t j = 0; j < pairs; ++j) {
    const bool neox = rotation.style == QUIRE_ROPE_STYLE_NEOX;
    float& first = (*row)[neox ? j : 2 * j];
    float& second = (*row)[neox ? j + pairs : 2 * j + 1];
    const float x0 = first;
    const float x1 = second;
    first = x0 * table[2 * j] - x1 * table[2 * j + 1];
    second = x1 * table[2 * j] + x0 * table[2 * j + 1];
  }
}

struct Shape {
  int32_t codec;
  int32_t plane;
  uint32_t n_tokens;
  uint32_t n_heads;
  uint32_t head_dim;
  PlaneSpec spec() const { return plane_spec(codec, plane); }
};

inline void pair_of(const unsigned char* at, float* zero, float* scale) {
  uint16_t pair[2];
  memcpy(pair, at, 4);
  *zero = half_to_float(pair[0]);
  *scale = half_to_float(pair[1]);
}

inline std::vector<float> decode_row(const Shape& shape, const unsigned char* section,
                                     uint32_t head, uint32_t token) {
  const PlaneSpec spec = shape.spec();
  const uint32_t n = shape.head_dim;
  std::vector<float> row(n);
  const uint64_t code_bytes = code_row_bytes(n, spec.bits);
  for (uint32_t d = 0; d < n; ++d) {
    float zero = 0;
    float scale = 0;
    if (spec.kind == SectionKind::kRaw) {
      const uint64_t element = (uint64_t{head} * shape.n_tokens + token) * n + d;
      row[d] = widen(shape.codec, section + element * element_bytes(shape.codec));
    } else if (spec.kind == SectionKind::kFp8) {
      const TokenHead at = token_head(spec, shape.n_tokens, n, head);
      uint16_t bits;
      memcpy(&bits, section + at.side + 2 * token, 2);
      row[d] = fp8_to_float(section[at.codes + token * code_bytes + d]) * half_to_float(bits);
    } else if (spec.kind == SectionKind::kToken) {
      const TokenHead at = token_head(spec, shape.n_tokens, n, head);
      const uint32_t group = d / group_dims(spec, n);
      pair_of(section + at.side + 4 * (token * token_groups(spec, n) + group), &zero, &scale);
      const unsigned char* codes = section + at.codes + token * code_bytes;
      row[d] = decode_code(spec.bits == 8 ? codes[d] : get_code(codes, spec.bits, d), zero, scale);
    } else {
      const ChannelRun at = channel_run(spec, shape.n_tokens, n, head, token / spec.run_tokens);
      const uint32_t inside = token % spec.run_tokens;
      const unsigned char* codes = section + at.codes + inside * code_bytes;
      if (spec.kind == SectionKind::kNormalised)
        pair_of(section + at.token_side + 4 * inside, &zero, &scale);
      else if (spec.wide_side) {
        memcpy(&zero, section + at.side + 4 * d, 4);
        memcpy(&scale, section + at.wide_scales + 4 * d, 4);
      } else {
        pair_of(section + at.side + 4 * d, &zero, &scale);
      }
      row[d] = decode_code(spec.bits == 8 ? codes[d] : get_code(codes, spec.bits, d), zero, scale);
    }
  }
  if (spec.hadamard_max != 0) hadamard_row(row.data(), n, hadamard_order(n, spec.hadamard_max));
  if (spec.kind == SectionKind::kNormalised) {
    const ChannelRun at = channel_run(spec, shape.n_tokens, n, head, token / spec.run_tokens);
    for (uint32_t d = 0; d < n; ++d) {
      float mean;
      float deviation;
      pair_of(section + at.side + 4 * d, &mean, &deviation);
      const float product = row[d] * deviation;
      row[d] = product + mean;
    }
  }
  return row;
}

// params as for quire_load, any codec of fixed size; no checks.
inline void load(const quire_load_params& p) {
  const Shape shape{p.codec, p.plane, p.n_tokens, p.n_heads, p.head_dim};
  for (uint32_t head = 0; head < p.n_heads; ++head)
    for (uint32_t token = p.token_begin; token < p.token_end; ++token) {
      if (p.row_mask != nullptr && p.row_mask[token] == 0) continue;
      std::vector<float> row =
          decode_row(shape, static_cast<const unsigned char*>(p.src), head, token);
      rotate(p.rotation, token, &row);
      const int64_t to = p.dst_token != nullptr ? p.dst_token[token] : token;
      for (uint32_t d = 0; d < p.head_dim; ++d)
        narrow(p.dst_dtype, row[d],
               static_cast<unsigned char*>(p.dst) + to * p.dst_token_stride +
                   head * p.dst_head_stride + d * p.dst_dim_stride);
    }
}

inline void put_row(const std::vector<unsigned char>& codes, uint32_t bits, unsigned char* at) {
  if (bits == 8)
    memcpy(at, codes.data(), codes.size());
  else
    pack_row(codes.data(), static_cast<uint32_t>(codes.size()), bits, at);
}

inline void encode_run(const Shape& shape, uint32_t head, uint32_t run,
                       const std::vector<std::vector<float>>& rows, unsigned char* section) {
  const PlaneSpec spec = shape.spec();
  const uint32_t n = shape.head_dim;
  const uint32_t top = (1u << spec.bits) - 1;
  const ChannelRun at = channel_run(spec, shape.n_tokens, n, head, run);
  std::vector<float> zeros(n), scales(n);
  for (uint32_t d = 0; d < n; ++d) {
    float low = rows[0][d];
    float high = rows[0][d];
    for (const auto& row : rows) {
      low = std::min(low, row[d]);
      high = std::max(high, row[d]);
    }
    if (spec.wide_side) {
      zeros[d] = low + 0.0f;
      float_scale(low, high, top, &scales[d]);
      memcpy(section + at.side + 4 * d, &zeros[d], 4);
      memcpy(section + at.wide_scales + 4 * d, &scales[d], 4);
    } else {
      uint16_t pair[2] = {0, 0};
      half_affine(low, high, top, &pair[0], &pair[1]);
      memcpy(section + at.side + 4 * d, pair, 4);
      zeros[d] = half_to_float(pair[0]);
      scales[d] = half_to_float(pair[1]);
    }
  }
  for (uint32_t i = 0; i < rows.size(); ++i) {
    std::vector<unsigned char> codes(n);
    for (uint32_t d = 0; d < n; ++d)
      codes[d] = static_cast<unsigned char>(encode_code(rows[i][d], zeros[d], scales[d], top));
    put_row(codes, spec.bits, section + at.codes + i * code_row_bytes(n, spec.bits));
  }
}

inline void encode_token(const Shape& shape, uint32_t head, uint32_t token, std::vector<float> row,
                         unsigned char* section) {
  const PlaneSpec spec = shape.spec();
  const uint32_t n = shape.head_dim;
  const uint64_t code_bytes = code_row_bytes(n, spec.bits);
  if (spec.kind == SectionKind::kRaw) {
    for (uint32_t d = 0; d < n; ++d)
      narrow(shape.codec, row[d],
             section +
                 ((uint64_t{head} * shape.n_tokens + token) * n + d) * element_bytes(shape.codec));
    return;
  }
  const TokenHead at = token_head(spec, shape.n_tokens, n, head);
  std::vector<unsigned char> codes(n);
  if (spec.kind == SectionKind::kFp8) {
    float most = 0;
    for (float x : row) most = std::max(most, std::fabs(x));
    const uint16_t bits = half_scale(static_cast<double>(most), 448.0);
    const float scale = half_to_float(bits);
    memcpy(section + at.side + 2 * token, &bits, 2);
    for (uint32_t d = 0; d < n; ++d) codes[d] = scale == 0 ? 0 : float_to_fp8(row[d] / scale);
  } else {
    if (spec.hadamard_max != 0) hadamard_row(row.data(), n, hadamard_order(n, spec.hadamard_max));
    const uint32_t top = (1u << spec.bits) - 1;
    const uint32_t group = group_dims(spec, n);
    for (uint32_t begin = 0; begin < n; begin += group) {
      const uint32_t end = std::min(n, begin + group);
      const auto [low, high] = std::minmax_element(row.begin() + begin, row.begin() + end);
      uint16_t pair[2];
      half_affine(*low, *high, top, &pair[0], &pair[1]);
      memcpy(section + at.side + 4 * (token * token_groups(spec, n) + begin / group), pair, 4);
      for (uint32_t d = begin; d < end; ++d)
        codes[d] = static_cast<unsigned char>(
            encode_code(row[d], half_to_float(pair[0]), half_to_float(pair[1]), top));
    }
  }
  put_row(codes, spec.bits, section + at.codes + token * code_bytes);
}

// params as for quire_store; codecs of fixed size but INT4_CENTRED's K; finite input; no checks.
inline void store(const quire_store_params& p) {
  const Shape shape{p.codec, p.plane, p.n_tokens, p.n_heads, p.head_dim};
  const PlaneSpec spec = shape.spec();
  memset(p.dst, 0, p.dst_bytes);
  for (uint32_t head = 0; head < p.n_heads; ++head) {
    std::vector<std::vector<float>> rows;
    for (uint32_t token = 0; token < p.n_tokens; ++token) {
      const int64_t from = p.src_token != nullptr ? p.src_token[token] : token;
      std::vector<float> row(p.head_dim);
      for (uint32_t d = 0; d < p.head_dim; ++d)
        row[d] = widen(p.src_dtype, static_cast<const unsigned char*>(p.src) +
                                        from * p.src_token_stride + head * p.src_head_stride +
                                        d * p.src_dim_stride);
      rotate(p.rotation, token, &row);
      if (spec.kind != SectionKind::kChannel) {
        encode_token(shape, head, token, row, static_cast<unsigned char*>(p.dst));
        continue;
      }
      rows.push_back(row);
      if (rows.size() == spec.run_tokens || token + 1 == p.n_tokens) {
        encode_run(shape, head, token / spec.run_tokens, rows, static_cast<unsigned char*>(p.dst));
        rows.clear();
      }
    }
  }
}

}  // namespace quire_kernels::reference

#endif  // QUIRE_TESTS_KERNELS_CUDA_SECTION_REFERENCE_H_
