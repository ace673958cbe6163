// A stored representation into engine memory: decode, move K to its new position, scatter. One call
// does all layers and planes of one representation with one batched kernel call.
#ifndef QUIRE_CLIENT_REUSE_LOAD_H_
#define QUIRE_CLIENT_REUSE_LOAD_H_

#include <cstdint>
#include <span>

#include "base/ids.h"
#include "base/status.h"
#include "client/reuse/engine_memory.h"
#include "codecs/representation.h"

namespace quire::reuse {

struct LoadOptions {
  uint32_t source_begin = 0;  // first token of the representation that is used
  uint32_t n_tokens = 0;      // 0: all from source_begin on
  int64_t position = 0;       // of that first token in the prompt
  RowMap rows;                // n_tokens engine rows
  // n_tokens bytes, 0 = leave the engine's row as it is (it is recomputed); empty = write all.
  std::span<const uint8_t> row_mask;
  Angles angles;
  // Check the XXH3 of every section first (one more pass over the bytes).
  bool verify_sections = true;
};

// K is rotated once, from what is stored: frame local by (position - stored position), frame
// pre_rope by the absolute position. Where nothing has to turn, K is not touched: a raw
// representation at its own position arrives bit for bit.
//
// The representation's bytes must stay readable (its lease valid) for the call. Callable from any
// thread; calls on disjoint rows may run at once. Errors: kInvalidArgument (ranges, rows outside
// the engine's), kModelMismatch (another model), kUnsupported (this rope cannot be moved, unknown
// codec), kCorrupt (a section's checksum or size), kNonFinite (NaN or infinity in the payload),
// kResourceExhausted (a value beyond the engine's element type, as the kernels report it).
// Arguments and checksums are checked before the first byte is written; after kNonFinite rows of
// earlier layers may have been written: recompute them.
Status load_representation(const RepresentationView& representation, const ModelDescriptor& model,
                           const EnginePlaneOf& destination, const LoadOptions& options);

}  // namespace quire::reuse

#endif  // QUIRE_CLIENT_REUSE_LOAD_H_
