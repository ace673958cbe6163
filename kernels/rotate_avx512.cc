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

// How elements that the processor's bf16 conversion would take for zero are found: quickly, in its
// results, where zeros are mistaken for them, or for certain.
enum class Search { kQuick, kCertain };

// What the processor's bf16 conversion would not give as the reference does, denormals, or what no
// conversion does, NaN. Gathered in registers while rows go by; masks alone would not stay there.
struct Found {
  __m512i least = _mm512_set1_epi16(-1);  // quick: magnitudes of elements
  __mmask16 special = 0;                  // certain

  bool any() const {
    return special != 0 || _mm512_testn_epi16_mask(least, _mm512_set1_epi16(kExponentBits)) != 0;
  }
  [[gnu::always_inline]] void add(__mmask16 mask) { special = _kor_mask16(special, mask); }
  // bf16
  [[gnu::always_inline]] void add_least(__m512i elements) {
    const __m512i exponents = _mm512_and_si512(elements, _mm512_set1_epi16(kExponentBits));
    least = _mm512_min_epu16(least, exponents);
  }
  [[gnu::always_inline]] void add(const Found& other) {
    add(other.special);
    least = _mm512_min_epu16(least, other.least);
  }

  static constexpr int16_t kExponentBits = 0x7f80;
};

// One run.
template <int32_t kFrom, int32_t kTo, Search kSearch>
class RunRotation {
 public:
  RunRotation(const Run& run, bool streams) : run_(run), streams_(streams) {}
  bool special() const { return found_.any(); }

  [[gnu::always_inline]] void plain(uint32_t begin, uint32_t end) {
    Found found;
    for (uint32_t r = 0; r < run_.n; ++r) {
      uint64_t i = begin;
      for (; i + 2 * kLanes <= end; i += 2 * kLanes)
        store_two(r, i, load(r, i, FullBlock{}), load(r, i + kLanes, FullBlock{}), &found);
      for_blocks(end - i, [&](uint64_t j, auto block) {
        store(r, i + j, load(r, i + j, block), block, &found_);
      });
    }
    found_.add(found);
  }

  // Angles stay in registers while rows go by.
  [[gnu::always_inline]] void neox(uint32_t pairs) {
    Found found;
    uint64_t j = 0;
    for (; j + 2 * kLanes <= pairs; j += 2 * kLanes) {
      const Angles a = angles(j, pairs);
      const Angles b = angles(j + kLanes, pairs);
      for (uint32_t r = 0; r < run_.n; ++r) {
        __m512 first[2];
        __m512 second[2];
        turn(r, j, pairs, a, FullBlock{}, &first[0], &second[0]);
        turn(r, j + kLanes, pairs, b, FullBlock{}, &first[1], &second[1]);
        store_two(r, j, first[0], first[1], &found);
        store_two(r, j + pairs, second[0], second[1], &found);
      }
    }
    found_.add(found);
    for_blocks(pairs - j, [&](uint64_t k, auto block) {
      const Angles a = angles(j + k, pairs);
      for (uint32_t r = 0; r < run_.n; ++r) {
        __m512 x0;
        __m512 x1;
        turn(r, j + k, pairs, a, block, &x0, &x1);
        store(r, j + k, x0, block, &found_);
        store(r, j + k + pairs, x1, block, &found_);
      }
    });
  }

  [[gnu::always_inline]] void neighbours(uint32_t dims) {
    const auto turned = [&](uint32_t r, uint64_t i, auto block) {
      return rotate_neighbours(block.load(run_.table + i), load(r, i, block));
    };
    Found found;
    for (uint32_t r = 0; r < run_.n; ++r) {
      uint64_t i = 0;
      for (; i + 2 * kLanes <= dims; i += 2 * kLanes)
        store_two(r, i, turned(r, i, FullBlock{}), turned(r, i + kLanes, FullBlock{}), &found);
      for_blocks(dims - i, [&](uint64_t j, auto block) {
        store(r, i + j, turned(r, i + j, block), block, &found_);
      });
    }
    found_.add(found);
  }

 private:
  static constexpr int kNan = 0x81;  // of either kind

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
  [[gnu::always_inline]] void store(uint32_t r, uint64_t i, __m512 values, Block block,
                                    Found* found) const {
    found->add(_mm512_fpclass_ps_mask(block.keep(values, _mm512_setzero_ps()), kNan));
    store_elements(kTo, run_.out[r], i, values, block);
  }

  // Elements i .. i + 31.
  [[gnu::always_inline]] void store_two(uint32_t r, uint64_t i, __m512 a, __m512 b,
                                        Found* found) const {
    if constexpr (kTo == kHardwareBf16 && kSearch == Search::kQuick) {
      const __m512i joined = join_elements(kTo, a, b);
      found->add_least(joined);
      store_line(streams_, run_.out[r] + i * 2, joined);
      return;
    }
    if constexpr (kTo == kHardwareBf16) {
      constexpr int kDenormal = 0x20;
      found->add(_mm512_fpclass_ps_mask(a, kDenormal));
      found->add(_mm512_fpclass_ps_mask(b, kDenormal));
    } else {
      found->add(_mm512_fpclass_ps_mask(a, kNan));
      found->add(_mm512_fpclass_ps_mask(b, kNan));
    }
    store_pair(kTo, streams_, run_.out[r], i, a, b);
  }

  const Run run_;
  const bool streams_;
  Found found_;
};

// False where the run has to be done again.
template <int32_t kFrom, int32_t kTo, Search kSearch = Search::kCertain>
bool rotate_run(const RowFormat& format, const Run& run) {
  RunRotation<kFrom, kTo, kSearch> rotation(run, format.streams);
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
    done = hardware_bf16() && (rotate_run<kFrom, kHardwareBf16, Search::kQuick>(format, run) ||
                               rotate_run<kFrom, kHardwareBf16>(format, run));
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
