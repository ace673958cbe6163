// The AVX-512 implementation: 16 fp32 lanes per step, the tail by mask, so every head size takes
// the same path. No fused multiply-add: the bits equal the scalar reference's. One core does this
// about as fast as memory delivers, so loops are kept plain. Nothing inline with external linkage
// may be included here (see rows.h). Rows of codes: decode_avx512.cc, encode_avx512.cc.
#include "kernels/rows.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "kernels/avx512_blocks.h"

namespace quire_kernels {
namespace {

void widen(int32_t dtype, const Byte* src, float* row, uint32_t n) {
  if (dtype == QUIRE_DTYPE_F32)
    memcpy(row, src, uint64_t{n} * 4);
  else
    for_blocks(n, [=](uint64_t i, auto block) {
      block.store(row + i, load_elements(dtype, src, i, block));
    });
}

uint32_t max_abs_bits16(const Byte* src, uint64_t n) {
  __m512i largest = _mm512_setzero_si512();
  const __m512i magnitude = _mm512_set1_epi16(0x7fff);
  uint64_t i = 0;
  for (; i + 32 <= n; i += 32)
    largest =
        _mm512_max_epu16(largest, _mm512_and_si512(_mm512_loadu_si512(src + i * 2), magnitude));
  if (i < n) {
    const __mmask32 mask = (1u << (n - i)) - 1;
    largest = _mm512_max_epu16(
        largest, _mm512_and_si512(_mm512_maskz_loadu_epi16(mask, src + i * 2), magnitude));
  }
  const __m512i low = _mm512_and_si512(largest, _mm512_set1_epi32(0xffff));
  return _mm512_reduce_max_epu32(_mm512_max_epu32(low, _mm512_srli_epi32(largest, 16)));
}

uint32_t max_abs_bits(int32_t dtype, const Byte* src, uint64_t n) {
  if (dtype != QUIRE_DTYPE_F32) return max_abs_bits16(src, n);
  __m512i largest = _mm512_setzero_si512();
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (uint64_t i = 0; i < n; i += kLanes) {
    const __m512i values = _mm512_maskz_loadu_epi32(tail_mask(n - i), src + i * 4);
    largest = _mm512_max_epu32(largest, _mm512_and_si512(values, magnitude));
  }
  return _mm512_reduce_max_epu32(largest);
}

void rotate_neox(const float* table, float* row, uint32_t pairs) {
  for_blocks(pairs, [=](uint64_t j, auto block) {
    __m512 cosine;
    __m512 sine;
    split_pairs(table + 2 * j, 2 * (pairs - j), &cosine, &sine);
    __m512 x0 = block.load(row + j);
    __m512 x1 = block.load(row + j + pairs);
    rotate_pair(cosine, sine, &x0, &x1);
    block.store(row + j, x0);
    block.store(row + j + pairs, x1);
  });
}

// 16 x 16 of 32 bits, in place: pairs of rows, pairs of pairs, then 128-bit lanes.
inline void transpose_16x16(__m512i* r) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}

// 32 rows x 16 columns of 16 bits: two rows share a 32-bit lane, then as 16 x 16.
inline void transpose_block16(const Byte* src, int64_t src_stride, Byte* dst, int64_t dst_stride) {
  __m512i r[16];
  for (int i = 0; i < 16; ++i) {
    const Byte* low = src + 2 * i * src_stride;
    const __m512i a =
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(low)));
    const __m512i b = _mm512_cvtepu16_epi32(
        _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(low + src_stride)));
    r[i] = _mm512_or_si512(a, _mm512_slli_epi32(b, 16));
  }
  transpose_16x16(r);
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(dst + i * dst_stride, r[i]);
}

inline void transpose_block32(const Byte* src, int64_t src_stride, Byte* dst, int64_t dst_stride) {
  __m512i r[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(src + i * src_stride);
  transpose_16x16(r);
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(dst + i * dst_stride, r[i]);
}

void transpose(uint32_t element_bytes, const Byte* src, int64_t src_stride, uint32_t rows,
               uint32_t columns, Byte* dst, int64_t dst_stride) {
  const uint32_t block_rows = 64 / element_bytes;
  const uint32_t full_rows = rows / block_rows * block_rows;
  const uint32_t full_columns = columns / kLanes * kLanes;
  for (uint32_t row = 0; row < full_rows; row += block_rows)
    for (uint32_t column = 0; column < full_columns; column += kLanes) {
      const Byte* from = src + row * src_stride + column * element_bytes;
      Byte* to = dst + column * dst_stride + row * element_bytes;
      if (element_bytes == 2)
        transpose_block16(from, src_stride, to, dst_stride);
      else
        transpose_block32(from, src_stride, to, dst_stride);
    }
  const auto scalar = scalar_rows()->transpose;
  if (full_columns < columns && full_rows > 0)
    scalar(element_bytes, src + full_columns * element_bytes, src_stride, full_rows,
           columns - full_columns, dst + full_columns * dst_stride, dst_stride);
  if (full_rows < rows)
    scalar(element_bytes, src + full_rows * src_stride, src_stride, rows - full_rows, columns,
           dst + full_rows * element_bytes, dst_stride);
}

}  // namespace

void avx512::narrow(int32_t dtype, const float* row, Byte* dst, uint32_t n) {
  if (dtype == QUIRE_DTYPE_F32)
    memcpy(dst, row, uint64_t{n} * 4);
  else
    for_blocks(n, [=](uint64_t i, auto block) {
      store_elements(dtype, dst, i, block.load(row + i), block);
    });
}

void avx512::rotate(int32_t style, const float* table, float* row, uint32_t rotary_dims) {
  if (style == QUIRE_ROPE_STYLE_NEOX) {
    rotate_neox(table, row, rotary_dims / 2);
    return;
  }
  for_blocks(rotary_dims, [=](uint64_t i, auto block) {
    block.store(row + i, rotate_neighbours(block.load(table + i), block.load(row + i)));
  });
}

namespace {

void stream_rows(const Byte* src, uint64_t row_bytes, Byte* const* dst, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i, src += row_bytes)
    for (uint64_t at = 0; at < row_bytes; at += 64)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(dst[i] + at), _mm512_load_si512(src + at));
}

void stream_fence() {
  _mm_sfence();
}

constexpr RowOps kAvx512Rows = {
    .name = "avx512",
    .widen = widen,
    .narrow = avx512::narrow,
    .max_abs_bits = max_abs_bits,
    .rotate = avx512::rotate,
    .rotate_elements = avx512::rotate_elements,
    .transpose = transpose,
    .stream_rows = stream_rows,
    .stream_fence = stream_fence,
    .widen_pairs = avx512::widen_pairs,
    .max_affine_bits = avx512::max_affine_bits,
    .has_fp8_nan = avx512::has_fp8_nan,
    .decode_channel = avx512::decode_channel,
    .decode_token = avx512::decode_token,
    .decode_normalised = avx512::decode_normalised,
    .decode_fp8 = avx512::decode_fp8,
    .fetch = avx512::fetch,
    .fetch_range = avx512::fetch_range,
    .turn_range = avx512::turn_range,
    .fetch_turned = avx512::fetch_turned,
    .affine_halves = avx512::affine_halves,
    .normalise = avx512::normalise,
    .encode_channel = avx512::encode_channel,
    .encode_token = avx512::encode_token,
    .encode_fp8 = avx512::encode_fp8,
};

}  // namespace

const RowOps* avx512_rows() {
  return &kAvx512Rows;
}

}  // namespace quire_kernels

#else

namespace quire_kernels {
const RowOps* avx512_rows() {
  return nullptr;
}
}  // namespace quire_kernels

#endif
