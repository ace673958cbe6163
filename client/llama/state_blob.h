// libllama's sequence state (llama_state_seq_set_data) built in place, so that stored KV is decoded
// straight into the bytes that libllama takes over in one call. The layout is that of libllama 0.5
// without flash attention: K rows by cell, V transposed; layers of the sliding-window cache follow
// those of the full one. The engine checks at start that a state it builds equals one that libllama
// wrote.
#ifndef QUIRE_CLIENT_LLAMA_STATE_BLOB_H_
#define QUIRE_CLIENT_LLAMA_STATE_BLOB_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "base/bytes.h"
#include "client/reuse/engine_memory.h"

namespace quire {

struct StateLayer {
  uint32_t key_heads = 0, key_dims = 0, value_dims = 0;
  bool sliding = false;
};

class StateBlob {
 public:
  StateBlob(std::vector<StateLayer> layers, ElementType element);

  // Lays the state of n_cells cells at positions 0.. out; the planes' content is what was there
  // before.
  void prepare(uint32_t n_cells);
  reuse::EnginePlane plane(uint32_t layer, Plane plane);
  // Zeroes one cell in all layers.
  void zero_cell(uint32_t cell);
  ByteSpan bytes() const { return ByteSpan(buffer_.get(), size_); }

 private:
  struct Section {
    uint64_t key = 0, value = 0;  // offsets of the planes
  };
  uint64_t layout(uint32_t n_cells, std::byte* target);
  uint64_t layout_part(uint64_t offset, bool sliding, uint32_t n_cells, std::byte* target);

  std::vector<StateLayer> layers_;
  ElementType element_;
  uint64_t element_bytes_;
  bool has_sliding_ = false;
  std::vector<Section> sections_;
  // Kept between requests: touching fresh pages costs more than everything else here.
  std::unique_ptr<std::byte[]> buffer_;
  uint64_t capacity_ = 0;
  uint64_t size_ = 0;
  uint32_t n_cells_ = 0;
};

}  // namespace quire

#endif  // QUIRE_CLIENT_LLAMA_STATE_BLOB_H_
