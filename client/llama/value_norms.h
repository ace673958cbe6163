// L2 norms of cached values: what a token would carry away by each KV head.
#ifndef QUIRE_CLIENT_LLAMA_VALUE_NORMS_H_
#define QUIRE_CLIENT_LLAMA_VALUE_NORMS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "client/reuse/engine_memory.h"

namespace quire {

struct ValueNorms {
  uint32_t heads = 0;  // KV heads
  uint32_t cells = 0;
  std::vector<float> values;  // [head][cell]

  std::span<const float> of(uint32_t head) const {
    return std::span(values).subspan(size_t{head} * cells, cells);
  }
};

// Of the first `cells` rows of a plane of fp16 or fp32 (empty for others); dims: of one head.
ValueNorms value_norms(const reuse::EnginePlane& plane, uint32_t heads, uint32_t dims,
                       uint32_t cells);

}  // namespace quire

#endif  // QUIRE_CLIENT_LLAMA_VALUE_NORMS_H_
