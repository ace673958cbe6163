// What of a layer a representation covers.
#ifndef QUIRE_CODECS_COVERAGE_H_
#define QUIRE_CODECS_COVERAGE_H_

#include <algorithm>
#include <cstdint>

#include "base/ids.h"

namespace quire {

// KV heads of the layer inside the coverage; layers without attention have none, layers with fewer
// heads than others only theirs.
inline uint32_t covered_heads(const LayerDescriptor& layer, const Coverage& coverage) {
  if (layer.attention == AttentionKind::kNone) return 0;
  const uint32_t end = std::min(coverage.head_end, layer.kv_heads);
  return end > coverage.head_begin ? end - coverage.head_begin : 0;
}

}  // namespace quire

#endif  // QUIRE_CODECS_COVERAGE_H_
