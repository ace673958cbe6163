// What the warm-up needs of an engine and a store; LlamaTarget is the real one, tests use a fake.
#ifndef QUIRE_TOOLS_QUIRE_WARM_WARM_TARGET_H_
#define QUIRE_TOOLS_QUIRE_WARM_WARM_TARGET_H_

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/status.h"

namespace quire::warm {

struct ChunkIds {
  Digest object;
  Digest variant;
  Digest representation;
  uint64_t bytes = 0;  // of the representation
};

struct StoreResult {
  bool already_stored = false;
  uint64_t compute_us = 0;  // engine time; 0 where nothing was computed
};

// Errors that end the whole run: kUnavailable (server gone), kCancelled, kNoSpace, kModelMismatch,
// kPermissionDenied, kVersionMismatch. Others belong to the chunk.
class WarmTarget {
 public:
  virtual ~WarmTarget() = default;
  virtual Expected<std::vector<TokenId>> tokenize(std::string_view text) = 0;
  virtual Expected<ChunkIds> identify(std::span<const TokenId> tokens) = 0;
  // True where the store has it; asks the store, not the manifest.
  virtual Expected<bool> is_stored(const ChunkIds& ids) = 0;
  // Computes and stores; returns with the acknowledgement.
  virtual Expected<StoreResult> store(std::span<const TokenId> tokens, const ChunkIds& ids) = 0;
};

}  // namespace quire::warm

#endif  // QUIRE_TOOLS_QUIRE_WARM_WARM_TARGET_H_
