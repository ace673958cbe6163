// The identities of DESIGN's data model: model, object, variant, representation, and the digest of
// an exact prefix. Byte-exact rules and test vectors: docs/formats/ids.md. All functions are pure
// and thread safe.
#ifndef QUIRE_BASE_IDS_H_
#define QUIRE_BASE_IDS_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/status.h"

namespace quire {

using TokenId = uint32_t;

// Limits of untrusted input; every parser refuses what is beyond them.
inline constexpr uint32_t kLayersMax = 1024;
inline constexpr uint32_t kHeadsMax = 1024;
inline constexpr uint32_t kHeadDimMax = 1024;
inline constexpr uint32_t kChunkTokensMax = 1u << 17;
inline constexpr uint32_t kPromptTokensMax = 1u << 20;
inline constexpr uint32_t kContextIdsMax = 1024;

// Shorter runs of tokens are not worth a lookup: a match starts with this many equal tokens.
inline constexpr uint32_t kMatchTokensMin = 16;

enum class AttentionKind : uint8_t { kFull = 0, kSlidingWindow = 1, kLatent = 2, kNone = 3 };
enum class RopeStyle : uint8_t { kNone = 0, kNeox = 1, kInterleaved = 2 };

struct LayerDescriptor {
  AttentionKind attention = AttentionKind::kFull;
  RopeStyle rope_style = RopeStyle::kNone;
  uint32_t window_tokens = 0;  // 0 unless attention is kSlidingWindow
  uint32_t kv_heads = 0;
  uint32_t key_dims = 0;
  uint32_t value_dims = 0;
  uint32_t rotary_dims = 0;
  float attention_factor = 1.0f;           // already inside cached K; never applied again by a move
  bool length_dependent = false;           // dynamic NTK and the like: the rotation cannot be moved
  std::vector<float> inverse_frequencies;  // rotary_dims / 2 values
  bool operator==(const LayerDescriptor&) const = default;
};

// What makes two engines' KV interchangeable.
struct ModelDescriptor {
  Digest weights;    // SHA-256 of the weight files
  Digest tokenizer;  // SHA-256 of the tokenizer, or of the file that carries it
  Digest lora;       // zero where there is none
  std::vector<LayerDescriptor> layers;
  bool operator==(const ModelDescriptor&) const = default;

  // OK, or what makes the descriptor unusable (limits, sizes that do not fit each other).
  Status validate() const;
  // OK, or why K of this model may not be moved to another position (exact prefixes stay allowed).
  Status movable() const;
  // The canonical bytes that are hashed; parse() is their inverse and refuses anything else.
  std::vector<std::byte> encode() const;
  static Expected<ModelDescriptor> parse(ByteSpan bytes);
};

Digest model_id(const ModelDescriptor& model);

// A tenant's salt: empty for the default tenant, else 16 to 64 secret bytes.
using TenantSalt = std::vector<std::byte>;

Digest object_id(const Digest& model, std::span<const TokenId> tokens, ByteSpan tenant_salt);

// The identity of "everything before this position", independent of how it was cut into blocks.
class PrefixDigester {
 public:
  PrefixDigester(const Digest& model, ByteSpan tenant_salt);
  void extend(std::span<const TokenId> tokens);
  Digest digest() const;

 private:
  Sha256 stream_;
};
Digest prefix_digest(const Digest& model, std::span<const TokenId> tokens, ByteSpan tenant_salt);

enum class ContextKind : uint8_t {
  kIsolated = 0,     // computed alone at position 0
  kFixedPrefix = 1,  // behind a fixed text of the deployment, named by its prefix digest
  kDummySink = 2,    // behind dummy tokens whose KV was dropped (EPIC's Link0)
  kContextual = 3,   // the exact prefix: reusable only behind those very tokens
  kSynthetic = 4,    // behind other chunks of the corpus
  kDeltaOf = 5,      // a correction to another variant
};
inline constexpr uint8_t kContextKindCount = 6;
// On the wire and in hashes only: a context of one of the kinds above, bound to a scope.
inline constexpr uint8_t kScopedContextKind = 6;

// A session's scope, by the label that it said: a trust domain inside its tenant.
inline constexpr uint32_t kScopeLabelBytesMax = 64;

enum class Phase : uint8_t { kPrefill = 0, kDecode = 1 };

struct VariantContext {
  ContextKind kind = ContextKind::kIsolated;
  Phase phase = Phase::kPrefill;
  Digest reference;  // prefix digest (kFixedPrefix, kContextual) or variant id (kDeltaOf)
  std::vector<TokenId> dummy_tokens;  // kDummySink
  uint32_t dropped_tokens = 0;        // kDummySink
  std::vector<Digest> neighbours;     // kSynthetic: object ids in order
  Digest scope;  // where only that scope may find it; zero: the tenant's own. See is_bound()
  bool operator==(const VariantContext&) const = default;

  static VariantContext isolated() { return {}; }
  static VariantContext fixed_prefix(const Digest& prefix);
  static VariantContext contextual(const Digest& prefix);
  static VariantContext dummy_sink(std::vector<TokenId> tokens, uint32_t dropped);
  static VariantContext synthetic(std::vector<Digest> neighbours, const Digest& scope = {});

  // Refuses a scope around what is not bound.
  std::vector<std::byte> encode() const;
  static Expected<VariantContext> parse(ByteSpan bytes);
};

// True for the kinds that another trust domain may find: a KV cache carries the text it was
// computed behind, so contextual, synthetic, delta and decode variants stay with their creator.
bool crosses_trust_domains(const VariantContext& context);

// True for what stays with the scope that stored it: synthetic, delta_of and all of phase decode.
// The rest is found by every session of its tenant, and is never in a scope.
bool is_bound(ContextKind kind, Phase phase);
inline bool is_bound(const VariantContext& context) {
  return is_bound(context.kind, context.phase);
}

// Zero for an empty label: the scope of the tenant itself. At most kScopeLabelBytesMax bytes.
Digest scope_id(ByteSpan tenant_salt, std::string_view label);

Digest variant_id(const Digest& object, const VariantContext& context);

// How K is stored. kLocal: rotated at base_position + i for token i (a field of the
// representation).
enum class PositionFrame : uint8_t { kPreRope = 0, kLocal = 1 };

struct Coverage {
  uint32_t layer_begin = 0;
  uint32_t layer_end = 0;  // exclusive
  uint32_t head_begin = 0;
  uint32_t head_end = 0;  // exclusive; KV heads
  bool operator==(const Coverage&) const = default;
};

Digest representation_id(const Digest& variant, uint16_t codec, PositionFrame frame,
                         const Coverage& coverage);

}  // namespace quire

#endif  // QUIRE_BASE_IDS_H_
