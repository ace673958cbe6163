// What the warm-up needs of an engine and a store; LlamaTarget is the real one, tests use a fake.
#ifndef QUIRE_TOOLS_QUIRE_WARM_WARM_TARGET_H_
#define QUIRE_TOOLS_QUIRE_WARM_WARM_TARGET_H_

#include <cstdint>
#include <optional>
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
  uint64_t bytes_max = 0;  // of the representation; codecs of variable size may take less
};

struct StoreResult {
  bool already_stored = false;
  uint64_t compute_us = 0;  // engine time; 0 where nothing was computed
  uint64_t bytes = 0;       // of the representation in the store; 0: not known
};

// A chunk in front of another while that is computed.
struct WarmNeighbour {
  Digest object;
  std::span<const TokenId> tokens;
};

// Errors that end the whole run: kUnavailable (server gone), kCancelled, kNoSpace, kModelMismatch,
// kPermissionDenied, kVersionMismatch. Others belong to the chunk.
class WarmTarget {
 public:
  virtual ~WarmTarget() = default;
  virtual Expected<std::vector<TokenId>> tokenize(std::string_view text) = 0;
  virtual Expected<ChunkIds> identify(std::span<const TokenId> tokens) = 0;
  // The bytes of what the store has under these ids; 0: not known; nullopt: it is not stored. Asks
  // the store, not the manifest.
  virtual Expected<std::optional<uint64_t>> find_stored(std::span<const TokenId> tokens,
                                                        const ChunkIds& ids) = 0;
  // Computes and stores; returns with the acknowledgement.
  virtual Expected<StoreResult> store(std::span<const TokenId> tokens, const ChunkIds& ids) = 0;
  // The same for a chunk behind others (object ids, the nearest last), which stand behind the
  // target's fixed prefix: its synthetic variant.
  virtual Expected<ChunkIds> identify_behind(std::span<const TokenId> tokens,
                                             std::span<const Digest> neighbours) = 0;
  virtual Expected<StoreResult> store_behind(std::span<const TokenId> tokens,
                                             std::span<const WarmNeighbour> neighbours,
                                             const ChunkIds& ids) = 0;
};

}  // namespace quire::warm

#endif  // QUIRE_TOOLS_QUIRE_WARM_WARM_TARGET_H_
