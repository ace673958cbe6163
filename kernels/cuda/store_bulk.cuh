// The store kernels with bulk copies (sm_90): a warp's 32 rows, or a CTA's run, are built in a tile
// of shared memory and taken to memory by one or two bulk copies, while the next unit is encoded
// into the other tile. Codes of 2 and 3 bits are bytes apart, and rows in pinned memory small
// writes on the bus, where lanes store them; copies are whole lines. What is read stays as it is:
// the rows of a unit are scattered over pages, bulk copies of one row each are no gain.
#ifndef QUIRE_KERNELS_CUDA_STORE_BULK_CUH_
#define QUIRE_KERNELS_CUDA_STORE_BULK_CUH_

#include "kernels/cuda/store_kernels.cuh"

namespace quire_cuda {

#if QUIRE_HAS_BULK
// The pieces of a section that 32 rows from `first` on fill, with the padding behind the last.
struct RowsPieces {
  uint64_t side_begin;
  uint64_t codes_begin;
  uint32_t side_bytes;
  uint32_t codes_bytes;
};
template <typename F>
QUIRE_DEVICE RowsPieces rows_pieces(const Section& s, const BlockPlace& at, uint32_t first) {
  const bool last = first + kBlockTokens >= s.n_tokens;
  const uint32_t end = last ? s.n_tokens : first + kBlockTokens;
  RowsPieces pieces = {};
  pieces.codes_begin = at.codes + uint64_t{first} * at.row_bytes;
  uint64_t codes_end = at.codes + uint64_t{end} * at.row_bytes;
  if constexpr (!F::kRaw) {
    if (last)
      codes_end = at.codes + quire_kernels::align_block(uint64_t{s.n_tokens} * at.row_bytes);
    const uint64_t row_side = F::kKind == SectionKind::kFp8 ? 2 : 4 * at.groups;
    pieces.side_begin = at.token_side + first * row_side;
    const uint64_t side_end = last ? at.codes : at.token_side + end * row_side;
    pieces.side_bytes = static_cast<uint32_t>(side_end - pieces.side_begin);
  }
  pieces.codes_bytes = static_cast<uint32_t>(codes_end - pieces.codes_begin);
  return pieces;
}
#endif

// tile_bytes: of one tile, a multiple of 16.
template <typename F>
__global__ void __launch_bounds__(kWarps * 32)
    store_tokens_bulk(const __grid_constant__ SectionPack pack, uint32_t tile_bytes) {
#if QUIRE_HAS_BULK
  QUIRE_DYNAMIC_SHARED(tiles);
  QUIRE_SHARED(float, all_scratch, kWarps* kHeadDimMax);
  float* scratch = all_scratch + warp_id() * kHeadDimMax;
  unsigned char* own_tiles = tiles + warp_id() * kStoreTiles * tile_bytes;
  uint32_t turn = 0;
  for (uint32_t unit = blockIdx.x * kWarps + warp_id(); unit < pack.n_units;
       unit += gridDim.x * kWarps, ++turn) {
    const Section& s = section_of_unit(pack, unit);
    const uint32_t local = unit - s.unit_begin;
    const uint32_t head = local % s.n_heads;
    const uint32_t first = local / s.n_heads * kBlockTokens;
    const RowsPieces pieces = rows_pieces<F>(s, block_place<F>(s, head, first), first);
    unsigned char* side = s.bytes + pieces.side_begin;
    unsigned char* codes = s.bytes + pieces.codes_begin;
    unsigned char* tile = own_tiles + turn % kStoreTiles * tile_bytes;
    const Sink<true> sink{shifted_tile(tile, side),
                          shifted_tile(tile + tile_bytes_of(s).side, codes), pieces.side_begin,
                          pieces.codes_begin};
    if (lane_id() == 0) bulk_wait_read<kStoreTiles - 1>();
    sync_warp();
    store_block<F, false, true>(s, head, first, sink, scratch, pack.status);
    finish_tile<true>();
    sync_warp();
    if constexpr (!F::kRaw) send_tile(side, sink.side, pieces.side_bytes, lane_id());
    send_tile(codes, sink.codes, pieces.codes_bytes, lane_id());
    if (lane_id() == 0) bulk_commit();
  }
  if (lane_id() == 0) bulk_wait_read<0>();
#else
  (void)pack, (void)tile_bytes;
#endif
}

#if QUIRE_HAS_BULK
// The tiles of a CTA and how many runs it has sent: a run is one piece, from its side data to the
// padding behind its codes.
struct RunTiles {
  unsigned char* tiles;
  uint32_t tile_bytes;
  uint32_t turn;
};
// All threads of the block call, before a run and after it with its last barrier in between. Thread
// 0 waits for the tile; for the others the barriers do between what a run reads and what it writes.
QUIRE_DEVICE Sink<true> begin_run_tile(const Section& s, const BlockPlace& at,
                                       const RunTiles& tiles) {
  if (threadIdx.x == 0) bulk_wait_read<kStoreTiles - 1>();
  unsigned char* tile = shifted_tile(tiles.tiles + tiles.turn % kStoreTiles * tiles.tile_bytes,
                                     s.bytes + at.channel_side);
  return {tile, tile, at.channel_side, at.channel_side};
}
QUIRE_DEVICE void send_run_tile(const Section& s, const BlockPlace& at, const Sink<true>& sink,
                                uint32_t n, RunTiles* tiles) {
  const uint64_t end = at.codes + quire_kernels::align_block(uint64_t{n} * at.row_bytes);
  send_tile(s.bytes + at.channel_side, sink.codes, static_cast<uint32_t>(end - at.channel_side),
            threadIdx.x);
  if (threadIdx.x == 0) bulk_commit();
  ++tiles->turn;
}
#endif

static_assert((2 * kLineFloats + kWarps * kHeadDimMax) * sizeof(float) <= kStoreOtherBytes);
template <typename F>
__global__ void __launch_bounds__(kWarps * 32)
    store_runs_bulk(const __grid_constant__ SectionPack pack, uint32_t tile_bytes) {
#if QUIRE_HAS_BULK
  QUIRE_DYNAMIC_SHARED(tile_memory);
  QUIRE_SHARED(float, low, kLineFloats);
  QUIRE_SHARED(float, high, kLineFloats);
  QUIRE_SHARED(float, scratch, kWarps* kHeadDimMax);
  const RunShared shared{low, high};
  RunTiles tiles{tile_memory, tile_bytes, 0};
  for (uint32_t unit = blockIdx.x; unit < pack.n_units; unit += gridDim.x) {
    const Section& s = section_of_unit(pack, unit);
    const RunPlace run = run_place(s, unit);
    const BlockPlace at = block_place<F>(s, run.head, run.first);
    const Sink<true> sink = begin_run_tile(s, at, tiles);
    store_run<F, false, true>(s, run, sink, shared, scratch + warp_id() * kHeadDimMax, pack.status);
    send_run_tile(s, at, sink, run.n, &tiles);
  }
  if (threadIdx.x == 0) bulk_wait_read<0>();
#else
  (void)pack, (void)tile_bytes;
#endif
}

// tile_bytes of 0: the plain kernels.
template <typename F>
int launch_store_tokens(const SectionPack& pack, uint32_t tile_bytes, uint32_t ctas, void* stream) {
  if (tile_bytes != 0)
    return QUIRE_LAUNCH(store_tokens_bulk<F>, ctas, kWarps * 32, kWarps * kStoreTiles * tile_bytes,
                        stream, pack, tile_bytes);
  return QUIRE_LAUNCH(store_tokens<F>, ctas, kWarps * 32, 0, stream, pack);
}

template <typename F>
int launch_store_runs(const SectionPack& pack, uint32_t tile_bytes, uint32_t ctas, void* stream) {
  if (tile_bytes != 0)
    return QUIRE_LAUNCH(store_runs_bulk<F>, ctas, kWarps * 32, kStoreTiles * tile_bytes, stream,
                        pack, tile_bytes);
  return QUIRE_LAUNCH(store_runs<F>, ctas, kWarps * 32, 0, stream, pack);
}

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_STORE_BULK_CUH_
