// The identities in C.
#include "client/capi/arguments.h"
#include "client/capi/errors.h"

namespace quire::capi {

Status check_tokens(const uint32_t* tokens, size_t n_tokens) {
  if (tokens == nullptr && n_tokens != 0) return null_argument("tokens");
  if (n_tokens > kPromptTokensMax)
    return {StatusCode::kResourceExhausted,
            "more than " + std::to_string(kPromptTokensMax) + " tokens"};
  return Status::ok();
}

Expected<ByteSpan> salt_span(const void* salt, size_t salt_bytes) {
  if (salt_bytes == 0) return ByteSpan{};
  if (salt == nullptr) return null_argument("salt");
  if (salt_bytes < 16 || salt_bytes > 64)
    return Status(StatusCode::kInvalidArgument, "a salt has 16 to 64 bytes, or none");
  return ByteSpan(static_cast<const std::byte*>(salt), salt_bytes);
}

Expected<VariantContext> to_context(const quire_context& source) {
  if (source.kind >= kContextKindCount || source.phase > 1)
    return Status(StatusCode::kInvalidArgument, "unknown context kind or phase");
  if (source.n_dummy_tokens > kContextIdsMax || source.n_neighbours > kContextIdsMax)
    return Status(StatusCode::kResourceExhausted,
                  "a context has at most " + std::to_string(kContextIdsMax) + " ids");
  if (source.n_dummy_tokens != 0 && source.dummy_tokens == nullptr)
    return null_argument("dummy_tokens");
  if (source.n_neighbours != 0 && source.neighbours == nullptr) return null_argument("neighbours");
  VariantContext context;
  context.kind = static_cast<ContextKind>(source.kind);
  context.phase = static_cast<Phase>(source.phase);
  context.reference = to_digest(source.reference);
  context.dropped_tokens = source.dropped_tokens;
  context.dummy_tokens.assign(source.dummy_tokens, source.dummy_tokens + source.n_dummy_tokens);
  for (size_t i = 0; i < source.n_neighbours; ++i)
    context.neighbours.push_back(to_digest(source.neighbours[i]));
  context.scope = to_digest(source.scope);
  if (context.scope != Digest{} && !is_bound(context))
    return Status(StatusCode::kInvalidArgument,
                  "only synthetic, delta_of and decode variants belong to a scope");
  return context;
}

Expected<ModelDescriptor> to_model(const void* descriptor, size_t descriptor_bytes) {
  if (descriptor == nullptr) return null_argument("descriptor");
  return ModelDescriptor::parse({static_cast<const std::byte*>(descriptor), descriptor_bytes});
}

namespace {

using TokensDigest = Digest (*)(const Digest&, std::span<const TokenId>, ByteSpan);

quire_status digest_tokens(TokensDigest function, const quire_id* model, const uint32_t* tokens,
                           size_t n_tokens, const void* salt, size_t salt_bytes, quire_id* id) {
  return guarded([&]() -> Status {
    if (id == nullptr) return null_argument("id");
    *id = {};
    if (model == nullptr) return null_argument("model");
    QUIRE_RETURN_IF_ERROR(check_tokens(tokens, n_tokens));
    QUIRE_ASSIGN_OR_RETURN(const ByteSpan key, salt_span(salt, salt_bytes));
    *id = to_id(function(to_digest(*model), std::span(tokens, n_tokens), key));
    return Status::ok();
  });
}

}  // namespace
}  // namespace quire::capi

using quire::Status;
using quire::StatusCode;
using quire::capi::guarded;
using quire::capi::null_argument;
using quire::capi::to_digest;
using quire::capi::to_id;

quire_status quire_model_id(const void* descriptor, size_t descriptor_bytes, quire_id* id) {
  return guarded([&]() -> Status {
    if (id == nullptr) return null_argument("id");
    *id = {};
    QUIRE_ASSIGN_OR_RETURN(const auto model, quire::capi::to_model(descriptor, descriptor_bytes));
    *id = to_id(quire::model_id(model));
    return Status::ok();
  });
}

quire_status quire_object_id(const quire_id* model, const uint32_t* tokens, size_t n_tokens,
                             const void* salt, size_t salt_bytes, quire_id* id) {
  return quire::capi::digest_tokens(quire::object_id, model, tokens, n_tokens, salt, salt_bytes,
                                    id);
}

quire_status quire_prefix_digest(const quire_id* model, const uint32_t* tokens, size_t n_tokens,
                                 const void* salt, size_t salt_bytes, quire_id* digest) {
  return quire::capi::digest_tokens(quire::prefix_digest, model, tokens, n_tokens, salt, salt_bytes,
                                    digest);
}

quire_status quire_variant_id(const quire_id* object, const quire_context* context, quire_id* id) {
  return guarded([&]() -> Status {
    if (id == nullptr) return null_argument("id");
    *id = {};
    if (object == nullptr) return null_argument("object");
    if (context == nullptr) return null_argument("context");
    quire_context known{};
    QUIRE_RETURN_IF_ERROR(quire::capi::read_struct(context, known));
    QUIRE_ASSIGN_OR_RETURN(const auto parsed, quire::capi::to_context(known));
    *id = to_id(quire::variant_id(to_digest(*object), parsed));
    return Status::ok();
  });
}

quire_status quire_scope_id(const void* salt, size_t salt_bytes, const char* label,
                            size_t label_bytes, quire_id* id) {
  return guarded([&]() -> Status {
    if (id == nullptr) return null_argument("id");
    *id = {};
    if (label == nullptr && label_bytes != 0) return null_argument("label");
    if (label_bytes > quire::kScopeLabelBytesMax)
      return {StatusCode::kInvalidArgument, "a scope's label has at most 64 bytes"};
    QUIRE_ASSIGN_OR_RETURN(const auto key, quire::capi::salt_span(salt, salt_bytes));
    *id = to_id(quire::scope_id(key, std::string_view(label, label_bytes)));
    return Status::ok();
  });
}

quire_status quire_representation_id(const quire_id* variant, uint16_t codec, uint8_t frame,
                                     const quire_coverage* coverage, quire_id* id) {
  return guarded([&]() -> Status {
    if (id == nullptr) return null_argument("id");
    *id = {};
    if (variant == nullptr) return null_argument("variant");
    if (coverage == nullptr) return null_argument("coverage");
    if (frame > 1) return {StatusCode::kInvalidArgument, "unknown position frame"};
    *id = to_id(quire::representation_id(
        to_digest(*variant), codec, static_cast<quire::PositionFrame>(frame),
        {coverage->layer_begin, coverage->layer_end, coverage->head_begin, coverage->head_end}));
    return Status::ok();
  });
}
