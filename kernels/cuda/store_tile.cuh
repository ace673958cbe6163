// Tiles of shared memory in which a store builds a piece of a section, for a bulk copy to take it
// to memory in one go. A tile lies in its 16 bytes as the piece does in memory, so that whole
// vectors of the one are whole vectors of the other.
#ifndef QUIRE_KERNELS_CUDA_STORE_TILE_CUH_
#define QUIRE_KERNELS_CUDA_STORE_TILE_CUH_

#include "kernels/cuda/section.cuh"

namespace quire_cuda {

// One tile is written while the copy of the other reads it.
constexpr uint32_t kStoreTiles = 2;
// Of a CTA: two CTAs a multiprocessor.
constexpr uint32_t kStoreTilesBytesMax = 100u << 10;
// Static shared memory of a CTA beside its tiles, at most.
constexpr uint32_t kStoreOtherBytes = 12u << 10;
constexpr uint32_t kTileVectorBytes = 16;

// What a warp's or a CTA's tile needs room for: pieces with the padding behind them, and what they
// are shifted by.
struct TileBytes {
  uint64_t side;  // of the tokens, where it lies apart
  uint64_t codes;
};
// Of sections of fixed size.
QUIRE_HD TileBytes tile_bytes_of(const Section& s) {
  if (s.spec.kind == SectionKind::kChannel || s.spec.kind == SectionKind::kNormalised) {
    const uint32_t run = s.n_tokens < s.spec.run_tokens ? s.n_tokens : s.spec.run_tokens;
    return {0, quire_kernels::channel_run_bytes(s.spec, run, s.head_dim) + kTileVectorBytes};
  }
  constexpr uint64_t kSlack = quire_kernels::kBlockAlignment + kTileVectorBytes;
  if (s.spec.kind == SectionKind::kRaw)
    return {0, kBlockTokens * s.head_dim * uint64_t{quire_kernels::element_bytes(s.spec.bits)} +
                   kSlack};
  const uint64_t row_side =
      s.spec.kind == SectionKind::kFp8 ? 2 : 4ull * quire_kernels::token_groups(s.spec, s.head_dim);
  return {quire_kernels::align_block(kBlockTokens * row_side) + kTileVectorBytes,
          quire_kernels::align_block(kBlockTokens *
                                     quire_kernels::code_row_bytes(s.head_dim, s.spec.bits)) +
              kSlack};
}

// Where a store writes what belongs at an offset of the section: tiles with a part of it, or the
// section itself.
template <bool kShared>
struct Sink {
  unsigned char* side;
  unsigned char* codes;
  uint64_t side_begin;
  uint64_t codes_begin;

  QUIRE_DEVICE unsigned char* side_at(uint64_t offset) const { return side + offset - side_begin; }
  QUIRE_DEVICE unsigned char* codes_at(uint64_t offset) const {
    return codes + offset - codes_begin;
  }
};
template <>
struct Sink<false> {
  const Section& section;

  QUIRE_DEVICE unsigned char* side_at(uint64_t offset) const { return section.bytes + offset; }
  QUIRE_DEVICE unsigned char* codes_at(uint64_t offset) const { return section.bytes + offset; }
};

QUIRE_DEVICE unsigned char* shifted_tile(unsigned char* tile, const unsigned char* piece) {
  return tile + reinterpret_cast<uintptr_t>(piece) % kTileVectorBytes;
}

// Of memory that is the section's or, where kShared, a tile's.
template <bool kShared>
QUIRE_DEVICE void put_16(unsigned char* at, uint4 v) {
  if constexpr (kShared)
    st_16(at, v);
  else
    st_cs_16(at, v);
}
template <bool kShared>
QUIRE_DEVICE void put_8(unsigned char* at, uint2 v) {
  if constexpr (kShared)
    *reinterpret_cast<uint2*>(at) = v;
  else
    st_cs_8(at, v);
}
template <bool kShared>
QUIRE_DEVICE void put_4(unsigned char* at, uint32_t v) {
  if constexpr (kShared)
    *reinterpret_cast<uint32_t*>(at) = v;
  else
    st_cs_4(at, v);
}

// Before the barrier that comes between writing a tile and sending it. All who wrote call.
template <bool kShared>
QUIRE_DEVICE void finish_tile() {
#if QUIRE_HAS_BULK
  if constexpr (kShared) fence_async_shared();
#endif
}

#if QUIRE_HAS_BULK
// Whole vectors go by a bulk copy of thread 0, which commits it; what is over at either end by
// ordinary stores. At least 32 threads call.
QUIRE_DEVICE void send_tile(unsigned char* to, const unsigned char* tile, uint32_t bytes,
                            uint32_t thread) {
  const uint32_t before =
      static_cast<uint32_t>(-reinterpret_cast<uintptr_t>(to) % kTileVectorBytes);
  const uint32_t head = before < bytes ? before : bytes;
  const uint32_t body = (bytes - head) / kTileVectorBytes * kTileVectorBytes;
  if (thread < bytes - body) {
    const uint32_t at = thread < head ? thread : thread + body;
    to[at] = tile[at];
  }
  if (thread == 0 && body != 0) bulk_s2g(to + head, tile + head, body);
}
#endif

}  // namespace quire_cuda

#endif  // QUIRE_KERNELS_CUDA_STORE_TILE_CUH_
