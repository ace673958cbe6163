// WarmTarget over llama.cpp and a quired: capture, encode, put.
#ifndef QUIRE_TOOLS_QUIRE_WARM_LLAMA_TARGET_H_
#define QUIRE_TOOLS_QUIRE_WARM_LLAMA_TARGET_H_

#include <memory>
#include <string>
#include <vector>

#include "client/client.h"
#include "client/llama/engine.h"
#include "codecs/representation.h"
#include "tools/quire-warm/warm_target.h"

namespace quire::warm {

// In what context chunks are computed (docs/formats/ids.md tells how contexts enter the ids).
enum class WarmVariant : uint8_t {
  kFixedPrefix = 0,        // behind the deployment's system prefix
  kFixedPrefixFiller = 1,  // the same, and kFillerText
  kIsolated = 2,
  kDummySink = 3,  // behind four dummy tokens whose KV is dropped
};
inline constexpr uint32_t kDummySinkTokens = 4;

struct LlamaTargetOptions {
  WarmVariant variant = WarmVariant::kFixedPrefix;
  CodecId codec = CodecId::kInt8Channel;
  double salient_share = 0.2;  // of mixed codecs: tokens kept at 8 bits
  std::string system_text;
  wire::AckLevel ack = wire::AckLevel::kDurable;
  // Stores what each chunk attended to beside its KV (docs/formats/statistics.md).
  bool statistics = false;
};

// Not thread safe. Engine and client outlive it.
class LlamaTarget final : public WarmTarget {
 public:
  // kUnsupported for a codec that does not suit the engine (check_codec()).
  // client may be null: then only tokenize(), identify() (for the tenant without salt) and
  // measure_tokens_per_second() work.
  static Expected<std::unique_ptr<LlamaTarget>> make(LlamaEngine& engine, Client* client,
                                                     const LlamaTargetOptions& options);

  Expected<std::vector<TokenId>> tokenize(std::string_view text) override;
  Expected<ChunkIds> identify(std::span<const TokenId> tokens) override;
  Expected<std::optional<uint64_t>> find_stored(std::span<const TokenId> tokens,
                                                const ChunkIds& ids) override;
  Expected<StoreResult> store(std::span<const TokenId> tokens, const ChunkIds& ids) override;
  Expected<ChunkIds> identify_behind(std::span<const TokenId> tokens,
                                     std::span<const Digest> neighbours) override;
  Expected<StoreResult> store_behind(std::span<const TokenId> tokens,
                                     std::span<const WarmNeighbour> neighbours,
                                     const ChunkIds& ids) override;

  // Needed once before anything is stored.
  Status register_model();

  // Stores the system prefix as an exact prefix at position 0, always lossless. kAlreadyStored is
  // fine.
  Status store_system_prefix();

  // Runs chunk_tokens tokens behind the prefix; about the speed of a run.
  Expected<double> measure_tokens_per_second(uint32_t chunk_tokens);

  // Tokens chunks are computed behind (system prefix and filler, or the dummies).
  const std::vector<TokenId>& prefix_tokens() const { return prefix_; }
  const VariantContext& context() const { return context_; }

 private:
  LlamaTarget(LlamaEngine& engine, Client* client, const LlamaTargetOptions& options)
      : engine_(engine), client_(client), options_(options) {}
  Status prepare();
  Expected<std::vector<TokenId>> dummy_tokens() const;
  RepresentationHeader header_of(std::span<const TokenId> tokens, const VariantContext& context,
                                 CodecId codec, uint64_t base_position) const;
  ByteSpan salt() const;
  Expected<bool> is_stored(const ChunkIds& ids);
  Expected<bool> is_stored(const Digest& representation, uint64_t bytes);
  // 0 where resolving does not find it.
  Expected<uint64_t> stored_bytes(std::span<const TokenId> tokens, const Digest& representation);
  // The tokens a chunk is computed behind, and the runs that they are made of.
  struct Front {
    std::vector<TokenId> tokens;
    std::vector<uint32_t> runs;
  };
  Front fixed_front() const;
  VariantContext context_behind(std::span<const Digest> neighbours) const;
  Expected<ChunkIds> identify_in(std::span<const TokenId> tokens, const VariantContext& context,
                                 uint64_t base_position);
  Expected<StoreResult> store_in(std::span<const TokenId> tokens, const VariantContext& context,
                                 const Front& front, const ChunkIds& ids);
  Expected<KvCapture> capture(const RepresentationHeader& header, const Front& front,
                              reuse::AttentionShares* shares);
  Status put_statistics(const RepresentationHeader& header, const reuse::AttentionShares& shares);
  // The system prefix takes no statistics: it is always loaded whole.
  Expected<StoreResult> put(const RepresentationHeader& header, const Front& front,
                            bool statistics);

  LlamaEngine& engine_;
  Client* client_;
  LlamaTargetOptions options_;
  std::vector<TokenId> system_prefix_;
  std::vector<TokenId> prefix_;
  VariantContext context_;
};

}  // namespace quire::warm

#endif  // QUIRE_TOOLS_QUIRE_WARM_LLAMA_TARGET_H_
