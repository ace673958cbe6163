#include "client/llama/kv_source.h"

#include <algorithm>
#include <string>

#include "codecs/registry.h"

namespace quire {

reuse::EncodeOptions encode_options(const KvCapture& capture) {
  reuse::EncodeOptions options;
  options.rows.first_row = capture.first_row;
  options.salient = capture.salient;
  return options;
}

namespace {

// Chunks are found by comparing at every place of the prompt where their first token stands: right
// for the few hundred chunks of one process.
class MemorySource final : public KvSource {
 public:
  ByteSpan tenant_salt() const override { return {}; }

  Expected<std::vector<Match>> resolve(const Digest& model,
                                       std::span<const TokenId> tokens) override {
    std::vector<Match> matches;
    for (const auto& [id, object] : objects_) {
      const RepresentationHeader& header = object.header;
      if (header.model != model || header.tokens.empty() || header.tokens.size() > tokens.size())
        continue;
      if (header.context.kind == ContextKind::kContextual) {
        add_prefix(object, model, tokens, matches);
      } else {
        add_chunks(object, tokens, matches);
      }
    }
    std::sort(matches.begin(), matches.end(), [](const Match& a, const Match& b) {
      return a.token_begin != b.token_begin ? a.token_begin < b.token_begin
                                            : a.n_tokens > b.n_tokens;
    });
    return matches;
  }

  Expected<std::unique_ptr<HeldKv>> acquire(std::span<const Digest> representations) override {
    auto held = std::make_unique<HeldKv>();
    for (const Digest& id : representations) {
      const auto found = objects_.find(id);
      if (found != objects_.end()) {
        held->bytes.push_back(found->second.bytes);
        continue;
      }
      held->bytes.emplace_back();
      held->lost = Status(StatusCode::kNotFound, "not in memory");
    }
    return held;
  }

  Expected<reuse::PutResult> put(const RepresentationHeader& header, const ModelDescriptor& model,
                                 const KvCapture& capture) override {
    if (objects_.contains(header.representation)) return reuse::PutResult::kAlreadyStored;
    Object object;
    object.header = header;
    QUIRE_ASSIGN_OR_RETURN(object.bytes, reuse::encode_to_memory(header, model, capture.plane_of,
                                                                 encode_options(capture)));
    objects_.emplace(header.representation, std::move(object));
    return reuse::PutResult::kStored;
  }

 private:
  struct Object {
    RepresentationHeader header;
    std::vector<std::byte> bytes;
  };

  static Match match_of(const Object& object, wire::MatchKind kind, size_t token_begin) {
    const RepresentationHeader& header = object.header;
    Match match;
    match.kind = kind;
    match.token_begin = static_cast<uint32_t>(token_begin);
    match.n_tokens = static_cast<uint32_t>(header.tokens.size());
    match.representation = header.representation;
    match.variant = header.variant;
    match.context_kind = header.context.kind;
    match.context_reference = header.context.reference;
    match.phase = header.context.phase;
    match.codec = static_cast<uint16_t>(header.codec);
    match.frame = header.frame;
    match.base_position = header.base_position;
    match.bytes = object.bytes.size();
    match.tier = wire::TierId::kHost;
    return match;
  }

  static void add_prefix(const Object& object, const Digest& model, std::span<const TokenId> tokens,
                         std::vector<Match>& matches) {
    const RepresentationHeader& header = object.header;
    const uint64_t begin = header.base_position;
    if (begin + header.tokens.size() > tokens.size() ||
        !std::equal(header.tokens.begin(), header.tokens.end(), tokens.begin() + begin) ||
        prefix_digest(model, tokens.first(begin), {}) != header.context.reference) {
      return;
    }
    matches.push_back(match_of(object, wire::MatchKind::kPrefix, begin));
  }

  static void add_chunks(const Object& object, std::span<const TokenId> tokens,
                         std::vector<Match>& matches) {
    const std::vector<TokenId>& chunk = object.header.tokens;
    auto from = tokens.begin();
    while (true) {
      const auto found = std::search(from, tokens.end(), chunk.begin(), chunk.end());
      if (found == tokens.end()) return;
      matches.push_back(match_of(object, wire::MatchKind::kChunk, found - tokens.begin()));
      from = found + static_cast<ptrdiff_t>(chunk.size());
    }
  }

  std::unordered_map<Digest, Object, DigestHasher> objects_;
};

class HeldLeases final : public HeldKv {
 public:
  Status check() const override {
    for (const Lease& lease : leases) QUIRE_RETURN_IF_ERROR(lease.check());
    return Status::ok();
  }
  std::vector<Lease> leases;
};

class ServerSource final : public KvSource {
 public:
  explicit ServerSource(Client& client) : client_(client) {}
  ByteSpan tenant_salt() const override { return client_.tenant_salt(); }
  Digest scope() const override { return client_.scope(); }

  Expected<std::vector<Match>> resolve(const Digest& model,
                                       std::span<const TokenId> tokens) override {
    return client_.resolve(model, tokens);
  }

  Expected<std::unique_ptr<HeldKv>> acquire(std::span<const Digest> representations) override {
    auto leases = client_.acquire(representations);
    auto held = std::make_unique<HeldLeases>();
    const StatusCode code = leases.status().code();
    if (code == StatusCode::kDeadlineExceeded || code == StatusCode::kUnavailable ||
        code == StatusCode::kBusy) {
      held->bytes.resize(representations.size());
      held->lost = leases.status();
      return std::unique_ptr<HeldKv>(std::move(held));
    }
    QUIRE_RETURN_IF_ERROR(leases.status());
    for (Expected<Lease>& lease : *leases) {
      if (!lease) {
        held->bytes.emplace_back();
        const bool late = lease.status().code() == StatusCode::kDeadlineExceeded;
        if (late || held->lost.is_ok()) held->lost = lease.status();
        continue;
      }
      held->bytes.push_back(lease->bytes());
      held->leases.push_back(std::move(*lease));
    }
    return std::unique_ptr<HeldKv>(std::move(held));
  }

  Expected<reuse::PutResult> put(const RepresentationHeader& header, const ModelDescriptor& model,
                                 const KvCapture& capture) override {
    return reuse::put_representation(client_, header, model, capture.plane_of,
                                     encode_options(capture));
  }

 private:
  Client& client_;
};

Expected<reuse::PutResult> store_capture(LlamaEngine& engine, KvSource& source,
                                         const KvCapture& capture, std::span<const TokenId> tokens,
                                         const VariantContext& context, CodecId codec) {
  return source.put(capture_header(engine, capture, tokens, context, codec, source.tenant_salt()),
                    engine.descriptor(), capture);
}

}  // namespace

std::unique_ptr<KvSource> make_memory_source() {
  return std::make_unique<MemorySource>();
}

std::unique_ptr<KvSource> make_server_source(Client& client) {
  return std::make_unique<ServerSource>(client);
}

CodecId exact_codec(const LlamaEngine& engine) {
  return engine.kv_type() == LlamaKvType::kF32 ? CodecId::kRawF32 : CodecId::kRawF16;
}

namespace {

std::string_view element_name(ElementType element) {
  if (element == ElementType::kF32) return "f32";
  return element == ElementType::kF16 ? "f16" : "bf16";
}

}  // namespace

Status check_codec(const LlamaEngine& engine, CodecId codec) {
  QUIRE_ASSIGN_OR_RETURN(const CodecInfo* info, find_codec(codec));
  const ElementType kept =
      engine.kv_type() == LlamaKvType::kF32 ? ElementType::kF32 : ElementType::kF16;
  if (!info->lossless || info->element == kept || info->element == ElementType::kF32)
    return Status::ok();
  QUIRE_ASSIGN_OR_RETURN(const CodecInfo* exact, find_codec(exact_codec(engine)));
  return {StatusCode::kUnsupported,
          "codec " + std::string(info->name) + " keeps " +
              std::string(element_name(info->element)) + " bit for bit, but this engine's KV is " +
              std::string(element_name(kept)) + ": it would be rounded. Use " +
              std::string(exact->name) + " to keep every bit, or int8-channel to save bytes"};
}

Expected<KvCapture> capture_for(LlamaEngine& engine, std::span<const TokenId> front,
                                std::span<const TokenId> chunk, CodecId codec,
                                double salient_share) {
  QUIRE_ASSIGN_OR_RETURN(const CodecInfo* info, find_codec(codec));
  if (info->element == ElementType::kMixed)
    return engine.capture_salient(front, chunk, salient_share);
  return engine.capture(front, chunk);
}

RepresentationHeader capture_header(const LlamaEngine& engine, const KvCapture& capture,
                                    std::span<const TokenId> tokens, const VariantContext& context,
                                    CodecId codec, ByteSpan tenant_salt) {
  RepresentationHeader header;
  header.codec = codec;
  header.frame = PositionFrame::kLocal;
  header.context = context;
  header.model = engine.model_id();
  header.base_position = capture.base_position;
  header.coverage.layer_end = engine.n_layers();
  for (const LayerDescriptor& layer : engine.descriptor().layers) {
    header.coverage.head_end = std::max(header.coverage.head_end, layer.kv_heads);
  }
  header.tokens.assign(tokens.begin(), tokens.end());
  fill_ids(header, tenant_salt);
  return header;
}

Expected<reuse::PutResult> store_prefix(LlamaEngine& engine, KvSource& source,
                                        std::span<const TokenId> prefix) {
  QUIRE_ASSIGN_OR_RETURN(const KvCapture capture, engine.capture({}, prefix));
  const Digest empty = prefix_digest(engine.model_id(), {}, source.tenant_salt());
  return store_capture(engine, source, capture, prefix, VariantContext::contextual(empty),
                       exact_codec(engine));
}

Expected<reuse::PutResult> store_chunk(LlamaEngine& engine, KvSource& source,
                                       std::span<const TokenId> front,
                                       std::span<const TokenId> chunk,
                                       const VariantContext& context, CodecId codec) {
  QUIRE_ASSIGN_OR_RETURN(const KvCapture capture, capture_for(engine, front, chunk, codec));
  return store_capture(engine, source, capture, chunk, context, codec);
}

VariantContext behind_prefix(const LlamaEngine& engine, const KvSource& source,
                             std::span<const TokenId> prefix) {
  if (prefix.empty()) return VariantContext::isolated();
  return VariantContext::fixed_prefix(
      prefix_digest(engine.model_id(), prefix, source.tenant_salt()));
}

}  // namespace quire
