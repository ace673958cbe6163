// Stores of bf16 without loss. One CTA makes one section, in passes over its rows: exponents are
// counted (exp4) or channel tops found (window3), escapes counted per entry of the escape index,
// the index summed up by one warp, and then every warp writes blocks of 64 rows where the index
// says. A pass gathers and rotates its rows anew: they are in the L2 cache, and nothing has to be
// kept. Where escapes would take more room than they save, the last pass writes plain elements
// instead. Whatever the engine's memory does meanwhile, no pass writes outside its part of the
// section.
#ifndef QUIRE_KERNELS_CUDA_STORE_EXPONENT_CUH_
#define QUIRE_KERNELS_CUDA_STORE_EXPONENT_CUH_

#include "kernels/cuda/store_kernels.cuh"

namespace quire_cuda {

using quire_kernels::kEscapeIndexRows;

using Bf16Elements = Format<SectionKind::kRaw, 16, false, QUIRE_DTYPE_BF16>;

constexpr uint32_t kStoreWarps = 16;
constexpr uint32_t kStoreThreads = 32 * kStoreWarps;
constexpr uint32_t kExponents = 256;
// As kernels/exponent.cc has them: exponents in exp4's table, which is made from every fourth row.
constexpr uint32_t kTableExponents = 15;
constexpr uint32_t kSampledRows = 4;

// Of the block.
struct ExponentStoreShared {
  float* scratch;            // kHeadDimMax of this warp
  uint32_t* counters;        // kExponents for each warp
  unsigned char* code_of;    // exp4: kExponents
  unsigned char* exponents;  // exp4: those of codes 0..14, and a zero
  uint32_t* escapes;         // in the whole section
};

struct ExponentStore {
  const Section& s;
  RowShape shape;
  uint32_t rows;
  ExponentStoreShared shared;
  int32_t bad;
};

QUIRE_DEVICE uint32_t element_of(const uint32_t (&words)[kVectorDims], uint32_t e) {
  return words[e / 2] >> (16 * (e % 2)) & 0xffff;
}
QUIRE_DEVICE uint32_t exponent_of(const uint32_t (&words)[kVectorDims], uint32_t e) {
  return element_of(words, e) >> 7 & 0xff;
}

// The lane's elements of a row of the section, rows being numbered head * n_tokens + token. All
// lanes of the warp call, each with a row of its own.
QUIRE_DEVICE void gather_elements(ExponentStore* store, uint32_t number, bool present,
                                  uint32_t (&words)[kVectorDims]) {
  const Section& s = store->s;
  const uint32_t head = present ? number / s.n_tokens : 0;
  const uint32_t token = present ? number - head * s.n_tokens : 0;
  int64_t row = -1;
  if (present) row = s.token_row != nullptr ? s.token_row[token] : token;
  int32_t bad = 0;
  if (present && (row < 0 || row >= s.engine_tokens)) {
    bad = QUIRE_KERNEL_INVALID_ARGUMENT;
    row = -1;
  }
  EngineLane lane;
  read_engine(s, store->shape, head, row, &lane);
  float v[kVectorDims];
  const int32_t wrong = fetch_lane(s, store->shape, lane, present, token, store->shared.scratch, v);
  const int32_t judged = element_words<Bf16Elements>(s, lane, v, wrong, words);
  if (bad == 0) bad = judged;
  if (present && store->bad == 0) store->bad = bad;
}

// exp4: every fourth row is counted; exponents by descending frequency, smaller first among equals.
// All threads of the block call.
QUIRE_DEVICE void choose_exponents(ExponentStore* store) {
  const RowShape& shape = store->shape;
  const ExponentStoreShared& shared = store->shared;
  uint32_t* own = shared.counters + warp_id() * kExponents;
  for (uint32_t i = lane_id(); i < kExponents; i += 32) own[i] = 0;
  sync_warp();
  const uint32_t sampled = (store->rows + kSampledRows - 1) / kSampledRows;
  for (uint32_t begin = warp_id() * shape.rows; begin < sampled;
       begin += kStoreWarps * shape.rows) {
    const uint32_t sample = begin + shape.row;
    const bool present = shape.row < shape.rows && sample < sampled;
    uint32_t words[kVectorDims];
    gather_elements(store, sample * kSampledRows, present, words);
    for (uint32_t e = 0; present && e < shape.dims; ++e)
      atomic_add(&own[exponent_of(words, e)], 1u);
  }
  sync_block();
  for (uint32_t e = threadIdx.x; e < kExponents; e += kStoreThreads) {
    uint32_t count = 0;
    for (uint32_t warp = 0; warp < kStoreWarps; ++warp)
      count += shared.counters[warp * kExponents + e];
    shared.counters[e] = count;  // of warp 0: this thread alone looks at it
  }
  sync_block();
  for (uint32_t e = threadIdx.x; e < kExponents; e += kStoreThreads) {
    const uint32_t count = shared.counters[e];
    uint32_t rank = 0;
    for (uint32_t other = 0; other < kExponents; ++other) {
      const uint32_t others = shared.counters[other];
      rank += others > count || (others == count && other < e);
    }
    shared.code_of[e] = static_cast<unsigned char>(rank < kTableExponents ? rank : kTableExponents);
    if (rank < kTableExponents) shared.exponents[rank] = static_cast<unsigned char>(e);
  }
  sync_block();
}

// window3: each channel's largest exponent in a run of one head, a warp for each. All threads of
// the block call.
QUIRE_DEVICE void write_tops(ExponentStore* store, uint64_t tops) {
  const Section& s = store->s;
  const RowShape& shape = store->shape;
  uint32_t* own = store->shared.counters + warp_id() * kExponents;
  const uint32_t runs = (s.n_tokens + s.spec.run_tokens - 1) / s.spec.run_tokens;
  for (uint32_t unit = warp_id(); unit < runs * s.n_heads; unit += kStoreWarps) {
    const uint32_t head = unit / runs;
    const uint32_t first = unit % runs * s.spec.run_tokens;
    const uint32_t left = s.n_tokens - first;
    const uint32_t n = left < s.spec.run_tokens ? left : s.spec.run_tokens;
    for (uint32_t dim = lane_id(); dim < s.head_dim; dim += 32)
      own[dim] = quire_kernels::kWindow - 1;
    sync_warp();
    uint32_t top[kVectorDims] = {};
    for (uint32_t begin = 0; begin < n; begin += shape.rows) {
      const bool present = shape.row < shape.rows && begin + shape.row < n;
      uint32_t words[kVectorDims];
      gather_elements(store, head * s.n_tokens + first + begin + shape.row, present, words);
#pragma unroll
      for (uint32_t e = 0; e < kVectorDims; ++e) {
        const uint32_t exponent = present ? exponent_of(words, e) : 0;
        top[e] = exponent > top[e] ? exponent : top[e];
      }
    }
#pragma unroll
    for (uint32_t e = 0; e < kVectorDims; ++e)
      if (shape.row < shape.rows && e < shape.dims) atomic_max(&own[shape.dim + e], top[e]);
    sync_warp();
    unsigned char* to = s.bytes + tops + uint64_t{unit} * s.head_dim;
    for (uint32_t dim = lane_id(); dim < s.head_dim; dim += 32)
      to[dim] = static_cast<unsigned char>(own[dim]);
    sync_warp();
  }
  sync_block();
}

// The lane's codes of a row; a bit for each element that is an escape.
template <uint32_t kBits>
QUIRE_DEVICE uint32_t encode_exponents(const ExponentStore& store, uint64_t tops, uint32_t number,
                                       const uint32_t (&words)[kVectorDims],
                                       uint32_t (&codes)[kVectorDims]) {
  constexpr uint32_t kEscape = (1u << kBits) - 1;
  const Section& s = store.s;
  const unsigned char* top = nullptr;
  if (kBits == 3) {
    const uint32_t head = number / s.n_tokens;
    const uint32_t runs = (s.n_tokens + s.spec.run_tokens - 1) / s.spec.run_tokens;
    const uint32_t run = (number - head * s.n_tokens) / s.spec.run_tokens;
    top = s.bytes + tops + (uint64_t{head} * runs + run) * s.head_dim + store.shape.dim;
  }
  uint32_t escapes = 0;
#pragma unroll
  for (uint32_t e = 0; e < kVectorDims; ++e) {
    codes[e] = 0;
    if (e >= store.shape.dims) continue;
    const uint32_t exponent = exponent_of(words, e);
    if (kBits == 4) {
      codes[e] = store.shared.code_of[exponent];
    } else {
      const uint32_t below = top[e] - exponent;
      codes[e] = below < kEscape ? below : kEscape;
    }
    if (codes[e] == kEscape) escapes |= 1u << e;
  }
  return escapes;
}

// The escapes of every block of the index, counted, and then summed up to where each block's begin.
// All threads of the block call.
template <uint32_t kBits>
QUIRE_DEVICE void index_escapes(ExponentStore* store, const quire_kernels::ExponentBlocks& at) {
  const RowShape& shape = store->shape;
  auto* index = reinterpret_cast<uint32_t*>(store->s.bytes + at.escape_index);
  const uint32_t blocks = (store->rows + kEscapeIndexRows - 1) / kEscapeIndexRows;
  for (uint32_t block = warp_id(); block < blocks; block += kStoreWarps) {
    uint32_t count = 0;
    for (uint32_t begin = 0; begin < kEscapeIndexRows; begin += shape.rows) {
      const uint32_t row = block * kEscapeIndexRows + begin + shape.row;
      const bool present =
          shape.row < shape.rows && begin + shape.row < kEscapeIndexRows && row < store->rows;
      uint32_t words[kVectorDims];
      uint32_t codes[kVectorDims];
      gather_elements(store, row, present, words);
      if (present) count += popcount(encode_exponents<kBits>(*store, at.tops, row, words, codes));
    }
    count = reduce_sum(count);
    if (lane_id() == 0) index[block] = count;
  }
  sync_block();
  if (warp_id() == 0) {
    uint32_t before = 0;
    for (uint32_t begin = 0; begin < blocks; begin += 32) {
      const uint32_t block = begin + lane_id();
      const uint32_t count = block < blocks ? index[block] : 0;
      const uint32_t sum = inclusive_sum(count);
      if (block < blocks) index[block] = before + sum - count;
      before += shfl(sum, 31);
    }
    if (lane_id() == 0) *store->shared.escapes = before;
  }
  sync_block();
}

template <uint32_t kBits>
QUIRE_DEVICE void write_coded_block(ExponentStore* store, const quire_kernels::ExponentBlocks& at,
                                    uint32_t block, uint32_t escape, uint32_t escape_end) {
  const Section& s = store->s;
  const RowShape& shape = store->shape;
  const bool vectors = (s.flags & kVectorBytes) != 0;
  const auto row_bytes = static_cast<uint32_t>(quire_kernels::code_row_bytes(s.head_dim, kBits));
  unsigned char* escapes = s.bytes + at.escapes;
  for (uint32_t begin = 0; begin < kEscapeIndexRows; begin += shape.rows) {
    const uint32_t row = block * kEscapeIndexRows + begin + shape.row;
    const bool present =
        shape.row < shape.rows && begin + shape.row < kEscapeIndexRows && row < store->rows;
    uint32_t words[kVectorDims];
    uint32_t codes[kVectorDims];
    gather_elements(store, row, present, words);
    const uint32_t places =
        present ? encode_exponents<kBits>(*store, at.tops, row, words, codes) : 0;
    const uint32_t own = popcount(places);
    const uint32_t sum = inclusive_sum(own);
    uint32_t to = escape + sum - own;
    escape += shfl(sum, 31);
    if (!present) continue;
#pragma unroll
    for (uint32_t e = 0; e < kVectorDims; ++e) {
      if ((places >> e & 1) == 0) continue;
      if (to < escape_end) escapes[to] = static_cast<unsigned char>(exponent_of(words, e));
      ++to;
    }
    write_codes<kBits, false>(s.bytes + at.codes + uint64_t{row} * row_bytes, shape, vectors,
                              codes);
#pragma unroll
    for (uint32_t e = 0; e < kVectorDims; ++e) {
      const uint32_t element = element_of(words, e);
      codes[e] = (element >> 8 & 0x80) | (element & 0x7f);
    }
    write_codes<8, false>(s.bytes + at.sign_mantissa + uint64_t{row} * s.head_dim, shape, vectors,
                          codes);
  }
}

// Header and padding, by all threads of the block.
template <uint32_t kBits>
QUIRE_DEVICE void write_coded_frame(const ExponentStore& store,
                                    const quire_kernels::ExponentBlocks& at, uint32_t n_escapes) {
  const Section& s = store.s;
  const uint32_t thread = threadIdx.x;
  const uint32_t runs = kBits == 4 ? 0 : (s.n_tokens + s.spec.run_tokens - 1u) / s.spec.run_tokens;
  auto* header = reinterpret_cast<uint32_t*>(s.bytes);
  if (thread == 0) header[0] = quire_kernels::kExponentCoded;
  if (thread == 0) header[1] = n_escapes;
  clear_bytes(s.bytes, 8, sizeof(quire_kernels::ExponentHeader), thread, kStoreThreads);
  sync_block();
  if (kBits == 4 && thread < kTableExponents) s.bytes[8 + thread] = store.shared.exponents[thread];
  const auto clear = [&](uint64_t begin, uint64_t end) {
    clear_bytes(s.bytes, begin, end, thread, kStoreThreads);
  };
  const uint64_t rows = store.rows;
  const uint64_t blocks = (rows + kEscapeIndexRows - 1) / kEscapeIndexRows;
  clear(at.tops + uint64_t{s.n_heads} * runs * s.head_dim, at.sign_mantissa);
  clear(at.sign_mantissa + rows * s.head_dim, at.codes);
  clear(at.codes + rows * quire_kernels::code_row_bytes(s.head_dim, kBits), at.escape_index);
  clear(at.escape_index + 4 * blocks, at.escapes);
  clear(at.escapes + n_escapes, at.total);
}

template <uint32_t kBits>
QUIRE_DEVICE void write_coded(ExponentStore* store, const quire_kernels::ExponentBlocks& at,
                              uint32_t n_escapes) {
  const auto* index = reinterpret_cast<const uint32_t*>(store->s.bytes + at.escape_index);
  const uint32_t blocks = (store->rows + kEscapeIndexRows - 1) / kEscapeIndexRows;
  for (uint32_t block = warp_id(); block < blocks; block += kStoreWarps)
    write_coded_block<kBits>(store, at, block, index[block],
                             block + 1 < blocks ? index[block + 1] : n_escapes);
  write_coded_frame<kBits>(*store, at, n_escapes);
}

QUIRE_DEVICE void write_plain(ExponentStore* store, uint64_t plain_bytes) {
  const Section& s = store->s;
  const RowShape& shape = store->shape;
  constexpr uint32_t kHeaderBytes = sizeof(quire_kernels::ExponentHeader);
  const uint64_t row_bytes = 2ull * s.head_dim;
  for (uint32_t begin = warp_id() * shape.rows; begin < store->rows;
       begin += kStoreWarps * shape.rows) {
    const uint32_t row = begin + shape.row;
    const bool present = shape.row < shape.rows && row < store->rows;
    uint32_t words[kVectorDims];
    gather_elements(store, row, present, words);
    if (present)
      write_elements<Bf16Elements, false>(s, shape, words,
                                          s.bytes + kHeaderBytes + row * row_bytes);
  }
  if (threadIdx.x == 0) *reinterpret_cast<uint32_t*>(s.bytes) = quire_kernels::kExponentPlain;
  clear_bytes(s.bytes, 4, kHeaderBytes, threadIdx.x, kStoreThreads);
  clear_bytes(s.bytes, kHeaderBytes + store->rows * row_bytes, plain_bytes, threadIdx.x,
              kStoreThreads);
}

template <uint32_t kBits>
QUIRE_DEVICE void store_exponent_section(const Section& s, const ExponentStoreShared& shared,
                                         int32_t* status) {
  ExponentStore store{s, row_shape(s.head_dim), s.n_heads * s.n_tokens, shared, 0};
  const uint64_t plain_bytes =
      quire_kernels::exponent_plain_bytes(s.n_tokens, s.n_heads, s.head_dim);
  quire_kernels::ExponentBlocks at =
      quire_kernels::exponent_blocks(s.spec, s.n_tokens, s.n_heads, s.head_dim, 0);
  uint64_t bytes = plain_bytes;
  if (at.escapes < plain_bytes) {
    if (kBits == 4)
      choose_exponents(&store);
    else
      write_tops(&store, at.tops);
    index_escapes<kBits>(&store, at);
    const uint32_t n_escapes = *shared.escapes;
    at.total = at.escapes + quire_kernels::align_block(n_escapes);
    if (at.total < plain_bytes) {
      write_coded<kBits>(&store, at, n_escapes);
      bytes = at.total;
    }
  }
  if (bytes == plain_bytes) write_plain(&store, plain_bytes);
  if (threadIdx.x == 0) *s.written = bytes;
  if (store.bad != 0) set_status(status, store.bad);
  sync_block();  // the next section uses the shared memory again
}

template <uint32_t kBits>
__global__ void __launch_bounds__(kStoreThreads)
    store_exponent(const __grid_constant__ SectionPack pack) {
  QUIRE_SHARED(float, scratch, kStoreWarps* kHeadDimMax);
  QUIRE_SHARED(uint32_t, counters, kStoreWarps * kExponents);
  QUIRE_SHARED(unsigned char, code_of, kExponents);
  QUIRE_SHARED(unsigned char, exponents, 16);
  QUIRE_SHARED(uint32_t, escapes, 1);
  static_assert(kHeadDimMax <= kExponents);  // window3 keeps a run's tops in the counters
  const ExponentStoreShared shared{scratch + warp_id() * kHeadDimMax, counters, code_of, exponents,
                                   escapes};
  for (uint32_t unit = blockIdx.x; unit < pack.n_units; unit += gridDim.x)
    store_exponent_section<kBits>(section_of_unit(pack, unit), shared, pack.status);
}

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_STORE_EXPONENT_CUH_
