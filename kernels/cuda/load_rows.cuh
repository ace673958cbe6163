// Expands one block of 32 tokens of one head: the inner part of both load kernels.
//
// A lane holds eight consecutive dims, so that a warp writes whole 16-byte vectors and a row of D =
// 128 is half a warp. Loads of kUnroll row groups are issued before the first is used: the kernels
// live from bytes in flight. Channel scales stay in registers for the block, and a rotation that is
// the same for all tokens for all of it. H64 takes three shuffles an element; revisit the lane
// layout (16 or 32 dims a lane) where a profile shows the shuffle pipe full.
#ifndef QUIRE_KERNELS_CUDA_LOAD_ROWS_CUH_
#define QUIRE_KERNELS_CUDA_LOAD_ROWS_CUH_

#include "kernels/cuda/section.cuh"

namespace quire_cuda {

constexpr uint32_t kUnroll = 4;

// What a kernel is compiled for. kElement: of raw sections.
template <SectionKind kKind_, uint32_t kBits_, bool kWide_ = false, int32_t kElement_ = 0>
struct Format {
  static constexpr SectionKind kKind = kKind_;
  static constexpr uint32_t kBits = kBits_;
  static constexpr bool kWide = kWide_;
  static constexpr int32_t kElement = kElement_;
  static constexpr bool kRaw = kKind == SectionKind::kRaw;
  static constexpr bool kChannelSide =
      kKind == SectionKind::kChannel || kKind == SectionKind::kNormalised;
  static constexpr bool kTokenPair =
      kKind == SectionKind::kToken || kKind == SectionKind::kNormalised;
};

// The bytes of a section as they can be read now: in global memory, or a part of them in shared
// memory. Offsets are those in the section; the part's own start is subtracted.
struct Source {
  const unsigned char* side;
  const unsigned char* codes;
  uint64_t side_begin;
  uint64_t codes_begin;
};

template <bool kGlobal>
QUIRE_DEVICE uint4 read_16(const unsigned char* at) {
  return kGlobal ? ld_nc_16(at) : ld_16(at);
}
template <bool kGlobal>
QUIRE_DEVICE uint32_t read_4(const unsigned char* at) {
  return kGlobal ? ld_nc_4(at) : *reinterpret_cast<const uint32_t*>(at);
}

// Eight stored elements of a lane, undecoded, and their token's side data.
template <typename F>
struct LaneCodes {
  static constexpr uint32_t kWords = F::kRaw ? F::kBits / 4 : F::kBits == 8 ? 2 : 1;
  uint32_t words[kWords];
  uint32_t side;
};

template <typename F, bool kGlobal>
QUIRE_DEVICE void read_codes(const unsigned char* row, const RowShape& shape, bool vectors,
                             LaneCodes<F>* codes) {
  constexpr uint32_t kVectorBytesOfLane = F::kBits;  // eight elements of kBits bits
  const unsigned char* at = row + shape.dim / kVectorDims * kVectorBytesOfLane;
  if constexpr (F::kBits == 4) {
    codes->words[0] = read_4<kGlobal>(at);
  } else if constexpr (F::kBits == 2) {
    codes->words[0] = *reinterpret_cast<const uint16_t*>(at);
  } else if constexpr (F::kBits == 3) {
    codes->words[0] =
        at[0] | static_cast<uint32_t>(at[1]) << 8 | static_cast<uint32_t>(at[2]) << 16;
  } else {
    if (!vectors) {
      constexpr uint32_t kElementBytes = F::kBits / 8;
#pragma unroll
      for (uint32_t word = 0; word < LaneCodes<F>::kWords; ++word) codes->words[word] = 0;
#pragma unroll
      for (uint32_t byte = 0; byte < F::kBits; ++byte)
        if (byte < shape.dims * kElementBytes)
          codes->words[byte / 4] |= static_cast<uint32_t>(at[byte]) << (8 * (byte % 4));
    } else if constexpr (F::kBits == 8) {
      const uint2 two = kGlobal ? ld_nc_8(at) : *reinterpret_cast<const uint2*>(at);
      codes->words[0] = two.x;
      codes->words[1] = two.y;
    } else {
#pragma unroll
      for (uint32_t word = 0; word < LaneCodes<F>::kWords; word += 4) {
        const uint4 four = read_16<kGlobal>(at + 4 * word);
        codes->words[word] = four.x;
        codes->words[word + 1] = four.y;
        codes->words[word + 2] = four.z;
        codes->words[word + 3] = four.w;
      }
    }
  }
}

// Zero and scale, or mean and deviation, of the lane's channels over the block's run.
struct ChannelSide {
  float zero[kVectorDims];
  float scale[kVectorDims];
};

template <typename F>
QUIRE_DEVICE void read_channels(const Section& s, const unsigned char* side,
                                const unsigned char* wide_scales, const RowShape& shape,
                                ChannelSide* channels) {
  (void)s;
#pragma unroll
  for (uint32_t i = 0; i < kVectorDims; ++i) {
    const uint32_t dim = shape.dim + i;
    if (F::kWide) {
      channels->zero[i] = reinterpret_cast<const float*>(side)[dim];
      channels->scale[i] = reinterpret_cast<const float*>(wide_scales)[dim];
    } else {
      half_pair(reinterpret_cast<const uint32_t*>(side)[dim], &channels->zero[i],
                &channels->scale[i]);
    }
  }
}

constexpr double kLargestDouble = 0x1.fffffffffffffp1023;

// Zero: fine. What the codes of this zero and scale can reach must be finite and within limit.
QUIRE_DEVICE int32_t judge_affine(float zero, float scale, uint32_t top, double limit) {
  const double high =
      fabs(static_cast<double>(zero) + static_cast<double>(top) * static_cast<double>(scale));
  const double low = fabs(static_cast<double>(zero));
  if (high <= limit && low <= limit) return 0;
  return high <= kLargestDouble && low <= kLargestDouble ? QUIRE_KERNEL_OUT_OF_RANGE
                                                         : QUIRE_KERNEL_NON_FINITE;
}
QUIRE_DEVICE int32_t judge_value(float value, double limit) {
  const double magnitude = fabs(static_cast<double>(value));
  if (magnitude <= limit) return 0;
  return magnitude <= quire_kernels::kLargestFloat ? QUIRE_KERNEL_OUT_OF_RANGE
                                                   : QUIRE_KERNEL_NON_FINITE;
}

QUIRE_DEVICE float fp8_value(uint32_t bits) {
  // Exponent and mantissa moved to fp32's place, the bias made up for: exact, denormals too.
  const float magnitude = __uint_as_float((bits & 0x7f) << 20) * 0x1p120f;
  return bits & 0x80 ? -magnitude : magnitude;
}

// The lane's eight values; a status where one of them must not be loaded.
template <typename F>
QUIRE_DEVICE int32_t decode_lane(const Section& s, const RowShape& shape, const LaneCodes<F>& codes,
                                 const ChannelSide& channels, float (&v)[kVectorDims]) {
  int32_t bad = 0;
  if constexpr (F::kRaw) {
    float most = 0.0f;
    bool number = true;
#pragma unroll
    for (uint32_t i = 0; i < kVectorDims; ++i) {
      if (F::kBits == 32)
        v[i] = __uint_as_float(codes.words[i % LaneCodes<F>::kWords]);
      else {
        const auto bits = static_cast<uint16_t>(codes.words[i / 2] >> (16 * (i % 2)));
        v[i] = F::kElement == QUIRE_DTYPE_F16 ? f16_to_float(bits) : bf16_to_float(bits);
      }
      number &= v[i] == v[i];
      most = fmaxf(most, fabsf(v[i]));
    }
    if ((s.flags & kKeepNonFinite) == 0) {
      if (!number)
        bad = QUIRE_KERNEL_NON_FINITE;
      else
        bad = judge_value(most, s.limit);
    }
  } else if constexpr (F::kKind == SectionKind::kFp8) {
    const float scale = f16_to_float(static_cast<uint16_t>(codes.side));
    bad = judge_affine(0.0f, scale, 448, s.limit);
#pragma unroll
    for (uint32_t i = 0; i < kVectorDims; ++i) {
      const uint32_t code = code_of<8>({codes.words[0], codes.words[1]}, i);
      if ((code & 0x7f) == 0x7f) bad = QUIRE_KERNEL_NON_FINITE;
      v[i] = fp8_value(code) * scale;
    }
  } else {
    float zero = 0.0f;
    float scale = 0.0f;
    if (F::kTokenPair) {
      half_pair(codes.side, &zero, &scale);
      bad = judge_affine(zero, scale, (1u << F::kBits) - 1, s.limit);
    }
    const uint32_t words[2] = {codes.words[0], codes.words[LaneCodes<F>::kWords - 1]};
#pragma unroll
    for (uint32_t i = 0; i < kVectorDims; ++i) {
      const uint32_t code = code_of<F::kBits>(words, i);
      v[i] = F::kTokenPair ? quire_kernels::decode_code(code, zero, scale)
                           : quire_kernels::decode_code(code, channels.zero[i], channels.scale[i]);
    }
  }
  (void)shape;
  return bad;
}

template <typename F>
QUIRE_DEVICE void write_lane(const Section& s, const RowShape& shape, uint32_t head, int64_t row,
                             const LaneCodes<F>& codes, const float (&v)[kVectorDims]) {
  unsigned char* at =
      s.engine + row * s.token_stride + head * s.head_stride + shape.dim * s.dim_stride;
  if (F::kRaw && (s.flags & kCopies)) {
    constexpr uint32_t kWords = LaneCodes<F>::kWords;
    if (s.flags & kVectorEngine) {
#pragma unroll
      for (uint32_t word = 0; word + 3 < kWords; word += 4)
        st_cs_16(at + 4 * word, make_uint4(codes.words[word], codes.words[word + 1],
                                           codes.words[word + 2], codes.words[word + 3]));
      return;
    }
#pragma unroll
    for (uint32_t i = 0; i < kVectorDims; ++i) {
      if (i >= shape.dims) break;
      if (F::kBits == 32)
        *reinterpret_cast<uint32_t*>(at + i * s.dim_stride) = codes.words[i % kWords];
      else
        *reinterpret_cast<uint16_t*>(at + i * s.dim_stride) =
            static_cast<uint16_t>(codes.words[i / 2 % kWords] >> (16 * (i % 2)));
    }
    return;
  }
  uint32_t packed[kVectorDims];
  const bool single = s.engine_dtype == QUIRE_DTYPE_F32;
  if (single) {
#pragma unroll
    for (uint32_t i = 0; i < kVectorDims; ++i) packed[i] = __float_as_uint(v[i]);
  } else {
#pragma unroll
    for (uint32_t i = 0; i < kVectorDims; i += 2)
      packed[i / 2] = s.engine_dtype == QUIRE_DTYPE_BF16 ? pack_bf16x2(v[i], v[i + 1])
                                                         : pack_f16x2(v[i], v[i + 1]);
  }
  if (s.flags & kVectorEngine) {
    st_cs_16(at, make_uint4(packed[0], packed[1], packed[2], packed[3]));
    if (single) st_cs_16(at + 16, make_uint4(packed[4], packed[5], packed[6], packed[7]));
    return;
  }
#pragma unroll
  for (uint32_t i = 0; i < kVectorDims; ++i) {
    if (i >= shape.dims) break;
    if (single)
      *reinterpret_cast<uint32_t*>(at + i * s.dim_stride) = packed[i];
    else
      *reinterpret_cast<uint16_t*>(at + i * s.dim_stride) =
          static_cast<uint16_t>(packed[i / 2] >> (16 * (i % 2)));
  }
}

// Where the block's rows and side data lie inside the section.
struct BlockPlace {
  uint64_t channel_side;
  uint64_t wide_scales;
  uint64_t token_side;  // of token 0 of `first`
  uint64_t codes;       // of token 0 of `first`
  uint32_t first;       // token that token_side and codes belong to
  uint32_t row_bytes;
  uint32_t groups;
};

template <typename F>
QUIRE_DEVICE BlockPlace block_place(const Section& s, uint32_t head, uint32_t token) {
  BlockPlace at = {};
  at.groups = 1;
  if constexpr (F::kRaw) {
    at.row_bytes = s.head_dim * (F::kBits / 8);
    at.codes = uint64_t{head} * s.n_tokens * at.row_bytes;
  } else {
    at.row_bytes = static_cast<uint32_t>(quire_kernels::code_row_bytes(s.head_dim, F::kBits));
    if constexpr (F::kChannelSide) {
      const uint32_t run = token / s.spec.run_tokens;
      const auto place = quire_kernels::channel_run(s.spec, s.n_tokens, s.head_dim, head, run);
      at.channel_side = place.side;
      at.wide_scales = place.wide_scales;
      at.token_side = place.token_side;
      at.codes = place.codes;
      at.first = run * s.spec.run_tokens;
    } else {
      const auto place = quire_kernels::token_head(s.spec, s.n_tokens, s.head_dim, head);
      at.token_side = place.side;
      at.codes = place.codes;
      if (F::kKind == SectionKind::kToken)
        at.groups = quire_kernels::token_groups(s.spec, s.head_dim);
    }
  }
  return at;
}

// first_token is a multiple of kBlockTokens. kListed: the rows of the block belong to the tokens
// that the lanes hold in `listed`, for engine rows, masks and rotation; else to first_token and
// those that follow it. All lanes of the warp call.
template <typename F, bool kGlobal, bool kListed = false>
QUIRE_DEVICE void load_block(const Section& s, uint32_t head, uint32_t first_token,
                             const Source& source, float* scratch, int32_t* status,
                             uint32_t listed = 0) {
  const RowShape shape = row_shape(s.head_dim);
  const int64_t own_row = engine_row_of(s, kListed ? listed : first_token + lane_id(), status);
  const BlockPlace at = block_place<F>(s, head, first_token);
  const unsigned char* side = source.side + at.token_side - source.side_begin;
  const unsigned char* rows = source.codes + at.codes - source.codes_begin;
  const bool vectors = (s.flags & kVectorBytes) != 0;
  const bool holds = shape.row < shape.rows;

  ChannelSide channels = {};
  int32_t bad = 0;
  if constexpr (F::kChannelSide) {
    read_channels<F>(s, source.side + at.channel_side - source.side_begin,
                     source.side + at.wide_scales - source.side_begin, shape, &channels);
    const uint32_t top = F::kKind == SectionKind::kNormalised ? 0 : (1u << F::kBits) - 1;
#pragma unroll
    for (uint32_t i = 0; i < kVectorDims; ++i) {
      if (i >= shape.dims) break;
      const int32_t one = judge_affine(channels.zero[i], channels.scale[i], top, s.limit);
      if (one != 0) bad = one;
    }
  }
  const bool rotates = s.table != nullptr;
  LaneRotation rotation = {};
  if (rotates && s.table_token_stride == 0) load_rotation(s, shape, 0, &rotation);

  const uint32_t steps = (kBlockTokens + shape.rows - 1) / shape.rows;
  for (uint32_t step = 0; step < steps; step += kUnroll) {
    LaneCodes<F> codes[kUnroll];
    bool present[kUnroll];
    uint32_t tokens[kUnroll];
#pragma unroll
    for (uint32_t u = 0; u < kUnroll; ++u) {
      const uint32_t local = (step + u) * shape.rows + shape.row;
      tokens[u] = kListed ? shfl(listed, local & 31) : first_token + local;
      present[u] =
          holds && local < kBlockTokens && tokens[u] >= s.token_begin && tokens[u] < s.token_end;
      codes[u] = {};
      if (!present[u]) continue;
      const uint32_t inside = first_token + local - at.first;
      read_codes<F, kGlobal>(rows + uint64_t{inside} * at.row_bytes, shape, vectors, &codes[u]);
      if constexpr (F::kTokenPair) {
        const uint32_t group = at.groups > 1 ? shape.dim / s.spec.group_dims : 0;
        codes[u].side = read_4<kGlobal>(side + 4 * (uint64_t{inside} * at.groups + group));
      } else if constexpr (F::kKind == SectionKind::kFp8) {
        codes[u].side = *reinterpret_cast<const uint16_t*>(side + 2 * uint64_t{inside});
      }
    }
#pragma unroll
    for (uint32_t u = 0; u < kUnroll; ++u) {
      if (step + u >= steps) break;
      const uint32_t local = (step + u) * shape.rows + shape.row;
      float v[kVectorDims];
      int32_t wrong = decode_lane<F>(s, shape, codes[u], channels, v);
      if (present[u] && wrong != 0) bad = wrong;
      if constexpr (F::kTokenPair) hadamard_lanes(v, s.hadamard);
      if constexpr (F::kKind == SectionKind::kNormalised) {
#pragma unroll
        for (uint32_t i = 0; i < kVectorDims; ++i)
          v[i] = v[i] * channels.scale[i] + channels.zero[i];
        float most = 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < kVectorDims; ++i)
          if (i < shape.dims) most = fmaxf(most, fabsf(v[i]));
        const int32_t large = judge_value(most, s.limit);
        if (present[u] && large != 0) bad = large;
      }
      if (rotates) {
        if (s.table_token_stride != 0 && present[u]) load_rotation(s, shape, tokens[u], &rotation);
        rotate_lanes(s, shape, rotation, scratch, v);
      }
      const int64_t row = shfl_row(own_row, local & 31);
      if (present[u] && row >= 0 && bad == 0) write_lane<F>(s, shape, head, row, codes[u], v);
    }
  }
  if (holds && bad != 0) set_status(status, bad);
}

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_LOAD_ROWS_CUH_
