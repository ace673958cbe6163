// How an engine shows its KV memory and its rope to Quire: byte strides, never layouts.
#ifndef QUIRE_CLIENT_REUSE_ENGINE_MEMORY_H_
#define QUIRE_CLIENT_REUSE_ENGINE_MEMORY_H_

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <tuple>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "codecs/codec_ids.h"
#include "codecs/registry.h"
#include "kernels/quire_kernels.h"

namespace quire::reuse {

// One plane of one layer. Element (row, KV head, dim) lies at
//   data + row * token_stride + head * head_stride + dim * dim_stride    (bytes, signed).
// A row is whatever the engine keeps a token in: a cell, a slot of a page. data == nullptr: the
// engine does not keep this plane; it is left out.
struct EnginePlane {
  std::byte* data = nullptr;
  int64_t n_rows = 0;  // rows that data has; anything outside is refused
  int64_t token_stride = 0;
  int64_t head_stride = 0;
  int64_t dim_stride = 0;
  ElementType element = ElementType::kF16;  // kF16, kBf16 or kF32
};
// Called once per layer and plane of the representation, on the calling thread.
using EnginePlaneOf = std::function<EnginePlane(uint32_t layer, Plane plane)>;

// Which engine row holds token i of the tokens loaded or stored.
struct RowMap {
  int64_t first_row = 0;          // rows first_row + i, unless
  std::span<const int64_t> rows;  // not empty: rows[i]; one entry per token
};

enum class AngleMode : uint8_t {
  kExact = 0,        // double precision from the model's inverse frequencies
  kEngineTable = 1,  // the engine's own fp32 recurrence, for bit parity with K computed in place
};

// The engine's own rope parameters of a layer (kEngineTable only).
struct EngineRope {
  float base = 10000.0f;
  float freq_scale = 1.0f;
  std::span<const float> freq_factors;  // rotary_dims / 2 values or none; outlives the call
};

struct Angles {
  AngleMode mode = AngleMode::kExact;
  std::function<EngineRope(uint32_t layer)> engine_rope;  // kEngineTable: must be set
};

// Rotation tables of one load or store, made once per distinct set of frequencies. Not thread safe;
// rotations point into the object.
class RopeTables {
 public:
  // The rotation that takes token i from src_pos + i (without QUIRE_ROPE_FROM_SRC: from un-rotated
  // K) to dst_pos + i (without QUIRE_ROPE_TO_DST: to un-rotated K). flags as in quire_rope_params.
  RopeTables(uint32_t flags, int64_t src_pos, int64_t dst_pos, uint32_t n_tokens,
             const Angles& angles);
  // None for layers without rope, and where source and destination frame are the same.
  Expected<quire_rotation> rotation(uint32_t layer, const LayerDescriptor& descriptor);

 private:
  using Key = std::tuple<std::vector<float>, uint32_t, float, float>;
  Status fill(std::vector<float>& table, uint32_t n_tokens, const LayerDescriptor& descriptor,
              const EngineRope& rope) const;

  uint32_t flags_;
  int64_t src_pos_;
  int64_t dst_pos_;
  uint32_t n_tokens_;
  const Angles& angles_;
  std::map<Key, std::vector<float>> tables_;
};

}  // namespace quire::reuse

#endif  // QUIRE_CLIENT_REUSE_ENGINE_MEMORY_H_
