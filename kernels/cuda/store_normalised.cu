// K of INT4_CENTRED: mean and deviation of every channel of a run in fp64, summed over tokens in
// ascending order as on the CPU, then codes per token. Kept to be compared with: plain, three reads
// of a run's rows.
#include "kernels/cuda/store_bulk.cuh"

namespace quire_cuda {
namespace {

using Normalised = Format<SectionKind::kNormalised, 4>;

constexpr uint32_t kDimsOfThread = kHeadDimMax / (kWarps * 32);

// The lane's part of row begin + line, in fp32 and rotated.
QUIRE_DEVICE bool fetch_row(const Section& s, const RowShape& shape, const RunPlace& run,
                            uint32_t begin, float* scratch, float (&v)[kVectorDims], int32_t* bad) {
  const uint32_t inside = begin + warp_id() * shape.rows + shape.row;
  const bool present = shape.row < shape.rows && inside < run.n;
  const uint32_t token = run.first + inside;
  int64_t row = present ? (s.token_row != nullptr ? s.token_row[token] : token) : -1;
  if (present && (row < 0 || row >= s.engine_tokens)) {
    *bad = QUIRE_KERNEL_INVALID_ARGUMENT;
    row = -1;
  }
  EngineLane lane;
  read_engine(s, shape, run.head, row, &lane);
  const int32_t wrong = fetch_lane(s, shape, lane, present, token, scratch, v);
  if (*bad == 0) *bad = wrong;
  return present;
}

// Sums of the thread's channels over the run: of values, or of squared distances from means.
QUIRE_DEVICE void sum_channels(const Section& s, const RowShape& shape, const RunPlace& run,
                               const float* means, float* rows, float* scratch,
                               double (&sums)[kDimsOfThread], int32_t* bad) {
  const uint32_t line_floats = shape.lanes * kVectorDims;
  const uint32_t lines = kWarps * shape.rows;
  const uint32_t line = warp_id() * shape.rows + shape.row;
  for (uint32_t i = 0; i < kDimsOfThread; ++i) sums[i] = 0;
  for (uint32_t begin = 0; begin < run.n; begin += lines) {
    float v[kVectorDims];
    if (fetch_row(s, shape, run, begin, scratch, v, bad))
      for (uint32_t i = 0; i < shape.dims; ++i) rows[line * line_floats + shape.dim + i] = v[i];
    sync_block();
    const uint32_t n = run.n - begin < lines ? run.n - begin : lines;
    for (uint32_t i = 0; i < kDimsOfThread; ++i) {
      const uint32_t dim = threadIdx.x + i * kWarps * 32;
      if (dim >= s.head_dim) break;
      for (uint32_t row = 0; row < n; ++row) {
        const double value = static_cast<double>(rows[row * line_floats + dim]);
        if (means == nullptr) {
          sums[i] += value;
        } else {
          const double difference = value - static_cast<double>(means[dim]);
          sums[i] += difference * difference;
        }
      }
    }
    sync_block();
  }
}

// Writes the pairs of the thread's channels; means and deviations as floats into shared memory.
template <bool kShared>
QUIRE_DEVICE void store_statistics(const Section& s, const RowShape& shape, const RunPlace& run,
                                   const BlockPlace& at, const Sink<kShared>& sink, float* rows,
                                   float* scratch, float* means, float* deviations, int32_t* bad) {
  double sums[kDimsOfThread];
  uint16_t mean_bits[kDimsOfThread] = {};
  sum_channels(s, shape, run, nullptr, rows, scratch, sums, bad);
  for (uint32_t i = 0; i < kDimsOfThread; ++i) {
    const uint32_t dim = threadIdx.x + i * kWarps * 32;
    if (dim >= s.head_dim) break;
    mean_bits[i] = quire_kernels::float_to_half(static_cast<float>(sums[i] / run.n) + 0.0f);
    if ((mean_bits[i] & 0x7fff) == 0) mean_bits[i] = 0;
    if ((mean_bits[i] & 0x7fff) >= 0x7c00 && *bad == 0) *bad = QUIRE_KERNEL_OUT_OF_RANGE;
    means[dim] = f16_to_float(mean_bits[i]);
  }
  sync_block();
  sum_channels(s, shape, run, means, rows, scratch, sums, bad);
  for (uint32_t i = 0; i < kDimsOfThread; ++i) {
    const uint32_t dim = threadIdx.x + i * kWarps * 32;
    if (dim >= s.head_dim) break;
    const double deviation = sqrt(sums[i] / run.n);
    const uint16_t bits =
        deviation == 0 ? uint16_t{0x3c00} : quire_kernels::half_scale(deviation, 1.0);
    if (bits >= 0x7c00 && *bad == 0) *bad = QUIRE_KERNEL_OUT_OF_RANGE;
    deviations[dim] = f16_to_float(bits);
    reinterpret_cast<uint32_t*>(sink.side_at(at.channel_side))[dim] =
        mean_bits[i] | static_cast<uint32_t>(bits) << 16;
  }
  sync_block();
}

template <bool kShared>
QUIRE_DEVICE void store_normalised_run(const Section& s, const RunPlace& run,
                                       const Sink<kShared>& sink, float* rows, float* scratch,
                                       float* means, float* deviations, int32_t* status) {
  const RowShape shape = row_shape(s.head_dim);
  const BlockPlace at = block_place<Normalised>(s, run.head, run.first);
  int32_t bad = 0;
  store_statistics(s, shape, run, at, sink, rows, scratch, means, deviations, &bad);
  for (uint32_t begin = 0; begin < run.n; begin += kWarps * shape.rows) {
    float v[kVectorDims];
    int32_t wrong = 0;
    const bool present = fetch_row(s, shape, run, begin, scratch, v, &wrong);
    const bool spreads = warp_any(wrong != 0);
#pragma unroll
    for (uint32_t i = 0; i < kVectorDims; ++i) {
      const bool exists = shape.row < shape.rows && i < shape.dims;
      v[i] = exists ? (v[i] - means[shape.dim + i]) / deviations[shape.dim + i] : 0.0f;
    }
    const uint32_t inside = begin + warp_id() * shape.rows + shape.row;
    const int32_t encoded =
        store_token_lane<Normalised, kShared>(s, shape, at, sink, present, inside, v);
    if (bad == 0) bad = spreads ? wrong : encoded;
  }
  if (bad != 0) set_status(status, bad);
  const uint64_t side_end = at.channel_side + 4ull * s.head_dim;
  clear_bytes(sink.side_at(side_end), 0, at.token_side - side_end, threadIdx.x, kWarps * 32);
  const uint64_t token_side_end = at.token_side + 4ull * run.n;
  clear_bytes(sink.side_at(token_side_end), 0, at.codes - token_side_end, threadIdx.x, kWarps * 32);
  const uint64_t bytes = uint64_t{run.n} * at.row_bytes;
  clear_bytes(sink.codes_at(at.codes + bytes), 0, quire_kernels::align_block(bytes) - bytes,
              threadIdx.x, kWarps * 32);
  finish_tile<kShared>();
  sync_block();
}

__global__ void __launch_bounds__(kWarps * 32)
    store_normalised(const __grid_constant__ SectionPack pack) {
  QUIRE_SHARED(float, rows, kLineFloats);
  QUIRE_SHARED(float, means, kHeadDimMax);
  QUIRE_SHARED(float, deviations, kHeadDimMax);
  QUIRE_SHARED(float, scratch, kWarps* kHeadDimMax);
  for (uint32_t unit = blockIdx.x; unit < pack.n_units; unit += gridDim.x) {
    const Section& s = section_of_unit(pack, unit);
    store_normalised_run<false>(s, run_place(s, unit), Sink<false>{s}, rows,
                                scratch + warp_id() * kHeadDimMax, means, deviations, pack.status);
  }
}

static_assert((kLineFloats + 2 * kHeadDimMax + kWarps * kHeadDimMax) * sizeof(float) <=
              kStoreOtherBytes);
__global__ void __launch_bounds__(kWarps * 32)
    store_normalised_bulk(const __grid_constant__ SectionPack pack, uint32_t tile_bytes) {
#if QUIRE_HAS_BULK
  QUIRE_DYNAMIC_SHARED(tile_memory);
  QUIRE_SHARED(float, rows, kLineFloats);
  QUIRE_SHARED(float, means, kHeadDimMax);
  QUIRE_SHARED(float, deviations, kHeadDimMax);
  QUIRE_SHARED(float, scratch, kWarps* kHeadDimMax);
  RunTiles tiles{tile_memory, tile_bytes, 0};
  for (uint32_t unit = blockIdx.x; unit < pack.n_units; unit += gridDim.x) {
    const Section& s = section_of_unit(pack, unit);
    const RunPlace run = run_place(s, unit);
    const BlockPlace at = block_place<Normalised>(s, run.head, run.first);
    const Sink<true> sink = begin_run_tile(s, at, tiles);
    store_normalised_run<true>(s, run, sink, rows, scratch + warp_id() * kHeadDimMax, means,
                               deviations, pack.status);
    send_run_tile(s, at, sink, run.n, &tiles);
  }
  if (threadIdx.x == 0) bulk_wait_read<0>();
#else
  (void)pack, (void)tile_bytes;
#endif
}

}  // namespace

int launch_store_normalised(const SectionPack& pack, uint32_t tile_bytes, uint32_t ctas,
                            void* stream) {
  if (tile_bytes != 0)
    return QUIRE_LAUNCH(store_normalised_bulk, ctas, kWarps * 32, kStoreTiles * tile_bytes, stream,
                        pack, tile_bytes);
  return QUIRE_LAUNCH(store_normalised, ctas, kWarps * 32, 0, stream, pack);
}

}  // namespace quire_cuda
