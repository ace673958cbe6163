// AVX-512: rows of elements rotated in registers on their way from one dtype to another.
#include "kernels/rows.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "kernels/avx512_decode.h"

namespace quire_kernels {
namespace {

// Rows that follow each other in a batch and share their table.
struct Run {
  const Byte* const* from;
  Byte* const* out;
  uint32_t n;
  const float* table;
};

// Cosines and sines of sixteen pairs.
struct Angles {
  __m512 cosine;
  __m512 sine;
};

// One run. `special_` gathers what the processor's bf16 conversion would not give as the reference
// does, denormals, or what no conversion does, NaN; in mask registers, because moves to others cost
// more than the rotation.
template <int32_t kFrom, int32_t kTo>
class RunRotation {
 public:
  explicit RunRotation(const Run& run) : run_(run) {}
  bool special() const { return special_ != 0; }

  [[gnu::always_inline]] void plain(uint32_t begin, uint32_t end) {
    for (uint32_t r = 0; r < run_.n; ++r) {
      uint64_t i = begin;
      for (; i + 2 * kLanes <= end; i += 2 * kLanes)
        store_two(r, i, load(r, i, FullBlock{}), load(r, i + kLanes, FullBlock{}));
      for_blocks(end - i,
                 [&](uint64_t j, auto block) { store(r, i + j, load(r, i + j, block), block); });
    }
  }

  // Angles stay in registers while rows go by.
  [[gnu::always_inline]] void neox(uint32_t pairs) {
    uint64_t j = 0;
    for (; j + 2 * kLanes <= pairs; j += 2 * kLanes) {
      const Angles a = angles(j, pairs);
      const Angles b = angles(j + kLanes, pairs);
      for (uint32_t r = 0; r < run_.n; ++r) {
        __m512 first[2];
        __m512 second[2];
        turn(r, j, pairs, a, FullBlock{}, &first[0], &second[0]);
        turn(r, j + kLanes, pairs, b, FullBlock{}, &first[1], &second[1]);
        store_two(r, j, first[0], first[1]);
        store_two(r, j + pairs, second[0], second[1]);
      }
    }
    for_blocks(pairs - j, [&](uint64_t k, auto block) {
      const Angles a = angles(j + k, pairs);
      for (uint32_t r = 0; r < run_.n; ++r) {
        __m512 x0;
        __m512 x1;
        turn(r, j + k, pairs, a, block, &x0, &x1);
        store(r, j + k, x0, block);
        store(r, j + k + pairs, x1, block);
      }
    });
  }

  [[gnu::always_inline]] void neighbours(uint32_t dims) {
    const auto turned = [&](uint32_t r, uint64_t i, auto block) {
      return rotate_neighbours(block.load(run_.table + i), load(r, i, block));
    };
    for (uint32_t r = 0; r < run_.n; ++r) {
      uint64_t i = 0;
      for (; i + 2 * kLanes <= dims; i += 2 * kLanes)
        store_two(r, i, turned(r, i, FullBlock{}), turned(r, i + kLanes, FullBlock{}));
      for_blocks(dims - i,
                 [&](uint64_t j, auto block) { store(r, i + j, turned(r, i + j, block), block); });
    }
  }

 private:
  [[gnu::always_inline]] Angles angles(uint64_t j, uint32_t pairs) const {
    Angles a;
    split_pairs(run_.table + 2 * j, 2 * (pairs - j), &a.cosine, &a.sine);
    return a;
  }

  template <typename Block>
  [[gnu::always_inline]] void turn(uint32_t r, uint64_t j, uint32_t pairs, const Angles& a,
                                   Block block, __m512* x0, __m512* x1) const {
    *x0 = load(r, j, block);
    *x1 = load(r, j + pairs, block);
    rotate_pair(a.cosine, a.sine, x0, x1);
  }

  template <typename Block>
  [[gnu::always_inline]] __m512 load(uint32_t r, uint64_t i, Block block) const {
    return load_elements(kFrom, run_.from[r], i, block);
  }

  template <typename Block>
  [[gnu::always_inline]] void store(uint32_t r, uint64_t i, __m512 values, Block block) {
    constexpr int kNan = 0x81;
    add_special(_mm512_fpclass_ps_mask(block.keep(values, _mm512_setzero_ps()), kNan));
    store_elements(kTo, run_.out[r], i, values, block);
  }

  // Elements i .. i + 31.
  [[gnu::always_inline]] void store_two(uint32_t r, uint64_t i, __m512 a, __m512 b) {
    if constexpr (kTo == kHardwareBf16) {
      constexpr int kDenormal = 0x20;
      add_special(_mm512_fpclass_ps_mask(a, kDenormal));
      add_special(_mm512_fpclass_ps_mask(b, kDenormal));
      const __m512bh both = _mm512_cvtne2ps_pbh(b, a);
      memcpy(run_.out[r] + i * 2, &both, sizeof(both));
    } else {
      store(r, i, a, FullBlock{});
      store(r, i + kLanes, b, FullBlock{});
    }
  }

  [[gnu::always_inline]] void add_special(__mmask16 mask) {
    special_ = _kor_mask16(special_, mask);
  }

  const Run run_;
  __mmask16 special_ = 0;
};

// False where the run has to be done again.
template <int32_t kFrom, int32_t kTo>
bool rotate_run(const RowFormat& format, const Run& run) {
  RunRotation<kFrom, kTo> rotation(run);
  if (run.table == nullptr) {
    rotation.plain(0, format.n);
  } else {
    if (format.style == QUIRE_ROPE_STYLE_NEOX)
      rotation.neox(format.rotary_dims / 2);
    else
      rotation.neighbours(format.rotary_dims);
    if (format.rotary_dims < format.n) rotation.plain(format.rotary_dims, format.n);
  }
  return !rotation.special();
}

void rotate_by_reference(const RowFormat& format, int32_t from_dtype, const Run& run) {
  ElementRows rows;
  rows.n = run.n;
  for (uint32_t r = 0; r < run.n; ++r) {
    rows.from[r] = run.from[r];
    rows.table[r] = run.table;
    rows.out[r] = run.out[r];
  }
  scalar_rows()->rotate_elements(format, from_dtype, rows);
}

template <int32_t kFrom>
void rotate_from(const RowFormat& format, const Run& run) {
  bool done = false;
  if (format.dtype == QUIRE_DTYPE_F32) {
    done = rotate_run<kFrom, QUIRE_DTYPE_F32>(format, run);
  } else if (format.dtype == QUIRE_DTYPE_F16) {
    done = rotate_run<kFrom, QUIRE_DTYPE_F16>(format, run);
  } else {
    done = hardware_bf16() && rotate_run<kFrom, kHardwareBf16>(format, run);
    if (!done) done = rotate_run<kFrom, QUIRE_DTYPE_BF16>(format, run);
  }
  if (!done) rotate_by_reference(format, kFrom, run);
}

}  // namespace

void avx512::rotate_elements(const RowFormat& format, int32_t from_dtype, const ElementRows& rows) {
  for (uint32_t begin = 0, end; begin < rows.n; begin = end) {
    end = begin + 1;
    while (end < rows.n && rows.table[end] == rows.table[begin]) ++end;
    const Run run{rows.from + begin, rows.out + begin, end - begin, rows.table[begin]};
    if (from_dtype == QUIRE_DTYPE_F32)
      rotate_from<QUIRE_DTYPE_F32>(format, run);
    else if (from_dtype == QUIRE_DTYPE_F16)
      rotate_from<QUIRE_DTYPE_F16>(format, run);
    else
      rotate_from<QUIRE_DTYPE_BF16>(format, run);
  }
}

}  // namespace quire_kernels

#endif
