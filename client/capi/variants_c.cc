// Scopes, feedback and statistics in C.
#include "client/capi/arguments.h"
#include "client/capi/errors.h"
#include "client/capi/handles.h"
#include "codecs/statistics.h"

namespace quire::capi {
namespace {

constexpr size_t kFeedbackUsesMax = 1'000'000;

Expected<UseFeedback> to_use(const quire_use& source) {
  constexpr uint32_t kKnown = QUIRE_FEEDBACK_STRIKE | QUIRE_FEEDBACK_DEVIATION;
  if ((source.flags & ~kKnown) != 0)
    return Status(StatusCode::kInvalidArgument, "unknown feedback flags");
  UseFeedback use;
  use.representation = to_digest(source.representation);
  use.strike = (source.flags & QUIRE_FEEDBACK_STRIKE) != 0;
  if ((source.flags & QUIRE_FEEDBACK_DEVIATION) != 0) use.deviation = source.deviation;
  return use;
}

Expected<std::vector<std::byte>> packed(const quire_statistics_spec& spec, ByteSpan block) {
  QUIRE_RETURN_IF_ERROR(check_tokens(spec.tokens, spec.n_tokens));
  QUIRE_ASSIGN_OR_RETURN(const auto model, to_model(spec.model, spec.model_bytes));
  QUIRE_ASSIGN_OR_RETURN(const ByteSpan salt, salt_span(spec.salt, spec.salt_bytes));
  RepresentationHeader header;
  header.tokens.assign(spec.tokens, spec.tokens + spec.n_tokens);
  if (spec.context != nullptr) {
    quire_context context{};
    QUIRE_RETURN_IF_ERROR(read_struct(spec.context, context));
    QUIRE_ASSIGN_OR_RETURN(header.context, to_context(context));
  }
  return pack_statistics(std::move(header), salt, model, block);
}

Expected<ByteSpan> block_span(const void* block, uint64_t bytes) {
  if (block == nullptr) return null_argument("block");
  return ByteSpan(static_cast<const std::byte*>(block), bytes);
}

}  // namespace
}  // namespace quire::capi

using quire::Status;
using quire::StatusCode;
using quire::capi::guarded;
using quire::capi::null_argument;
using quire::capi::to_id;

quire_status quire_enter_scope(quire_client* client, const char* label, size_t label_bytes,
                               quire_id* scope) {
  return guarded([&]() -> Status {
    if (scope != nullptr) *scope = {};
    if (client == nullptr) return null_argument("client");
    if (label == nullptr && label_bytes != 0) return null_argument("label");
    QUIRE_ASSIGN_OR_RETURN(const auto entered,
                           client->session->enter_scope(std::string_view(label, label_bytes)));
    if (scope != nullptr) *scope = to_id(entered);
    return Status::ok();
  });
}

quire_status quire_feedback(quire_client* client, const quire_use* uses, size_t n_uses,
                            uint32_t* applied) {
  return guarded([&]() -> Status {
    if (applied != nullptr) *applied = 0;
    if (client == nullptr) return null_argument("client");
    std::vector<quire_use> given;
    QUIRE_RETURN_IF_ERROR(
        quire::capi::read_struct_array(uses, n_uses, quire::capi::kFeedbackUsesMax, given));
    std::vector<quire::UseFeedback> known;
    for (const quire_use& each : given) {
      QUIRE_ASSIGN_OR_RETURN(known.emplace_back(), quire::capi::to_use(each));
    }
    QUIRE_ASSIGN_OR_RETURN(const uint32_t noted, client->session->feedback(known));
    if (applied != nullptr) *applied = noted;
    return Status::ok();
  });
}

quire_status quire_statistics_check(const void* block, uint64_t block_bytes) {
  return guarded([&]() -> Status {
    QUIRE_ASSIGN_OR_RETURN(const auto bytes, quire::capi::block_span(block, block_bytes));
    return quire::parse_statistics(bytes).status();
  });
}

quire_status quire_statistics_pack(const quire_statistics_spec* spec, const void* block,
                                   uint64_t block_bytes, void* data, uint64_t data_bytes,
                                   uint64_t* bytes, quire_id* representation) {
  return guarded([&]() -> Status {
    if (bytes == nullptr) return null_argument("bytes");
    *bytes = 0;
    if (representation != nullptr) *representation = {};
    if (spec == nullptr) return null_argument("spec");
    quire_statistics_spec known{};
    QUIRE_RETURN_IF_ERROR(quire::capi::read_struct(spec, known));
    QUIRE_ASSIGN_OR_RETURN(const auto source, quire::capi::block_span(block, block_bytes));
    QUIRE_ASSIGN_OR_RETURN(const auto made, quire::capi::packed(known, source));
    if (data != nullptr && data_bytes < made.size())
      return {StatusCode::kResourceExhausted, "the buffer is smaller than the representation"};
    if (data != nullptr) std::memcpy(data, made.data(), made.size());
    *bytes = made.size();
    if (representation != nullptr) {
      QUIRE_ASSIGN_OR_RETURN(const auto view, quire::RepresentationView::parse(made));
      *representation = to_id(view.header().representation);
    }
    return Status::ok();
  });
}

quire_status quire_statistics_unpack(const void* data, uint64_t data_bytes, uint64_t* block_offset,
                                     uint64_t* block_bytes) {
  return guarded([&]() -> Status {
    if (block_offset == nullptr) return null_argument("block_offset");
    if (block_bytes == nullptr) return null_argument("block_bytes");
    *block_offset = *block_bytes = 0;
    if (data == nullptr) return null_argument("data");
    const quire::ByteSpan bytes(static_cast<const std::byte*>(data), data_bytes);
    QUIRE_ASSIGN_OR_RETURN(const auto view, quire::RepresentationView::parse(bytes));
    if (view.header().codec != quire::CodecId::kStatistics ||
        view.header().coverage != quire::kStatisticsCoverage)
      return {StatusCode::kUnsupported, "the representation holds no statistics"};
    QUIRE_RETURN_IF_ERROR(view.verify_sections());
    QUIRE_ASSIGN_OR_RETURN(const auto block, view.section(0, quire::Plane::kKey));
    QUIRE_RETURN_IF_ERROR(quire::parse_statistics(block).status());
    *block_offset = static_cast<uint64_t>(block.data() - bytes.data());
    *block_bytes = block.size();
    return Status::ok();
  });
}
