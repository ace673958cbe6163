#include <algorithm>
#include <chrono>
#include <cstring>

#include "bench/codec/report.h"
#include "client/reuse/engine_memory.h"

namespace quire::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMoveTokens = 1737;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// A slice of a plane, its section, and where it is decoded to.
struct Piece {
  Plane plane = Plane::kKey;
  const LayerDescriptor* shape = nullptr;
  uint32_t begin = 0;
  uint32_t n_tokens = 0;
  std::vector<std::byte>* source = nullptr;
  std::vector<std::byte>* target = nullptr;
  uint64_t bound = 0;
  uint64_t written = 0;
  uint64_t memory_bytes = 0;  // of engine memory
  std::unique_ptr<SectionBuffer> section;
};

// Engine memory and sections of as many copies of the dump as a round takes.
class Pieces {
 public:
  Pieces(const KvDump& dump, const CodecInfo& codec, const ReportOptions& options,
         const std::vector<uint8_t>& salient)
      : codec_(codec), element_(engine_element(codec)), salient_(salient) {
    uint64_t bytes = 0;
    do {
      for (const DumpLayer& layer : dump.layers)
        for (const Plane plane : {Plane::kKey, Plane::kValue})
          bytes += add(dump, layer, plane, options.slices.slice_tokens);
    } while (bytes < options.speed_bytes && status_.is_ok());
  }

  Status status() const { return status_; }
  uint64_t memory_bytes() const { return memory_bytes_; }

  void copy() {
    for (const auto& [source, target] : planes_)
      std::memcpy(target->data(), source->data(), source->size());
  }
  Status encode() {
    for (Piece& piece : pieces_) {
      quire_store_params params =
          store_params(codec_.id, piece.plane, *piece.shape, piece.source->data(), element_,
                       piece.begin, piece.n_tokens);
      piece.written = piece.bound;
      params.dst = piece.section->data();
      params.dst_bytes = piece.bound;
      params.dst_written = &piece.written;
      params.salient = salient_.data() + piece.begin;
      QUIRE_RETURN_IF_ERROR(encode_section(params));
    }
    return Status::ok();
  }
  Status decode(bool moved) {
    const reuse::Angles angles;
    reuse::RopeTables tables(QUIRE_ROPE_FROM_SRC | QUIRE_ROPE_TO_DST, 0, kMoveTokens, 1, angles);
    for (Piece& piece : pieces_) {
      quire_load_params params =
          load_params(codec_.id, piece.plane, *piece.shape, piece.target->data(), element_,
                      piece.begin, piece.n_tokens);
      params.src = piece.section->data();
      params.src_bytes = piece.written;
      if (moved && piece.plane == Plane::kKey) {
        QUIRE_ASSIGN_OR_RETURN(params.rotation, tables.rotation(0, *piece.shape));
      }
      QUIRE_RETURN_IF_ERROR(decode_section(params));
    }
    return Status::ok();
  }

 private:
  uint64_t add(const KvDump& dump, const DumpLayer& layer, Plane plane, uint32_t slice_tokens) {
    const std::vector<float>& values = plane == Plane::kKey ? layer.keys : layer.values;
    auto source = std::make_unique<std::vector<std::byte>>(to_elements(values, element_));
    auto target = std::make_unique<std::vector<std::byte>>(source->size());
    for (uint32_t begin = 0; begin < dump.n_tokens; begin += slice_tokens) {
      Piece piece;
      piece.plane = plane;
      piece.shape = &layer.shape;
      piece.begin = begin;
      piece.n_tokens = std::min(slice_tokens, dump.n_tokens - begin);
      piece.source = source.get();
      piece.target = target.get();
      const auto bound =
          section_bytes(codec_.id, plane, piece.n_tokens, layer.shape.kv_heads,
                        plane == Plane::kKey ? layer.shape.key_dims : layer.shape.value_dims);
      if (!bound) {
        status_ = bound.status();
        return 0;
      }
      piece.bound = *bound;
      piece.section = std::make_unique<SectionBuffer>(*bound);
      std::memset(piece.section->data(), 0, *bound);  // page faults are not the codec's
      pieces_.push_back(std::move(piece));
    }
    memory_bytes_ += source->size();
    planes_.emplace_back(std::move(source), std::move(target));
    return planes_.back().first->size();
  }

  const CodecInfo& codec_;
  ElementType element_;
  const std::vector<uint8_t>& salient_;
  Status status_;
  uint64_t memory_bytes_ = 0;
  std::vector<
      std::pair<std::unique_ptr<std::vector<std::byte>>, std::unique_ptr<std::vector<std::byte>>>>
      planes_;
  std::vector<Piece> pieces_;
};

// What the pieces' bytes take to copy, by what they take to work on right afterwards.
template <typename Work>
Expected<double> share_of_copy(Pieces& pieces, std::vector<double>& rates, const Work& work) {
  Clock::time_point begin = Clock::now();
  pieces.copy();
  const double copy_seconds = seconds_since(begin);
  rates.push_back(static_cast<double>(pieces.memory_bytes()) / copy_seconds);
  begin = Clock::now();
  QUIRE_RETURN_IF_ERROR(work());
  return copy_seconds / seconds_since(begin);
}

}  // namespace

Expected<CodecSpeed> measure_speed(const KvDump& dump, const CodecInfo& codec,
                                   const ReportOptions& options,
                                   const std::vector<uint8_t>& salient) {
  Pieces pieces(dump, codec, options, salient);
  QUIRE_RETURN_IF_ERROR(pieces.status());
  std::vector<double> encode;
  std::vector<double> decode;
  std::vector<double> moved;
  std::vector<double> rates;
  for (uint32_t round = 0; round < options.rounds; ++round) {
    QUIRE_ASSIGN_OR_RETURN(const double encode_share,
                           share_of_copy(pieces, rates, [&] { return pieces.encode(); }));
    QUIRE_ASSIGN_OR_RETURN(const double decode_share,
                           share_of_copy(pieces, rates, [&] { return pieces.decode(false); }));
    QUIRE_ASSIGN_OR_RETURN(const double moved_share,
                           share_of_copy(pieces, rates, [&] { return pieces.decode(true); }));
    encode.push_back(encode_share);
    decode.push_back(decode_share);
    moved.push_back(moved_share);
  }
  return CodecSpeed{median_of(encode), median_of(decode), median_of(moved), median_of(rates)};
}

}  // namespace quire::bench
